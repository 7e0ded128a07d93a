//! `interdict metrics`.

use std::path::PathBuf;

use clap::Args;

use crate::control::client::{self, Agents, ClientError};
use crate::control::wire::{Ask, Reply};
use crate::control::{directories, metrics};

use super::output::say;
use super::{Failure, NO_AGENT, OK, Outcome};

/// Print the figures of the running agents, as Prometheus reads them.
#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// The control socket of one agent; default: every agent of this host.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: MetricsArgs) -> Outcome {
    let agents = match args.socket {
        Some(socket) => Agents::At(socket),
        None => Agents::Of(directories()),
    };
    let reply = client::ask(&agents, None, &Ask::Metrics {}).map_err(|error: ClientError| Failure {
        status: NO_AGENT,
        message: error.to_string(),
        hint: "Figures come from running agents: start `interdict run`.".into(),
    })?;
    match reply {
        Reply::Metrics(families) => {
            say(metrics::text(&families).trim_end());
            Ok(OK)
        }
        Reply::Error { message, .. } => Err(Failure::new(message, "")),
        Reply::Status(_) | Reply::Requests(_) | Reply::Request(_) => {
            Err(Failure::new("the agent answered something else", ""))
        }
    }
}
