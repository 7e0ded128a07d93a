//! Which columns of a database are protected, by the numbers that the server itself gives to result columns, so that no
//! alias evades a rule. Asked over a connection of the agent's own when a session begins, and within the session after
//! it has changed the schema.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::config::ColumnClass;
use crate::model::DataClass;
use crate::session::AgentSpeech;

use super::frame::{Frame, put_text, write};
use super::login::{LoggedIn, LoginError, next, say};
use super::sql::{Outputs, read};

/// How long an answer is believed: others may change the schema too.
pub(super) const BELIEVED: Duration = Duration::from_secs(30);
/// Numbers below are the system's own relations (`FirstNormalObjectId`).
const FIRST_USER_RELATION: u32 = 16_384;
/// Views over views that are followed.
const MAX_ROUNDS: usize = 64;

/// The protected columns of one database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Protected {
    /// By relation number and column number.
    columns: HashMap<(u32, i16), DataClass>,
    /// By column name, for expressions.
    names: BTreeMap<String, DataClass>,
    /// Tables that were looked at.
    tables: HashSet<u32>,
    /// Views that were looked at.
    views: HashSet<u32>,
}

/// What is known of a result column that the server traced to a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin<'a> {
    /// It is protected.
    Class(&'a DataClass),
    /// It is not.
    Clean,
    /// It was not when the view was looked at; a view can change behind its number.
    View,
    /// The relation was made since.
    Unknown,
}

impl Protected {
    /// What is known of column `column` of relation `table`.
    pub(super) fn origin(&self, table: u32, column: i16) -> Origin<'_> {
        match self.columns.get(&(table, column)) {
            Some(class) => Origin::Class(class),
            None if table < FIRST_USER_RELATION || self.tables.contains(&table) => Origin::Clean,
            None if self.views.contains(&table) => Origin::View,
            None => Origin::Unknown,
        }
    }

    /// The class of an expression over columns of these names.
    pub(super) fn class_of_names<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Option<&DataClass> {
        names.into_iter().find_map(|name| self.names.get(name))
    }

    /// Any class: for what may hold anything.
    pub(super) fn any(&self) -> Option<&DataClass> {
        self.names.values().next()
    }

    /// Whether nothing is protected.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn protect(&mut self, relation: u32, number: i16, name: &str, class: &DataClass) -> bool {
        let new = self.columns.insert((relation, number), class.clone()).is_none();
        self.names.entry(name.to_owned()).or_insert_with(|| class.clone());
        new
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
    changes: AtomicU64,
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

    /// A session has changed a schema: every session looks again.
    pub(super) fn changed(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// How often a schema was changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }
}

/// Asks the server, outside a session.
///
/// # Errors
/// Where the answer is not one: then nobody may be shown anything.
pub(super) async fn ask(session: &mut LoggedIn, rules: &[ColumnClass]) -> Result<Protected, LoginError> {
    let mut asking = Asking::new(rules);
    say(&mut session.stream, AgentSpeech::start_up(asking.query())).await?;
    loop {
        let frame = next(&mut session.stream, &mut session.rest).await?;
        match frame.kind() {
            b'E' => return Err(LoginError::Refused(frame)),
            b'Z' => return Ok(asking.finish()),
            _ => asking.answer(&frame)?,
        }
    }
}

/// A question to the catalogue, and what was answered so far.
pub(super) struct Asking {
    rules: Vec<ColumnClass>,
    found: Protected,
    views: HashMap<u32, View>,
}

/// A view that may show a protected column.
#[derive(Default)]
struct View {
    columns: Vec<(i16, String, usize)>,
    /// `None` where its query is not understood.
    outputs: Option<Outputs>,
}

impl Asking {
    pub(super) fn new(rules: &[ColumnClass]) -> Self {
        Self {
            rules: rules.to_vec(),
            found: Protected::default(),
            views: HashMap::new(),
        }
    }

    /// The question, as a simple query.
    pub(super) fn query(&self) -> Bytes {
        let mut out = BytesMut::new();
        write(&mut out, b'Q', |out| put_text(out, &question(&self.rules)));
        out.freeze()
    }

