//! Who stands behind a run right now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use crate::model::{Principal, PrincipalKind, Refusal, RefusalKind, Timestamp};

use super::pod::{PodBindings, PodName};
use super::token::{IdentityError, Issuers};

/// How often the token file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Largest token file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Where the token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file, read again when it changes.
    File(PathBuf),
    /// The text itself, from the environment.
    Text(String),
    /// A file with the token of this very pod, read again when it changes.
    Pod(PathBuf, PodName),
}

/// What became of an identity; the composition root records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityChange {
    /// Another token, or the first.
    Bound(Arc<Principal>),
    /// The token ended, or a new one was not accepted.
    Ended {
        /// Whose it was.
        principal: Option<Arc<Principal>>,
        /// Why.
        reason: String,
    },
}

/// Who stands behind a run right now.
#[derive(Debug)]
pub struct Binding {
    principal: ArcSwap<Principal>,
    // Why nobody stands behind it, as long as no token was ever accepted.
    nobody: ArcSwapOption<String>,
    hint: String,
    // The token file as it was before it was read: a change while it is being read is not missed.
    stamp: Option<Stamp>,
    // Where each process has somebody of its own behind it.
    pods: Option<Arc<PodBindings>>,
}

/// What changes when a file does: also when another takes its place.
type Stamp = (u64, SystemTime, u64);

impl Binding {
    /// A binding that never changes: the workload itself, or a test's person.
    #[must_use]
    pub fn fixed(principal: Principal) -> Self {
        Self {
            principal: ArcSwap::from_pointee(principal),
            nobody: ArcSwapOption::empty(),
            hint: "Start it again with a new token.".into(),
            stamp: None,
            pods: None,
        }
    }

    /// A binding to whoever the token in `path` will vouch for: until one is accepted, nobody stands behind it. `watch`
    /// finds it.
    #[must_use]
    pub fn to_come(path: &Path, workload: Principal, reason: String) -> Self {
        Self {
            principal: ArcSwap::from_pointee(workload),
            nobody: ArcSwapOption::from_pointee(reason),
            hint: format!("Put a token into {}.", path.display()),
            stamp: None,
            pods: None,
        }
    }

    /// A binding to whoever the token of `pod` will vouch for, as [`Binding::to_come`]; `volume` is where the pod has it.
    #[must_use]
    pub fn to_come_of_pod(pod: &PodName, volume: &Path) -> Self {
        let reason = format!(
            "pod {}/{} has no token in {}",
            pod.namespace,
            pod.name,
            volume.display()
        );
        Self {
            hint: token_of_pod(volume),
            ..Self::to_come(volume, workload_of(pod), reason)
        }
    }

    /// A binding of a workload of pods: behind each process stands whoever its own pod's token vouches for, and nobody else.
    #[must_use]
    pub fn of_pods(workload: Principal, pods: Arc<PodBindings>) -> Self {
        let reason = "this process is in no pod whose token is known".to_owned();
        Self {
            pods: Some(pods),
            hint: "Try again: a new pod is known a moment after it begins.".into(),
            ..Self::to_come(Path::new(""), workload, reason)
        }
    }

    /// The binding of a process, by the id of its cgroup: of a workload of pods that of its pod.
    #[must_use]
    pub fn of(self: &Arc<Self>, cgroup: u64) -> Arc<Self> {
        let own = self.pods.as_ref().and_then(|pods| pods.of(cgroup));
        own.unwrap_or_else(|| Arc::clone(self))
    }

