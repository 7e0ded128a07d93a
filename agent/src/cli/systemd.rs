//! `interdict systemd`: units that are governed.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use crate::app::govern::{self, GovernError, GovernSpec};
use crate::config;

use super::output::{Style, say, say_bytes, say_json};
use super::{Failure, OK, Outcome, WRONG};

/// Where the service's configuration is.
const CONFIG: &str = "etc/interdict/interdict.toml";

const EXAMPLES: &str = "\
Examples:
  sudo interdict systemd govern mcp-server.service
  interdict systemd govern mcp-server --print
  sudo interdict systemd govern worker@1 --slice agents.slice --allow-socket /run/docker.sock
  sudo interdict systemd ungovern mcp-server.service

The drop-in makes the unit start after interdict.service and interdict-proxy.service and end with either, closes what no network hook sees, and makes it trust the
agent's CA. What selects it is [[workload]] in the configuration: systemd_unit = \"mcp-server.service\".";

/// Units of systemd that are governed.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum SystemdCommand {
    /// Write the drop-in that makes a unit a governed one.
    #[command(after_help = EXAMPLES)]
    Govern(GovernArgs),
    /// Take the drop-in away.
    Ungovern {
        /// The unit.
        unit: String,
        /// Another system's root, such as an image's.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct GovernArgs {
    /// The unit: a service, by its name.
    unit: String,
    /// Print the drop-in, and write nothing.
    #[arg(long, conflicts_with = "remove")]
    print: bool,
    /// Take it away again, as `ungovern`.
    #[arg(long)]
    remove: bool,
    /// The agent's configuration, for its state directory; default: /etc/interdict/interdict.toml where it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Put the unit into this slice.
    #[arg(long, value_name = "SLICE")]
    slice: Option<String>,
    /// A daemon's socket that stays reachable, such as /run/docker.sock. What is asked of that daemon is not governed.
    #[arg(long, value_name = "PATH")]
    allow_socket: Vec<PathBuf>,
    /// Another system's root, such as an image's.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Also a unit that the host needs, or that is not there yet.
    #[arg(long)]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: SystemdCommand) -> Outcome {
    match command {
        SystemdCommand::Govern(args) if args.remove => ungovern(&args.root, &args.unit),
        SystemdCommand::Govern(args) => govern_unit(args),
        SystemdCommand::Ungovern { unit, root } => ungovern(&root, &unit),
    }
}

fn govern_unit(args: GovernArgs) -> Outcome {
    let GovernArgs {
        unit,
        print,
        remove: _,
        config,
        slice,
        allow_socket,
        root,
        force,
        json,
    } = args;
    let spec = GovernSpec {
        unit,
        state_dir: state_dir(&root, config.as_deref())?,
        root,
        slice,
        allowed: allow_socket,
        force,
    };
    let made = govern::drop_in(&spec).map_err(|error| failure(&error))?;
    if print && !json {
        say_bytes(made.text.as_bytes());
        return Ok(OK);
    }
    let changed = if print {
        false
    } else {
        govern::write(&made).map_err(|error| failure(&error))?
    };
    let reloaded = changed && reload(&spec.root);
    if json {
        say_json(&serde_json::json!({
            "unit": made.unit, "path": made.path, "changed": changed, "reloaded": reloaded, "notes": made.notes, "text": made.text,
        }));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    let word = if changed { "WRITTEN" } else { "UNCHANGED" };
    say(&format!("{} {}", style.good(word), made.path.display()));
    for note in &made.notes {
        say(&format!("{}    {note}", style.wait("NOTE")));
    }
    if !reloaded && changed {
        say("next: systemctl daemon-reload");
    }
    say(&format!(
        "next: a [[workload]] with systemd_unit = \"{}\" in the configuration selects it; then systemctl restart {0}",
        made.unit
    ));
    Ok(OK)
}

fn ungovern(root: &Path, unit: &str) -> Outcome {
    let path = govern::remove(root, unit).map_err(|error| failure(&error))?;
    say(&format!(
        "{} {}",
        Style::for_stdout().good("REMOVED"),
        path.display()
    ));
    if !reload(root) {
        say("next: systemctl daemon-reload");
    }
    Ok(OK)
}

/// The state directory, as the service's configuration has it.
fn state_dir(root: &Path, config: Option<&Path>) -> Result<PathBuf, Failure> {
    let usual = root.join(CONFIG);
    let file = match config {
        Some(file) => file,
        None if usual.exists() => &usual,
        None => return Ok(config::defaults().state_dir),
    };
    let loaded = config::load(file).map_err(|errors| Failure {
        status: WRONG,
        message: errors.to_string(),
        hint: "`interdict config check` names every mistake.".into(),
    })?;
    Ok(loaded.state_dir)
}

/// Tells a running systemd of this host; whether it was told.
pub(super) fn reload(root: &Path) -> bool {
    root == Path::new("/")
        && Path::new("/run/systemd/system").exists()
        && Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .is_ok_and(|status| status.success())
}

fn failure(error: &GovernError) -> Failure {
    let hint = match error {
        GovernError::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "Units are written by root: try sudo."
        }
        GovernError::Foreign(_) => "Move it away, or choose by hand what it should say (`--print`).",
        GovernError::NoName(_)
        | GovernError::NoService { .. }
        | GovernError::Itself(_)
        | GovernError::Essential(_)
        | GovernError::Missing { .. }
        | GovernError::Masked(_)
        | GovernError::NoSlice(_)
        | GovernError::NoSocket(_)
        | GovernError::NotGoverned(_)
        | GovernError::File { .. } => "",
    };
    Failure {
        status: WRONG,
        message: error.to_string(),
        hint: hint.into(),
    }
}
