//! `interdict serve`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::app::service::{self, ProxyFrom, ServeSpec};
use crate::config::{self, Config};
use crate::files;
use crate::guard::{Lowly, ServiceLink};
use crate::telemetry;

use super::output::say;
use super::run::{LogArg, become_lowly};
use super::{Failure, OK, Outcome};

const EXAMPLES: &str = "\
Examples:
  sudo interdict serve                                     (with /etc/interdict/interdict.toml)
  sudo interdict serve --config interdict.toml --log-format json
  sudo interdict serve --release                           (workloads are ungoverned from then on)

Each [[workload]] of the configuration says which cgroups it is (a systemd unit or slice, a path, a user, a container's or
pod's label) and on whose behalf it acts. SIGHUP reads configuration and policies again: sessions go on, a wrong configuration
changes nothing. SIGTERM ends after its sessions (10 s at most). The kernel hooks stay in either case, and when it is killed:
a workload has no network while its agent is away. It starts a second process, the proxy, which has no privileges; under systemd that is
a unit of its own (interdict-proxy.service), which is let in at --link.";

/// Govern workloads that something else starts: the service.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/interdict/interdict.toml")]
    config: PathBuf,
    /// Take away the hooks that a serving agent has left, and end.
    #[arg(long)]
    release: bool,
    /// Start no proxy, and wait at this socket for that of another unit.
    #[arg(long, value_name = "SOCKET")]
    link: Option<PathBuf>,
    /// That unit: no process outside its cgroup is let in.
    #[arg(
        long,
        value_name = "UNIT",
        default_value = "interdict-proxy.service",
        requires = "link"
    )]
    proxy_unit: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogArg,
}

/// A guard that was told why there is no proxy ends it at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the guard tells its proxy, or its unit.
#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// Where the guard waits; without it, this process was started by the guard.
    #[arg(long, value_name = "SOCKET")]
    link: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogArg,
}

/// The configuration and its text: what is handed over is what was understood.
fn read(file: &Path) -> Result<(String, Config), Failure> {
    let failed = |errors: config::ConfigErrors| Failure::new(errors.to_string(), "");
    match std::fs::read_to_string(file) {
        Ok(text) => {
            let config = config::parse(&text, file).map_err(failed)?;
            Ok((text, config))
        }
        // That says why.
        Err(_unreadable) => config::load(file)
            .map(|config| (String::new(), config))
            .map_err(failed),
    }
}

pub(super) fn run(args: ServeArgs) -> Outcome {
    let ServeArgs {
        config: file,
        release,
        link,
        proxy_unit,
        log_format,
    } = args;
    telemetry::start(log_format.format(), "info", std::io::stderr().is_terminal());
    let (text, config) = read(&file)?;
    if release {
        let released = service::release(&config).map_err(|error| Failure::new(error.to_string(), ""))?;
        for name in &released {
            say(&format!("{name} is not governed any more"));
        }
        if released.is_empty() {
            say("nothing was governed");
        }
        return Ok(OK);
    }
    let spec = ServeSpec { file, text, config };
    let failed = |error: service::ServeError| {
        Failure::new(error.to_string(), "What was governed before stays governed.")
    };
    let from = match link {
        Some(link) => ProxyFrom::Unit {
            link,
            unit: proxy_unit,
        },
        None => ProxyFrom::Here(vec![
            service::PROXY.into(),
            format!("--log-format={}", log_format.word()).into(),
        ]),
    };
    let started = service::start_proxy(&spec, &from).map_err(failed)?;
    // It waits for events only; a second thread keeps the heartbeat while the first looks at the system.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let served = runtime.block_on(Box::pin(service::serve(spec, started)));
    runtime.shutdown_background();
    served.map_err(failed)?;
    Ok(OK)
}

/// The proxy's side of `interdict serve`.
pub(super) fn proxy(args: &ProxyArgs) -> Outcome {
    telemetry::start(args.log_format.format(), "info", std::io::stderr().is_terminal());
    let link = match &args.link {
        Some(path) => ServiceLink::found_at(path),
        None => ServiceLink::inherited(),
    };
    let link = link.map_err(|error| Failure::new(format!("there is no guard: {error}"), ""))?;
    match serve(&link) {
        Ok(()) => Ok(OK),
        Err(failure) => {
            // The guard says it, and ends this process.
            link.failed(&failure.message);
            std::thread::sleep(LAST_WORDS);
            Ok(failure.status)
        }
    }
}

fn serve(link: &ServiceLink) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(error.to_string(), "");
    let beginning = link.begin().map_err(|error| failed(&error))?;
    let config = config::parse(&beginning.text, &beginning.file).map_err(|error| failed(&error))?;
    let (uid, gid) = beginning.user;
    let mut writable = Vec::new();
    for directory in [&config.state_dir, &config.audit.dir] {
        let whole = directory.canonicalize();
        writable.push(whole.map_err(|error| Failure::new(format!("{}: {error}", directory.display()), ""))?);
    }
    let domain = become_lowly(&Lowly { uid, gid, writable })?;
    files::ask(link.opener());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let served = runtime.block_on(Box::pin(service::serve_proxy(
        beginning,
        config,
        link.clone(),
        domain,
    )));
    // A name that is being resolved, for one, must not hold up the end: everything is recorded by now.
    runtime.shutdown_background();
    served.map_err(|error| failed(&error))
}
