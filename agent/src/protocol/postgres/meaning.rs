//! What a text does in this session: `EXECUTE`, `FETCH` and the like do what is behind the name that they use.

use std::sync::Arc;

use crate::model::{Action, StatementFacts, StatementKind};

use super::catalogue::Protected;
use super::names::{Names, Text, Undo};
use super::sql::{CopyFormat, CopyOut, Outputs, Script, SessionEffect, Statement};

/// How many names may stand behind one another.
const MAX_DEPTH: usize = 8;

/// Where the columns of one result come from, for those that the server calls expressions.
#[derive(Debug, Clone)]
pub(super) enum Lineage {
    /// From a statement of a text.
    Of(Arc<Text>, usize),
    /// From a cursor's query.
    Cursor(Arc<Statement>),
    /// From settings of the server.
    Nothing,
    /// Copied, without a description.
    Copy(Arc<CopyOut>),
    /// From anywhere.
    Unknown,
}

impl Lineage {
    /// `None` where anything may be behind it.
    pub(super) fn outputs(&self) -> Option<&Outputs> {
        static NOTHING: Outputs = Outputs {
            positions: Vec::new(),
            all: std::collections::BTreeSet::new(),
            whole_rows: false,
        };
        match self {
            Self::Of(text, at) => text.script.statements.get(*at).map(|s| &s.outputs),
            Self::Cursor(query) => Some(&query.outputs),
            Self::Nothing => Some(&NOTHING),
            Self::Copy(_) | Self::Unknown => None,
        }
    }
}

/// What a text does.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    /// Each statement, with what is behind the names that it uses; never empty.
    pub(super) facts: Vec<StatementFacts>,
    /// Where the results of each statement come from.
    pub(super) lineage: Vec<Lineage>,
    /// Names that its statements give, by statement.
    pub(super) undos: Vec<(usize, Undo)>,
    /// Whether it copies from the process.
    pub(super) copies_in: bool,
    /// Whether its results depend on what a name means when it runs.
    pub(super) moving: bool,
}

/// Reads what a text does, and gives the names that it gives.
///
/// # Errors
/// A sentence for people; no name is given then.
pub(super) fn meaning(names: &mut Names, text: &Arc<Text>, protected: &Protected) -> Result<Meaning, String> {
    let mut reading = Reading {
        names,
        protected,
        meaning: Meaning::default(),
        at: 0,
    };
    for at in 0..text.script.statements.len() {
        reading.at = at;
        match reading.statement(text, at, 0) {
            Ok((facts, lineage)) => {
                reading.meaning.facts.push(facts);
                reading.meaning.lineage.push(lineage);
            }
            Err(why) => {
                for (_, undo) in reading.meaning.undos.drain(..).rev() {
                    reading.names.undo(undo);
                }
                return Err(why);
            }
        }
    }
    let mut meaning = reading.meaning;
    if meaning.facts.is_empty() {
        meaning.facts.push(empty());
    }
    Ok(meaning)
}

struct Reading<'a> {
    names: &'a mut Names,
    protected: &'a Protected,
    meaning: Meaning,
    /// Which statement of the text is read.
    at: usize,
}

