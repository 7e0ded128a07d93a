//! What the names of a session mean: prepared statements, portals and cursors.
//!
//! A name means here what the server has under it, always: a change that the server may still refuse comes with an
//! `Undo`, and nothing that was asked after it is judged before the server has answered (`Relay::blocked`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ParameterShown;

use super::columns::Column;
use super::frame::{Frame, FrameError};
use super::sql::{NotUnderstood, Script, Statement, read};

/// Statements, portals and cursors that one session may hold, of each.
const MAX_NAMES: usize = 10_000;
/// Bytes of texts and parameters that one session may hold under names.
const MAX_NAMED_BYTES: usize = 256 * 1024 * 1024;
/// Distinct texts that are remembered; beyond it the memory starts anew.
const MAX_TEXTS: usize = 512;
/// Longest text that is remembered, in bytes.
const MAX_REMEMBERED: usize = 32 * 1024;

/// A description that arrives later than it is asked for.
pub(super) type Described = Arc<Mutex<Option<Arc<Vec<Column>>>>>;

/// Reads a description, where it has arrived.
pub(super) fn known(described: &Described) -> Option<Arc<Vec<Column>>> {
    described.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A text with what it means.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) shown: String,
    pub(super) script: Script,
}

/// A prepared statement.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) text: Arc<Text>,
    pub(super) described: Described,
}

/// A portal: a prepared statement with its parameters.
#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub(super) prepared: Prepared,
    pub(super) values: Arc<Vec<Option<Vec<u8>>>>,
    pub(super) value_formats: Vec<i16>,
    pub(super) formats: Arc<Vec<i16>>,
    pub(super) described: Described,
}

/// Takes a change of a name back.
#[derive(Debug)]
pub(super) enum Undo {
    Statement(String, Option<Prepared>),
    Portal(String, Option<Portal>),
    Cursor(String, Option<Arc<Statement>>),
}

/// The names of one session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
    cursors: HashMap<String, Arc<Statement>>,
    bytes: usize,
    texts: HashMap<String, Arc<Text>>,
}