    /// Reads and verifies the token of `source`.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn from_token(
        source: &TokenSource,
        issuers: &Issuers,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        let stamp = match source {
            TokenSource::File(path) | TokenSource::Pod(path, _) => stamp(path).await,
            TokenSource::Text(_) => None,
        };
        let hint = match source {
            TokenSource::File(path) => format!("Put a new one into {}.", path.display()),
            TokenSource::Pod(path, _) => token_of_pod(path),
            TokenSource::Text(_) => "Start it again with a new token.".to_owned(),
        };
        let principal = verified(source, issuers, now).await?;
        Ok(Self {
            principal: ArcSwap::from_pointee(principal),
            nobody: ArcSwapOption::empty(),
            hint,
            stamp,
            pods: None,
        })
    }

    /// The principal at `now`.
    ///
    /// # Errors
    /// A refusal of kind `Identity` where the token has ended: it says so, and what to do.
    pub fn current(&self, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        if let Some(reason) = self.nobody.load_full() {
            let what = format!("No token vouches for anybody here: {reason}.");
            return Err(Refusal::new(RefusalKind::Identity, what, self.hint.clone()));
        }
        let principal = self.principal.load_full();
        match principal.expires_at {
            Some(end) if now >= end => Err(Refusal::new(
                RefusalKind::Identity,
                format!("The token of {principal} ended at {end}."),
                self.hint.clone(),
            )),
            _ => Ok(principal),
        }
    }

    /// Watches the token file and the end of the token, and tells of changes, until it is dropped. A new token that is not
    /// accepted leaves the old one in place until that ends: a half-written file does no harm.
    pub async fn watch(
        self: Arc<Self>,
        source: TokenSource,
        issuers: Issuers,
        changes: mpsc::Sender<IdentityChange>,
    ) {
        let path = match &source {
            TokenSource::File(path) | TokenSource::Pod(path, _) => path,
            TokenSource::Text(_) => return self.watch_end(&changes).await,
        };
        let mut seen = self.stamp;
        let mut told_end = false;
        loop {
            let now = crate::clock::now();
            let stamp = stamp(path).await;
            if stamp != seen {
                seen = stamp;
                let change = self.renew((path, &source), &issuers, now).await;
                told_end = false;
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            if let Err(refusal) = self.current(now)
                && !told_end
            {
                told_end = true;
                let ended = IdentityChange::Ended {
                    principal: Some(self.principal.load_full()),
                    reason: refusal.reason,
                };
                if changes.send(ended).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn watch_end(&self, changes: &mpsc::Sender<IdentityChange>) {
        loop {
            if let Err(refusal) = self.current(crate::clock::now()) {
                let ended = IdentityChange::Ended {
                    principal: Some(self.principal.load_full()),
                    reason: refusal.reason,
                };
                let _nobody_listens = changes.send(ended).await;
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn renew(
        &self,
        (path, source): (&Path, &TokenSource),
        issuers: &Issuers,
        now: Timestamp,
    ) -> IdentityChange {
        match verified(source, issuers, now).await {
            Ok(principal) => {
                let principal = Arc::new(principal);
                self.principal.store(Arc::clone(&principal));
                self.nobody.store(None);
                tracing::info!(%principal, "a new token is in use");
                IdentityChange::Bound(principal)
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the new token is not accepted");
                let reason = format!("A new token was not accepted: {error}.");
                if self.nobody.load().is_some() {
                    self.nobody.store(Some(Arc::new(error.to_string())));
                }
                IdentityChange::Ended {
                    principal: None,
                    reason,
                }
            }
        }
    }
}

/// Whoever the token vouches for that is there now.
async fn verified(
    source: &TokenSource,
    issuers: &Issuers,
    now: Timestamp,
) -> Result<Principal, IdentityError> {
    match source {
        TokenSource::Text(text) => issuers.verify(text, now).await,
        TokenSource::File(path) => {
            let token = read(path).await.ok_or(IdentityError::Malformed)?;
            issuers.verify(&token, now).await
        }
        TokenSource::Pod(path, pod) => {
            let token = read(path).await.ok_or(IdentityError::Malformed)?;
            issuers.verify_pod(&token, pod, now).await
        }
    }
}

/// What to do where a pod has no token.
fn token_of_pod(volume: &Path) -> String {
    format!(
        "Mount a projected serviceAccountToken for the agent's audience as {} in the pod.",
        volume.display()
    )
}

/// Who is named in records of a pod for which nobody stands.
fn workload_of(pod: &PodName) -> Principal {
    let name = format!("{}/{}", pod.namespace, pod.name);
    Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        subject: name.clone(),
        display: name,
        groups: [].into(),
        expires_at: None,
    }
}

async fn read(path: &Path) -> Option<String> {
    let length = metadata(path).await?.len();
    if length > MAX_FILE {
        return None;
    }
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || crate::files::read_to_string(&path));
    reading.await.ok()?.ok()
}

async fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = metadata(path).await?;
    Some((meta.ino(), meta.modified().ok()?, meta.len()))
}

async fn metadata(path: &Path) -> Option<std::fs::Metadata> {
    let path = path.to_owned();
    let looking = tokio::task::spawn_blocking(move || crate::files::metadata(&path));
    looking.await.ok()?.ok()
}
