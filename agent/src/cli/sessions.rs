//! `interdict sessions`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::audit::{Index, Record, SessionLine, Wanted, read_all};
use crate::model::{Timestamp, duration};

use super::audit::DEFAULT_DIR;
use super::output::{Style, say, say_json, short, table, time};
use super::{Failure, OK, Outcome};

/// Recorded sessions.
#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// Sessions: who, from where, to what, how many operations. Found with an index beside the log.
    List(Common),
    /// A session with its verdicts in the margin; without an id, everything that was recorded.
    Show {
        /// The session, or the beginning of its id.
        id: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// A session as it was: what was asked, the verdict, and, recorded at the level full, what was sent and shown.
    Replay {
        /// The session, or the beginning of its id.
        id: String,
        /// Only the operation whose reference begins like this.
        #[arg(long, value_name = "REFERENCE")]
        operation: Option<String>,
        /// The directory of the log.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The directory of the log.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Only what began since then: how long ago (2h), a day (2026-01-31) or a time (2026-01-31T08:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// Only those of this principal (or part of its name).
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only those to this target.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only those with an operation that was judged like this.
    #[arg(long, value_name = "VERDICT", value_parser = ["allowed", "observed", "held", "refused"])]
    decision: Option<String>,
    /// Print records as JSON, one a line.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn wanted(&self) -> Wanted {
        Wanted {
            since_ns: self.since.map(Timestamp::as_nanos),
            principal: self.principal.clone(),
            target: self.target.clone(),
            decision: self.decision.clone(),
        }
    }

    /// Whether a single record is asked for.
    fn wants(&self, r: &Record) -> bool {
        let has = |p: &str| r.principal.contains(p) || r.principal_name.contains(p);
        self.since.is_none_or(|since| r.ts_ns >= since.as_nanos())
            && self.principal.as_deref().is_none_or(has)
            && self.target.as_deref().is_none_or(|t| r.target == t)
            && self.decision.as_deref().is_none_or(|d| r.verdict == d)
    }

    fn index(&self) -> Result<Index, Failure> {
        Index::open(&self.dir).map_err(|error| unreadable(&error))
    }
}

fn unreadable(error: &impl std::fmt::Display) -> Failure {
    Failure::new(
        error.to_string(),
        "Give the log's directory with --dir; reading it needs the agent's user or root.",
    )
}

/// How long ago, a day, or a time.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = duration(text) {
        let now = crate::clock::now().as_nanos();
        let ago = i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_nanos(now.saturating_sub(ago)));
    }
    Timestamp::from_rfc3339(text)
        .or_else(|| Timestamp::from_rfc3339(&format!("{text}T00:00:00Z")))
        .ok_or_else(|| {
            "write how long ago (30m, 2h, 7d), a day (2026-01-31) or a time (2026-01-31T08:00:00Z)".to_owned()
        })
}

pub(super) fn run(command: SessionsCommand) -> Outcome {
    match command {
        SessionsCommand::List(common) => list(&common),
        SessionsCommand::Show { id, common } => show(id.as_deref(), &common),
        SessionsCommand::Replay { id, operation, dir } => replay(&id, operation.as_deref(), &dir),
    }
}

fn replay(id: &str, operation: Option<&str>, dir: &Path) -> Outcome {
    let index = Index::open(dir).map_err(|error| unreadable(&error))?;
    let records = index.records(id).map_err(|error| unreadable(&error))?;
    if records.is_empty() {
        return Err(unknown(id));
    }
    super::replay::print(&records, operation, Style::for_stdout());
    Ok(OK)
}

fn unknown(id: &str) -> Failure {
    Failure::new(
        format!("no session {id} is recorded here"),
        "See `interdict sessions list`.",
    )
}

fn list(common: &Common) -> Outcome {
    let found = common.index()?.sessions(&common.wanted());
    let sessions = found.map_err(|error| unreadable(&error))?;
    if common.json {
        for l in &sessions {
            say_json(&serde_json::json!({
                "session": l.session, "started_ns": l.started_ns, "ended": l.ended, "principal": l.principal,
                "process": format!("{}[{}]", l.comm, l.pid), "workload": l.workload, "target": l.target, "original": l.original,
                "operations": l.operations, "refused": l.refused, "held": l.held,
            }));
        }
        return Ok(OK);
    }
    let row = |l: &SessionLine| {
        vec![
            l.session.clone(),
            time(l.started_ns),
            l.principal.clone(),
            process(l),
            l.target.clone(),
            l.original.clone(),
            l.operations.to_string(),
            l.refused.to_string(),
            l.held.to_string(),
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
            "HELD",
        ],
        &rows,
    ));
    Ok(OK)
}

/// The process, with its workload where it is one of a serving agent.
fn process(line: &SessionLine) -> String {
    let SessionLine {
        comm, pid, workload, ..
    } = line;
    if workload.is_empty() {
        format!("{comm}[{pid}]")
    } else {
        format!("{comm}[{pid}] of {workload}")
    }
}

fn show(id: Option<&str>, common: &Common) -> Outcome {
    let mut records = Vec::new();
    match id {
        None => read_all(&common.dir, |record| records.push(record)).map_err(|error| unreadable(&error))?,
        Some(id) => records = common.index()?.records(id).map_err(|error| unreadable(&error))?,
    }
    records.retain(|record| common.wants(record));
    if let (Some(id), true) = (id, records.is_empty()) {
        return Err(unknown(id));
    }
    if common.json {
        records.iter().for_each(|record| say_json(&with_number(record)));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    for record in &records {
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
        "operation" => (margin(record, style), operation(record)),
        "content" => (style.dim(&record.part), content(record)),
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

/// What stands beside an operation: its verdict.
pub(super) fn margin(record: &Record, style: Style) -> String {
    match record.verdict.as_str() {
        "allowed" => style.good("ALLOW"),
        "observed" => style.wait("OBSERVE"),
        "held" => style.wait("HOLD"),
        _ => style.bad("REFUSE"),
    }
}

fn content(record: &Record) -> String {
    let fields = record.parameters.join("; ");
    let text = format!("{} {fields} {} {}", record.text, record.reason, record.detail);
    format!("from byte {}: {}", record.at_byte, short(&text, 100))
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

pub(super) fn outcome(record: &Record) -> String {
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
    // What was shown; what was changed stands in the target's own words.
    let shown = match record.rows {
        0 => String::new(),
        1 => "1 row shown, ".to_owned(),
        n => format!("{n} rows shown, "),
    };
    format!(
        "{} ({shown}{} ms{masked})",
        record.detail,
        record.took_ns / 1_000_000
    )
}