/// Why a frame is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum NameError {
    #[error("{0}")]
    Text(#[from] NotUnderstood),
    #[error("The message is damaged: {0}.")]
    Frame(#[from] FrameError),
    #[error("The prepared statement {0:?} is not one of this session.")]
    Statement(String),
    #[error("The portal {0:?} is not one of this session.")]
    Portal(String),
    #[error("The session holds too many names, or too much under them.")]
    TooMany,
}

impl Names {
    /// Reads a text, once for each distinct one.
    pub(super) fn text(
        &mut self,
        text: &str,
        show: impl FnOnce(&[u8]) -> String,
    ) -> Result<Arc<Text>, NotUnderstood> {
        if let Some(known) = self.texts.get(text) {
            return Ok(Arc::clone(known));
        }
        let script = read(text)?;
        let made = Arc::new(Text {
            text: text.to_owned(),
            shown: show(text.as_bytes()),
            script,
        });
        if text.len() <= MAX_REMEMBERED {
            if self.texts.len() >= MAX_TEXTS {
                self.texts.clear();
            }
            self.texts.insert(text.to_owned(), Arc::clone(&made));
        }
        Ok(made)
    }

    /// A `Parse` frame.
    pub(super) fn parse(
        &mut self,
        frame: &Frame,
        show: impl FnOnce(&[u8]) -> String,
    ) -> Result<Undo, NameError> {
        let mut fields = frame.fields();
        let (name, text) = (fields.text()?.to_owned(), fields.text()?);
        let text = self.text(text, show)?;
        self.name(name, text)
    }

    /// Gives a name to a text.
    pub(super) fn name(&mut self, name: String, text: Arc<Text>) -> Result<Undo, NameError> {
        let more = text.text.len();
        let prepared = Prepared {
            text,
            described: Described::default(),
        };
        self.room(self.statements.len(), more)?;
        self.bytes = self.bytes.saturating_add(more);
        let before = self.statements.insert(name.clone(), prepared);
        self.bytes = self
            .bytes
            .saturating_sub(before.as_ref().map_or(0, Prepared::size));
        Ok(Undo::Statement(name, before))
    }

    /// Declares a cursor.
    pub(super) fn declare(&mut self, name: String, query: Arc<Statement>) -> Undo {
        if self.cursors.len() >= MAX_NAMES {
            // What is forgotten is taken for a cursor of somebody's code.
            self.cursors.clear();
        }
        let before = self.cursors.insert(name.clone(), query);
        Undo::Cursor(name, before)
    }

    fn room(&self, count: usize, more: usize) -> Result<(), NameError> {
        if count >= MAX_NAMES || self.bytes.saturating_add(more) > MAX_NAMED_BYTES {
            return Err(NameError::TooMany);
        }
        Ok(())
    }

    /// A `Bind` frame.
    pub(super) fn bind(&mut self, frame: &Frame) -> Result<Undo, NameError> {
        let mut fields = frame.fields();
        let (name, statement) = (fields.text()?.to_owned(), fields.text()?);
        let prepared = self.statement(statement)?.clone();
        let count = fields.count()?;
        let value_formats = (0..count).map(|_| fields.i16()).collect::<Result<Vec<_>, _>>()?;
        let count = fields.count()?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(fields.value()?.map(<[u8]>::to_vec));
        }
        let count = fields.count()?;
        let formats = (0..count).map(|_| fields.i16()).collect::<Result<Vec<_>, _>>()?;
        fields.end()?;
        let portal = Portal {
            prepared,
            values: Arc::new(values),
            value_formats,
            formats: Arc::new(formats),
            described: Described::default(),
        };
        self.room(self.portals.len(), portal.size())?;
        self.bytes = self.bytes.saturating_add(portal.size());
        let before = self.portals.insert(name.clone(), portal);
        self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, Portal::size));
        Ok(Undo::Portal(name, before))
    }

    /// A `Close` frame.
    pub(super) fn close(&mut self, frame: &Frame) -> Result<Undo, NameError> {
        let mut fields = frame.fields();
        Ok(match (fields.u8()?, fields.text()?.to_owned()) {
            (b'S', name) => {
                let before = self.statements.remove(&name);
                self.bytes = self
                    .bytes
                    .saturating_sub(before.as_ref().map_or(0, Prepared::size));
                Undo::Statement(name, before)
            }
            (_, name) => {
                let before = self.portals.remove(&name);
                self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, Portal::size));
                Undo::Portal(name, before)
            }
        })
    }

    /// The server did not make a change. Changes are taken back in the reverse order.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Statement(name, before) => {
                let size = before.as_ref().map_or(0, Prepared::size);
                let now = match before {
                    Some(before) => self.statements.insert(name, before),
                    None => self.statements.remove(&name),
                };
                let freed = now.as_ref().map_or(0, Prepared::size);
                self.bytes = self.bytes.saturating_add(size).saturating_sub(freed);
            }
            Undo::Portal(name, before) => {
                let size = before.as_ref().map_or(0, Portal::size);
                let now = match before {
                    Some(before) => self.portals.insert(name, before),
                    None => self.portals.remove(&name),
                };
                let freed = now.as_ref().map_or(0, Portal::size);
                self.bytes = self.bytes.saturating_add(size).saturating_sub(freed);
            }
            Undo::Cursor(name, before) => {
                drop(match before {
                    Some(before) => self.cursors.insert(name, before),
                    None => self.cursors.remove(&name),
                });
            }
        }
    }

    /// The server is idle outside a transaction: it has let go of every portal.
    pub(super) fn end_of_transaction(&mut self) {
        if self.portals.is_empty() {
            return;
        }
        for portal in self.portals.values() {
            self.bytes = self.bytes.saturating_sub(portal.size());
        }
        self.portals.clear();
    }

    pub(super) fn statement(&self, name: &str) -> Result<&Prepared, NameError> {
        self.statements
            .get(name)
            .ok_or_else(|| NameError::Statement(name.to_owned()))
    }

    pub(super) fn portal(&self, name: &str) -> Result<&Portal, NameError> {
        self.portals
            .get(name)
            .ok_or_else(|| NameError::Portal(name.to_owned()))
    }

    /// The query of a cursor that `DECLARE` has made (also one that may be closed by now).
    pub(super) fn cursor(&self, name: &str) -> Option<&Arc<Statement>> {
        self.cursors.get(name)
    }

    /// What a `Describe` frame asks about.
    pub(super) fn describes(&self, frame: &Frame) -> Result<(u8, Described), NameError> {
        let mut fields = frame.fields();
        match (fields.u8()?, fields.text()?) {
            (b'S', name) => self.statement(name).map(|s| (b'S', Arc::clone(&s.described))),
            (_, name) => self.portal(name).map(|p| (b'P', Arc::clone(&p.described))),
        }
    }
}