    /// Takes one message of the answer.
    ///
    /// # Errors
    /// Where a row is not one that was asked for.
    pub(super) fn answer(&mut self, frame: &Frame) -> Result<(), LoginError> {
        if frame.kind() != b'D' {
            return Ok(());
        }
        let mut fields = frame.fields();
        let cells = fields.count()?;
        let mut row = Vec::with_capacity(cells);
        for _ in 0..cells {
            let value = fields.value()?.unwrap_or_default();
            row.push(std::str::from_utf8(value).map_err(|_encoding| wrong())?);
        }
        self.row(&row)
    }

    fn row(&mut self, row: &[&str]) -> Result<(), LoginError> {
        match *row {
            ["column", relation, kind, number, name, rule] => {
                let rule: usize = rule.parse().map_err(|_number| wrong())?;
                let class = self.rules.get(rule).ok_or_else(wrong)?.class.clone();
                let relation = relation.parse().map_err(|_number| wrong())?;
                let number = number.parse().map_err(|_number| wrong())?;
                if matches!(kind, "v" | "m") {
                    let view = self.views.entry(relation).or_default();
                    view.columns.push((number, name.to_owned(), rule));
                } else {
                    self.found.protect(relation, number, name, &class);
                }
            }
            ["view", relation, query] => {
                let relation = relation.parse().map_err(|_number| wrong())?;
                self.views.entry(relation).or_default().outputs = outputs(query);
            }
            ["relation", relation, kind] => {
                let relation = relation.parse().map_err(|_number| wrong())?;
                if matches!(kind, "v" | "m") {
                    self.found.views.insert(relation);
                } else {
                    self.found.tables.insert(relation);
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// What is protected: of a view, the columns that a protected one is behind.
    pub(super) fn finish(self) -> Protected {
        let Self {
            rules,
            mut found,
            views,
        } = self;
        for rule in &rules {
            found
                .names
                .entry(rule.column.clone())
                .or_insert_with(|| rule.class.clone());
        }
        for round in 0.. {
            let mut changed = false;
            for (relation, view) in &views {
                for (number, name, rule) in &view.columns {
                    let of_rule = rules.get(*rule).map(|r| &r.class);
                    let behind = match &view.outputs {
                        Some(outputs) if !outputs.whole_rows && round < MAX_ROUNDS => {
                            usize::try_from(*number)
                                .ok()
                                .and_then(|n| n.checked_sub(1))
                                .and_then(|n| found.class_of_names(outputs.behind(n)))
                        }
                        _ => of_rule,
                    };
                    if let Some(class) = behind.cloned() {
                        changed |= found.protect(*relation, *number, name, &class);
                    }
                }
            }
            if !changed {
                break;
            }
        }
        found
    }
}

fn wrong() -> LoginError {
    LoginError::Exchange("the catalogue's answer is not understood".into())
}

fn outputs(query: &str) -> Option<Outputs> {
    let script = read(query).ok()?;
    match <[_; 1]>::try_from(script.statements) {
        Ok([statement]) if statement.facts.kind.0 == "SELECT" => Some(statement.outputs),
        _ => None,
    }
}

/// The server's own statistics hold values of columns.
const STATISTICS: [(&str, &str); 12] = [
    ("pg_stats", "most_common_vals"),
    ("pg_stats", "histogram_bounds"),
    ("pg_stats", "most_common_elems"),
    ("pg_stats_ext", "most_common_vals"),
    ("pg_stats_ext_exprs", "most_common_vals"),
    ("pg_stats_ext_exprs", "histogram_bounds"),
    ("pg_statistic", "stavalues1"),
    ("pg_statistic", "stavalues2"),
    ("pg_statistic", "stavalues3"),
    ("pg_statistic", "stavalues4"),
    ("pg_statistic", "stavalues5"),
    ("pg_statistic_ext_data", "stxdmcv"),
];

/// The columns that the rules name; every column of every view (and view over views) that uses one, with the views'
/// queries; the same column of every table that inherits one; and every relation that there is.
fn question(rules: &[ColumnClass]) -> String {
    let named = rules
        .iter()
        .enumerate()
        .map(|(at, r)| (r.schema.as_str(), r.table.as_str(), r.column.as_str(), at));
    let statistics = STATISTICS.iter().map(|(t, c)| ("pg_catalog", *t, *c, 0));
    let rows: Vec<String> = named
        .chain(statistics)
        .map(|(schema, table, column, at)| {
            format!(
                "({}, {}, {}, {at})",
                literal(schema),
                literal(table),
                literal(column)
            )
        })
        .collect();
    let tainted = format!(
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
              WHERE i.inhparent = t.rel) x)",
        rows.join(", ")
    );
    // The system's own views depend on nothing that is recorded: their columns are listed above, and are all.
    format!(
        "{tainted} SELECT 'column', t.rel::pg_catalog.int8, CASE WHEN t.rel::pg_catalog.int8 < {FIRST_USER_RELATION} \
           THEN 'r' ELSE k.relkind::pg_catalog.text END, t.att, a.attname, t.n \
           FROM tainted t JOIN pg_catalog.pg_class k ON k.oid = t.rel \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = t.rel AND a.attnum = t.att; \
         {tainted} SELECT 'view', v.rel::pg_catalog.int8, pg_catalog.pg_get_viewdef(v.rel) \
           FROM (SELECT DISTINCT rel FROM tainted) v JOIN pg_catalog.pg_class k ON k.oid = v.rel \
           WHERE k.relkind IN ('v', 'm') AND v.rel::pg_catalog.int8 >= {FIRST_USER_RELATION}; \
         SELECT 'relation', k.oid::pg_catalog.int8, k.relkind::pg_catalog.text FROM pg_catalog.pg_class k \
           WHERE k.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 't') AND k.oid::pg_catalog.int8 >= {FIRST_USER_RELATION}"
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

    fn rule(schema: &str, table: &str, column: &str) -> ColumnClass {
        ColumnClass {
            schema: schema.into(),
            table: table.into(),
            column: column.into(),
            class: "pii.name".parse().expect("class"),
        }
    }

    #[test]
    fn names_are_quoted_and_the_question_is_read_only() {
        let script = read(&question(&[rule("s'", "t\\", "c")])).expect("PostgreSQL accepts it");
        assert_eq!(script.statements.len(), 3);
        for statement in script.statements {
            assert!(!statement.facts.actions.iter().any(|a| a.changes()));
        }
    }

    fn learnt(rows: &[&[&str]]) -> Protected {
        let mut asking = Asking::new(&[rule("public", "customers", "name")]);
        for row in rows {
            asking.row(row).expect("understood");
        }
        asking.finish()
    }

    #[test]
    fn of_a_view_only_what_a_protected_column_is_behind_is_protected() {
        let found = learnt(&[
            &["column", "20000", "r", "2", "name", "0"],
            &["column", "20001", "v", "1", "id", "0"],
            &["column", "20001", "v", "2", "who", "0"],
            &[
                "view",
                "20001",
                " SELECT customers.id, upper(customers.name) AS who FROM customers;",
            ],
            &["column", "20002", "v", "1", "x", "0"],
            &["view", "20002", " SELECT people.who AS x FROM people;"],
            &["column", "20003", "v", "1", "y", "0"],
            &["view", "20003", "not understood"],
            &["relation", "20000", "r"],
            &["relation", "20001", "v"],
            &["relation", "20009", "p"],
        ]);
        let protects = |relation, column| matches!(found.origin(relation, column), Origin::Class(_));
        assert!(protects(20_000, 2) && protects(20_001, 2) && protects(20_002, 1) && protects(20_003, 1));
        assert_eq!(found.origin(20_000, 1), Origin::Clean);
        assert_eq!(found.origin(20_001, 1), Origin::View);
        assert_eq!(found.origin(20_009, 1), Origin::Clean);
        assert_eq!(found.origin(20_010, 1), Origin::Unknown);
        assert_eq!(found.origin(1_259, 1), Origin::Clean);
        assert!(found.class_of_names([&"x".to_owned()]).is_some());
        assert!(found.class_of_names([&"id".to_owned()]).is_none());
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_an_error() {
        let mut asking = Asking::new(&[rule("public", "customers", "name")]);
        for row in [
            &["relation"][..],
            &["column", "1", "r", "x", "name", "0"],
            &["column", "1", "r", "1", "name", "7"],
        ] {
            assert!(asking.row(row).is_err(), "{row:?}");
        }
    }
}
