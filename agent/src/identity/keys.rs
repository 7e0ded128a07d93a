//! An issuer's keys: cached, fetched again when a token names a key that is not known, and believed for a day while the
//! issuer does not answer.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use serde::Deserialize;

use crate::config::{IssuerConfig, KeySource};

use super::fetch::get;

/// Keys are fetched at most this often.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys are fetched again at this age even if every token finds its key: a withdrawn key must go.
const FRESH: Duration = Duration::from_secs(600);
/// Keys are believed for this long while the issuer does not answer.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// The keys of one issuer.
#[derive(Debug, Default)]
pub(super) struct Keys {
    state: RwLock<State>,
    // One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    set: Option<(Arc<JwkSet>, Instant)>,
    tried: Option<Instant>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// A set in which `kid` (where the token names one) is, fetched if need be.
    ///
    /// # Errors
    /// A sentence without its full stop: why there are no keys.
    pub(super) async fn with(&self, kid: Option<&str>, config: &IssuerConfig) -> Result<Arc<JwkSet>, String> {
        if let Some(set) = self.known(kid, FRESH) {
            return Ok(set);
        }
        let _one = self.fetching.lock().await;
        if let Some(set) = self.known(kid, FRESH) {
            return Ok(set);
        }
        let tried = self.state.read().unwrap_or_else(PoisonError::into_inner).tried;
        let may_fetch =
            tried.is_none_or(|at| at.elapsed() >= PAUSE) || matches!(config.keys, KeySource::File(_));
        let mut why = "it was asked a moment ago".to_owned();
        if may_fetch {
            self.state.write().unwrap_or_else(PoisonError::into_inner).tried = Some(Instant::now());
            match fetch(config).await {
                Ok(set) => {
                    let set = Arc::new(set);
                    let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                    state.set = Some((Arc::clone(&set), Instant::now()));
                    return Ok(set);
                }
                Err(error) => {
                    tracing::warn!(issuer = %config.name, %error, "the issuer's keys could not be fetched");
                    why = error;
                }
            }
        }
        self.known(None, BELIEVED).ok_or(why)
    }

    /// The known set, where it is young enough and holds `kid`.
    fn known(&self, kid: Option<&str>, age: Duration) -> Option<Arc<JwkSet>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let (set, at) = state.set.as_ref()?;
        let holds = kid.is_none_or(|kid| set.find(kid).is_some());
        (holds && at.elapsed() < age).then(|| Arc::clone(set))
    }
}

/// Fetches the keys of an issuer, whatever is known already; how many they are.
///
/// # Errors
/// A sentence without its full stop: why there are no keys.
pub async fn reachable(config: &IssuerConfig) -> Result<usize, String> {
    fetch(config).await.map(|set| set.keys.len())
}

async fn fetch(config: &IssuerConfig) -> Result<JwkSet, String> {
    let ca = config.ca_file.as_deref();
    let bytes = match &config.keys {
        KeySource::File(path) => {
            let file = path.clone();
            let read = tokio::task::spawn_blocking(move || crate::files::read(&file)).await;
            read.map_err(std::io::Error::other)
                .and_then(|read| read)
                .map_err(|error| format!("{}: {error}", path.display()))?
                .into()
        }
        KeySource::Url(url) => get(url, ca).await?,
        KeySource::Discovery => {
            let url = format!(
                "{}/.well-known/openid-configuration",
                config.issuer.trim_end_matches('/')
            );
            let document: Discovery =
                serde_json::from_slice(&get(&url, ca).await?).map_err(|error| format!("{url}: {error}"))?;
            // OpenID Connect Discovery 1.0, section 4.3.
            if document.issuer != config.issuer {
                return Err(format!("{url} speaks for {:?}", document.issuer));
            }
            crate::config::fetchable(&document.jwks_uri)?;
            get(&document.jwks_uri, ca).await?
        }
    };
    let set: JwkSet =
        serde_json::from_slice(&bytes).map_err(|error| format!("its key set is damaged: {error}"))?;
    if set.keys.is_empty() {
        return Err("its key set is empty".into());
    }
    Ok(set)
}
