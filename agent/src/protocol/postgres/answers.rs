//! Frames of the target: matched with what was asked, masked, passed on.

use std::sync::{Arc, PoisonError};

use bytes::BytesMut;

use crate::mask::{Masked, NoData};
use crate::model::{DataClass, MaskCounts, Refusal, RefusalKind};

use super::columns::{Sources, describe, has_unknown, plan};
use super::copied::Row;
use super::diagnostics::{Diagnostics, Notification};
use super::expect::{CopiesOut, Expect, Running, Step, Whose};
use super::frame::{Frame, HEADER, MAX_FROM_TARGET, frame_length, take};
use super::meaning::Lineage;
use super::names::{Described, known};
use super::relay::{Relay, Schema};
use super::response::{Copied, Rows};

impl Relay<'_> {
    /// Handles every whole frame that has arrived.
    pub(super) fn answers(&mut self) -> Result<(), String> {
        while self.ending.is_none() && self.schema.puzzle.is_none() {
            if self.target_bytes.first() == Some(&b'D') && !self.asks_catalogue() {
                let run = rows_at_start(&self.target_bytes)?;
                if run > 0 {
                    let frames = self.target_bytes.split_to(run);
                    self.rows(&frames)?;
                    continue;
                }
            }
            let taken = take(&mut self.target_bytes, MAX_FROM_TARGET);
            match taken.map_err(|error| format!("the target sent no frame: {error}"))? {
                Some(frame) if self.asks_catalogue() => self.catalogue(&frame)?,
                Some(frame) => self.answer(frame)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn asks_catalogue(&self) -> bool {
        matches!(self.expected.front(), Some(Expect::Catalogue(_)))
    }

    fn answer(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind() {
            b'1' | b'2' | b'3' => self.step_done(&frame)?,
            b't' => self.parameters(&frame)?,
            b'T' | b'n' if self.is_puzzle(&frame)? => self.schema.puzzle = Some(frame),
            b'T' | b'n' => self.description(&frame)?,
            b'C' | b'I' | b's' => self.complete(&frame)?,
            b'Z' => self.ready(&frame)?,
            b'E' => self.error(&frame)?,
            b'N' => self.diagnostics(&frame),
            b'S' => self.setting(&frame),
            b'A' => {
                let plan = self.session.masks_nothing_revealed();
                self.to_process
                    .answer(plan.apply(Notification(&frame), &mut MaskCounts::default()));
            }
            b'G' => self.copy_in(&frame)?,
            // Which columns are protected is asked anew: nothing else tells of relations that were made since.
            b'H' if !self.schema.protected.is_empty() => self.schema.puzzle = Some(frame),
            b'H' => self.copy_out(&frame)?,
            b'd' => self.copied(&frame)?,
            b'c' => self.plain(&frame, NoData::ProtocolState),
            other => {
                return Err(format!(
                    "the target sent an unknown message {:?}",
                    char::from(other)
                ));
            }
        }
        Ok(())
    }

    pub(super) fn plain(&mut self, frame: &Frame, why: NoData) {
        self.to_process.answer(Masked::without_data(frame.bytes(), why));
    }

    /// An answer to the agent's own question. Notices and settings may come between.
    fn catalogue(&mut self, frame: &Frame) -> Result<(), String> {
        match frame.kind() {
            b'N' => self.diagnostics(frame),
            b'S' => self.setting(frame),
            b'E' => return Err("the target's catalogue cannot be asked which columns are protected".into()),
            b'Z' => {
                self.status = frame.body().first().copied().unwrap_or(b'E');
                if let Some(Expect::Catalogue(asking)) = self.expected.pop_front() {
                    let own_changes = self.schema.changed;
                    let protected = Arc::new(asking.finish());
                    if own_changes && self.status == b'I' {
                        self.schema.learning.legs.catalogues.changed();
                    }
                    if self.status == b'I' {
                        self.schema.learning.share(Arc::clone(&protected));
                    }
                    self.schema.learnt(protected);
                }
            }
            _ => {
                if let Some(Expect::Catalogue(asking)) = self.expected.front_mut() {
                    asking.answer(frame).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn step_done(&mut self, frame: &Frame) -> Result<(), String> {
        let next = self.expected.pop_front();
        let whose = match (frame.kind(), next) {
            (b'1', Some(Expect::Step(Step::Parse(_), whose)))
            | (b'2', Some(Expect::Step(Step::Bind(_), whose)))
            | (b'3', Some(Expect::Step(Step::Close(_), whose))) => whose,
            (kind, _) => {
                return Err(format!(
                    "the target sent {:?} at the wrong time",
                    char::from(kind)
                ));
            }
        };
        if let Whose::Own(mut running) = whose {
            running.detail = "PREPARE".into();
            self.ended.extend(running.finish());
        }
        self.plain(frame, NoData::Description);
        Ok(())
    }

    /// The parameters of a statement; its columns follow.
    fn parameters(&mut self, frame: &Frame) -> Result<(), String> {
        let Some(Expect::Step(Step::DescribeStatement(_), _)) = self.expected.front() else {
            return Err("the target described parameters that nobody asked about".into());
        };
        self.plain(frame, NoData::Description);
        Ok(())
    }

    /// Whether a description has relations that are not known, though the session has made none.
    fn is_puzzle(&self, frame: &Frame) -> Result<bool, String> {
        let Schema {
            protected, changed, ..
        } = &self.schema;
        if *changed || protected.is_empty() || frame.kind() != b'T' {
            return Ok(false);
        }
        let columns = describe(frame).map_err(|error| format!("the target's description: {error}"))?;
        Ok(has_unknown(&columns, protected))
    }

    /// A description of columns, or of their absence.
    pub(super) fn description(&mut self, frame: &Frame) -> Result<(), String> {
        let columns = if frame.kind() == b'T' {
            Some(describe(frame).map_err(|error| format!("the target's description: {error}"))?)
        } else {
            None
        };
        if let Some(Expect::Query(running)) = self.expected.front_mut() {
            let columns = columns.ok_or("the target sent NoData in a simple query")?;
            let lineage = running.lineage.get(running.at).unwrap_or(&Lineage::Unknown);
            let sources = sources(&self.schema, lineage);
            running.columns = Some(plan(&columns, None, &sources));
            running.keep_names(&columns);
            self.plain(frame, NoData::Description);
            return Ok(());
        }
        match self.expected.pop_front() {
            Some(Expect::Step(Step::DescribeStatement(described) | Step::DescribePortal(described), _)) => {
                keep(&described, columns.unwrap_or_default());
                self.plain(frame, NoData::Description);
                Ok(())
            }
            Some(Expect::OwnDescribe(described)) => {
                keep(&described, columns.unwrap_or_default());
                Ok(())
            }
            Some(
                Expect::Query(_)
                | Expect::Execute(_)
                | Expect::Step(Step::Parse(_) | Step::Bind(_) | Step::Close(_), _)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_),
            )
            | None => Err("the target described what nobody asked about".into()),
        }
    }

    /// A run of rows.
    fn rows(&mut self, frames: &[u8]) -> Result<(), String> {
        let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut() else {
            return Err("the target sent rows that nobody asked for".into());
        };
        if running.columns.is_none() {
            let described = running.described.iter().find_map(known);
            let columns = described.ok_or("the target sent rows without a description")?;
            let lineage = running.lineage.first().unwrap_or(&Lineage::Unknown);
            let formats = running.formats.as_deref().map(Vec::as_slice);
            running.columns = Some(plan(&columns, formats, &sources(&self.schema, lineage)));
            running.keep_names(&columns);
        }
        let columns = running.columns.as_deref().unwrap_or_default();
        let mut counts = MaskCounts::default();
        let masked = running
            .in_flight
            .plan
            .apply(Rows { frames, columns }, &mut counts);
        count(running, count_rows(frames), frames.len(), &counts);
        if running.over() {
            self.too_many_rows();
            return Ok(());
        }
        running.keep_rows(frames);
        self.to_process.answer(masked);
        Ok(())
    }

    fn too_many_rows(&mut self) {
        let refusal = Refusal::new(
            RefusalKind::Limit,
            "The answer has more rows than a policy lets this principal read.",
            "Ask for fewer rows (LIMIT).",
        );
        self.fatal(&refusal);
    }

    /// An error or notice of the target, masked as if nothing were revealed.
    pub(super) fn diagnostics(&mut self, frame: &Frame) {
        let text = self.expected.iter().find_map(|expect| match expect {
            Expect::Query(running) | Expect::Execute(running) => Some(running.text.text.as_str()),
            Expect::Step(_, Whose::Own(running)) => Some(running.text.text.as_str()),
            Expect::Step(_, Whose::Nobody | Whose::Execute)
            | Expect::OwnDescribe(_)
            | Expect::Sync
            | Expect::Refused(_)
            | Expect::RefusedQuery(_)
            | Expect::Catalogue(_) => None,
        });
        let content = Diagnostics {
            frame,
            statement: (!self.schema.protected.is_empty()).then(|| text.unwrap_or_default()),
        };
        let mut counts = MaskCounts::default();
        let plan = self.session.masks_nothing_revealed();
        self.to_process.answer(plan.apply(content, &mut counts));
    }

    /// A setting that the server reports. Those that change how texts are read must not change.
    fn setting(&mut self, frame: &Frame) {
        if let Err(what) = super::login::check_report(frame) {
            let refusal = Refusal::new(
                RefusalKind::NotUnderstood,
                format!("{what}, which Interdict cannot read statements under."),
                "Leave standard_conforming_strings on and client_encoding UTF8.",
            );
            return self.fatal(&refusal);
        }
        self.plain(frame, NoData::ServerSetting);
    }

    /// The server takes copied data from here on, and swallows each `Sync` that it had not read before.
    fn copy_in(&mut self, frame: &Frame) -> Result<(), String> {
        match self.expected.front_mut() {
            Some(Expect::Query(running)) => {
                let copies = running.copies_in.as_mut();
                copies.ok_or("the target copies in what nobody asked for")?.begun += 1;
            }
            Some(Expect::Execute(running)) => {
                let copies = running.copies_in.as_mut();
                let copies = copies.ok_or("the target copies in what nobody asked for")?;
                copies.begun += 1;
                let mut swallowed = if copies.ended > 0 {
                    copies.swallowed
                } else {
                    usize::MAX
                };
                self.expected.retain(|expect| {
                    let gone = swallowed > 0 && matches!(expect, Expect::Sync);
                    swallowed -= usize::from(gone);
                    !gone
                });
            }
            Some(
                Expect::Step(..)
                | Expect::OwnDescribe(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_),
            )
            | None => return Err("the target copies in what nobody asked for".into()),
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    /// The target copies to the process from here on.
    pub(super) fn copy_out(&mut self, frame: &Frame) -> Result<(), String> {
        if frame.body().first() != Some(&0) {
            let refusal = Refusal::new(
                RefusalKind::NotUnderstood,
                "COPY in binary format is not carried.",
                "Use the text or CSV format.",
            );
            self.fatal(&refusal);
            return Ok(());
        }
        let Schema {
            protected, changed, ..
        } = &self.schema;
        let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut() else {
            return Err("the target copies what nobody asked for".into());
        };
        running.copies_out = None;
        if !protected.is_empty() {
            let Some(Lineage::Copy(copy)) = running.lineage.get(running.at) else {
                return Err("the target copies out what no COPY asked for".into());
            };
            if *changed {
                let refusal = Refusal::new(
                    RefusalKind::NotUnderstood,
                    "COPY from a target with protected columns is not carried in a transaction that has changed the schema.",
                    "Commit first.",
                );
                self.fatal(&refusal);
                return Ok(());
            }
            let behind = copy.behind.iter().flatten();
            let classes: Vec<Option<DataClass>> = behind
                .map(|names| protected.class_of_names(names).cloned())
                .collect();
            let mut fields = frame.fields();
            let _format = fields.u8().map_err(|error| error.to_string())?;
            if fields.count().map_err(|error| error.to_string())? != classes.len() {
                return Err("the target copies out another number of columns".into());
            }
            running.copies_out = Some(CopiesOut {
                format: copy.format,
                names_first: copy.header,
                classes,
            });
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    fn copied(&mut self, frame: &Frame) -> Result<(), String> {
        let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut() else {
            return Err("the target copies what nobody asked for".into());
        };
        let mut counts = MaskCounts::default();
        let plan = &running.in_flight.plan;
        let names = running
            .copies_out
            .as_mut()
            .map(|copy| std::mem::take(&mut copy.names_first));
        let masked: Masked<BytesMut> = match &running.copies_out {
            Some(copy) if names == Some(false) => {
                let row = Row {
                    frame,
                    format: copy.format,
                    classes: &copy.classes,
                };
                plan.apply(row, &mut counts)
            }
            _ => plan.apply(Copied(frame), &mut counts),
        };
        count(running, 1, frame.bytes().len(), &counts);
        if running.over() {
            self.too_many_rows();
            return Ok(());
        }
        running.keep_copied(frame, names != Some(false));
        self.to_process.answer(masked);
        Ok(())
    }
}

fn sources<'a>(schema: &'a Schema<'_>, lineage: &'a Lineage) -> Sources<'a> {
    Sources {
        lineage,
        protected: &schema.protected,
        changed: schema.changed,
    }
}

fn keep(described: &Described, columns: Vec<super::columns::Column>) {
    *described.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(columns));
}

fn count(running: &mut Running, rows: u64, bytes: usize, masked: &MaskCounts) {
    running.rows = running.rows.saturating_add(rows);
    running.bytes = running.bytes.saturating_add(bytes as u64);
    running.masked.merge(masked);
}

/// How many bytes at the start are whole `DataRow` frames.
fn rows_at_start(bytes: &[u8]) -> Result<usize, String> {
    let mut end = 0;
    while let Some(rest) = bytes.get(end..)
        && rest.first() == Some(&b'D')
    {
        let length = frame_length(rest, MAX_FROM_TARGET)
            .map_err(|error| format!("the target sent no frame: {error}"))?;
        match length {
            Some(length) if length <= rest.len() => end += length,
            _ => break,
        }
    }
    Ok(end)
}

fn count_rows(frames: &[u8]) -> u64 {
    let (mut rest, mut count) = (frames, 0);
    while rest.len() >= HEADER
        && let Ok(Some(length)) = frame_length(rest, MAX_FROM_TARGET)
    {
        rest = rest.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}
