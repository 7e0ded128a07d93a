//! Taking the start-up taint off a node once its agent is ready: until then no pod that does not tolerate it is put there. A process of its
//! own, with the one right to patch nodes: the agent itself has none.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::identity::client_tls;

/// How long one answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// Between two looks: before the agent is ready, and afterwards (a node that is made anew has its taint again).
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(60);
/// A node names its images, so that it is large.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Which taint of which node, and who says that the agent is ready.
#[derive(Debug, Clone)]
pub struct UntaintSpec {
    /// The node.
    pub node: String,
    /// The key of the taint.
    pub taint: String,
    /// A URL that answers 200 when the agent is ready.
    pub ready: String,
    /// The API server, without a slash at its end.
    pub api: String,
    /// The token of a service account that may get and patch nodes, read again for each request.
    pub token_file: PathBuf,
    /// The cluster's CA.
    pub ca_file: Option<PathBuf>,
    /// Ends once the taint is off; otherwise it goes on looking.
    pub once: bool,
}

/// Why a look did not succeed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum UntaintError {
    /// TLS, or the address.
    #[error("{0}")]
    Setting(String),
    /// The token.
    #[error("{path}: {source}")]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No answer, or none that is understood.
    #[error("{url}: {reason}")]
    Answer {
        /// Whose.
        url: String,
        /// What was wrong.
        reason: String,
    },
}

/// Looks until the taint is off (`once`), or for ever.
///
/// # Errors
/// Where it cannot be begun. Whatever fails later is said, and tried again.
pub async fn untaint(spec: &UntaintSpec) -> Result<(), UntaintError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(client_tls(spec.ca_file.as_deref()).map_err(UntaintError::Setting)?)
        .https_or_http()
        .enable_http1()
        .build();
    let asking = Asking {
        client: Client::builder(TokioExecutor::new()).build(connector),
        spec,
    };
    let mut told = false;
    loop {
        let pause = match asking.look().await {
            Ok(true) if spec.once => return Ok(()),
            Ok(true) => LATER,
            Ok(false) => SOON,
            // An agent that is not there yet is no news.
            Err(error) if told => {
                tracing::debug!(%error, "not yet");
                SOON
            }
            Err(error) => {
                told = true;
                tracing::warn!(%error, "the node keeps its taint for now");
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Asking<'a> {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    spec: &'a UntaintSpec,
}

impl Asking<'_> {
    /// Whether the agent is ready and the node without its taint.
    async fn look(&self) -> Result<bool, UntaintError> {
        let (status, _) = self.ask(Method::GET, &self.spec.ready, None).await?;
        if status != StatusCode::OK {
            return Ok(false);
        }
        let url = format!("{}/api/v1/nodes/{}", self.spec.api, self.spec.node);
        let (status, body) = self.ask(Method::GET, &url, None).await?;
        let wrong = |reason: String| UntaintError::Answer {
            url: url.clone(),
            reason,
        };
        if status != StatusCode::OK {
            return Err(wrong(status.to_string()));
        }
        let node: Value = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
        let Some(patch) = without(&node, &self.spec.taint) else {
            return Ok(true);
        };
        let (status, _) = self.ask(Method::PATCH, &url, Some(patch)).await?;
        match status {
            StatusCode::OK => {
                tracing::info!(node = self.spec.node, taint = self.spec.taint, "taken off");
                // There may be one with another effect.
                Ok(false)
            }
            // Somebody else changed the taints meanwhile: the test in the patch failed.
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Ok(false),
            other => Err(wrong(other.to_string())),
        }
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        patch: Option<Value>,
    ) -> Result<(StatusCode, Bytes), UntaintError> {
        let wrong = |reason: String| UntaintError::Answer {
            url: url.to_owned(),
            reason,
        };
        let mut request = Request::builder().method(method).uri(url);
        // The token is for the API server alone.
        if url.starts_with(&format!("{}/api/", self.spec.api)) {
            let path = &self.spec.token_file;
            let token = std::fs::read_to_string(path).map_err(|source| UntaintError::Token {
                path: path.clone(),
                source,
            })?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let body = match patch {
            Some(patch) => {
                request = request.header(header::CONTENT_TYPE, "application/json-patch+json");
                Bytes::from(patch.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| wrong(error.to_string()))?;
        let asked = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| wrong(error.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            Ok((status, body.map_err(|error| wrong(error.to_string()))?.to_bytes()))
        };
        tokio::time::timeout(TIME_LIMIT, asked)
            .await
            .map_err(|_elapsed| wrong("no answer within 15 s".into()))?
    }
}

/// The patch (RFC 6902) that takes the first taint of this key off, if it is still where it was; `None` where there is none.
fn without(node: &Value, key: &str) -> Option<Value> {
    let taints = node.pointer("/spec/taints")?.as_array()?;
    let at = taints
        .iter()
        .position(|taint| taint.get("key").and_then(Value::as_str) == Some(key))?;
    let path = format!("/spec/taints/{at}");
    let there = taints.get(at)?;
    Some(serde_json::json!([
        {"op": "test", "path": path, "value": there},
        {"op": "remove", "path": path},
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_taint_goes_and_only_if_it_is_still_there() {
        let node = serde_json::json!({"spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute", "value": "x"},
        ]}});
        let patch = without(&node, "b").expect("it is there");
        let there = serde_json::json!({"key": "b", "effect": "NoExecute", "value": "x"});
        let expected = serde_json::json!([
            {"op": "test", "path": "/spec/taints/1", "value": there},
            {"op": "remove", "path": "/spec/taints/1"},
        ]);
        assert_eq!(patch, expected);
        assert_eq!(without(&node, "c"), None);
        assert_eq!(without(&serde_json::json!({"spec": {}}), "a"), None);
    }
}
