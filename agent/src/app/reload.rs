//! Policies that change while the agent runs: looked for every second, validated, recorded, and only then in force.
//!
//! A directory is looked at by the places, sizes and times of its files (replaced links and mounted volumes are seen too), and read
//! once it has stayed as it is between two looks: a file that is being written can be a valid one that lacks its last
//! `forbid`. Whoever asks (SIGHUP) says that it is complete.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::audit::{AuditLog, Event};
use crate::model::DataClass;
use crate::policy::{Engine, Policies, PolicyErrors, from_directory};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What of the mistakes is recorded, in characters.
const MAX_RECORDED: usize = 2000;

/// A directory of policies, and what its content becomes.
#[derive(Debug, Clone)]
pub(super) struct Reloading {
    pub(super) dir: PathBuf,
    pub(super) classes: BTreeSet<DataClass>,
    pub(super) policies: Arc<Policies>,
    pub(super) audit: AuditLog,
}

/// How a directory looks from outside; `Err` where it cannot be looked at.
type Look = Result<Vec<(PathBuf, [i64; 6])>, String>;

impl Reloading {
    /// Watches until it is dropped; `asked` makes it read at once.
    pub(super) async fn watch(self, asked: Arc<Notify>) {
        // Nothing was tried yet: what changed between the start and now is found at the second look.
        let mut tried: Option<Look> = None;
        let mut seen: Option<Look> = None;
        let mut tick = tokio::time::interval(LOOK);
        loop {
            let at_once = tokio::select! {
                _ = tick.tick() => false,
                () = asked.notified() => true,
            };
            let dir = self.dir.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || look(&dir)).await else {
                continue;
            };
            let settled = seen.as_ref() == Some(&now);
            let changed = tried.as_ref() != Some(&now);
            seen = Some(now.clone());
            if at_once || (changed && settled) {
                tried = self.reload(&now).await.then_some(now);
            }
        }
    }

    /// Reads, validates, records, replaces; whether there is nothing to be tried again.
    async fn reload(&self, before: &Look) -> bool {
        let (dir, classes) = (self.dir.clone(), self.classes.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let engine = from_directory(&dir).and_then(|sources| Engine::load(&sources, &classes));
            (engine, look(&dir))
        });
        let Ok((engine, after)) = reading.await else {
            return false;
        };
        if after != *before {
            // It changed while it was read: the next look sees whether it is complete.
            return false;
        }
        match engine {
            Ok(engine) => self.replace(engine).await,
            Err(mistakes) => self.keep(&mistakes).await,
        }
    }

    async fn replace(&self, engine: Engine) -> bool {
        let (from, to) = (self.policies.current().bundle(), engine.bundle());
        if from == to {
            return true;
        }
        let event = Event::Reloaded {
            what: "policies".into(),
            from,
            to,
        };
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(%error, "the changed policies could not be recorded: the old ones stay in force");
            return false;
        }
        tracing::warn!(policies = engine.len(), %from, %to, "the changed policies are in force");
        self.policies.replace(engine);
        true
    }

    async fn keep(&self, mistakes: &PolicyErrors) -> bool {
        let kept = self.policies.current().bundle();
        tracing::error!(dir = %self.dir.display(), %kept, "the changed policies are wrong, the old ones stay in force:\n{mistakes}");
        let event = Event::ReloadRefused {
            what: "policies".into(),
            kept,
            reason: mistakes.to_string().chars().take(MAX_RECORDED).collect(),
        };
        let recorded = self.audit.record(event).await;
        if let Err(error) = &recorded {
            tracing::error!(%error, "wrong policies could not be recorded");
        }
        recorded.is_ok()
    }
}

fn look(dir: &Path) -> Look {
    let seen = || -> std::io::Result<_> {
        let mut files = Vec::new();
        for path in crate::files::list(dir)? {
            if path
                .extension()
                .is_some_and(|e| e == "cedar" || e == "cedarschema")
            {
                // Through links: the content is what matters.
                let m = crate::files::metadata(&path)?;
                let id = [
                    m.dev().cast_signed(),
                    m.ino().cast_signed(),
                    m.size().cast_signed(),
                ];
                let times = [m.mtime(), m.mtime_nsec(), m.ctime_nsec()];
                files.push((path, [id[0], id[1], id[2], times[0], times[1], times[2]]));
            }
        }
        files.sort();
        Ok(files)
    };
    seen().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: &str = "@id(\"read\") permit (principal, action in Action::\"sql.read\", resource);";

    async fn eventually(audit: &AuditLog, count: usize) -> Vec<Event> {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while audit.events().len() < count && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        audit.events()
    }

    #[tokio::test]
    async fn a_changed_set_is_recorded_and_in_force_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("a.cedar");
        std::fs::write(&file, READ).expect("written");
        let load = || Engine::load(&from_directory(dir.path()).expect("read"), &[].into()).expect("valid");
        let first = load().bundle();
        let reloading = Reloading {
            dir: dir.path().to_owned(),
            classes: [].into(),
            policies: Arc::new(Policies::new(load())),
            audit: AuditLog::in_memory(),
        };
        let asked = Arc::new(Notify::new());
        let task = crate::task::spawn("reload", reloading.clone().watch(Arc::clone(&asked)));
        let Reloading { policies, audit, .. } = reloading;

        std::fs::write(
            &file,
            format!("{READ}\n{}", READ.replace("\"read\"", "\"again\"")),
        )
        .expect("written");
        let events = eventually(&audit, 1).await;
        let second = load().bundle();
        assert!(
            matches!(&events[..], [Event::Reloaded { from, to, .. }] if (*from, *to) == (first, second)),
            "{events:?}"
        );
        assert_eq!(policies.current().bundle(), second);

        for wrong in ["permit (", ""] {
            std::fs::write(&file, wrong).expect("written");
            if wrong.is_empty() {
                std::fs::remove_file(&file).expect("removed");
            }
            let before = audit.events().len();
            let events = eventually(&audit, before + 1).await;
            assert!(
                matches!(events.last(), Some(Event::ReloadRefused { kept, .. }) if *kept == second),
                "{events:?}"
            );
            assert_eq!(policies.current().bundle(), second);
        }

        std::fs::write(&file, READ).expect("written");
        asked.notify_one();
        let events = eventually(&audit, 4).await;
        assert!(
            matches!(events.last(), Some(Event::Reloaded { to, .. }) if *to == first),
            "{events:?}"
        );

        // A schema of tools beside them counts as they do.
        std::fs::write(dir.path().join("tools.cedarschema"), "no schema").expect("written");
        let events = eventually(&audit, 5).await;
        assert!(
            matches!(events.last(), Some(Event::ReloadRefused { kept, .. }) if *kept == first),
            "{events:?}"
        );
        drop(task);
    }
}
