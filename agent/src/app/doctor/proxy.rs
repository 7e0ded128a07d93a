//! The proxy: whom it runs as, whether it can reach its directory, and what those that run now may do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::app::agent_user::{AgentUser, agent_user};
use crate::app::run::PROXY;
use crate::app::service;
use crate::config::Config;
use crate::guard::Standing;

use super::Check;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    match agent_user(config.agent_user.as_deref(), &config.state_dir, None) {
        Ok(user) => {
            let found = format!("{} (uid {})", user.name, user.uid);
            checks.push(Check::available("host", "the proxy's user", found));
            checks.push(reach(&config.state_dir, &user));
        }
        Err(error) => checks.push(
            Check::missing("host", "the proxy's user", error.to_string())
                .next("adduser --system --group interdict, or name one in [agent] user"),
        ),
    }
    checks.extend(running());
    checks
}

/// Whether every directory above lets the user pass.
fn reach(state: &Path, user: &AgentUser) -> Check {
    let name = "the proxy's directory";
    let whole = std::path::absolute(state).unwrap_or_else(|_relative| state.to_owned());
    let closed = whole.ancestors().skip(1).find(|above| {
        fs::metadata(above).is_ok_and(|found| {
            let bit = match (found.uid() == user.uid, found.gid() == user.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            found.mode() & bit == 0
        })
    });
    match closed {
        None => Check::available("host", name, state.display().to_string()),
        Some(above) => Check::missing(
            "host",
            name,
            format!("{} is closed to {}", above.display(), user.name),
        )
        .next(format!(
            "chmod o+x {}, or give another state_dir",
            above.display()
        )),
    }
}

/// Each proxy on this host, as its `/proc/PID/status` says.
fn running() -> Vec<Check> {
    let mut checks = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words
            .next()
            .and_then(|word| word.rsplit(|byte| *byte == b'/').next());
        let is_proxy = program == Some(b"interdict")
            && words.any(|word| [PROXY, service::PROXY].iter().any(|name| word == name.as_bytes()));
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let Some(standing) = Standing::read(&status).filter(|_| is_proxy) else {
            continue;
        };
        let name = format!("proxy {}", entry.file_name().display());
        let found = format!(
            "uid {}, {} capabilities, no_new_privs {}, seccomp {}",
            standing.uid,
            standing.capabilities.count_ones(),
            if standing.no_new_privs { "on" } else { "off" },
            if standing.filtered { "on" } else { "off" }
        );
        checks.push(if standing.is_lowly() {
            Check::available("host", name, found)
        } else {
            Check::limited("host", name, found)
                .open("whoever takes it over has what it has")
                .next(
                    "start its run again; a proxy that has just been started has not given everything up yet",
                )
        });
    }
    checks
}
