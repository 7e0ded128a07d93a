//! `interdict run`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::app::{self, RunError, RunSpec, user};
use crate::config::{self, Mode};
use crate::files;
use crate::guard::{GuardLink, Lowly, give_up};
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

/// A guard that was told why there is no proxy ends it at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the guard tells the proxy: what it was told itself.
#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// Whom it becomes.
    #[arg(long)]
    agent_uid: u32,
    #[arg(long)]
    agent_gid: u32,
    #[command(flatten)]
    run: RunArgs,
}

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
    /// As it is typed.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }

    pub(super) const fn format(self) -> LogFormat {
        match self {
            Self::Human => LogFormat::Human,
            Self::Json => LogFormat::Json,
        }
    }
}

pub(super) fn run(args: RunArgs) -> Outcome {
    start_log(&args);
    let spec = spec(args)?;
    if spec.run_as.as_ref().is_none_or(|user| user.uid == 0) && rustix::process::geteuid().is_root() {
        tracing::warn!("the command runs as root, and root can undo the guard: give --user");
    }
    let failed = |error: RunError| Failure::new(error.to_string(), error.hint());
    let proxy = app::start_proxy(&spec, &as_proxy(std::env::args_os().skip(1))).map_err(failed)?;
    // It waits for events only; one thread is enough, and a slow proxy does not hold it up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let status = runtime.block_on(Box::pin(app::run(spec, proxy)));
    // What is left may be waited for in vain: a command that outlives its agent.
    runtime.shutdown_background();
    let status = status.map_err(failed)?;
    Ok(u8::try_from(status).unwrap_or(super::FAILED))
}

/// The proxy's side of `interdict run`, with the same arguments.
pub(super) fn proxy(args: ProxyArgs) -> Outcome {
    let ProxyArgs {
        agent_uid,
        agent_gid,
        run,
    } = args;
    start_log(&run);
    let link = GuardLink::inherited().map_err(|error| Failure::new(error.to_string(), ""))?;
    match serve(run, &link, agent_uid, agent_gid) {
        Ok(()) => Ok(super::OK),
        Err(failure) => {
            // The guard says it, and ends this process.
            link.failed(&failure.message);
            std::thread::sleep(LAST_WORDS);
            Ok(failure.status)
        }
    }
}

fn serve(args: RunArgs, link: &GuardLink, uid: u32, gid: u32) -> Result<(), Failure> {
    let mut spec = spec(args)?;
    let config = &mut spec.config;
    for directory in [&mut config.state_dir, &mut config.audit.dir] {
        *directory = directory
            .canonicalize()
            .map_err(|error| Failure::new(format!("{}: {error}", directory.display()), ""))?;
    }
    let writable = vec![config.state_dir.clone(), config.audit.dir.clone()];
    let doors = app::open_doors(config);
    let domain = become_lowly(&Lowly { uid, gid, writable })?;
    files::ask(link.opener());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    runtime
        .block_on(Box::pin(app::proxy(spec, link.clone(), doors, domain)))
        .map_err(|error| Failure::new(error.to_string(), ""))
}

/// Gives up this process's authority; whether the Landlock domain is whole.
pub(super) fn become_lowly(lowly: &Lowly) -> Result<bool, Failure> {
    let domain = give_up(lowly)
        .map_err(|error| Failure::new(format!("the proxy cannot give up its authority: {error}"), ""))?;
    if !domain {
        tracing::warn!(
            "this kernel has no whole Landlock domains (Linux 6.12 has): the proxy is kept from files and processes by its user and its system call filter only"
        );
    }
    for directory in &lowly.writable {
        reachable(directory, lowly.uid)?;
    }
    Ok(domain)
}

/// It owns the directory; those above may be closed to it.
fn reachable(directory: &Path, uid: u32) -> Result<(), Failure> {
    std::fs::read_dir(directory).map(drop).map_err(|error| {
        Failure::new(
            format!(
                "the agent's own user ({uid}) cannot reach {}: {error}. Let others pass through the directories above it (chmod o+x), or give another state_dir",
                directory.display()
            ),
            "",
        )
    })
}

fn start_log(args: &RunArgs) {
    telemetry::start(args.log_format.format(), "warn", std::io::stderr().is_terminal());
}

/// What was typed, for the proxy: the subcommand is the first word `run` (what comes before it are options of all).
fn as_proxy(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut typed = true;
    let proxys = arguments.map(|argument| {
        if typed && argument == "run" {
            typed = false;
            return app::PROXY.into();
        }
        argument
    });
    proxys.collect()
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
    Ok(RunSpec {
        config,
        config_digest,
        token,
        token_variable: identity_token_env,
        run_as,
        command,
    })
}
