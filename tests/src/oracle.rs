//! PostgreSQL as the judge of what only reads: a statement runs in a read-only transaction, with the traces that it
//! left looked at before and after.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use interdict::model::Action;
use interdict::protocol::postgres::sql::{self, SessionEffect};

use crate::psql::Statement;
use crate::wire::{Wire, message, query};

/// What PostgreSQL says of a read-only transaction.
const READ_ONLY: &str = "25006";

/// What a transaction that only read leaves as it was: no transaction id, advisory locks, rows (of temporary tables
/// too), large objects, settings. All of it by names that no `search_path` bends.
const TRACES: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text, \
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'), \
    (SELECT pg_catalog.sum(n_tup_ins OPERATOR(pg_catalog.+) n_tup_upd OPERATOR(pg_catalog.+) n_tup_del) FROM pg_catalog.pg_stat_xact_all_tables), \
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata), \
    (SELECT pg_catalog.md5(pg_catalog.string_agg(setting, ',' ORDER BY name)) FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.<>) 'transaction_read_only')";

/// How many statements were called what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub statements: usize,
    /// Called reads.
    pub reads: usize,
    /// Of those, run to their end by PostgreSQL; the others failed for reasons of their own.
    pub proven: usize,
    /// State of the session and of transactions.
    pub control: usize,
    /// Rows are written.
    pub writes: usize,
    /// The schema, privileges, maintenance.
    pub ddl: usize,
    /// Code whose effects cannot be seen from outside.
    pub code: usize,
    /// Refused as not understood, and PostgreSQL does not accept it either.
    pub invalid: usize,
    /// Refused as not understood, while PostgreSQL's grammar accepts it.
    pub unknown: usize,
}

/// What the classifier says of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    Read,
    Control,
    Write,
    Ddl,
    Code,
    Unknown,
}

/// A session with the judge.
pub struct Oracle {
    wire: Wire,
    /// Whether statements and cursors that have names change anything when they are used.
    statements: BTreeMap<String, bool>,
    cursors: BTreeMap<String, bool>,
    /// So far.
    pub counts: Counts,
    /// Statements called reads that were not, and why.
    pub failures: Vec<String>,
    /// Statements that were refused though PostgreSQL's grammar accepts them.
    pub refused: Vec<String>,
}

impl Oracle {
    /// A session of `wire`.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            statements: BTreeMap::new(),
            cursors: BTreeMap::new(),
            counts: Counts::default(),
            failures: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Lets PostgreSQL judge the next statement of a script.
    ///
    /// # Errors
    /// Where the session is broken.
    pub fn judge(&mut self, place: &str, statement: &Statement) -> Result<()> {
        let called = self.called(&statement.text);
        self.counts.statements += 1;
        let count = match called {
            Called::Read => &mut self.counts.reads,
            Called::Control => &mut self.counts.control,
            Called::Write => &mut self.counts.writes,
            Called::Ddl => &mut self.counts.ddl,
            Called::Code => &mut self.counts.code,
            Called::Unknown => &mut self.counts.unknown,
        };
        *count += 1;
        if called == Called::Read {
            if let Err(why) = self.reads(&statement.text)? {
                self.failures
                    .push(format!("{place}:{}: {why}: {}", statement.line, statement.text));
            }
            return Ok(());
        }
        let seen = self.run(statement)?;
        if called == Called::Unknown {
            let what = format!("{place}:{}: {}", statement.line, statement.text);
            if seen.contains("42601") {
                self.counts.unknown -= 1;
                self.counts.invalid += 1;
            } else {
                self.refused.push(what);
            }
        }
        Ok(())
    }

    /// Runs a statement as it is.
    fn run(&mut self, statement: &Statement) -> Result<String> {
        let mut bytes = query(&statement.text);
        // The server ignores the end of a copy that it did not begin.
        if let Some(data) = &statement.data {
            bytes.extend(message(b'd', data.as_bytes()));
            bytes.extend(message(b'c', &[]));
        } else {
            bytes.extend(message(b'f', &[0]));
        }
        self.wire.ask(&bytes, 1)
    }

