//! Who speaks to the serving agent from outside: the control socket, signals, ClickHouse.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::control::wire::Status;
use crate::control::{ControlRooms, MetricSource, Server, directory};
use crate::task::{Task, spawn};

use super::super::health;
use super::super::metrics::Meters;
use super::super::traces::Traces;
use super::Service;

/// What stands in the place of a run's id in figures.
const RUN: &str = "serve";

impl Service {
    /// The figures of all workloads.
    fn figures(&self) -> MetricSource {
        let meters = Meters {
            run: RUN.into(),
            audit: self.shared.audit.clone(),
            streamed: self
                .config
                .audit
                .clickhouse
                .as_ref()
                .map(|_sink| self.config.audit.dir.clone()),
            kernel: self.readers.clone(),
            domain: None,
        };
        MetricSource::new(move || meters.read())
    }

    /// Health and figures over HTTP, where that is configured.
    pub(super) async fn health(&self) -> Option<Task<()>> {
        health::start(&self.config.telemetry, self.figures(), self.ready.clone()).await
    }

    pub(super) fn control(&self) -> Option<Task<()>> {
        let names: Vec<&str> = self.config.workloads.iter().map(|w| w.name.as_str()).collect();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            run: RUN.into(),
            principal: names.join(" "),
            hooks: self
                .workloads
                .first()
                .map(|w| w.hooks().to_vec())
                .unwrap_or_default(),
        };
        let control = ControlRooms {
            broker: self.shared.broker.clone(),
            issuers: self.shared.issuers.clone(),
            status,
            metrics: self.figures(),
        };
        match Server::listen(&directory()) {
            Ok(server) => Some(spawn("control", server.serve(Arc::new(control)))),
            Err(error) => {
                tracing::warn!(%error, "approvals cannot be decided through this agent");
                None
            }
        }
    }

    /// Spans to a collector, where that is configured.
    pub(super) fn traces(&self) -> Option<Traces> {
        Traces::start(self.config.telemetry.traces.as_ref(), &self.shared.audit)
    }

    pub(super) fn shipping(&self) -> Option<Task<()>> {
        let sink = self.config.audit.clickhouse.clone()?;
        Some(spawn(
            "clickhouse",
            crate::audit::ship(self.config.audit.dir.clone(), sink),
        ))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    Reload,
    Stop,
}

pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
