//! What the suite found, for people and for programs.

use std::fmt::Write as _;

use interdict::guard::lsm_is_active;
use serde::Serialize;
use serde_json::Value;

use super::{Attempt, Expect, Vector, Who};

/// What a kernel without the protocol says.
const ABSENT: [&str; 7] = [
    "EPROTONOSUPPORT",
    "EAFNOSUPPORT",
    "ESOCKTNOSUPPORT",
    "ENOSYS",
    "ENOPROTOOPT",
    "ENODEV",
    "EPFNOSUPPORT",
];

/// What is said of an attempt that works where nobody governs it.
const WORKS: &str = "gets out";

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub vector: &'static Vector,
    /// Without an agent: got out, or why not.
    pub free: String,
    /// Whether this kernel has what the attempt needs.
    pub possible: bool,
    /// What stopped it.
    pub stopped_by: String,
    /// The record that tells of it.
    pub record: Option<String>,
    /// What got out while the agent was well.
    pub escaped: Vec<String>,
    /// What got out after the agent had been killed.
    pub killed: Vec<String>,
    /// What got out while the agent was stopped.
    pub stopped: Vec<String>,
}

impl Row {
    /// Puts together what became of one attempt in each setting.
    #[must_use]
    pub fn new(
        vector: &'static Vector,
        [free, alive, killed, stopped]: [&Attempt; 4],
        records: &[Value],
    ) -> Self {
        let works = !free.escaped.is_empty();
        let absent = ABSENT.iter().any(|name| free.said.ends_with(name));
        let denial = alive.denial(vector, records);
        let stopped_by = match denial {
            _ if !alive.escaped.is_empty() => String::new(),
            Some(record) if record["kind"] == "kernel.denied" => text(record, "detail"),
            Some(_) => "connect, then policy".into(),
            None => format!("the kernel ({})", last(&alive.said)),
        };
        Self {
            vector,
            free: if works { WORKS.into() } else { last(&free.said) },
            possible: works || !absent,
            stopped_by,
            record: denial.map(number),
            escaped: alive.escaped.clone(),
            killed: killed.escaped.clone(),
            stopped: stopped.escaped.clone(),
        }
    }

    /// Whether anything got out in any setting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        [&self.escaped, &self.killed, &self.stopped]
            .iter()
            .any(|seen| !seen.is_empty())
    }

    fn verdict(&self) -> &'static str {
        if !self.possible {
            "not on this kernel"
        } else if self.is_open() {
            "OPEN"
        } else if self.record.is_some() {
            "denied, recorded"
        } else {
            "denied"
        }
    }

    fn why_open(&self) -> String {
        match self.vector.expect {
            Expect::Open(closes) | Expect::Lsm(closes) if self.is_open() => format!("; closed by {closes}"),
            Expect::Open(_) | Expect::Lsm(_) | Expect::Recorded | Expect::Denied => String::new(),
        }
    }
}

/// The last line of the suite.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Attempts that this kernel makes possible.
    pub tried: usize,
    /// Those that got nothing out, whatever the agent was doing.
    pub denied: usize,
    /// Those of them that are in the audit log.
    pub recorded: usize,
    /// The names of the others.
    pub open: Vec<&'static str>,
}

/// Counts.
#[must_use]
pub fn summary(rows: &[Row]) -> Summary {
    let possible = || rows.iter().filter(|row| row.possible);
    Summary {
        tried: possible().count(),
        denied: possible().filter(|row| !row.is_open()).count(),
        recorded: possible()
            .filter(|row| !row.is_open() && row.record.is_some())
            .count(),
        open: possible()
            .filter(|row| row.is_open())
            .map(|row| row.vector.name)
            .collect(),
    }
}

/// The table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let heads = [
        "VECTOR",
        "AS",
        "WITHOUT AGENT",
        "STOPPED BY",
        "RECORD",
        "AGENT WELL, KILLED, STOPPED",
    ];
    let cells: Vec<[String; 6]> = rows
        .iter()
        .map(|row| {
            [
                row.vector.name.to_owned(),
                if row.vector.who == Who::Root {
                    "root"
                } else {
                    "nobody"
                }
                .to_owned(),
                row.free.clone(),
                if row.possible {
                    row.stopped_by.clone()
                } else {
                    String::new()
                },
                row.record.clone().unwrap_or_default(),
                format!("{}{}", row.verdict(), row.why_open()),
            ]
        })
        .collect();
    let heads = heads.map(str::to_owned);
    let width = |column: usize| {
        let all = cells.iter().chain([&heads]);
        all.filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    for row in [&heads].into_iter().chain(&cells) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _fine = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The last word of what a program said.
fn last(said: &str) -> String {
    said.split_whitespace()
        .next_back()
        .unwrap_or("silence")
        .to_owned()
}

fn text(record: &Value, field: &str) -> String {
    record[field].as_str().unwrap_or_default().to_owned()
}

/// The reference of an operation, or where the record is: boot and number.
fn number(record: &Value) -> String {
    let boot = text(record, "boot");
    let end = boot.rsplit('-').next().unwrap_or_default();
    format!("{end}/{}", record["seq"])
}

/// Rows that did not come out as [`Expect`] says: what was expected, and what happened.
#[must_use]
pub fn unexpected(rows: &[Row]) -> Vec<String> {
    rows.iter().filter_map(surprise).collect()
}

fn surprise(row: &Row) -> Option<String> {
    if !row.possible {
        return None;
    }
    let name = row.vector.name;
    let escaped = |when: &str, seen: &[String]| format!("{name}: got out {when}: {seen:?}");
    let expect = match row.vector.expect {
        Expect::Lsm(_) if lsm_is_active().is_ok() => Expect::Recorded,
        Expect::Lsm(hook) => Expect::Open(hook),
        other @ (Expect::Recorded | Expect::Denied | Expect::Open(_)) => other,
    };
    match expect {
        Expect::Open(_) | Expect::Lsm(_) if !row.is_open() && row.free == WORKS => {
            Some(format!("{name}: no longer open: its line can be changed"))
        }
        Expect::Open(_) | Expect::Lsm(_) => None,
        Expect::Recorded | Expect::Denied if !row.escaped.is_empty() => Some(escaped("", &row.escaped)),
        Expect::Recorded | Expect::Denied if !row.killed.is_empty() => {
            Some(escaped("after the agent was killed", &row.killed))
        }
        Expect::Recorded | Expect::Denied if !row.stopped.is_empty() => {
            Some(escaped("while the agent was stopped", &row.stopped))
        }
        Expect::Recorded if row.record.is_none() => Some(format!("{name}: no record ({})", row.stopped_by)),
        Expect::Recorded | Expect::Denied => None,
    }
}
