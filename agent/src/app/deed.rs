//! What somebody did to the agent with one of its commands, while no agent of it need be running: a record of its own, durable
//! and sealed like every other.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::audit::{Actor, AuditError, AuditLog, Event};
use crate::config::AuditConfig;
use crate::guard::give;
use crate::model::BootId;

use super::rooms::host_name;

/// Why it cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum DeedError {
    /// The log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The files of the record belong to whoever wrote it now.
    #[error(transparent)]
    Owner(#[from] crate::guard::BelongingsError),
    /// The runtime.
    #[error("the record cannot be written: {0}")]
    System(#[from] std::io::Error),
}

/// Whoever runs this program.
#[must_use]
pub fn actor() -> Actor {
    /// The kernel's word for "nobody logged in".
    const UNSET: u32 = u32::MAX;
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    Actor {
        uid: rustix::process::getuid().as_raw(),
        login: login
            .and_then(|text| text.trim().parse().ok())
            .filter(|uid| *uid != UNSET),
    }
}

/// Makes `events` durable in the log in `audit.dir`, one boot for them; what is made there belongs to whom the log belongs to.
///
/// # Errors
/// Where that fails: then it must not be done.
pub fn record(state: &Path, audit: &AuditConfig, events: Vec<Event>) -> Result<(), DeedError> {
    let owner = owner(state).or_else(|| owner(&audit.dir));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let written: Result<(), AuditError> = runtime.block_on(async {
        let log = AuditLog::open(audit, &host_name(), BootId::new())?;
        for event in events {
            let _receipt = log.record(event).await?;
        }
        log.close().await;
        Ok(())
    });
    if let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != rustix::process::geteuid().as_raw()) {
        give(state, &audit.dir, uid, gid)?;
    }
    Ok(written?)
}

/// Where an agent with this state directory has its log, unless it is configured.
#[must_use]
pub fn log_of(state: &Path, dir: Option<PathBuf>) -> AuditConfig {
    AuditConfig {
        dir: dir.unwrap_or_else(|| state.join("audit")),
        ..crate::config::defaults().audit
    }
}

fn owner(path: &Path) -> Option<(u32, u32)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.uid(), meta.gid()))
}

#[cfg(test)]
mod tests {
    use crate::audit::{read_all, verify};
    use crate::model::Digest;

    use super::*;

    #[test]
    fn a_deed_is_a_sealed_record_that_names_its_doer_and_belongs_to_the_agent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let audit = log_of(dir.path(), None);
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(dir.path(), Some(65_211), Some(65_211)).expect("given");
        }
        let accepted = || Event::ToolAccepted {
            target: "tools".into(),
            server: "/mcp".into(),
            tool: "query".into(),
            before: None,
            after: Digest::of(b"b"),
            actor: Actor {
                uid: 0,
                login: Some(1000),
            },
        };
        for _ in 0..2 {
            record(dir.path(), &audit, vec![accepted()]).expect("recorded");
        }
        let mut seen = Vec::new();
        read_all(&audit.dir, |record| seen.push(record)).expect("readable");
        assert_eq!(seen.len(), 2);
        let first = seen.first().expect("one");
        assert_eq!(
            (first.kind.as_ref(), first.target.as_str()),
            ("tool.accepted", "tools")
        );
        assert_eq!(
            (first.actor.as_str(), first.actor_uid),
            ("uid 0 (login 1000)", Some(0))
        );
        let verified = verify(&audit.dir, None).expect("readable");
        assert_eq!((verified.findings, verified.unsealed_records), (Vec::new(), 0));
        let mut open = vec![audit.dir.clone()];
        while let Some(path) = open.pop().filter(|_| root) {
            let meta = std::fs::symlink_metadata(&path).expect("there");
            assert_eq!(meta.uid(), 65_211, "{}", path.display());
            open.extend(
                std::fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
    }
}
