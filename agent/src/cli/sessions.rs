//! `interdict sessions`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::audit::{Record, read_all};

use super::audit::DEFAULT_DIR;
use super::output::{Style, say, say_json, short, table, time};
use super::{Failure, OK, Outcome};

/// Recorded sessions.
#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// Sessions: who, from where, to what, how many operations.
    List(Common),
    /// A session with its verdicts in the margin; without an id, everything that was recorded.
    Show {
        /// The session, or the beginning of its id.
        id: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The directory of the log.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Only those of this principal (or part of its name).
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only those to this target.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Print records as JSON, one a line.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn records(&self) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        let wanted = |r: &Record| {
            self.principal.as_deref().is_none_or(|p| r.principal.contains(p))
                && self.target.as_deref().is_none_or(|t| r.target == t)
        };
        let read = read_all(&self.dir, |record| {
            if wanted(&record) {
                records.push(record);
            }
        });
        read.map_err(|error| {
            Failure::new(
                error.to_string(),
                "Give the log's directory with --dir; reading it needs the agent's user or root.",
            )
        })?;
        Ok(records)
    }
}

pub(super) fn run(command: SessionsCommand) -> Outcome {
    match command {
        SessionsCommand::List(common) => list(&common),
        SessionsCommand::Show { id, common } => show(id.as_deref(), &common),
    }
}

#[derive(Default)]
struct Line {
    started: i64,
    principal: String,
    process: String,
    target: String,
    original: String,
    operations: u64,
    refused: u64,
}

fn list(common: &Common) -> Outcome {
    let mut sessions: BTreeMap<String, Line> = BTreeMap::new();
    for record in common.records()?.into_iter().filter(|r| !r.session.is_empty()) {
        let line = sessions.entry(record.session.clone()).or_default();
        if line.started == 0 {
            line.started = record.ts_ns;
            line.principal.clone_from(&record.principal);
            line.process = format!("{}[{}]", record.comm, record.pid);
            line.target.clone_from(&record.target);
            line.original.clone_from(&record.original);
        }
        if record.kind == "operation" && record.verdict != "held" {
            line.operations += 1;
            line.refused += u64::from(record.verdict == "refused");
        }
    }
    if common.json {
        for (session, line) in &sessions {
            say_json(&serde_json::json!({
                "session": session, "started_ns": line.started, "principal": line.principal, "process": line.process,
                "target": line.target, "original": line.original, "operations": line.operations, "refused": line.refused,
            }));
        }
        return Ok(OK);
    }
    let row = |(session, l): (&String, &Line)| {
        vec![
            session.clone(),
            time(l.started),
            l.principal.clone(),
            l.process.clone(),
            l.target.clone(),
            l.original.clone(),
            l.operations.to_string(),
            l.refused.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = sessions.iter().map(row).collect();
    say(&table(
        &[
            "SESSION",
            "STARTED",
            "WHO",
            "PROCESS",
            "TARGET",
            "MEANT",
            "OPERATIONS",
            "REFUSED",
        ],
        &rows,
    ));
    Ok(OK)
}

fn show(id: Option<&str>, common: &Common) -> Outcome {
    let all = common.records()?;
    let records: Vec<&Record> = match id {
        None => all.iter().collect(),
        Some(id) => all.iter().filter(|r| r.session.starts_with(id)).collect(),
    };
    if let (Some(id), true) = (id, records.is_empty()) {
        return Err(Failure::new(
            format!("no session {id} is recorded here"),
            "See `interdict sessions list`.",
        ));
    }
    if common.json {
        records.iter().for_each(|record| say_json(&with_number(record)));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    for record in records {
        line(record, style);
    }
    Ok(OK)
}

/// The stored form leaves the number to the writer; people want to see it.
fn with_number(record: &Record) -> serde_json::Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("seq".into(), record.seq.into());
    }
    value
}

fn line(record: &Record, style: Style) {
    let who = if record.principal.is_empty() {
        String::new()
    } else {
        format!(" {}", record.principal)
    };
    let (margin, text) = match &*record.kind {
        "operation" => {
            let margin = match record.verdict.as_str() {
                "allowed" => style.good("ALLOW"),
                "observed" => style.wait("OBSERVE"),
                "held" => style.wait("HOLD"),
                _ => style.bad("REFUSE"),
            };
            (margin, operation(record))
        }
        "outcome" | "session.closed" => (style.dim(&record.status), outcome(record)),
        "kernel.denied" => (
            style.bad("DENY"),
            format!("{} to {}: {}", record.detail, record.original, record.reason),
        ),
        "connection.refused" => (
            style.bad("REFUSE"),
            format!("connection to {}: {}", record.original, record.reason),
        ),
        kind if kind.starts_with("approval.") => {
            let actor = if record.actor.is_empty() {
                "the agent"
            } else {
                &record.actor
            };
            (
                style.wait(&record.ticket),
                format!("{kind} by {actor} {}", record.reason),
            )
        }
        _ => (
            style.dim("-"),
            format!("{} {} {}", record.target, record.detail, record.reason),
        ),
    };
    let process = if record.pid == 0 {
        String::new()
    } else {
        format!(" {}[{}]", record.comm, record.pid)
    };
    say(&format!(
        "{} {:<18}{who}{process}  {margin}  {}",
        time(record.ts_ns),
        record.kind,
        text.trim()
    ));
}

fn operation(record: &Record) -> String {
    let mut text = format!(
        "{} on {} ({}): {}",
        record.actions.join(" "),
        record.target,
        record.original,
        short(&record.text, 200)
    );
    if !record.policies.is_empty() {
        text.push_str(&format!(" [{}]", record.policies.join(", ")));
    }
    if !record.reason.is_empty() {
        text.push_str(&format!(" {}", record.reason));
    }
    if !record.ticket.is_empty() {
        text.push_str(&format!(" {}", record.ticket));
    }
    text
}

fn outcome(record: &Record) -> String {
    let masked: Vec<String> = record
        .masked
        .iter()
        .map(|(class, n)| format!("{class}×{n}"))
        .collect();
    let masked = if masked.is_empty() {
        String::new()
    } else {
        format!(", masked {}", masked.join(" "))
    };
    format!(
        "{} ({} rows, {} ms{masked})",
        record.detail,
        record.rows,
        record.took_ns / 1_000_000
    )
}
