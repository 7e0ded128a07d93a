//! Who stands behind a run right now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use crate::model::{Principal, Refusal, RefusalKind, Timestamp};

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
        }
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
            TokenSource::File(path) => stamp(path).await,
            TokenSource::Text(_) => None,
        };
        let (token, hint) = match source {
            TokenSource::File(path) => (
                read(path).await,
                format!("Put a new one into {}.", path.display()),
            ),
            TokenSource::Text(text) => (Some(text.clone()), "Start it again with a new token.".to_owned()),
        };
        let principal = issuers
            .verify(&token.ok_or(IdentityError::Malformed)?, now)
            .await?;
        Ok(Self {
            principal: ArcSwap::from_pointee(principal),
            nobody: ArcSwapOption::empty(),
            hint,
            stamp,
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
        let TokenSource::File(path) = source else {
            return self.watch_end(&changes).await;
        };
        let mut seen = self.stamp;
        let mut told_end = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = crate::clock::now();
            let stamp = stamp(&path).await;
            if stamp != seen {
                seen = stamp;
                let change = self.renew(&path, &issuers, now).await;
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

    async fn renew(&self, path: &Path, issuers: &Issuers, now: Timestamp) -> IdentityChange {
        let verified = match read(path).await {
            Some(token) => issuers.verify(&token, now).await,
            None => Err(IdentityError::Malformed),
        };
        match verified {
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
                IdentityChange::Ended {
                    principal: None,
                    reason,
                }
            }
        }
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
