//! What a statement does, read with PostgreSQL's own grammar.
//!
//! Rule: in doubt more actions, never fewer; what is not known here is refused. The parser is PostgreSQL's raw parser
//! (`pg_raw_parse`); trees are walked iteratively here, so that a deep one cannot exhaust the stack.

mod bounds;
mod calls;
mod classify;
mod definitions;
mod functions;
mod lineage;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::StatementFacts;

pub use classify::is_harmless_setting;
pub use lineage::Outputs;

/// Longest text that is read, in bytes.
pub const MAX_TEXT: usize = 1024 * 1024;
/// Deepest nesting of brackets and of unary operators that is read.
const MAX_NESTING: usize = 500;

/// A text's statements in order; none for an empty text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The statements.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it does.
    pub facts: StatementFacts,
    /// Where its result columns come from.
    pub outputs: Outputs,
    /// What it does to the session.
    pub effect: SessionEffect,
}

/// What a statement does to the session, as far as the relay must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// Nothing that matters.
    None,
    /// Names a statement for later: `PREPARE`.
    Prepare {
        /// The name.
        name: String,
        /// What it will do.
        inner: Box<Statement>,
    },
    /// Runs a named statement: `EXECUTE`, also inside `EXPLAIN ANALYZE` and `CREATE TABLE AS`.
    Execute {
        /// The name.
        name: String,
    },
    /// Names a cursor: `DECLARE`.
    Declare {
        /// The name.
        name: String,
        /// What it reads.
        inner: Box<Statement>,
    },
    /// Reads from a cursor: `FETCH`.
    Fetch {
        /// The name.
        name: String,
    },
    /// Changes a setting that changes how texts are read.
    Set {
        /// The setting, lower case.
        name: String,
        /// Its new value, where it is a plain one.
        value: Option<String>,
    },
    /// Copies to the process.
    CopyOut(CopyOut),
    /// Copies from the process.
    CopyIn,
}

/// What is known of the rows that a `COPY … TO STDOUT` shows: its answer has no description of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// The column names behind each field; `None` where the statement does not tell.
    pub behind: Option<Vec<BTreeSet<String>>>,
    /// How rows are written.
    pub format: CopyFormat,
    /// Whether the first row is one of names.
    pub header: bool,
}

/// How rows of a copy are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Text with the usual delimiter and NULL.
    Text,
    /// CSV with the usual delimiter, quotes and NULL.
    Csv,
    /// Anything else.
    Other,
}

/// Why a text is not understood; a sentence for people, without data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotUnderstood(pub String);

/// Reads a text.
///
/// # Errors
/// Where PostgreSQL's grammar does not accept it, or where this module does not know what it does.
pub fn read(text: &str) -> Result<Script, NotUnderstood> {
    if text.len() > MAX_TEXT {
        return Err(NotUnderstood("The statement is longer than 1 MiB.".into()));
    }
    if nesting(text) > MAX_NESTING {
        return Err(NotUnderstood("The statement is nested too deeply.".into()));
    }
    // The parser is C with Rust around it: should it panic, that is one more thing not understood.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|error| {
            NotUnderstood(format!(
                "PostgreSQL's grammar does not accept it: {}.",
                first_line(&error)
            ))
        })?;
        let statements = tree
            .stmts()
            .map(classify::statement)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Script { statements })
    }));
    read.unwrap_or_else(|_panic| Err(NotUnderstood("The statement could not be read.".into())))
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned()
}

/// An upper bound of how deep a tree the text can make: open brackets, and prefixes that nest without them.
fn nesting(text: &str) -> usize {
    let mut open = 0usize;
    let mut deepest = 0usize;
    let mut run = 0usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' => open += 1,
            b')' | b']' => open = open.saturating_sub(1),
            b'-' | b'+' | b'~' | b'!' | b'@' | b'#' => run += 1,
            b' ' | b'\n' | b'\t' | b'\r' => {}
            _ => run = 0,
        }
        deepest = deepest.max(open).max(run);
    }
    let words = |word: &str| {
        text.split_ascii_whitespace()
            .filter(|w| w.eq_ignore_ascii_case(word))
            .count()
    };
    deepest.max(words("not"))
}