impl Reading<'_> {
    fn statement(
        &mut self,
        text: &Arc<Text>,
        at: usize,
        depth: usize,
    ) -> Result<(StatementFacts, Lineage), String> {
        if depth > MAX_DEPTH {
            return Err("Too many names stand behind one another.".into());
        }
        let Some(statement) = text.script.statements.get(at) else {
            return Ok((empty(), Lineage::Nothing));
        };
        let mut facts = statement.facts.clone();
        let mut lineage = own_lineage(statement, text, at);
        match &statement.effect {
            SessionEffect::Execute { name } => {
                let behind = self.behind_statement(name, &mut facts, depth)?;
                // EXPLAIN shows plans, not rows.
                if facts.kind.0 != "EXPLAIN" {
                    lineage = behind;
                }
            }
            SessionEffect::Fetch { name } => lineage = self.behind_cursor(name, &mut facts, depth)?,
            SessionEffect::Prepare { name, inner } => {
                let inner = Text {
                    text: text.text.clone(),
                    shown: text.shown.clone(),
                    script: Script {
                        statements: vec![(**inner).clone()],
                    },
                };
                let given = self.names.name(name.clone(), Arc::new(inner));
                let undo = given.map_err(|error| error.to_string())?;
                self.meaning.undos.push((self.at, undo));
            }
            SessionEffect::Declare { name, inner } => {
                let undo = self.names.declare(name.clone(), Arc::new((**inner).clone()));
                self.meaning.undos.push((self.at, undo));
            }
            SessionEffect::Set { name, value } => setting(name, value.as_deref())?,
            SessionEffect::CopyOut(copy) => {
                if !self.protected.is_empty() {
                    lineage = Lineage::Copy(Arc::new(copied(copy)?));
                }
            }
            SessionEffect::CopyIn => self.meaning.copies_in = true,
            SessionEffect::None => {}
        }
        Ok((facts, lineage))
    }

    fn behind_statement(
        &mut self,
        name: &str,
        facts: &mut StatementFacts,
        depth: usize,
    ) -> Result<Lineage, String> {
        self.meaning.moving = true;
        let prepared = self.names.statement(name).map_err(|error| error.to_string())?;
        let text = Arc::clone(&prepared.text);
        let (inner, lineage) = self.statement(&text, 0, depth + 1)?;
        join(facts, &inner);
        Ok(lineage)
    }

    /// `FETCH` runs the query of a cursor, which was judged when it was declared, or of a portal, which was not.
    fn behind_cursor(
        &mut self,
        name: &str,
        facts: &mut StatementFacts,
        depth: usize,
    ) -> Result<Lineage, String> {
        self.meaning.moving = true;
        let cursor = self.names.cursor(name).map(Arc::clone);
        let portal = self.names.portal(name).ok().map(|p| Arc::clone(&p.prepared.text));
        match (cursor, portal) {
            (Some(query), None) => Ok(Lineage::Cursor(query)),
            (cursor, Some(text)) => {
                let (inner, lineage) = self.statement(&text, 0, depth + 1)?;
                join(facts, &inner);
                Ok(if cursor.is_some() {
                    Lineage::Unknown
                } else {
                    lineage
                })
            }
            // Opened by somebody's code, or closed.
            (None, None) => {
                facts.actions.insert(Action::SqlExecute);
                Ok(Lineage::Unknown)
            }
        }
    }
}

/// A copy out of a database with declared columns, where each field is known.
fn copied(copy: &CopyOut) -> Result<CopyOut, String> {
    if copy.behind.is_none() {
        return Err(
            "This target has protected columns, and the COPY does not name its columns: write COPY t (a, b) TO STDOUT or \
             COPY (SELECT a, b FROM t) TO STDOUT, without *."
                .into(),
        );
    }
    if copy.format == CopyFormat::Other {
        return Err(
            "This target has protected columns: COPY is carried in the text or CSV format with the usual delimiters only."
                .into(),
        );
    }
    Ok(copy.clone())
}

fn own_lineage(statement: &Statement, text: &Arc<Text>, at: usize) -> Lineage {
    match statement.facts.kind.0 {
        "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "EXPLAIN" => Lineage::Of(Arc::clone(text), at),
        "SHOW" => Lineage::Nothing,
        _ => Lineage::Unknown,
    }
}

fn join(facts: &mut StatementFacts, inner: &StatementFacts) {
    let StatementFacts {
        kind: _,
        actions,
        reads,
        writes,
        columns,
        functions,
        bounded,
    } = inner;
    facts.actions.extend(actions.iter().copied());
    facts.reads.extend(reads.iter().cloned());
    facts.writes.extend(writes.iter().cloned());
    facts.columns.extend(columns.iter().cloned());
    facts.functions.extend(functions.iter().cloned());
    facts.bounded &= bounded;
}

