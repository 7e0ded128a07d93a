//! What the names of a session mean: prepared statements and portals.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ParameterShown;

use super::columns::Column;
use super::frame::{Frame, FrameError};
use super::sql::{NotUnderstood, Script, read};

/// Statements and portals that one session may hold.
const MAX_NAMES: usize = 10_000;
/// Distinct texts that are remembered; beyond it the memory starts anew.
const MAX_TEXTS: usize = 512;

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
    pub(super) values: Vec<Option<Vec<u8>>>,
    pub(super) value_formats: Vec<i16>,
    pub(super) formats: Arc<Vec<i16>>,
    pub(super) described: Described,
}

/// The names of one session.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) statements: HashMap<String, Prepared>,
    pub(super) portals: HashMap<String, Portal>,
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
    #[error("The session holds too many names.")]
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
        if self.texts.len() >= MAX_TEXTS {
            self.texts.clear();
        }
        self.texts.insert(text.to_owned(), Arc::clone(&made));
        Ok(made)
    }

    /// A `Parse` frame; its name.
    pub(super) fn parse(
        &mut self,
        frame: &Frame,
        show: impl FnOnce(&[u8]) -> String,
    ) -> Result<String, NameError> {
        let mut fields = frame.fields();
        let (name, text) = (fields.text()?.to_owned(), fields.text()?);
        let text = self.text(text, show)?;
        self.name(name.clone(), text)?;
        Ok(name)
    }

    /// Gives a name to a text.
    pub(super) fn name(&mut self, name: String, text: Arc<Text>) -> Result<(), NameError> {
        if self.statements.len() >= MAX_NAMES {
            return Err(NameError::TooMany);
        }
        self.statements.insert(
            name,
            Prepared {
                text,
                described: Described::default(),
            },
        );
        Ok(())
    }

    /// A `Bind` frame.
    pub(super) fn bind(&mut self, frame: &Frame) -> Result<(), NameError> {
        let mut fields = frame.fields();
        let (portal, statement) = (fields.text()?.to_owned(), fields.text()?);
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
        if self.portals.len() >= MAX_NAMES {
            return Err(NameError::TooMany);
        }
        let formats = Arc::new(formats);
        let described = Described::default();
        self.portals.insert(
            portal,
            Portal {
                prepared,
                values,
                value_formats,
                formats,
                described,
            },
        );
        Ok(())
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

    /// A `Close` frame.
    pub(super) fn close(&mut self, frame: &Frame) -> Result<(), NameError> {
        let mut fields = frame.fields();
        match (fields.u8()?, fields.text()?) {
            (b'S', name) => drop(self.statements.remove(name)),
            (_, name) => drop(self.portals.remove(name)),
        }
        Ok(())
    }

    /// What a `Describe` frame asks about.
    pub(super) fn describes(&self, frame: &Frame) -> Result<Described, NameError> {
        let mut fields = frame.fields();
        match (fields.u8()?, fields.text()?) {
            (b'S', name) => self.statement(name).map(|s| Arc::clone(&s.described)),
            (_, name) => self.portal(name).map(|p| Arc::clone(&p.described)),
        }
    }
}

impl Portal {
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
