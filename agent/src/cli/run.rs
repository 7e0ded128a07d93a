//! `interdict run`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::app::{self, RunSpec, user};
use crate::config::{self, Mode};
use crate::identity::TokenSource;
use crate::model::Digest;
use crate::telemetry::{self, LogFormat};

use super::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  sudo interdict run -- curl https://example.org            (denied: no policy names it)
  sudo interdict run --config interdict.toml --identity-token-file token -- psql -h db shop
  sudo interdict run --mode observe -- npx my-mcp-server

The command runs as the user that called sudo (or --user), with standard input, output and error untouched; the agent's
own log goes to standard error (INTERDICT_LOG=debug for more). Its exit status is the command's. Signals are passed on to it; with
a policy directory, SIGHUP makes the agent read that again instead (it does within two seconds of a change by itself).";

/// Run a command with every connection of it governed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// The configuration; without one, no target is known and the policies that ship apply.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A directory of *.cedar files in place of the configured or shipped policies.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// A file with the identity token on whose behalf the command acts; read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "identity_token_env")]
    identity_token_file: Option<PathBuf>,
    /// An environment variable with that token; the command does not see it.
    #[arg(long, value_name = "NAME")]
    identity_token_env: Option<String>,
    /// Whether refusals refuse (enforce), or are recorded only (observe).
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Whom the command runs as: a name or a number. Default: whoever called sudo.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Where keys, records and pending approvals live, in place of the configured directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogArg,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Enforce,
    Observe,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogArg {
    Human,
    Json,
}

impl LogArg {
    pub(super) const fn format(self) -> LogFormat {
        match self {
            Self::Human => LogFormat::Human,
            Self::Json => LogFormat::Json,
        }
    }
}

pub(super) fn run(args: RunArgs) -> Outcome {
    telemetry::start(args.log_format.format(), "warn", std::io::stderr().is_terminal());
    let spec = spec(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let status = runtime.block_on(Box::pin(app::run(spec)));
    let status =
        status.map_err(|error| Failure::new(error.to_string(), "Nothing of the command was run."))?;
    Ok(u8::try_from(status).unwrap_or(super::FAILED))
}

fn spec(args: RunArgs) -> Result<RunSpec, Failure> {
    let RunArgs {
        config: file,
        policies,
        identity_token_file,
        identity_token_env,
        mode,
        user,
        state_dir,
        log_format: _,
        command,
    } = args;
    let (mut config, config_digest) = match &file {
        Some(file) => {
            let config = config::load(file).map_err(|errors| Failure::new(errors.to_string(), ""))?;
            (config, Digest::of(&std::fs::read(file).unwrap_or_default()))
        }
        None => (config::defaults(), Digest::of(b"")),
    };
    if policies.is_some() {
        config.policies = policies;
    }
    if let Some(mode) = mode {
        config.mode = match mode {
            ModeArg::Enforce => Mode::Enforce,
            ModeArg::Observe => Mode::Observe,
        };
    }
    if let Some(dir) = state_dir {
        config.audit.dir = dir.join("audit");
        config.state_dir = dir;
    }
    let token = match (&identity_token_file, &identity_token_env) {
        (Some(file), _) => Some(TokenSource::File(file.clone())),
        (None, Some(name)) => match std::env::var(name) {
            Ok(token) => Some(TokenSource::Text(token)),
            Err(_unset) => {
                return Err(Failure::new(
                    format!("the environment variable {name} is not set"),
                    "",
                ));
            }
        },
        (None, None) => None,
    };
    let sudo = std::env::var("SUDO_UID").ok();
    let run_as =
        user::choose(user.as_deref(), sudo.as_deref()).map_err(|e| Failure::new(e.to_string(), ""))?;
    if run_as.as_ref().is_none_or(|user| user.uid == 0) && rustix::process::geteuid().is_root() {
        tracing::warn!("the command runs as root, and root can undo the guard: give --user");
    }
    Ok(RunSpec {
        config,
        config_digest,
        token,
        token_variable: identity_token_env,
        run_as,
        command,
    })
}
