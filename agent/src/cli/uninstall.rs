//! `interdict uninstall`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::app::uninstall::{Leftover, UninstallError, UninstallSpec, plan, take_away};
use crate::config;

use super::output::{Style, complain, say, say_json};
use super::systemd::reload;
use super::{FAILED, Failure, OK, Outcome, WRONG};

const NOTES: &str = "\
Stop the service first (`systemctl disable --now interdict`) and let governed commands end. The programs themselves are the package
manager's: apt remove interdict, or dnf remove interdict.

Examples:
  sudo interdict uninstall --dry-run
  sudo interdict uninstall
  sudo interdict uninstall --purge --config /etc/interdict/interdict.toml";

/// Take away what agents left on this host.
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(super) struct UninstallArgs {
    /// Keys, records, pending approvals and configuration too: records cannot be had back.
    #[arg(long)]
    purge: bool,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Also while agents or governed processes are alive: they are ended.
    #[arg(long)]
    force: bool,
    /// The configuration, for its directories; default: /etc/interdict/interdict.toml where it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &UninstallArgs) -> Outcome {
    let usual = Path::new("/etc/interdict/interdict.toml");
    let file = args.config.as_deref().or_else(|| usual.exists().then_some(usual));
    let config = match file {
        Some(file) => config::load(file).map_err(|errors| Failure {
            status: WRONG,
            message: errors.to_string(),
            hint: "Its directories are not known: correct it, or move it away for the usual ones.".into(),
        })?,
        None => config::defaults(),
    };
    let spec = UninstallSpec {
        config,
        root: "/".into(),
        purge: args.purge,
        // Looking is free.
        force: args.force || args.dry_run,
    };
    let all = plan(&spec).map_err(|error| failure(&error))?;
    let mut failed = Vec::new();
    if !args.dry_run {
        for leftover in &all {
            if let Err(error) = take_away(leftover) {
                failed.push(format!("{}: {error}", leftover.path().display()));
            }
        }
        if all.iter().any(|one| matches!(one, Leftover::DropIn(_))) {
            reload(Path::new("/"));
        }
    }
    show(args, &all, &failed);
    Ok(if failed.is_empty() { OK } else { FAILED })
}

fn show(args: &UninstallArgs, all: &[Leftover], failed: &[String]) {
    if args.json {
        let one = |l: &Leftover| {
            let pids = match l {
                Leftover::Processes(_, pids) => pids.clone(),
                Leftover::DropIn(_)
                | Leftover::Pins(_)
                | Leftover::Cgroup(_)
                | Leftover::Mount(_)
                | Leftover::Tree(_) => Vec::new(),
            };
            serde_json::json!({"kind": l.kind(), "path": l.path(), "processes": pids})
        };
        say_json(&serde_json::json!({
            "dry_run": args.dry_run, "removed": all.iter().map(one).collect::<Vec<_>>(), "failed": failed,
        }));
        return;
    }
    let style = Style::for_stdout();
    let word = if args.dry_run {
        style.wait("WOULD GO")
    } else {
        style.good("GONE    ")
    };
    for leftover in all {
        say(&format!(
            "{word}  {:9}  {}",
            leftover.kind(),
            leftover.path().display()
        ));
    }
    let alive = |one: &Leftover| matches!(one, Leftover::Processes(..));
    if args.dry_run && !args.force && all.iter().any(alive) {
        say(&style.bad("Processes are alive: without --force nothing goes."));
    }
    if all.is_empty() {
        say("Nothing of an agent's is on this host.");
    }
    for line in failed {
        complain(line, "");
    }
}

fn failure(error: &UninstallError) -> Failure {
    let hint = match error {
        UninstallError::Alive(_) => {
            "`systemctl stop interdict`, and let governed commands end; `interdict serve --release` lets workloads go; or --force, which ends them."
        }
        UninstallError::Guard(_) => "This needs root.",
    };
    Failure::new(error.to_string(), hint)
}
