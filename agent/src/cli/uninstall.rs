//! `interdict uninstall`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::app::deed;
use crate::app::uninstall::{Alive, Leftover, UninstallError, UninstallSpec, came_back, plan, take_away};
use crate::audit::Event;
use crate::config;

use super::output::{Style, complain, say, say_json};
use super::systemd::reload;
use super::{FAILED, Failure, OK, Outcome, WRONG};

const NOTES: &str = "\
Stop the service first (`systemctl disable --now interdict`) and let governed commands end. While agents or governed processes are alive
nothing goes unless you say what becomes of them; on a terminal you are asked. --force ends agents, commands of `interdict run`, and whatever is in the
cgroups that a service governs (units, containers: their managers may start them again, ungoverned). --let-go ends agents and commands of
`interdict run`, and lets the rest go on, ungoverned. A service of systemd that keeps an agent alive is stopped and disabled. What goes is recorded first,
unless the records go too. The programs themselves are the package manager's: apt remove interdict, or dnf remove interdict.

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
    /// Also while agents or governed processes are alive: what a service governs goes on, ungoverned.
    #[arg(long, conflicts_with = "force")]
    let_go: bool,
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
    let mut spec = UninstallSpec {
        config,
        root: "/".into(),
        purge: args.purge,
        alive: match (args.let_go, args.force || args.dry_run) {
            (true, _) => Alive::LetGo,
            // Looking is free.
            (false, true) => Alive::End,
            (false, false) => Alive::Refuse,
        },
    };
    let all = match plan(&spec) {
        Err(UninstallError::Alive(who)) if asks() => {
            let Some(alive) = ask(&spec, &who)? else {
                say("Nothing was taken away.");
                return Ok(FAILED);
            };
            spec.alive = alive;
            plan(&spec)
        }
        other => other,
    };
    let all = all.map_err(|error| failure(&error))?;
    let mut failed = Vec::new();
    if !args.dry_run {
        note(&spec, &all);
        for leftover in &all {
            if let Err(error) = take_away(leftover) {
                failed.push(format!("{}: {error}", leftover.path().display()));
            }
        }
        if all.iter().any(|one| matches!(one, Leftover::DropIn(_))) {
            reload(Path::new("/"));
        }
        for left in came_back(&spec).map_err(|error| failure(&error))? {
            failed.push(format!(
                "{} {} is there again: somebody starts agents (a service manager, a timer); stop that first",
                left.kind(),
                left.path().display()
            ));
        }
    }
    show(args, &all, &failed);
    Ok(if failed.is_empty() { OK } else { FAILED })
}

/// Whether somebody can be asked, and sees what is asked: a package manager's scripts throw it away.
fn asks() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Says what would become of the living, and asks; `None`: nothing is to be done.
fn ask(spec: &UninstallSpec, who: &str) -> Result<Option<Alive>, Failure> {
    let forced = UninstallSpec {
        alive: Alive::LetGo,
        ..spec.clone()
    };
    say(&format!("{who}:"));
    for one in plan(&forced).map_err(|error| failure(&error))? {
        let (pids, fate) = match &one {
            Leftover::Processes(_, pids) => (pids, "ended in either case"),
            Leftover::LetGo(_, pids) => (pids, "ended, or let go: then they go on, ungoverned"),
            Leftover::Unit(name) => {
                say(&format!("  {name}: stopped and disabled"));
                continue;
            }
            Leftover::DropIn(_)
            | Leftover::Pins(_)
            | Leftover::Cgroup(_)
            | Leftover::Mount(_)
            | Leftover::Tree(_) => continue,
        };
        say(&format!(
            "  {}: {} processes, {fate}",
            one.path().display(),
            pids.len()
        ));
    }
    say(
        "Write `end` to end them, `let go` to let them go on ungoverned, anything else to leave everything as it is:",
    );
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("no answer: {error}"), ""))?;
    Ok(match answer.trim() {
        "end" => Some(Alive::End),
        "let go" => Some(Alive::LetGo),
        _ => None,
    })
}

/// What goes is recorded, where records stay. A full disk is no reason to keep the hooks.
fn note(spec: &UninstallSpec, all: &[Leftover]) {
    let UninstallSpec { config, purge, .. } = spec;
    if *purge || all.is_empty() || !config.audit.dir.exists() {
        return;
    }
    let taken = all
        .iter()
        .map(|one| format!("{} {}", one.kind(), one.path().display()));
    let event = Event::Uninstalled {
        taken: taken.collect(),
        forced: all
            .iter()
            .any(|one| matches!(one, Leftover::Processes(..) | Leftover::LetGo(..))),
        actor: deed::actor(),
    };
    if let Err(error) = deed::record(&config.state_dir, &config.audit, vec![event]) {
        complain(&format!("that it was taken away is not recorded: {error}"), "");
    }
}

fn show(args: &UninstallArgs, all: &[Leftover], failed: &[String]) {
    if args.json {
        let one = |l: &Leftover| {
            let pids = match l {
                Leftover::Processes(_, pids) | Leftover::LetGo(_, pids) => pids.clone(),
                Leftover::Unit(_)
                | Leftover::DropIn(_)
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
        let word = match leftover {
            Leftover::LetGo(..) => style.wait("GOES ON "),
            Leftover::Unit(_)
            | Leftover::Processes(..)
            | Leftover::DropIn(_)
            | Leftover::Pins(_)
            | Leftover::Cgroup(_)
            | Leftover::Mount(_)
            | Leftover::Tree(_) => word.clone(),
        };
        say(&format!(
            "{word}  {:9}  {}",
            leftover.kind(),
            leftover.path().display()
        ));
    }
    let alive = |one: &Leftover| matches!(one, Leftover::Processes(..) | Leftover::LetGo(..));
    if args.dry_run && !args.force && !args.let_go && all.iter().any(alive) {
        say(&style.bad("Processes are alive: without --force or --let-go nothing goes."));
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
            "`systemctl stop interdict`, and let governed commands end; `interdict serve --release` lets workloads go; or --force, which ends them, or --let-go, which leaves what a service governs alone."
        }
        UninstallError::Guard(_) => "This needs root.",
    };
    Failure::new(error.to_string(), hint)
}
