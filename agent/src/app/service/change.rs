//! A changed configuration while the agent serves: taken over as a whole, or not at all.

use std::sync::Arc;

use crate::audit::Event;
use crate::config::{self, ConfigErrors};
use crate::model::Digest;

use super::super::rooms::{engine, masks};
use super::containers::pod_of;
use super::select::workload_of;
use super::{MAX_RECORDED, Service};

impl Service {
    /// Reads the configuration again. A wrong one changes nothing.
    pub(super) async fn reload(&mut self) {
        self.notifier.reloading();
        if let Err(reason) = self.take_over().await {
            tracing::error!(%reason, "the changed configuration is not used, the old one stays");
            let event = Event::ReloadRefused {
                what: "configuration".into(),
                kept: self.digest,
                reason: reason.chars().take(MAX_RECORDED).collect(),
            };
            if let Err(error) = self.shared.audit.record(event).await {
                tracing::error!(%error, "a wrong configuration could not be recorded");
            }
        }
        self.say_ready();
    }

    async fn take_over(&mut self) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let config = config::load(&self.file).map_err(|e: ConfigErrors| e.to_string())?;
        let digest = Digest::of(&std::fs::read(&self.file).map_err(|e| text(&e))?);
        if config.workloads.is_empty() && !self.workloads.is_empty() {
            // As likely a file that was cut off.
            return Err("no [[workload]] is left: a restart lets all of them go, a reload does not".into());
        }
        // What lives as long as the agent.
        if (&config.state_dir, &config.audit) != (&self.config.state_dir, &self.config.audit) {
            return Err("state_dir and [audit] can be changed by a restart only".into());
        }
        let (issuers_changed, pods_changed) = (
            config.issuers != self.config.issuers,
            config.kubernetes != self.config.kubernetes,
        );
        let masks = masks(&config).map_err(|e| text(&e))?;
        let engine = engine(&config, &masks).map_err(|e| text(&e))?;
        let event = Event::Reloaded {
            what: "configuration".into(),
            from: self.digest,
            to: digest,
        };
        let recorded = self.shared.audit.record(event).await;
        let _receipt = recorded.map_err(|e| format!("it could not be recorded: {e}"))?;
        self.shared.masks = Arc::new(masks);
        self.shared.policies.replace(engine);
        self.shared.issuers = crate::identity::Issuers::new(&config.issuers);
        (self.config, self.digest) = (config, digest);
        self.apply().await;
        self.watch_policies();
        self.count();
        if pods_changed || self.pods_watch.is_none() {
            self.watch_pods();
        }
        if issuers_changed {
            // The old socket goes first: the new one has its place.
            self.control = None;
            self.control = self.control();
        }
        tracing::warn!(digest = %self.digest, "the changed configuration is in force");
        Ok(())
    }

    /// Workloads as they are configured now. One that cannot be changed stays as it was, and says so.
    async fn apply(&mut self) {
        let wanted = self.config.workloads.clone();
        let mut old = std::mem::take(&mut self.workloads);
        let mut selectors_changed = false;
        for config in &wanted {
            let name = config.name.clone();
            let known = old.iter().position(|w| w.config.name == name);
            match known {
                Some(at) => {
                    let mut workload = old.swap_remove(at);
                    selectors_changed |= workload.config.selector != config.selector;
                    if let Err(error) = workload.change(config.clone(), &self.config, &self.shared).await {
                        tracing::error!(workload = %name, %error, "the workload stays as it was");
                    }
                    let paths: Vec<String> = workload.cgroups().map(str::to_owned).collect();
                    for path in paths {
                        let pod = pod_of(&path).and_then(|uid| self.pods.get(&uid));
                        workload.begin_pod(&path, pod.as_ref(), &self.tree.directory(&path));
                    }
                    self.workloads.push(workload);
                }
                None => {
                    selectors_changed = true;
                    if let Err(error) = self.begin(config.clone()).await {
                        tracing::error!(workload = %name, %error, "the new workload is not governed");
                    }
                }
            }
        }
        for workload in old {
            let name = workload.config.name.clone();
            tracing::warn!(workload = %name, "it is not configured any more, and ungoverned from now on");
            workload.dismiss(&self.notifier).await;
            self.pins.release(&name);
        }
        if selectors_changed {
            self.select_again().await;
        }
    }

    /// Every cgroup is matched anew. What nothing selects any more is released last.
    async fn select_again(&mut self) {
        let mut stale = Vec::new();
        for (at, workload) in self.workloads.iter().enumerate() {
            for path in workload.cgroups() {
                let known = self.known(path);
                let now = workload_of(path, &known, self.workloads.iter().map(|w| &w.config));
                let now = now.map(|w| w.name.clone());
                if now.as_ref() != Some(&workload.config.name) {
                    stale.push((at, path.to_owned(), now));
                }
            }
        }
        for (at, path, next) in stale {
            // Both deny until the old one goes: nothing is free in between.
            let directory = self.tree.directory(&path);
            let next = next.and_then(|name| self.workloads.iter_mut().find(|w| w.config.name == name));
            if let Some(next) = next
                && let Err(error) = next.govern(&path, &directory, &self.notifier).await
            {
                tracing::error!(cgroup = path, %error, "it stays with its old workload");
                continue;
            }
            if let Some(workload) = self.workloads.get_mut(at) {
                workload.release(&path, "it is not selected any more").await;
            }
        }
        for path in self.cgroups.clone() {
            self.consider(&path).await;
        }
    }
}
