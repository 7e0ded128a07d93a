//! Where health and figures are served, and where traces are sent.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::load::Reader;
use super::raw::Text;
use super::value;

/// Health and figures for monitoring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TelemetryConfig {
    /// Where they are served over HTTP; `None`: nowhere.
    pub listen: Option<Listen>,
    /// Where spans are sent; `None`: nowhere, and none are made.
    pub traces: Option<TracesConfig>,
}

/// A collector of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// Where spans are posted: `http://` on loopback, or `https://`; the whole URL.
    pub url: String,
    /// A file with fields of a request, `Name: value` each line.
    pub headers_file: Option<PathBuf>,
    /// A CA beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Of a hundred sessions, so many are kept; what stands in a trace that its beginner keeps is kept in any case.
    pub sample_percent: u8,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port; others than loopback's only where `expose` says so.
    Tcp(SocketAddr),
    /// A Unix socket, for root and the agent's group.
    Unix(PathBuf),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTelemetry {
    listen: Option<Text>,
    expose: Option<Spanned<bool>>,
    traces: Option<RawTraces>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTraces {
    endpoint: Text,
    headers_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    sample_percent: Option<Spanned<u8>>,
}

/// Where collectors take spans, below their address.
const TRACES_PATH: &str = "/v1/traces";

impl Reader<'_> {
    pub(super) fn telemetry(&mut self, raw: RawTelemetry) -> TelemetryConfig {
        let RawTelemetry {
            listen,
            expose,
            traces,
        } = raw;
        TelemetryConfig {
            listen: self.listen(listen, expose),
            traces: traces.and_then(|traces| self.traces(traces)),
        }
    }

    fn traces(&mut self, raw: RawTraces) -> Option<TracesConfig> {
        let RawTraces {
            endpoint,
            headers_file,
            ca_file,
            sample_percent,
        } = raw;
        let url = self.take(&endpoint, |text| {
            value::fetchable(text)?;
            let wrong = || format!("{text:?} is no URL: write \"https://collector.example:4318\"");
            let uri: http::Uri = text.parse().map_err(|_no_url| wrong())?;
            if uri.query().is_some() {
                return Err(wrong());
            }
            let bare = matches!(uri.path(), "" | "/");
            let base = text.trim_end_matches('/');
            Ok(if bare {
                format!("{base}{TRACES_PATH}")
            } else {
                text.to_owned()
            })
        });
        if let Some(percent) = &sample_percent
            && *percent.get_ref() > 100
        {
            self.wrong(percent.span(), "sample_percent is of a hundred: write 0 to 100");
        }
        Some(TracesConfig {
            url: url?,
            headers_file: headers_file.map(|file| self.path(file)),
            ca_file: ca_file.map(|file| self.path(file)),
            sample_percent: sample_percent.map_or(100, Spanned::into_inner),
        })
    }

    fn listen(&mut self, listen: Option<Text>, expose: Option<Spanned<bool>>) -> Option<Listen> {
        let Some(text) = listen else {
            if let Some(expose) = expose {
                self.wrong(
                    expose.span(),
                    "`expose` says nothing without `listen`: write listen = \"0.0.0.0:9464\", or remove it",
                );
            }
            return None;
        };
        let exposed = expose.is_some_and(Spanned::into_inner);
        if let Some(path) = text.get_ref().strip_prefix("unix:") {
            let path = self.path(path.into());
            return Some(Listen::Unix(path));
        }
        let read = |t: &str| match t.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                Err("port 0 is none that anybody finds: write 9464".to_owned())
            }
            Ok(address) if address.ip().is_loopback() || exposed => Ok(address),
            Ok(address) => Err(format!(
                "{address} can be reached from other hosts, and figures name targets and policies: write \"127.0.0.1:{}\", \
                 or expose = true beside it",
                address.port()
            )),
            Err(_no_address) => Err(format!(
                "{t:?} is no place to listen: write \"127.0.0.1:9464\", or \"unix:/run/interdict/telemetry.sock\""
            )),
        };
        self.take(&text, read).map(Listen::Tcp)
    }
}
