//! Issuers and targets: whether they answer.

use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::{Config, IssuerConfig, TargetAddress, TargetConfig, TracesConfig};
use crate::identity::reachable;

use super::Check;

/// How long a target has to accept.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for one in &config.issuers {
        checks.push(issuer(one).await);
    }
    for one in &config.targets {
        for address in &one.addresses {
            checks.push(target(one, address).await);
        }
    }
    if let Some(traces) = &config.telemetry.traces {
        checks.push(collector(traces).await);
    }
    checks
}

async fn collector(traces: &TracesConfig) -> Check {
    let name = traces.url.clone();
    match crate::app::traces::reachable(traces).await {
        Ok(()) => Check::available("telemetry", name, "takes spans"),
        Err(error) => Check::limited("telemetry", name, error)
            .next("start it, or correct [telemetry.traces]; until then spans are dropped and counted, nothing else changes"),
    }
}

async fn issuer(issuer: &IssuerConfig) -> Check {
    let name = issuer.name.to_string();
    match reachable(issuer).await {
        Ok(keys) => Check::available("issuer", name, format!("{}: {keys} keys", issuer.issuer)),
        Err(error) => Check::missing("issuer", name, error).next(
            "its tokens are not accepted until this works; keep a copy in jwks_file if it is away often",
        ),
    }
}

async fn target(target: &TargetConfig, address: &TargetAddress) -> Check {
    let name = format!("{} at {}:{}", target.target.name, address.host, address.port);
    let resolved = match timeout(PATIENCE, lookup_host((address.host.as_str(), address.port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            return Check::missing("target", name, format!("the name does not resolve: {error}"))
                .next("its destinations are unknown until it does, and denied");
        }
        Err(_elapsed) => {
            return Check::missing("target", name, "the resolver does not answer")
                .next("its destinations are unknown until it does, and denied");
        }
    };
    let mut why = "it has no address".to_owned();
    for one in resolved {
        match timeout(PATIENCE, TcpStream::connect(one)).await {
            Ok(Ok(_stream)) => return Check::available("target", name, format!("{one} accepts")),
            Ok(Err(error)) => why = format!("{one}: {error}"),
            Err(_elapsed) => why = format!("{one} did not accept within 3 s"),
        }
    }
    Check::missing("target", name, why)
        .next("start it, or correct `addresses`; until then sessions to it fail")
}
