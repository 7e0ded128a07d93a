//! A changed configuration while the agent serves: taken over as a whole, or not at all.

use crate::config::{self, Config, ConfigErrors};
use crate::guard::ServiceHeard;

use super::containers::pod_of;
use super::error::unlike;
use super::select::workload_of;
use super::{DRAIN, PATIENCE, ServeError, Service};

/// What a reload cannot change.
///
/// # Errors
/// What it is, and what would.
pub(super) fn acceptable(new: &Config, old: &Config, governs: bool) -> Result<(), String> {
    if new.workloads.is_empty() && governs {
        // As likely a file that was cut off.
        return Err("no [[workload]] is left: a restart lets all of them go, a reload does not".into());
    }
    // What lives as long as the agent.
    if (&new.state_dir, &new.audit) != (&old.state_dir, &old.audit) {
        return Err("state_dir and [audit] can be changed by a restart only".into());
    }
    if new.agent_user != old.agent_user {
        return Err("[agent] user can be changed by a restart only".into());
    }
    Ok(())
}

impl Service {
    /// Reads the configuration again. A wrong one changes nothing.
    ///
    /// # Errors
    /// Where the proxy does not last.
    pub(super) async fn reload(&mut self) -> Result<(), ServeError> {
        self.around.notifier.reloading();
        match self.read() {
            Ok((text, config)) => self.hand_over(&text, config).await?,
            Err(reason) => {
                tracing::error!(%reason, "the changed configuration is not used, the old one stays");
                self.around.proxy.wrong(&reason).await;
            }
        }
        self.say_ready();
        Ok(())
    }

    fn read(&self) -> Result<(String, Config), String> {
        let text = std::fs::read_to_string(&self.file)
            .map_err(|error| format!("{} cannot be read: {error}", self.file.display()))?;
        let config = config::parse(&text, &self.file).map_err(|e: ConfigErrors| e.to_string())?;
        acceptable(&config, &self.config, !self.workloads.is_empty())?;
        Ok((text, config))
    }

    /// First the proxy, which looks at what the configuration names; what it refuses is refused.
    async fn hand_over(&mut self, text: &str, config: Config) -> Result<(), ServeError> {
        self.changes += 1;
        let change = self.changes;
        let handed = self.around.proxy.change(change, text, &self.config, &config);
        handed.await.map_err(|source| ServeError::System {
            what: "the changed configuration cannot be handed over",
            source,
        })?;
        let heard = self.hear(PATIENCE).await?;
        if let ServiceHeard::Refused(number, reason) = &heard
            && *number == change
        {
            tracing::error!(%reason, "the changed configuration is not used, the old one stays");
            self.around.proxy.settled(&self.config);
            return Ok(());
        }
        if !matches!(heard, ServiceHeard::Accepted(number) if number == change) {
            return Err(unlike(heard));
        }
        self.around.proxy.settled(&config);
        let pods_changed = config.kubernetes != self.config.kubernetes;
        self.config = config;
        self.apply().await?;
        if pods_changed || self.pods_watch.is_none() {
            self.watch_pods();
        }
        Ok(())
    }

    /// Workloads as they are configured now. A new one that cannot be governed is not, and says so.
    async fn apply(&mut self) -> Result<(), ServeError> {
        let wanted = self.config.workloads.clone();
        let mut old = std::mem::take(&mut self.workloads);
        let mut selectors_changed = false;
        let mut new = Vec::new();
        for config in wanted {
            let known = old.iter().position(|w| w.config.name == config.name);
            if let Some(at) = known {
                let mut workload = old.swap_remove(at);
                selectors_changed |= workload.config.selector != config.selector;
                workload.change(config, &self.around);
                let paths: Vec<String> = workload.cgroups().map(str::to_owned).collect();
                for path in paths {
                    let pod = pod_of(&path).and_then(|uid| self.pods.get(&uid));
                    let directory = self.tree.directory(&path);
                    workload
                        .begin_pod(&path, pod.as_ref(), &directory, &self.around, &self.config)
                        .await;
                }
                self.workloads.push(workload);
            } else {
                selectors_changed = true;
                new.push(config);
            }
        }
        for config in new {
            let name = config.name.clone();
            let begun = match self.open(config) {
                Ok(workload) => self.begin(workload).await,
                Err(error) => Err(error.into()),
            };
            match begun {
                Ok(()) => {}
                Err(error @ (ServeError::Guard(_) | ServeError::Unserved(_))) => {
                    tracing::error!(workload = %name, %error, "the new workload is not governed");
                }
                Err(error) => return Err(error),
            }
        }
        // The first that matches counts.
        let order = |w: &super::Workload| self.config.workloads.iter().position(|c| c.name == w.config.name);
        self.workloads.sort_by_key(order);
        for mut workload in old {
            let name = workload.config.name.clone();
            tracing::warn!(workload = %name, "it is not configured any more, and ungoverned from now on");
            workload.dismiss(&self.around).await;
            // Its tables are asked about until its last session has ended.
            let heard = self.hear(DRAIN + DRAIN).await?;
            if !matches!(heard, ServiceHeard::Ended(number) if number == workload.number) {
                return Err(unlike(heard));
            }
            self.around.proxy.forget(workload.number);
            workload.leave(false);
            self.pins.release(&name);
        }
        if selectors_changed {
            self.select_again().await;
        }
        Ok(())
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
                && let Err(error) = next.govern(&path, &directory, &self.around).await
            {
                tracing::error!(cgroup = path, %error, "it stays with its old workload");
                continue;
            }
            if let Some(workload) = self.workloads.get_mut(at) {
                workload
                    .release(&path, "it is not selected any more", &self.around)
                    .await;
            }
        }
        for path in self.cgroups.clone() {
            self.consider(&path).await;
        }
    }
}
