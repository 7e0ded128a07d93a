//! Health and figures over HTTP, for probes and Prometheus: `/healthz`, `/readyz`, `/metrics`. Nothing else is answered, and nothing
//! that a request holds is looked at but its path.

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Listen, TelemetryConfig};
use crate::control::{MetricSource, metrics};
use crate::guard;
use crate::task::{Task, Tasks, spawn};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 32;
/// How long a caller may take with its request.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Whether the agent governs already what it is to govern.
#[derive(Debug, Clone, Default)]
pub(super) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/readyz` says so.
    pub(super) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where callers come in; listened at already.
#[derive(Debug)]
pub(super) enum Door {
    Tcp(std::net::TcpListener),
    /// With its file, where that goes with it.
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

impl Door {
    /// The socket for another process that answers there, and its file.
    pub(super) fn handed(self) -> (guard::Door, Option<SocketFile>) {
        match self {
            Self::Tcp(listener) => (guard::Door::Tcp(listener), None),
            Self::Unix(listener, file) => (guard::Door::Unix(listener), file),
        }
    }
}

impl From<guard::Door> for Door {
    fn from(door: guard::Door) -> Self {
        match door {
            guard::Door::Tcp(listener) => Self::Tcp(listener),
            guard::Door::Unix(listener) => Self::Unix(listener, None),
        }
    }
}

/// Listens where it is configured. A place that cannot be listened at is a warning: what is governed does not depend on it.
pub(super) fn open(config: &TelemetryConfig) -> Option<Door> {
    let place = config.listen.as_ref()?;
    let opened = match place {
        Listen::Tcp(address) => std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Door::Tcp(listener))
        }),
        Listen::Unix(path) => bind(path).map(|listener| Door::Unix(listener, Some(SocketFile::of(path)))),
    };
    let failed = |error: std::io::Error| {
        tracing::warn!(%error, ?place, "health and figures are not served");
    };
    opened.map_err(failed).ok()
}

/// Serves at an open door, for as long as the task lives.
pub(super) fn serve(door: Door, metrics: MetricSource, ready: Readiness) -> Option<Task<()>> {
    let health = Health { metrics, ready };
    let failed = |error: std::io::Error| {
        tracing::warn!(%error, "health and figures are not served");
    };
    match door {
        Door::Tcp(listener) => {
            let listener = TcpListener::from_std(listener).map_err(failed).ok()?;
            Some(spawn("health", health.serve_tcp(listener)))
        }
        Door::Unix(listener, file) => {
            let listener = UnixListener::from_std(listener).map_err(failed).ok()?;
            Some(spawn("health", health.serve_unix(listener, file)))
        }
    }
}

/// The file of the configured socket as it is now, to be removed when this is dropped: a proxy may not.
pub(super) fn file(config: &TelemetryConfig) -> Option<SocketFile> {
    match config.listen.as_ref()? {
        Listen::Tcp(_) => None,
        Listen::Unix(path) => Some(SocketFile::of(path)),
    }
}

/// The file of a socket, which goes with whoever listens there; the file of the next one, which came meanwhile, stays.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            inode: inode(path),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some()
            && self.inode == inode(&self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the socket of health and figures was gone");
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok().map(|found| found.ino())
}

/// A socket that an agent left is replaced; another file is not.
fn bind(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket())
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

#[derive(Clone)]
struct Health {
    metrics: MetricSource,
    ready: Readiness,
}

impl Health {
    async fn serve_tcp(self, listener: TcpListener) {
        let mut open = Tasks::default();
        loop {
            tokio::select! {
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => open.spawn("health", self.clone().carry(stream)),
                    Err(error) => pause(&error).await,
                },
                _ = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn serve_unix(self, listener: UnixListener, _file: Option<SocketFile>) {
        let mut open = Tasks::default();
        loop {
            tokio::select! {
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => open.spawn("health", self.clone().carry(stream)),
                    Err(error) => pause(&error).await,
                },
                _ = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn carry(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let health = self.clone();
            async move { Ok::<_, Infallible>(health.answer(request.method(), request.uri().path()).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(64)
            .max_buf_size(16 * 1024)
            .keep_alive(true);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a caller of health or figures broke off");
        }
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return said(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        }
        match path {
            // That this is answered says that the agent's tasks run.
            "/healthz" => said(StatusCode::OK, "ok\n".into()),
            "/readyz" if self.ready.get() => said(StatusCode::OK, "ready\n".into()),
            "/readyz" => said(StatusCode::SERVICE_UNAVAILABLE, "not yet\n".into()),
            "/metrics" => {
                let source = self.metrics.clone();
                match tokio::task::spawn_blocking(move || source.read()).await {
                    Ok(families) => said(StatusCode::OK, metrics::text(&families)),
                    Err(_panicked) => said(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "the figures could not be read\n".into(),
                    ),
                }
            }
            _ => said(
                StatusCode::NOT_FOUND,
                "here are /healthz, /readyz and /metrics\n".into(),
            ),
        }
    }
}

async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "health and figures cannot be asked for just now");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn said(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use crate::control::metrics::Family;

    use super::*;

    async fn ask(path: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_figures_are_answered_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("telemetry.sock");
        let config = TelemetryConfig {
            listen: Some(Listen::Unix(path.clone())),
            traces: None,
        };
        let family = || Family {
            name: "interdict_info".into(),
            help: "The agent.".into(),
            kind: "gauge".into(),
            samples: Vec::new(),
        };
        let ready = Readiness::default();
        let source = MetricSource::new(move || vec![family()]);
        let start = |source, ready| serve(open(&config)?, source, ready);
        let first = start(source.clone(), ready.clone()).expect("serves");
        drop(first);
        // The socket that the first one left is no obstacle, and when it goes late it does not take this one's.
        let _second = start(source, ready.clone()).expect("serves");
        let get = |what: &str| format!("GET {what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert!(ask(&path, &get("/healthz")).await.starts_with("HTTP/1.1 200"));
        assert!(ask(&path, &get("/readyz")).await.starts_with("HTTP/1.1 503"));
        ready.set(true);
        assert!(ask(&path, &get("/readyz")).await.starts_with("HTTP/1.1 200"));
        let figures = ask(&path, &get("/metrics?x=y")).await;
        assert!(
            figures.contains("# TYPE interdict_info gauge") && figures.contains("version=0.0.4"),
            "{figures}"
        );
        assert!(ask(&path, &get("/")).await.starts_with("HTTP/1.1 404"));
        let post = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert!(ask(&path, post).await.starts_with("HTTP/1.1 405"));
        assert!(ask(&path, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn a_file_of_somebody_else_is_not_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        std::fs::write(&path, "mine").expect("written");
        let config = TelemetryConfig {
            listen: Some(Listen::Unix(path.clone())),
            traces: None,
        };
        assert!(open(&config).is_none());
        assert_eq!(std::fs::read_to_string(path).expect("read"), "mine");
    }
}