    /// Runs a text as it is; what came, as [`Wire::ask`] shows it.
    ///
    /// # Errors
    /// Where the session is broken.
    pub fn ask(&mut self, text: &str) -> Result<String> {
        self.wire.query(text)
    }

    /// Runs a statement in a read-only transaction, or in a read-only part of the open one; what it did that no reading
    /// does.
    ///
    /// # Errors
    /// Where the session is broken.
    pub fn reads(&mut self, text: &str) -> Result<Result<(), String>> {
        let state = self.wire.query("")?;
        let open = match state.trim_end().chars().next_back() {
            Some('I') => false,
            Some('T') => true,
            // The script's own failed transaction: nothing runs before its end.
            _ => return Ok(Ok(())),
        };
        let (before, after) = if open {
            ("SAVEPOINT oracle; SET TRANSACTION READ ONLY", "RELEASE oracle")
        } else {
            ("BEGIN READ ONLY", "COMMIT")
        };
        let begun = self.wire.query(before)?;
        ensure!(!begun.contains("E["), "{before}: {begun}");
        let first = self.wire.query(TRACES)?;
        let seen = self.wire.query(text)?;
        let second = self.wire.query(TRACES)?;
        let ended = self.wire.query(after)?;
        if open && ended.contains("E[") {
            self.wire.query("ROLLBACK TO oracle; RELEASE oracle")?;
        }
        if seen.contains(&format!(" C{READ_ONLY} ")) {
            return Ok(Err("PostgreSQL refuses it in a read-only transaction".into()));
        }
        if seen.contains("E[") {
            return Ok(Ok(()));
        }
        self.counts.proven += 1;
        Ok(if first == second {
            Ok(())
        } else {
            Err(format!("it left traces ({first} → {second})"))
        })
    }

    fn called(&mut self, text: &str) -> Called {
        let Ok(script) = sql::read(text) else {
            return Called::Unknown;
        };
        let mut called: Vec<Called> = Vec::new();
        for statement in &script.statements {
            let mut actions: Vec<Action> = statement.facts.actions.iter().copied().collect();
            let own = actions.iter().any(|a| a.changes());
            match &statement.effect {
                SessionEffect::Execute { name } => match self.statements.get(name) {
                    Some(true) => actions.push(Action::SqlExecute),
                    Some(false) => actions.push(Action::SqlSelect),
                    None => return Called::Unknown,
                },
                SessionEffect::Fetch { name } => {
                    // Judged when it was declared; what nobody declared is somebody's code.
                    if self.cursors.get(name).is_none_or(|changes| *changes) {
                        actions.push(Action::SqlExecute);
                    }
                }
                SessionEffect::Prepare { name, inner } => {
                    let changes = inner.facts.actions.iter().any(|a| a.changes());
                    self.statements.insert(name.clone(), changes);
                }
                SessionEffect::Declare { name, .. } => {
                    self.cursors.insert(name.clone(), own);
                }
                SessionEffect::None
                | SessionEffect::Set { .. }
                | SessionEffect::CopyOut(_)
                | SessionEffect::CopyIn => {}
            }
            called.push(class(&actions));
        }
        let worst = [Called::Code, Called::Ddl, Called::Write, Called::Control];
        worst
            .into_iter()
            .find(|class| called.contains(class))
            .unwrap_or(Called::Read)
    }
}

fn class(actions: &[Action]) -> Called {
    let any = |wanted: fn(&Action) -> bool| actions.iter().any(wanted);
    if any(|a| matches!(a, Action::SqlExecute | Action::SqlServerFile)) {
        Called::Code
    } else if any(|a| {
        a.groups()
            .iter()
            .any(|g| matches!(*g, "sql.schema" | "sql.administer"))
    }) {
        Called::Ddl
    } else if any(|a| a.changes()) {
        Called::Write
    } else if any(|a| matches!(a, Action::SqlSelect | Action::SqlCopyOut)) {
        Called::Read
    } else {
        Called::Control
    }
}
