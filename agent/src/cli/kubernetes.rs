//! `interdict kubernetes`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::untaint::{UntaintSpec, untaint};
use crate::telemetry::{self, LogFormat};

use super::{Failure, OK, Outcome};

const NOTES: &str = "\
Nodes are registered with the taint (kubelet --register-with-taints=interdict.dev/not-ready:NoSchedule, or a node group's setting): no pod is
put there before its agent governs. The chart runs this beside the agent (startupTaint.enabled).";

/// What belongs to a cluster.
#[derive(Debug, Subcommand)]
pub(super) enum KubernetesCommand {
    /// Take the start-up taint off this node as soon as its agent is ready.
    #[command(after_help = NOTES)]
    Untaint(UntaintArgs),
}

#[derive(Debug, Args)]
pub(super) struct UntaintArgs {
    /// The node.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The taint's key.
    #[arg(long, default_value = "interdict.dev/not-ready")]
    taint: String,
    /// Answers 200 when the agent is ready.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
    ready: String,
    /// The API server.
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc")]
    api: String,
    /// The token of a service account that may get and patch nodes.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )]
    token_file: PathBuf,
    /// The cluster's CA, beside the system's roots.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// End when it is off; otherwise go on looking, for nodes that are made anew.
    #[arg(long)]
    once: bool,
}

pub(super) fn run(command: KubernetesCommand) -> Outcome {
    let KubernetesCommand::Untaint(UntaintArgs {
        node,
        taint,
        ready,
        api,
        token_file,
        ca_file,
        once,
    }) = command;
    telemetry::start(LogFormat::Human, "info", std::io::stderr().is_terminal());
    let spec = UntaintSpec {
        node,
        taint,
        ready,
        api: api.trim_end_matches('/').to_owned(),
        token_file,
        ca_file,
        once,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let done = runtime.block_on(Box::pin(untaint(&spec)));
    done.map_err(|error| Failure::new(error.to_string(), "Nothing was changed."))?;
    Ok(OK)
}
