//! `interdict doctor`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::app::doctor::{Check, State, doctor, is_well};
use crate::config;

use super::output::{Style, say, say_json};
use super::{FAILED, Failure, OK, Outcome};

const NOTES: &str = "\
Each line says what was found, what a process could do because of it, and the next step. Exit status: 0 where a run
would work (MISSING nowhere), 1 otherwise. Nothing is changed but a cgroup that is made and taken away again.";

/// Look at what this host can do, and what is open because it cannot.
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(super) struct DoctorArgs {
    /// The configuration that a run would have: its issuers, targets and directories are looked at too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    well: bool,
    checks: Vec<ShownCheck<'a>>,
}

#[derive(Serialize)]
struct ShownCheck<'a> {
    area: &'a str,
    name: &'a str,
    state: &'a str,
    found: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    open: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    next: &'a str,
}

pub(super) fn run(args: &DoctorArgs) -> Outcome {
    let config = match &args.config {
        Some(file) => config::load(file).map_err(|errors| Failure::new(errors.to_string(), ""))?,
        None => config::defaults(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let checks = runtime.block_on(doctor(&config));
    if args.json {
        print_json(&checks);
    } else {
        print(&checks);
    }
    Ok(if is_well(&checks) { OK } else { FAILED })
}

const fn word(state: State) -> &'static str {
    match state {
        State::Available => "available",
        State::Limited => "limited",
        State::Missing => "missing",
    }
}

fn print_json(checks: &[Check]) {
    let shown = checks.iter().map(|check| ShownCheck {
        area: check.area,
        name: &check.name,
        state: word(check.state),
        found: &check.found,
        open: &check.open,
        next: &check.next,
    });
    say_json(&Shown {
        well: is_well(checks),
        checks: shown.collect(),
    });
}

fn print(checks: &[Check]) {
    let style = Style::for_stdout();
    for check in checks {
        let state = match check.state {
            State::Available => style.good("AVAILABLE"),
            State::Limited => style.wait("LIMITED  "),
            State::Missing => style.bad("MISSING  "),
        };
        say(&format!(
            "{state}  {} {}: {}",
            check.area, check.name, check.found
        ));
        if !check.open.is_empty() {
            say(&format!("           open: {}", check.open));
        }
        if !check.next.is_empty() {
            say(&format!("           next: {}", check.next));
        }
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    say(&format!(
        "\n{} available, {} limited, {} missing",
        count(State::Available),
        count(State::Limited),
        count(State::Missing)
    ));
}
