//! What is judged at once: the frames of one operation.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::model::{Digest, Facts, Fingerprint, Operation, ParameterShown, SqlFacts, StatementFacts};
use crate::session::{AgentSpeech, Neutral, NeutralReason, Request};

use super::frame::{Frame, put_text, write};

/// The frames of one operation, up to its `Execute` or `Query` (or the end of a batch that only prepares).
pub(super) struct Unit {
    /// The process's own frames.
    pub(super) frames: Vec<Frame>,
    /// What they mean.
    pub(super) operation: Arc<Operation>,
    /// A portal that the agent asks to be described before it runs, because the process does not ask.
    pub(super) describe: Option<String>,
}

impl Request for Unit {
    fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    fn encode(self, out: &mut BytesMut) {
        let last = self.frames.len().saturating_sub(1);
        for (at, frame) in self.frames.iter().enumerate() {
            if let (true, Some(portal)) = (at == last, &self.describe) {
                write(out, b'D', |out| {
                    out.put_u8(b'P');
                    put_text(out, portal);
                });
            }
            out.extend_from_slice(frame.bytes());
        }
    }
}

/// The wish to log in. Carries no bytes: the agent logs in itself.
pub(super) struct LogIn(pub(super) Arc<Operation>);

impl Request for LogIn {
    fn operation(&self) -> &Arc<Operation> {
        &self.0
    }

    fn encode(self, _out: &mut BytesMut) {}
}

/// Frames without an operation of their own.
pub(super) struct Passing {
    pub(super) frames: Vec<Frame>,
    pub(super) reason: NeutralReason,
}

impl Neutral for Passing {
    fn reason(&self) -> NeutralReason {
        self.reason
    }

    fn encode(self, out: &mut BytesMut) {
        for frame in &self.frames {
            out.extend_from_slice(frame.bytes());
        }
    }
}

/// One operation from its statements.
pub(super) fn operation(
    statements: Vec<StatementFacts>,
    database: &str,
    in_transaction: bool,
    (text, shown): (&str, String),
    (values, parameters): (&[Option<Vec<u8>>], Vec<ParameterShown>),
) -> Operation {
    let actions = statements
        .iter()
        .flat_map(|s| s.actions.iter().copied())
        .collect();
    let mut parts: Vec<&[u8]> = vec![database.as_bytes(), text.as_bytes()];
    for value in values {
        // NULL and the empty value are told apart.
        parts.push(if value.is_some() { b"v" } else { b"n" });
        parts.push(value.as_deref().unwrap_or_default());
    }
    let fingerprint = Fingerprint(Digest::of_fields(&parts));
    let facts = Facts::Sql(SqlFacts {
        statements,
        database: database.to_owned(),
        in_transaction,
    });
    Operation {
        actions,
        facts,
        text: shown,
        fingerprint,
        parameters,
    }
}

/// A statement that must fail: stands in for a refused one, so that the server's transaction knows of it.
const REFUSED: &str = "interdict refused this";

/// As a simple query.
pub(super) fn refused_query() -> AgentSpeech {
    let mut out = BytesMut::new();
    write(&mut out, b'Q', |out| put_text(out, REFUSED));
    AgentSpeech::stand_in(out.freeze())
}

/// As an unnamed `Parse`: the server then skips everything up to the next `Sync`.
pub(super) fn refused_parse() -> AgentSpeech {
    let mut out = BytesMut::new();
    write(&mut out, b'P', |out| {
        put_text(out, "");
        put_text(out, REFUSED);
        out.put_i16(0);
    });
    AgentSpeech::stand_in(out.freeze())
}
