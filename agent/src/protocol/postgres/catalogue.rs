//! Which columns of a database are protected, by the numbers that the server itself gives to result columns, so that no
//! alias evades a rule. Asked over a connection of the agent's own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::config::ColumnClass;
use crate::model::DataClass;
use crate::session::AgentSpeech;

use super::login::{LoggedIn, LoginError, next, say};

/// How long an answer is believed: a table that is made anew gets new numbers.
const BELIEVED: Duration = Duration::from_secs(30);

/// The protected columns of one database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Protected {
    /// By table number and column number, views that use a protected column included (with all their columns).
    columns: HashMap<(u32, i16), DataClass>,
    /// By column name, for expressions.
    names: BTreeMap<String, DataClass>,
}

impl Protected {
    /// The class of a result column that the server traced to a table column.
    pub(super) fn class(&self, table: u32, column: i16) -> Option<&DataClass> {
        self.columns.get(&(table, column))
    }

    /// The class of an expression over columns of these names.
    pub(super) fn class_of_names<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Option<&DataClass> {
        names.into_iter().find_map(|name| self.names.get(name))
    }

    /// Any class: for an expression over whole rows.
    pub(super) fn any(&self) -> Option<&DataClass> {
        self.names.values().next()
    }

    /// Whether nothing is protected.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The rules by name alone, for what has no numbers yet.
    fn by_name(rules: &[ColumnClass]) -> Self {
        let names = rules
            .iter()
            .map(|rule| (rule.column.clone(), rule.class.clone()))
            .collect();
        Self {
            columns: HashMap::new(),
            names,
        }
    }
}

/// A target and a database of it.
type Place = (String, String);
/// What is known of it, and since when.
type Known = (Instant, Arc<Protected>);

/// What is known of each database of each target.
#[derive(Debug, Default)]
pub struct Catalogues {
    known: Mutex<HashMap<Place, Known>>,
}

impl Catalogues {
    /// What is known and still believed.
    pub(super) fn known(&self, target: &str, database: &str) -> Option<Arc<Protected>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, protected) = known.get(&(target.to_owned(), database.to_owned()))?;
        (at.elapsed() < BELIEVED).then(|| Arc::clone(protected))
    }

    pub(super) fn learn(&self, target: &str, database: &str, protected: Arc<Protected>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        known.insert(
            (target.to_owned(), database.to_owned()),
            (Instant::now(), protected),
        );
    }
}

/// Asks the server for the numbers of the columns that `rules` name.
///
/// # Errors
/// Where the answer is not one: then nobody may be shown anything.
pub(super) async fn ask(session: &mut LoggedIn, rules: &[ColumnClass]) -> Result<Protected, LoginError> {
    let mut protected = Protected::by_name(rules);
    let mut out = BytesMut::new();
    frontend::query(&question(rules), &mut out)?;
    say(&mut session.stream, AgentSpeech::start_up(out.freeze())).await?;
    loop {
        let frame = next(&mut session.stream, &mut session.rest).await?;
        match frame.kind() {
            b'D' => {
                let mut fields = frame.fields();
                let cells = fields.count()?;
                let mut row = Vec::with_capacity(cells);
                for _ in 0..cells {
                    let text = fields
                        .value()?
                        .and_then(|v| std::str::from_utf8(v).ok())
                        .unwrap_or_default();
                    row.push(text.to_owned());
                }
                add(&mut protected, rules, &row)?;
            }
            b'E' => return Err(LoginError::Refused(frame)),
            b'Z' => return Ok(protected),
            _ => {}
        }
    }
}

/// One row: table, column, name, and the number of the rule.
fn add(protected: &mut Protected, rules: &[ColumnClass], row: &[String]) -> Result<(), LoginError> {
    let wrong = || LoginError::Exchange("the catalogue's answer is not understood".into());
    let [table, column, name, rule] = row else {
        return Err(wrong());
    };
    let rule: usize = rule.parse().map_err(|_number| wrong())?;
    let class = &rules.get(rule).ok_or_else(wrong)?.class;
    let table = table.parse().map_err(|_number| wrong())?;
    let column = column.parse().map_err(|_number| wrong())?;
    protected
        .columns
        .entry((table, column))
        .or_insert_with(|| class.clone());
    protected
        .names
        .entry(name.clone())
        .or_insert_with(|| class.clone());
    Ok(())
}

/// The columns that the rules name, and every column of every view (and view over views) that uses one, and of every
/// table that inherits one.
fn question(rules: &[ColumnClass]) -> String {
    let rows: Vec<String> = rules
        .iter()
        .enumerate()
        .map(|(at, r)| {
            format!(
                "({}, {}, {}, {at})",
                literal(&r.schema),
                literal(&r.table),
                literal(&r.column)
            )
        })
        .collect();
    format!(
        "WITH RECURSIVE rule(s, t, c, n) AS (VALUES {}), \
         tainted(rel, att, n) AS ( \
           SELECT a.attrelid, a.attnum, r.n FROM rule r \
             JOIN pg_catalog.pg_namespace ns ON ns.nspname = r.s \
             JOIN pg_catalog.pg_class k ON k.relnamespace = ns.oid AND k.relname = r.t \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.oid AND a.attname = r.c AND a.attnum > 0 \
           UNION \
           SELECT x.rel, x.att, x.n FROM (SELECT * FROM tainted) t, LATERAL ( \
             SELECT w.ev_class AS rel, va.attnum AS att, t.n FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid \
               JOIN pg_catalog.pg_attribute va ON va.attrelid = w.ev_class AND va.attnum > 0 AND NOT va.attisdropped \
              WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refobjid = t.rel AND d.refobjsubid = t.att \
                AND w.ev_class <> t.rel \
             UNION ALL \
             SELECT i.inhrelid, ca.attnum, t.n FROM pg_catalog.pg_inherits i \
               JOIN pg_catalog.pg_attribute pa ON pa.attrelid = t.rel AND pa.attnum = t.att \
               JOIN pg_catalog.pg_attribute ca ON ca.attrelid = i.inhrelid AND ca.attname = pa.attname \
              WHERE i.inhparent = t.rel) x) \
         SELECT t.rel::pg_catalog.int8, t.att, a.attname, t.n FROM tainted t \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = t.rel AND a.attnum = t.att",
        rows.join(", ")
    )
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!(
        "E'{}'::pg_catalog.text",
        text.replace('\\', "\\\\").replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_the_question_is_read_only() {
        let class: DataClass = "pii.email".parse().expect("class");
        let rule = ColumnClass {
            schema: "s'".into(),
            table: "t\\".into(),
            column: "c".into(),
            class,
        };
        let script = super::super::sql::read(&question(&[rule])).expect("PostgreSQL accepts it");
        assert_eq!(script.statements.len(), 1);
        assert!(!script.statements[0].facts.actions.iter().any(|a| a.changes()));
    }
}