/// An empty text: nothing happens, in the session.
pub(super) fn empty() -> StatementFacts {
    StatementFacts {
        kind: StatementKind("EMPTY"),
        actions: [Action::SqlSession].into(),
        reads: [].into(),
        writes: [].into(),
        columns: [].into(),
        functions: [].into(),
        bounded: true,
    }
}

/// Settings that would change how the agent reads texts.
fn setting(name: &str, value: Option<&str>) -> Result<(), String> {
    let value = value.map(str::to_ascii_lowercase);
    let plain = value.as_deref();
    match name {
        "standard_conforming_strings" if !matches!(plain, Some("on" | "true" | "yes" | "1") | None) => {
            Err("standard_conforming_strings must stay on.".into())
        }
        "client_encoding" if !matches!(plain, Some("utf8" | "utf-8" | "unicode") | None) => {
            Err("The client encoding must stay UTF8.".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last of `texts` does after the others.
    fn check(texts: &[&str]) -> Result<(Vec<Action>, Option<bool>), String> {
        let mut names = Names::default();
        let protected = Protected::default();
        let mut last = Err("no text".to_owned());
        for text in texts {
            let text = names.text(text, |_| String::new()).map_err(|e| e.to_string())?;
            last = meaning(&mut names, &text, &protected);
        }
        let meaning = last?;
        let actions = meaning
            .facts
            .iter()
            .flat_map(|f| f.actions.iter().copied())
            .collect();
        let known = meaning.lineage.last().map(|l| l.outputs().is_some());
        Ok((actions, known))
    }

    #[test]
    fn names_mean_what_is_behind_them() {
        use Action::{SqlDrop, SqlExecute, SqlSelect, SqlSession};
        let select = "PREPARE a AS SELECT name || '' FROM t";
        assert_eq!(
            check(&[select, "EXECUTE a"]),
            Ok((vec![SqlSelect, SqlSession], Some(true)))
        );
        assert_eq!(
            check(&["DECLARE c CURSOR FOR SELECT 1", "FETCH ALL FROM c"]),
            Ok((vec![SqlSelect], Some(true)))
        );
        assert_eq!(
            check(&["FETCH ALL FROM nobody_knows"]),
            Ok((vec![SqlSelect, SqlExecute], Some(false)))
        );
        assert!(check(&["EXECUTE nobody_knows"]).is_err());
        assert_eq!(check(&["SHOW search_path"]), Ok((vec![SqlSession], Some(true))));
        assert_eq!(check(&[""]), Ok((vec![SqlSession], None)));
        assert_eq!(
            check(&["DROP TABLE t"]).map(|(actions, _)| actions),
            Ok(vec![SqlDrop])
        );
        assert!(check(&["SET standard_conforming_strings = off"]).is_err());
        assert!(check(&["SET client_encoding = 'SJIS'"]).is_err());
    }

    #[test]
    fn statements_behind_statements_are_found_and_loops_end() {
        let mut names = Names::default();
        let protected = Protected::default();
        let name = |name: &str, text: &str, names: &mut Names| {
            let text = names.text(text, |_| String::new()).expect("read");
            names.name(name.to_owned(), text).expect("room")
        };
        name("x", "DROP TABLE t", &mut names);
        name("y", "EXECUTE x", &mut names);
        name("z", "EXECUTE z", &mut names);
        let outer = names.text("EXECUTE y", |_| String::new()).expect("read");
        let found = meaning(&mut names, &outer, &protected).expect("understood");
        assert!(found.facts[0].actions.contains(&Action::SqlDrop) && found.moving);
        let endless = names.text("EXECUTE z", |_| String::new()).expect("read");
        assert!(meaning(&mut names, &endless, &protected).is_err());
    }

    #[test]
    fn a_text_that_is_refused_gives_no_name() {
        let mut names = Names::default();
        let text = names
            .text("PREPARE a AS SELECT 1; EXECUTE nobody_knows", |_| String::new())
            .expect("read");
        assert!(meaning(&mut names, &text, &Protected::default()).is_err());
        assert!(names.statement("a").is_err());
    }
}
