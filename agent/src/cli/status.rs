//! `interdict status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::control::client::{Agents, ClientError};
use crate::control::directories;

use super::figures::{Figures, Snapshot, bytes, gather, lag, shown};
use super::output::{Style, say, say_json, table};
use super::{Failure, NO_AGENT, OK, Outcome};

const EXAMPLES: &str = "\
Examples:
  sudo interdict status
  sudo interdict status --json
  sudo interdict top

Exit status: 0 where an agent answers, 3 where none does. Figures are for root and the agent's own user.";

/// Show the running agents: what they govern, and what they did so far.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// The control socket of one agent; default: every agent of this host.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    agents: Vec<ShownRow<'a>>,
    waiting: usize,
}

#[derive(Serialize)]
struct ShownRow<'a> {
    pid: u32,
    run: &'a str,
    version: &'a str,
    principal: &'a str,
    hooks: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<ShownFigures>,
    /// Of each workload of a serving agent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    workloads: BTreeMap<&'a str, ShownFigures>,
}

#[derive(Serialize)]
struct ShownFigures {
    sessions: u64,
    allowed: u64,
    held: u64,
    refused: u64,
    kernel_denials: u64,
    redirected: u64,
    masked: u64,
    audit_queue: u64,
    audit_free_bytes: u64,
    clickhouse_lag_seconds: Option<f64>,
}

/// Which agents are asked.
pub(super) fn agents(socket: Option<PathBuf>) -> Agents {
    socket.map_or_else(|| Agents::Of(directories()), Agents::At)
}

/// No agent is no mistake of the caller's.
pub(super) fn no_agent(error: &ClientError) -> Failure {
    Failure {
        status: NO_AGENT,
        message: error.to_string(),
        hint: "Nothing is governed now: start `interdict run` or the service (systemctl start interdict)."
            .into(),
    }
}

pub(super) fn run(args: StatusArgs) -> Outcome {
    let StatusArgs { socket, json } = args;
    let snapshot = gather(&agents(socket)).map_err(|error| no_agent(&error))?;
    if json {
        print_json(&snapshot);
    } else {
        print(&snapshot);
    }
    Ok(OK)
}

fn print_json(snapshot: &Snapshot) {
    let agents = snapshot.rows.iter().map(|one| ShownRow {
        pid: one.status.pid,
        run: &one.status.run,
        version: &one.status.version,
        principal: &one.status.principal,
        hooks: &one.status.hooks,
        figures: one.figures.as_ref().map(ShownFigures::of),
        workloads: one
            .workloads
            .iter()
            .map(|(name, figures)| (name.as_str(), ShownFigures::of(figures)))
            .collect(),
    });
    say_json(&Shown {
        agents: agents.collect(),
        waiting: snapshot.waiting.len(),
    });
}

impl ShownFigures {
    fn of(figures: &Figures) -> Self {
        Self {
            sessions: figures.sessions,
            allowed: figures.allowed,
            held: figures.held,
            refused: figures.refused,
            kernel_denials: figures.kernel_denials,
            redirected: figures.redirected,
            masked: figures.masked,
            audit_queue: figures.queue,
            audit_free_bytes: figures.free_bytes,
            clickhouse_lag_seconds: figures.lag.map(|lag| lag.as_secs_f64()),
        }
    }
}

fn print(snapshot: &Snapshot) {
    let rows: Vec<Vec<String>> = snapshot
        .rows
        .iter()
        .map(|row| {
            let figures = row.figures.as_ref();
            vec![
                row.status.pid.to_string(),
                shown(figures, |f| f.sessions),
                shown(figures, |f| f.allowed),
                shown(figures, |f| f.held),
                shown(figures, |f| f.refused),
                shown(figures, |f| f.kernel_denials),
                shown(figures, |f| f.masked),
                lag(figures),
                figures.map_or_else(|| "-".into(), |f| bytes(f.free_bytes)),
                row.status.hooks.len().to_string(),
                row.status.principal.clone(),
            ]
        })
        .collect();
    say(&table(
        &[
            "PID", "SESSIONS", "ALLOWED", "HELD", "REFUSED", "DENIED", "MASKED", "LAG", "FREE", "HOOKS",
            "FOR",
        ],
        &rows,
    ));
    let waiting = snapshot.waiting.len();
    if waiting > 0 {
        let style = Style::for_stdout();
        say(&style.wait(&format!(
            "{waiting} requests wait for approval: interdict approvals list"
        )));
    }
}