impl Prepared {
    fn size(&self) -> usize {
        self.text.text.len()
    }
}

impl Portal {
    fn size(&self) -> usize {
        self.values.iter().flatten().map(Vec::len).sum()
    }

    /// The parameters as records show them.
    pub(super) fn shown(&self, show: impl Fn(&[u8]) -> String) -> Vec<ParameterShown> {
        let binary = |at: usize| match self.value_formats.as_slice() {
            [] => false,
            [all] => *all != 0,
            each => each.get(at).is_some_and(|f| *f != 0),
        };
        let one = |(at, value): (usize, &Option<Vec<u8>>)| match value {
            None => ParameterShown::Null,
            Some(value) if binary(at) => ParameterShown::Binary(value.len() as u64),
            Some(value) => ParameterShown::Text(show(value)),
        };
        self.values.iter().enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::frame::{put_text, take, write};
    use super::*;

    fn frame(kind: u8, parts: &[&str]) -> Frame {
        let mut out = BytesMut::new();
        write(&mut out, kind, |out| {
            for part in parts {
                put_text(out, part);
            }
            if kind == b'B' {
                out.extend_from_slice(&[0; 6]);
            }
        });
        take(&mut out, 10_000).expect("valid").expect("whole")
    }

    fn means(names: &Names, name: &str) -> Option<String> {
        names.statement(name).ok().map(|s| s.text.text.clone())
    }

    #[test]
    fn changes_are_taken_back_to_what_the_server_has() {
        let mut names = Names::default();
        let show = |_: &[u8]| String::new();
        let first = names.parse(&frame(b'P', &["x", "SELECT 1"]), show).expect("read");
        let bound = names.bind(&frame(b'B', &["p", "x"])).expect("bound");
        let closed = names.close(&frame(b'C', &["Sx"])).expect("closed");
        let second = names
            .parse(&frame(b'P', &["x", "SELECT 22"]), show)
            .expect("read");
        assert_eq!(means(&names, "x").as_deref(), Some("SELECT 22"));
        assert_eq!(names.portal("p").expect("there").prepared.text.text, "SELECT 1");
        names.undo(second);
        assert_eq!(means(&names, "x"), None);
        names.undo(closed);
        assert_eq!(means(&names, "x").as_deref(), Some("SELECT 1"));
        names.undo(bound);
        assert!(names.portal("p").is_err());
        names.undo(first);
        assert_eq!((means(&names, "x"), names.bytes), (None, 0));
    }

    #[test]
    fn what_names_hold_is_bounded() {
        let mut names = Names::default();
        let show = |_: &[u8]| String::new();
        for at in 0..MAX_NAMES {
            let parse = frame(b'P', &[&at.to_string(), "SELECT 1"]);
            names.parse(&parse, show).expect("room");
        }
        let more = names.parse(&frame(b'P', &["more", "SELECT 1"]), show);
        assert!(matches!(more, Err(NameError::TooMany)));
        let mut one = Names {
            bytes: MAX_NAMED_BYTES,
            ..Names::default()
        };
        assert!(one.parse(&frame(b'P', &["", "SELECT 1"]), show).is_err());
    }
}
