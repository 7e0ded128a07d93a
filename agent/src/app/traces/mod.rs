//! Spans to a collector: OTLP over HTTP, in JSON (`otlp`). What cannot be sent is dropped and counted: no operation waits for a
//! collector, and none is refused because of it.

mod otlp;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;

use crate::audit::{AuditLog, Span};
use crate::config::TracesConfig;
use crate::identity::client_tls;
use crate::task::{Task, spawn};

/// Largest batch, in spans.
const BATCH: usize = 512;
/// How long a span waits for its batch.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// First pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, also where the collector asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a batch is tried: newer spans say more than older ones.
const TRIED: Duration = Duration::from_secs(60);
/// How long the end of the agent waits for the last batches.
const LAST: Duration = Duration::from_secs(2);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Spans on their way to a collector.
#[derive(Debug)]
pub(super) struct Traces {
    audit: AuditLog,
    sending: Task<()>,
}

impl Traces {
    /// Keeps traces of what `audit` records from now on, where that is configured.
    pub(super) fn start(config: Option<&TracesConfig>, audit: &AuditLog) -> Option<Self> {
        let config = config?.clone();
        let (host, boot) = audit.origin();
        let waiting = audit.trace(config.sample_percent);
        let sender = Sender {
            resource: otlp::resource(&host, &boot),
            audit: audit.clone(),
            collector: Collector { config, client: None },
            away: false,
        };
        Some(Self {
            audit: audit.clone(),
            sending: spawn("traces", sender.run(waiting)),
        })
    }

    /// Sends what waits, for a moment.
    pub(super) async fn finish(self) {
        let Self { audit, sending } = self;
        audit.untrace();
        if tokio::time::timeout(LAST, sending.join()).await.is_err() {
            tracing::warn!("the last spans were not sent: the collector did not take them in time");
        }
    }
}

/// Whether a collector answers: it is given an empty batch.
///
/// # Errors
/// Why not.
pub(super) async fn reachable(config: &TracesConfig) -> Result<(), String> {
    let mut collector = Collector {
        config: config.clone(),
        client: None,
    };
    match collector.post(otlp::batch(&otlp::resource("", ""), &[])).await {
        Ok(_taken) => Ok(()),
        Err(Failed::Later(why, _) | Failed::Never(why)) => Err(why),
    }
}

struct Sender {
    resource: serde_json::Value,
    audit: AuditLog,
    collector: Collector,
    away: bool,
}

