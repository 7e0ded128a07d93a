//! Where health and figures are served.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::load::Reader;
use super::raw::Text;

/// Health and figures for monitoring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TelemetryConfig {
    /// Where they are served over HTTP; `None`: nowhere.
    pub listen: Option<Listen>,
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
}

impl Reader<'_> {
    pub(super) fn telemetry(&mut self, raw: RawTelemetry) -> TelemetryConfig {
        let RawTelemetry { listen, expose } = raw;
        let Some(text) = listen else {
            if let Some(expose) = expose {
                self.wrong(
                    expose.span(),
                    "`expose` says nothing without `listen`: write listen = \"0.0.0.0:9464\", or remove it",
                );
            }
            return TelemetryConfig::default();
        };
        let exposed = expose.is_some_and(Spanned::into_inner);
        if let Some(path) = text.get_ref().strip_prefix("unix:") {
            let path = self.path(path.into());
            return TelemetryConfig {
                listen: Some(Listen::Unix(path)),
            };
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
        TelemetryConfig {
            listen: self.take(&text, read).map(Listen::Tcp),
        }
    }
}
