//! What a request's head must be before anybody asks what it means: exactly one target, exactly one reading.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Version};

use crate::model::Action;

use super::path::{form_text, pairs, path, query_names};

/// Where the connection leads, as far as a request must agree with it.
#[derive(Debug)]
pub(super) struct Place {
    /// Names of the target at this port, lower case.
    pub(super) hosts: BTreeSet<String>,
    /// The address that the process connected to.
    pub(super) address: IpAddr,
    /// Its port.
    pub(super) port: u16,
    /// Whether the process's connection is TLS.
    pub(super) tls: bool,
    /// The name that the process asked for in TLS, lower case.
    pub(super) server_name: Option<String>,
}

impl Place {
    /// Whether the target goes by that name here.
    pub(super) fn knows(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        self.hosts.contains(bare)
            || bare
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical() == self.address)
    }
}

/// A head that can be read in one way only, without what belongs to the connection.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    /// Everything that the method does; an overriding header or parameter adds to it.
    pub(super) actions: BTreeSet<Action>,
    /// As the process wrote it, with its port.
    pub(super) authority: Authority,
    pub(super) target: PathAndQuery,
    /// The path as policies read it.
    pub(super) path: String,
    pub(super) query: BTreeSet<String>,
    /// Whether it asks for a WebSocket.
    pub(super) websocket: bool,
    /// Fields that go on, without `Host`.
    pub(super) headers: HeaderMap,
}

/// Why a head is refused, and with which status.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) status: StatusCode,
    pub(super) what: String,
}

fn wrong(status: StatusCode, what: impl Into<String>) -> Wrong {
    Wrong {
        status,
        what: what.into(),
    }
}

fn bad(what: impl Into<String>) -> Wrong {
    wrong(StatusCode::BAD_REQUEST, what)
}

/// Fields that say something about one connection only (RFC 9110, 7.6.1).
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Removes fields of the connection, those included that `Connection` names.
pub(super) fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove(headers, &OF_THE_CONNECTION);
}

/// Removes the fields of these names, lower case. Few of them are there, so that fewer are looked for.
pub(super) fn remove(headers: &mut HeaderMap, names: &[&str]) {
    let is_one = |name: &&HeaderName| names.contains(&name.as_str());
    while let Some(name) = headers.keys().find(is_one).cloned() {
        headers.remove(name);
    }
}

/// Screens a head.
pub(super) fn screen(parts: Parts, place: &Place) -> Result<Head, Wrong> {
    let mut actions = actions(&parts)?;
    let authority = authority(&parts, place)?;
    let websocket = upgrade(&parts)?;
    if websocket {
        actions.insert(Action::HttpWebSocket);
    }
    expectation(&parts.headers)?;
    let target = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let path = path(target.path()).map_err(|what| bad(format!("The request is not carried: {what}.")))?;
    if path == "*" && parts.method != Method::OPTIONS {
        return Err(bad("Only OPTIONS can ask about the server as a whole (*)."));
    }
    let mut headers = parts.headers;
    strip_connection(&mut headers);
    for name in [header::HOST, header::EXPECT, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    // Parts of an answer cannot be masked as the whole would be.
    headers.remove(header::RANGE);
    // Payloads that are coded could not be looked into.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(header::IF_RANGE);
    if headers.contains_key(header::ACCEPT_ENCODING) {
        // What the agent can look into.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("gzip, deflate, br, zstd"),
        );
    }
    let coding = HeaderName::from_static("grpc-accept-encoding");
    if headers.contains_key(&coding) {
        headers.insert(coding, HeaderValue::from_static("identity,gzip"));
    }
    Ok(Head {
        method: parts.method,
        actions,
        authority,
        query: query_names(target.query().unwrap_or_default()),
        target,
        path,
        websocket,
        headers,
    })
}

/// What the method does, and what a field or parameter in its place would.
fn actions(parts: &Parts) -> Result<BTreeSet<Action>, Wrong> {
    const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
    let mut actions = BTreeSet::from([action(parts.method.as_str())?]);
    for name in OVERRIDES {
        for value in parts.headers.get_all(name) {
            let method = value
                .to_str()
                .map_err(|_not_text| bad(format!("The header {name} is no text.")))?;
            actions.insert(action(&method.trim().to_ascii_uppercase())?);
        }
    }
    for (name, value) in pairs(parts.uri.query().unwrap_or_default()) {
        if form_text(name) == "_method" {
            let method = form_text(value.unwrap_or_default()).to_ascii_uppercase();
            actions.insert(action(&method)?);
        }
    }
    Ok(actions)
}