impl Sender {
    async fn run(mut self, mut waiting: mpsc::Receiver<Span>) {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            let gathered = async {
                while batch.len() < BATCH {
                    match waiting.recv().await {
                        Some(span) => batch.push(span),
                        None => break,
                    }
                }
            };
            // What was gathered until then is the batch.
            let _full_or_time = tokio::time::timeout(GATHER, gathered).await;
            self.send(&batch, &waiting).await;
            batch.clear();
        }
    }

    /// Sends a batch, again where that may help.
    async fn send(&mut self, batch: &[Span], waiting: &mpsc::Receiver<Span>) {
        let body = otlp::batch(&self.resource, batch);
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match self.collector.post(body.clone()).await {
                Ok(Taken { rejected, message }) => {
                    let rejected = rejected.min(count);
                    self.audit.count_spans("exported", count - rejected);
                    self.audit.count_spans("rejected", rejected);
                    if rejected > 0 || !message.is_empty() {
                        tracing::warn!(
                            rejected,
                            message,
                            "the collector of traces does not take everything"
                        );
                    }
                    if std::mem::take(&mut self.away) {
                        tracing::info!("the collector of traces takes spans again");
                    }
                    return;
                }
                Err(Failed::Never(error)) => {
                    self.audit.count_spans("rejected", count);
                    tracing::warn!(error, "the collector of traces does not take these spans");
                    return;
                }
                Err(Failed::Later(error, asked)) => {
                    if !std::mem::replace(&mut self.away, true) {
                        tracing::warn!(
                            error,
                            "spans are not sent; those that have no room meanwhile are dropped"
                        );
                    }
                    if waiting.is_closed() || began.elapsed() >= TRIED {
                        self.audit.count_spans("dropped", count);
                        return;
                    }
                    tokio::time::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// What a collector took.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    rejected: u64,
    message: String,
}

/// Why it did not.
#[derive(Debug)]
enum Failed {
    /// It may later: in so long, where it says so.
    Later(String, Option<Duration>),
    /// It will not take these.
    Never(String),
}

struct Collector {
    config: TracesConfig,
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Collector {
    async fn post(&mut self, body: Bytes) -> Result<Taken, Failed> {
        let later = |why: String| Failed::Later(why, None);
        let request = self.request(body).map_err(later)?;
        let client = self.client().map_err(later)?.clone();
        let answering = async {
            let answer = client.request(request).await.map_err(|error| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                later(format!("{error}: {}", source.unwrap_or_default()))
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            judged(head.status, &head.headers, &body)
        };
        let answered = tokio::time::timeout(ANSWER, answering).await;
        let answered = answered.unwrap_or_else(|_elapsed| {
            Err(later(format!("it did not answer within {} s", ANSWER.as_secs())))
        });
        if answered.is_err() {
            // The next one reads the certificates anew.
            self.client = None;
        }
        answered
    }

    fn client(&mut self) -> Result<&Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String> {
        if self.client.is_none() {
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(client_tls(self.config.ca_file.as_deref())?)
                .https_or_http()
                .enable_http1()
                .build();
            self.client = Some(Client::builder(TokioExecutor::new()).build(connector));
        }
        self.client.as_ref().ok_or_else(String::new)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(&self.config.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("interdict/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        if let Some(path) = &self.config.headers_file {
            request.headers_mut().extend(fields(path)?);
        }
        Ok(request)
    }
}

/// The fields of a file, `Name: value` each line, read for every batch; they are secrets.
fn fields(path: &Path) -> Result<HeaderMap, String> {
    let wrong = |what: String| format!("headers_file {}: {what}", path.display());
    let text = crate::files::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut fields = HeaderMap::new();
    for (at, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        // The line is not shown: it is a secret.
        let bad = || wrong(format!("line {} is not `Name: value`", at + 1));
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_no_name| bad())?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_no_value| bad())?;
        value.set_sensitive(true);
        fields.append(name, value);
    }
    Ok(fields)
}

/// What an answer says (OTLP/HTTP Response).
fn judged(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Taken, Failed> {
    match status {
        StatusCode::OK => Ok(otlp::taken(body)),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
            let asked = asked.and_then(|v| v.parse().ok()).map(Duration::from_secs);
            Err(Failed::Later(format!("it answers {status}"), asked))
        }
        other => Err(Failed::Never(format!("it answers {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_protocol_says() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let ok = |body: &str| judged(StatusCode::OK, &headers, body.as_bytes());
        assert_eq!(ok("{}").expect("taken"), Taken::default());
        assert_eq!(ok("").expect("taken"), Taken::default());
        let partly = ok(r#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "old"}}"#);
        let expected = Taken {
            rejected: 3,
            message: "old".into(),
        };
        assert_eq!(partly.expect("taken"), expected);
        for status in [429, 502, 503, 504] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = judged(status, &headers, b"");
            assert!(matches!(answer, Err(Failed::Later(_, Some(wait))) if wait == Duration::from_secs(7)));
        }
        for status in [204, 301, 400, 401, 404, 500] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(
                matches!(judged(status, &headers, b""), Err(Failed::Never(_))),
                "{status}"
            );
        }
    }

    #[test]
    fn secret_fields_are_read_and_not_shown() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("headers");
        std::fs::write(&path, "Authorization: Bearer s3cret\n\nX-Scope: a:b\n").expect("written");
        let read = fields(&path).expect("fields");
        assert_eq!(read["authorization"], "Bearer s3cret");
        assert_eq!(read["x-scope"], "a:b");
        assert!(!format!("{read:?}").contains("s3cret"));
        std::fs::write(&path, "Good: x\ns3cret\n").expect("written");
        let error = fields(&path).expect_err("wrong");
        assert!(error.contains("line 2") && !error.contains("s3cret"), "{error}");
    }
}
