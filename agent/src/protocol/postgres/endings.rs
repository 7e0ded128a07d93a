//! How operations end: completed, failed, skipped by the server after an error before them.

use crate::mask::NoData;

use super::expect::{Expect, Running, Whose};
use super::frame::Frame;
use super::names::Undo;
use super::refusal::Severity;
use super::relay::Relay;

impl Relay<'_> {
    pub(super) fn complete(&mut self, frame: &Frame) -> Result<(), String> {
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
                    self.ended.extend(running.finish());
                }
            }
            Some(
                Expect::Step(..)
                | Expect::OwnDescribe(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_),
            )
            | None => return Err("the target completed what nobody asked for".into()),
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    pub(super) fn ready(&mut self, frame: &Frame) -> Result<(), String> {
        self.status = frame.body().first().copied().unwrap_or(b'E');
        match self.expected.pop_front() {
            Some(Expect::Query(mut running)) => {
                if running.failed {
                    let undos = running.take_undos().collect();
                    self.take_back(undos);
                }
                self.ended.extend(running.finish());
            }
            Some(Expect::Sync | Expect::RefusedQuery(_)) => {}
            Some(
                Expect::Execute(_)
                | Expect::Step(..)
                | Expect::OwnDescribe(_)
                | Expect::Refused(_)
                | Expect::Catalogue(_),
            )
            | None => return Err("the target is ready at the wrong time".into()),
        }
        if self.status == b'I' {
            self.names.end_of_transaction();
        }
        self.plain(frame, NoData::ProtocolState);
        Ok(())
    }

    pub(super) fn error(&mut self, frame: &Frame) -> Result<(), String> {
        match self.expected.front_mut() {
            Some(Expect::Query(running)) => {
                note(running, frame);
                self.tell_error(frame);
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
            Some(Expect::Execute(_) | Expect::Step(..) | Expect::OwnDescribe(_)) => {
                self.tell_error(frame);
                if let Some(running) = self.failing() {
                    note(running, frame);
                }
                self.skip();
            }
            // Between statements: the server ends the session.
            Some(Expect::Sync) | None => self.diagnostics(frame),
            Some(Expect::Catalogue(_)) => return Err("the target's catalogue cannot be asked".into()),
        }
        Ok(())
    }

    /// The operation that an error at the front of the queue belongs to.
    fn failing(&mut self) -> Option<&mut Running> {
        for expect in &mut self.expected {
            match expect {
                Expect::Execute(running) | Expect::Step(_, Whose::Own(running)) => return Some(running),
                Expect::Step(_, Whose::Execute) | Expect::OwnDescribe(_) => {}
                Expect::Step(_, Whose::Nobody)
                | Expect::Query(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_) => return None,
            }
        }
        None
    }

    /// The server skips everything up to the next `Sync`: none of it has happened.
    fn skip(&mut self) {
        let mut undos: Vec<Undo> = Vec::new();
        let mut synced = false;
        while let Some(next) = self.expected.pop_front() {
            match next {
                Expect::Sync => {
                    self.expected.push_front(Expect::Sync);
                    synced = true;
                    break;
                }
                Expect::Execute(mut running) | Expect::Query(mut running) => {
                    undos.extend(running.take_undos());
                    self.ended.extend(running.failed_or_skipped());
                }
                Expect::Step(step, whose) => {
                    undos.extend(step.undo());
                    if let Whose::Own(running) = whose {
                        self.ended.extend(running.failed_or_skipped());
                    }
                }
                Expect::OwnDescribe(_)
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_) => {}
            }
        }
        if !synced {
            self.skipping = true;
            undos.extend(self.waiting.iter_mut().flat_map(|w| w.take_undos()));
            let gathered = std::mem::take(&mut self.gathered);
            undos.extend(gathered.into_iter().filter_map(|(_, step)| step.undo()));
        }
        self.take_back(undos);
    }
}

fn note(running: &mut Running, frame: &Frame) {
    running.failed = true;
    let mut fields = frame.fields();
    while let (Ok(kind), Ok(text)) = (fields.u8(), fields.text()) {
        if kind == b'C' {
            running.detail = text.to_owned();
        }
    }
}
