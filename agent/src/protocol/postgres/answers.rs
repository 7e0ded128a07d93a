//! Frames of the target: matched with what was asked, masked, passed on.

use std::sync::{Arc, PoisonError};

use bytes::BytesMut;

use crate::mask::{Masked, NoData};
use crate::model::{MaskCounts, Refusal, RefusalKind};

use super::columns::{describe, plan};
use super::expect::{Expect, Running};
use super::frame::{Frame, HEADER, MAX_FROM_TARGET, frame_length, take};
use super::names::known;
use super::refusal::Severity;
use super::relay::Relay;
use super::response::{Copied, Diagnostics, Notification, Rows};

impl Relay<'_> {
    /// Handles every whole frame that has arrived.
    pub(super) fn answers(&mut self) -> Result<(), String> {
        loop {
            if self.target_bytes.first() == Some(&b'D') {
                let run = rows_at_start(&self.target_bytes)?;
                if run > 0 {
                    let frames = self.target_bytes.split_to(run);
                    self.rows(&frames)?;
                    continue;
                }
            }
            let taken = take(&mut self.target_bytes, MAX_FROM_TARGET);
            match taken.map_err(|error| format!("the target sent no frame: {error}"))? {
                Some(frame) => self.answer(&frame)?,
                None => return Ok(()),
            }
            if self.ending.is_some() {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, frame: &Frame) -> Result<(), String> {
        match frame.kind() {
            b'1' => self.parse_complete(frame),
            b'2' | b'3' | b't' => self.plain(frame, NoData::Description),
            b'T' | b'n' => self.description(frame)?,
            b'C' | b'I' | b's' => self.complete(frame),
            b'Z' => self.ready(frame)?,
            b'E' => self.error(frame),
            b'N' => self.diagnostics(frame),
            b'S' => self.parameter(frame),
            b'A' => {
                let plan = self.session.masks_nothing_revealed();
                self.to_process
                    .answer(plan.apply(Notification(frame), &mut MaskCounts::default()));
            }
            b'G' => self.plain(frame, NoData::ProtocolState),
            b'H' => self.copy_out(frame)?,
            b'd' => self.copied(frame)?,
            b'c' => self.plain(frame, NoData::ProtocolState),
            other => {
                return Err(format!(
                    "the target sent an unknown message {:?}",
                    char::from(other)
                ));
            }
        }
        Ok(())
    }

    fn plain(&mut self, frame: &Frame, why: NoData) {
        self.to_process.answer(Masked::without_data(frame.bytes(), why));
    }

    fn parse_complete(&mut self, frame: &Frame) {
        match self.expected.front_mut() {
            Some(Expect::Prepare(running) | Expect::Execute(running)) => running.confirmed = true,
            Some(
                Expect::Query(_)
                | Expect::Describe(_)
                | Expect::OwnDescribe(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_),
            )
            | None => {}
        }
        if let Some(Expect::Prepare(_)) = self.expected.front()
            && let Some(Expect::Prepare(mut running)) = self.expected.pop_front()
        {
            running.detail = "PREPARE".into();
            running.finish();
        }
        self.plain(frame, NoData::Description);
    }

    /// A description of columns, or of their absence.
    fn description(&mut self, frame: &Frame) -> Result<(), String> {
        let columns = if frame.kind() == b'T' {
            Some(describe(frame).map_err(|error| format!("the target's description: {error}"))?)
        } else {
            None
        };
        match self.expected.front_mut() {
            Some(Expect::Describe(described) | Expect::OwnDescribe(described)) => {
                *described.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::new(columns.unwrap_or_default()));
            }
            Some(Expect::Query(running)) => {
                let columns = columns.ok_or("the target sent NoData in a simple query")?;
                let outputs = running.text.script.statements.get(running.at).map(|s| &s.outputs);
                running.columns = Some(plan(&columns, None, outputs, &self.protected));
                self.plain(frame, NoData::Description);
                return Ok(());
            }
            Some(
                Expect::Execute(_)
                | Expect::Prepare(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_),
            )
            | None => return Err("the target described what nobody asked about".into()),
        }
        if let Some(Expect::Describe(_)) = self.expected.pop_front() {
            self.plain(frame, NoData::Description);
        }
        Ok(())
    }

    /// A run of rows.
    fn rows(&mut self, frames: &[u8]) -> Result<(), String> {
        let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut() else {
            return Err("the target sent rows that nobody asked for".into());
        };
        if running.columns.is_none() {
            let described = running.described.iter().find_map(known);
            let columns = described.ok_or("the target sent rows without a description")?;
            let outputs = running.text.script.statements.first().map(|s| &s.outputs);
            let formats = running.formats.as_deref().map(Vec::as_slice);
            running.columns = Some(plan(&columns, formats, outputs, &self.protected));
        }
        let columns = running.columns.as_deref().unwrap_or_default();
        let mut counts = MaskCounts::default();
        let masked = running
            .in_flight
            .plan
            .apply(Rows { frames, columns }, &mut counts);
        running.rows = running.rows.saturating_add(count_rows(frames));
        running.bytes = running.bytes.saturating_add(frames.len() as u64);
        running.masked.merge(&counts);
        let over = running
            .in_flight
            .limits
            .max_rows
            .is_some_and(|max| running.rows > max);
        if over {
            let refusal = Refusal::new(
                RefusalKind::Limit,
                "The answer has more rows than a policy lets this principal read.",
                "Ask for fewer rows (LIMIT).",
            );
            self.fatal(&refusal);
            return Ok(());
        }
        self.to_process.answer(masked);
        Ok(())
    }

    fn complete(&mut self, frame: &Frame) {
        let tag = if frame.kind() == b'C' {
            frame.fields().text().unwrap_or_default()
        } else {
            ""
        };
        match self.expected.front_mut() {
            Some(Expect::Query(running)) => {
                running.detail = tag.to_owned();
                running.at += 1;
                running.columns = None;
            }
            Some(Expect::Execute(_)) => {
                if let Some(Expect::Execute(mut running)) = self.expected.pop_front() {
                    running.detail = tag.to_owned();
                    running.finish();
                }
            }
            Some(
                Expect::Prepare(_)
                | Expect::Describe(_)
                | Expect::OwnDescribe(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_),
            )
            | None => {}
        }
        self.plain(frame, NoData::ProtocolState);
    }

    fn ready(&mut self, frame: &Frame) -> Result<(), String> {
        self.status = frame.body().first().copied().unwrap_or(b'E');
        match self.expected.pop_front() {
            Some(Expect::Query(running)) => {
                if running.failed {
                    self.forget(&running.prepares);
                }
                running.finish();
            }
            Some(Expect::Sync | Expect::RefusedQuery(_)) => {}
            Some(
                Expect::Execute(_)
                | Expect::Prepare(_)
                | Expect::Describe(_)
                | Expect::OwnDescribe(_)
                | Expect::Refused(_),
            )
            | None => return Err("the target is ready at the wrong time".into()),
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    fn error(&mut self, frame: &Frame) {
        match self.expected.front_mut() {
            Some(Expect::Query(running)) => {
                note_error(running, frame);
                self.diagnostics(frame);
            }
            Some(Expect::RefusedQuery(refusal)) => match refusal.take() {
                Some(refusal) => self.to_process.refuse(&Severity::Error, &refusal),
                None => self.diagnostics(frame),
            },
            Some(Expect::Refused(_)) => {
                if let Some(Expect::Refused(refusal)) = self.expected.pop_front() {
                    self.to_process.refuse(&Severity::Error, &refusal);
                }
                self.skip();
            }
            Some(Expect::Execute(_) | Expect::Prepare(_)) => {
                if let Some(Expect::Execute(mut running) | Expect::Prepare(mut running)) =
                    self.expected.pop_front()
                {
                    note_error(&mut running, frame);
                    if !running.confirmed {
                        self.forget(&running.prepares);
                    }
                    running.finish();
                }
                self.diagnostics(frame);
                self.skip();
            }
            Some(Expect::Describe(_) | Expect::OwnDescribe(_)) => {
                // Asked within a unit: its operation follows in the queue and failed with it.
                self.expected.pop_front();
                self.diagnostics(frame);
                self.skip();
            }
            // Between statements: the server ends the session.
            Some(Expect::Sync) | None => self.diagnostics(frame),
        }
    }

    /// The server skips everything up to the next `Sync`.
    fn skip(&mut self) {
        while let Some(next) = self.expected.front() {
            if matches!(next, Expect::Sync) {
                return;
            }
            match self.expected.pop_front() {
                Some(Expect::Execute(running) | Expect::Prepare(running) | Expect::Query(running)) => {
                    if !running.confirmed {
                        self.forget(&running.prepares);
                    }
                    running.skipped();
                }
                Some(
                    Expect::Describe(_)
                    | Expect::OwnDescribe(_)
                    | Expect::Sync
                    | Expect::Refused(_)
                    | Expect::RefusedQuery(_),
                )
                | None => {}
            }
        }
        self.skipping = true;
        self.gathered.clear();
    }

    /// An error or notice of the target, masked as the operation that it belongs to.
    fn diagnostics(&mut self, frame: &Frame) {
        let content = Diagnostics {
            frame,
            hide_keys: !self.protected.is_empty(),
        };
        let mut counts = MaskCounts::default();
        let plan = self.session.masks_nothing_revealed();
        self.to_process.answer(plan.apply(content, &mut counts));
    }

    /// A setting that the server reports. Those that change how texts are read must not change.
    fn parameter(&mut self, frame: &Frame) {
        let mut fields = frame.fields();
        let (name, value) = (
            fields.text().unwrap_or_default(),
            fields.text().unwrap_or_default(),
        );
        let wrong = match name {
            "standard_conforming_strings" => value != "on",
            "client_encoding" => !value.eq_ignore_ascii_case("UTF8"),
            _ => false,
        };
        if wrong {
            let refusal = Refusal::new(
                RefusalKind::NotUnderstood,
                format!("The session set {name} to {value}, which Interdict cannot read statements under."),
                "Leave standard_conforming_strings on and client_encoding UTF8.",
            );
            return self.fatal(&refusal);
        }
        self.plain(frame, NoData::ServerSetting);
    }

    fn copy_out(&mut self, frame: &Frame) -> Result<(), String> {
        if frame.body().first() != Some(&0) {
            let refusal = Refusal::new(
                RefusalKind::NotUnderstood,
                "COPY in binary format is not carried.",
                "Use the text or CSV format.",
            );
            self.fatal(&refusal);
            return Ok(());
        }
        if !self.protected.is_empty() {
            return Err("the target copies out of a database with protected columns".into());
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    fn copied(&mut self, frame: &Frame) -> Result<(), String> {
        let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut() else {
            return Err("the target copies what nobody asked for".into());
        };
        let mut counts = MaskCounts::default();
        let masked: Masked<BytesMut> = running.in_flight.plan.apply(Copied(frame), &mut counts);
        running.rows = running.rows.saturating_add(1);
        running.bytes = running.bytes.saturating_add(frame.bytes().len() as u64);
        running.masked.merge(&counts);
        self.to_process.answer(masked);
        Ok(())
    }
}

fn note_error(running: &mut Running, frame: &Frame) {
    running.failed = true;
    let mut fields = frame.fields();
    while let (Ok(kind), Ok(text)) = (fields.u8(), fields.text()) {
        if kind == b'C' {
            running.detail = text.to_owned();
        }
    }
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
