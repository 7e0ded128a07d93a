//! This node's pods, as the Kubernetes API tells of them: listed once, then watched (the API's "Efficient detection of
//! changes": resource versions, bookmarks; 410 Gone means to list again).

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::config::KubernetesConfig;
use crate::identity::client_tls;

use super::select::Pod;

/// How long a list, or the beginning of a watch, may take.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// How long a watch may say nothing: the API sends bookmarks about every minute.
const SILENCE: Duration = Duration::from_secs(120);
/// How long the API is asked to keep a watch open, in seconds.
const WATCH_SECONDS: u32 = 290;
/// The first pause after a failure; it doubles to `MAX_PAUSE`.
const PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Pods of one page.
const PAGE: u32 = 500;
/// Largest page, and largest event, in bytes.
const MAX_PAGE: usize = 64 * 1024 * 1024;
const MAX_EVENT: usize = 4 * 1024 * 1024;

/// The pods that are known, by uid.
#[derive(Debug, Clone, Default)]
pub(super) struct Pods(Arc<RwLock<BTreeMap<String, Pod>>>);

impl Pods {
    /// One of them.
    pub(super) fn get(&self, uid: &str) -> Option<Pod> {
        let pods = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        pods.get(uid).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Pod>)) {
        change(&mut self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// Its resource version is too old: list again.
    #[error("its resource version has expired")]
    Expired,
    #[error("{0}")]
    Failed(String),
}

/// The API of a cluster, for the pods of one node.
#[derive(Debug)]
pub(super) struct Watch {
    config: KubernetesConfig,
    node: String,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    pods: Pods,
    told: mpsc::Sender<String>,
}

impl Watch {
    /// Keeps `pods` true, and tells the uid of each that changed.
    pub(super) fn new(
        config: KubernetesConfig,
        pods: Pods,
        told: mpsc::Sender<String>,
    ) -> Result<Self, String> {
        let tls = client_tls(config.ca_file.as_deref())?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let named = config.node.clone().or_else(|| std::env::var("NODE_NAME").ok());
        Ok(Self {
            node: named.unwrap_or_else(host),
            config,
            client,
            pods,
            told,
        })
    }

    /// Lists and watches until it is dropped. While the API is away, what is known stays.
    pub(super) async fn run(self) {
        let mut pause = PAUSE;
        let mut version: Option<String> = None;
        loop {
            let begun = tokio::time::Instant::now();
            let ended = match version.take() {
                None => self.list().await.map(Some),
                Some(from) => self.watch(from, &mut version).await.map(|()| None),
            };
            match ended {
                Ok(Some(listed)) => {
                    version = Some(listed);
                    continue;
                }
                // The API ended the watch in good order: go on from where it was.
                Ok(None) => {}
                Err(Ended::Expired) => {
                    tracing::info!("the watch of pods has expired: they are listed again");
                    version = None;
                }
                Err(Ended::Failed(error)) => {
                    tracing::warn!(
                        error,
                        "the Kubernetes API does not tell of pods: those that come now are not recognised until it does"
                    );
                }
            }
            if begun.elapsed() > MAX_PAUSE {
                pause = PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// All pods of the node; the version to watch from.
    async fn list(&self) -> Result<String, Ended> {
        let mut all = BTreeMap::new();
        let mut more = String::new();
        let version = loop {
            let query = if more.is_empty() {
                format!("limit={PAGE}")
            } else {
                format!("limit={PAGE}&continue={}", escaped(&more))
            };
            let answer = self.get(&query).await?;
            let body = http_body_util::Limited::new(answer.into_body(), MAX_PAGE);
            let body = tokio::time::timeout(TIME_LIMIT, body.collect()).await;
            let body = body.map_err(failed)?.map_err(failed)?.to_bytes();
            let list: List = serde_json::from_slice(&body).map_err(failed)?;
            all.extend(list.items.into_iter().map(Object::pod));
            if list.metadata.more.is_empty() {
                break list.metadata.resource_version;
            }
            more = list.metadata.more;
        };
        let mut changed: Vec<String> = Vec::new();
        self.pods.change(|pods| {
            changed.extend(pods.keys().filter(|uid| !all.contains_key(*uid)).cloned());
            changed.extend(
                all.iter()
                    .filter(|(uid, pod)| pods.get(*uid) != Some(pod))
                    .map(|(uid, _)| uid.clone()),
            );
            *pods = all;
        });
        for uid in changed {
            self.tell(uid).await;
        }
        Ok(version)
    }

    /// Follows changes after `from`; `version` is where it has come to.
    async fn watch(&self, from: String, version: &mut Option<String>) -> Result<(), Ended> {
        let query = format!(
            "watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            escaped(&from)
        );
        *version = Some(from);
        let mut body = self.get(&query).await?.into_body();
        let mut lines = Lines::default();
        loop {
            let frame = tokio::time::timeout(SILENCE, body.frame()).await;
            let frame = match frame.map_err(|_elapsed| failed("it said nothing for two minutes"))? {
                Some(frame) => frame.map_err(failed)?,
                None => return Ok(()),
            };
            let Some(bytes) = frame.data_ref() else { continue };
            for line in lines.take(bytes).map_err(failed)? {
                let event: Event = serde_json::from_slice(&line).map_err(failed)?;
                *version = Some(self.event(event).await?);
            }
        }
    }

    /// One change; the version after it.
    async fn event(&self, event: Event) -> Result<String, Ended> {
        let Event { kind, object } = event;
        let at = object.metadata.resource_version.clone();
        match kind.as_str() {
            "ADDED" | "MODIFIED" => {
                let (uid, pod) = object.pod();
                let mut new = false;
                self.pods
                    .change(|pods| new = pods.insert(uid.clone(), pod.clone()) != Some(pod));
                if new {
                    self.tell(uid).await;
                }
            }
            "DELETED" => {
                let (uid, _) = object.pod();
                self.pods.change(|pods| drop(pods.remove(&uid)));
                self.tell(uid).await;
            }
            "BOOKMARK" => {}
            "ERROR" if object.code == 410 => return Err(Ended::Expired),
            other => return Err(failed(format!("it says {other}: {}", object.message))),
        }
        Ok(at)
    }

    async fn tell(&self, uid: String) {
        let _nobody_listens = self.told.send(uid).await;
    }

    async fn get(&self, query: &str) -> Result<Response<Incoming>, Ended> {
        let KubernetesConfig {
            api,
            token_file,
            ca_file: _,
            node: _,
            kubelet_dir: _,
        } = &self.config;
        let node = &self.node;
        let uri = format!(
            "{api}/api/v1/pods?fieldSelector=spec.nodeName%3D{}&{query}",
            escaped(node)
        );
        let mut request = Request::get(uri);
        if let Some(file) = token_file {
            // Read each time: kubelet replaces it.
            let token = tokio::fs::read_to_string(file).await;
            let token = token.map_err(|error| failed(format!("{}: {error}", file.display())))?;
            request = request.header(hyper::header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let request = request.body(Empty::new()).map_err(failed)?;
        let answer = tokio::time::timeout(TIME_LIMIT, self.client.request(request)).await;
        let answer = answer.map_err(failed)?.map_err(|error| failed(chain(&error)))?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::GONE => Err(Ended::Expired),
            status => Err(failed(format!("it answers {status}"))),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Ended {
    Ended::Failed(error.to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// As a value in a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| {
        if plain(b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    text.bytes().map(one).collect()
}

/// Lines of a stream, however it is cut.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', &self.0) {
            let rest = self.0.split_off(end + 1);
            let line = std::mem::replace(&mut self.0, rest);
            if line.len() > 1 {
                lines.push(line);
            }
        }
        if self.0.len() > MAX_EVENT {
            return Err("an event is larger than 4 MiB".into());
        }
        Ok(lines)
    }
}

#[derive(Debug, Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: String,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

/// A pod, or the status that an error comes with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
    spec: Spec,
    code: u32,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    uid: String,
    name: String,
    namespace: String,
    resource_version: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
}

impl Object {
    /// With the uid that its cgroup has: a static pod's is the digest that kubelet gave it, its mirror's in the API another.
    fn pod(self) -> (String, Pod) {
        let Meta {
            uid,
            name,
            namespace,
            labels,
            mut annotations,
            ..
        } = self.metadata;
        let uid = annotations.remove("kubernetes.io/config.hash").unwrap_or(uid);
        let pod = Pod {
            namespace,
            name,
            service_account: self.spec.service_account_name,
            labels,
        };
        (uid, pod)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_static_pod_is_found_by_the_digest_in_its_annotations() {
        let text = r#"{"metadata":{"uid":"a","namespace":"kube-system","annotations":{"kubernetes.io/config.hash":"b"}}}"#;
        let object: Object = serde_json::from_str(text).expect("a pod");
        assert_eq!(object.pod().0, "b");
        assert_eq!(escaped("a b=c"), "a%20b%3Dc");
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(text in "[a-c\n]{0,60}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let whole = Lines::default().take(text.as_bytes()).expect("lines");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for pair in cuts.windows(2) {
                found.extend(lines.take(&text.as_bytes()[pair[0]..pair[1]]).expect("lines"));
            }
            prop_assert_eq!(found, whole);
        }
    }
}