/// What a method does.
pub(super) fn action(method: &str) -> Result<Action, Wrong> {
    match method {
        "GET" | "HEAD" | "OPTIONS" => Ok(Action::HttpRead),
        "POST" | "PUT" | "PATCH" => Ok(Action::HttpWrite),
        "DELETE" => Ok(Action::HttpDelete),
        "CONNECT" => Err(wrong(
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is not carried: connect to the target itself, without a proxy.",
        )),
        // Both would show the real credential to the process.
        "TRACE" | "TRACK" => Err(wrong(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not carried: its answer would show what the agent adds to a request."),
        )),
        // The first line of HTTP/2 without TLS.
        "PRI" => Err(bad("HTTP/2 without TLS is not carried: use HTTP/1.1.")),
        _ => Ok(Action::HttpOther),
    }
}

/// The one name that request line, `Host`, TLS and the target agree on.
fn authority(parts: &Parts, place: &Place) -> Result<Authority, Wrong> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("The request has more than one Host header."));
    }
    let named = first
        .map(|value| {
            Authority::try_from(value.as_bytes()).map_err(|_no_name| bad("The Host header is no name."))
        })
        .transpose()?;
    let authority = match (parts.uri.authority(), named) {
        (Some(line), Some(named)) if !line.as_str().eq_ignore_ascii_case(named.as_str()) => {
            return Err(bad("The request line and the Host header name different hosts."));
        }
        (Some(line), _) => line.clone(),
        (None, Some(named)) => named,
        (None, None) => return Err(bad("The request has no Host header.")),
    };
    if let Some(scheme) = parts.uri.scheme_str()
        && parts.version <= Version::HTTP_11
        && scheme != scheme_of(place.tls)
    {
        return Err(bad(
            "The request line names another scheme than the connection has.",
        ));
    }
    if authority.as_str().contains('@') {
        return Err(bad("The request's host has user information before it."));
    }
    let port = match (authority.port_u16(), place.tls) {
        (Some(port), _) => port,
        (None, _) if authority.port().is_some() || authority.as_str().ends_with(':') => {
            return Err(bad("The request's host has a port that is no number."));
        }
        (None, true) => 443,
        (None, false) => 80,
    };
    let host = host(&authority);
    let agrees = place.server_name.as_ref().is_none_or(|name| *name == host);
    if port != place.port || !place.knows(&host) || !agrees {
        let what = format!("This connection leads to another server than {authority}.");
        return Err(wrong(StatusCode::MISDIRECTED_REQUEST, what));
    }
    Ok(authority)
}

/// The host of an authority: lower case, without the dot that may end it.
pub(super) fn host(authority: &Authority) -> String {
    let lower = authority.host().to_ascii_lowercase();
    lower.strip_suffix('.').map_or(lower.clone(), str::to_owned)
}

/// The scheme of a connection.
pub(super) const fn scheme_of(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Whether the request asks for a WebSocket (RFC 6455, 4.2.1); no other change of protocol is carried.
fn upgrade(parts: &Parts) -> Result<bool, Wrong> {
    let mut websocket = false;
    for value in parts.headers.get_all(header::UPGRADE) {
        let wish = value.to_str().unwrap_or_default();
        // A server is free to ignore this one (RFC 9113, 3.1), and so the agent does.
        if wish
            .split(',')
            .all(|token| token.trim().eq_ignore_ascii_case("h2c"))
        {
            continue;
        }
        if websocket || !wish.trim().eq_ignore_ascii_case("websocket") {
            let what = format!(
                "Changing the protocol to {wish:?} is not carried: Interdict could not look into what follows."
            );
            return Err(wrong(StatusCode::FORBIDDEN, what));
        }
        websocket = true;
    }
    // RFC 8441: the same wish in HTTP/2.
    if parts.extensions.get::<hyper::ext::Protocol>().is_some() {
        let what = "Changing the protocol of a stream is not carried: use HTTP/1.1 for a WebSocket.";
        return Err(wrong(StatusCode::FORBIDDEN, what));
    }
    if websocket {
        let has = |name: HeaderName, wanted: &str| {
            let values = parts.headers.get_all(name);
            let mut tokens = values
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','));
            tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
        };
        let whole = parts.method == Method::GET
            && parts.version == Version::HTTP_11
            && has(header::CONNECTION, "upgrade")
            && has(header::SEC_WEBSOCKET_VERSION, "13")
            && parts.headers.contains_key(header::SEC_WEBSOCKET_KEY);
        let bare = !parts.headers.contains_key(header::CONTENT_LENGTH)
            && !parts.headers.contains_key(header::TRANSFER_ENCODING);
        if !whole || !bare {
            return Err(bad("The handshake of a WebSocket is not as RFC 6455 has it."));
        }
    }
    Ok(websocket)
}

fn expectation(headers: &HeaderMap) -> Result<(), Wrong> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        Ok(())
    } else {
        Err(wrong(
            StatusCode::EXPECTATION_FAILED,
            "Only Expect: 100-continue is understood.",
        ))
    }
}

/// Whether a field holds a credential by its name.
pub(super) fn is_secret_field(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "authorization" | "cookie" | "set-cookie" | "proxy-authorization"
    ) || super::shown::is_secret_name(name)
}
