//! `interdict serve`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use crate::app::service::{self, ServeSpec};
use crate::config;
use crate::model::Digest;
use crate::telemetry;

use super::output::say;
use super::run::LogArg;
use super::{Failure, OK, Outcome};

const EXAMPLES: &str = "\
Examples:
  sudo interdict serve                                     (with /etc/interdict/interdict.toml)
  sudo interdict serve --config interdict.toml --log-format json
  sudo interdict serve --release                           (workloads are ungoverned from then on)

Each [[workload]] of the configuration says which cgroups it is (a systemd unit or slice, a path, a user, a container's or
pod's label) and on whose behalf it acts. SIGHUP reads configuration and policies again: sessions go on, a wrong configuration
changes nothing. SIGTERM ends after its sessions (10 s at most). The kernel hooks stay in either case, and when it is killed:
a workload has no network while its agent is away. Under systemd: Type=notify-reload, FileDescriptorStoreMax=512.";

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
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogArg,
}

pub(super) fn run(args: ServeArgs) -> Outcome {
    let ServeArgs {
        config: file,
        release,
        log_format,
    } = args;
    telemetry::start(log_format.format(), "info", std::io::stderr().is_terminal());
    let config = config::load(&file).map_err(|errors| Failure::new(errors.to_string(), ""))?;
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
    let spec = ServeSpec {
        digest: Digest::of(&std::fs::read(&file).unwrap_or_default()),
        file,
        config,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let served = runtime.block_on(Box::pin(service::serve(spec)));
    // A name that is being resolved, for one, must not hold up the end: everything is recorded by now.
    runtime.shutdown_background();
    served.map_err(|error| Failure::new(error.to_string(), "What was governed before stays governed."))?;
    Ok(OK)
}
