//! A small OIDC issuer: discovery and keys over HTTP on loopback, tokens signed with Ed25519.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// A running issuer; its thread ends with the process.
pub struct Oidc {
    key: Ed25519KeyPair,
    address: SocketAddr,
}

impl Oidc {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start() -> Result<Self> {
        let key = Ed25519KeyPair::generate().map_err(|_unspecified| anyhow!("no key"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let issuer = format!("http://{address}");
        let discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
        let x = b64(key.public_key());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "use": "sig", "x": x}]});
        let pages = Arc::new((discovery, keys));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _one_caller_less = answer(stream, &pages);
            }
        });
        Ok(Self { key, address })
    }

    /// The issuer's URL.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A token for `subject` with `groups` that ends in `ttl` seconds.
    #[must_use]
    pub fn token(&self, subject: &str, groups: &[&str], ttl: i64) -> String {
        let email = format!("{subject}@example.com");
        self.signed(json!({"sub": subject, "email": email, "groups": groups}), ttl)
    }

    /// A token as Kubernetes projects them into the pod (`namespace`, `name`, `uid`) of the service account `account`.
    #[must_use]
    pub fn pod_token(&self, account: &str, (namespace, name, uid): (&str, &str, &str), ttl: i64) -> String {
        let bound = json!({
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "5f0ad1ba-7a0f-4c8f-a7a1-1f1c6dd8f8a0"},
            "pod": {"name": name, "uid": uid},
            "serviceaccount": {"name": account, "uid": "a9a8c1a4-64d0-4f05-9d4d-6f1c9d3e8b11"},
        });
        let subject = format!("system:serviceaccount:{namespace}:{account}");
        self.signed(json!({"sub": subject, "kubernetes.io": bound}), ttl)
    }

    /// A token with these claims, for the agent, that ends in `ttl` seconds.
    fn signed(&self, mut claims: Value, ttl: i64) -> String {
        let since = SystemTimeNow::seconds();
        claims["iss"] = self.issuer().into();
        claims["aud"] = json!(["interdict"]);
        claims["iat"] = since.into();
        claims["exp"] = (since + ttl).into();
        let message = format!(
            "{}.{}",
            b64(r#"{"alg":"EdDSA","kid":"1"}"#),
            b64(claims.to_string())
        );
        let signature = b64(self.key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

struct SystemTimeNow;

impl SystemTimeNow {
    #[expect(clippy::disallowed_methods, reason = "a harness is its own rim")]
    fn seconds() -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or_default()
    }
}

fn answer(mut stream: std::net::TcpStream, pages: &(Value, Value)) -> Result<()> {
    let mut request = [0; 2048];
    let length = stream.read(&mut request)?;
    let line = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
    let page = if line.starts_with("GET /keys ") {
        &pages.1
    } else {
        &pages.0
    };
    let body = page.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes.as_ref())
}
