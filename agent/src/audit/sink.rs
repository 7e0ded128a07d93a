//! What is known of the way to ClickHouse: the connection, how far each boot has been sent, what waits.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use clickhouse::Client;
use serde::{Deserialize, Serialize};

use crate::config::{ClickHouseConfig, SecretSourceConfig};

use super::segment;

/// Why ClickHouse cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Cursor(#[from] serde_json::Error),
    #[error("{0}")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error("the password cannot be read: {0}")]
    Password(String),
}

/// How far a boot has been sent: the segment (by its first record) and the byte in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Seals that were sent, by the first record of their segment.
    pub(super) sealed: u64,
}

impl Cursor {
    pub(super) fn of(boot: &Path) -> Result<Self, SinkError> {
        Ok(read(&boot.join("shipped.json"))?.unwrap_or_default())
    }

    /// Up to which byte a segment has been sent, of `length`.
    pub(super) fn sent(&self, first: u64, length: u64) -> u64 {
        match first.cmp(&self.segment) {
            std::cmp::Ordering::Less => length,
            std::cmp::Ordering::Equal => self.offset.min(length),
            std::cmp::Ordering::Greater => 0,
        }
    }
}

/// What has not been sent yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of segments.
    pub bytes: u64,
    /// When the oldest of it was recorded, in nanoseconds since the Unix epoch.
    pub oldest_ns: Option<i64>,
}

/// What of the log in `dir` ClickHouse has not acknowledged yet.
///
/// # Errors
/// Where the log cannot be read.
pub fn lag(dir: &Path) -> io::Result<Lag> {
    let mut lag = Lag::default();
    for boot in segment::boots(dir)? {
        let cursor = Cursor::of(&boot).map_err(io::Error::other)?;
        let mut waits = false;
        for (first, path) in segment::list(&boot)? {
            let length = fs::metadata(&path)?.len();
            let sent = cursor.sent(first, length);
            lag.bytes += length - sent;
            if sent < length && !waits {
                waits = true;
                let oldest = recorded(&path, sent)?;
                lag.oldest_ns = [lag.oldest_ns, oldest].into_iter().flatten().min();
            }
        }
    }
    Ok(lag)
}

/// When the first record of the commit at `from` was made.
fn recorded(path: &Path, from: u64) -> io::Result<Option<i64>> {
    #[derive(Deserialize)]
    struct Time {
        #[serde(default)]
        ts_ns: i64,
    }
    let commit = segment::read_commits(path, from, 1)?;
    let lines = segment::decode(&commit).lines;
    let first = lines.split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice::<Time>(first).ok().map(|t| t.ts_ns))
}

/// A connection as the agent's own user.
pub(super) fn client(config: &ClickHouseConfig) -> Result<Client, SinkError> {
    client_as(&config.url, &config.user, config.password.as_ref())
}

/// A connection as `user`.
pub(super) fn client_as(
    url: &str,
    user: &str,
    password: Option<&SecretSourceConfig>,
) -> Result<Client, SinkError> {
    let client = Client::default()
        .with_url(url)
        .with_user(user)
        .with_compression(clickhouse::Compression::None);
    let password = match password {
        None => return Ok(client),
        Some(SecretSourceConfig::Env(name)) => {
            std::env::var(name).map_err(|error| SinkError::Password(format!("{name}: {error}")))?
        }
        Some(SecretSourceConfig::File(path)) => crate::files::read_to_string(path)
            .map_err(|error| SinkError::Password(format!("{}: {error}", path.display())))?
            .trim_end()
            .to_owned(),
    };
    Ok(client.with_password(password))
}

/// ClickHouse's error code, where the server gave one.
pub(super) fn code(error: &clickhouse::error::Error) -> Option<u32> {
    let text = error.to_string();
    let rest = text.split("Code: ").nth(1)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A file of JSON; `None` where there is none.
pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, SinkError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Written whole or not at all, and durable: the plan must be there before the batch goes.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), SinkError> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(super::seal::sync_directory(
        path.parent().unwrap_or(Path::new(".")),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn https_is_spoken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let client = client_as(&url, "interdict", None).expect("a client");
        let asked = crate::task::spawn(
            "asked",
            async move { client.query_raw("SELECT 1").execute().await },
        );
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let first = tokio::io::AsyncReadExt::read_u8(&mut stream)
            .await
            .expect("a byte");
        assert_eq!(first, 0x16, "a TLS handshake begins");
        drop((stream, listener));
        assert!(asked.join().await.expect("no panic").is_err());
    }

    #[test]
    fn the_servers_code_is_read() {
        let error = |text: &str| clickhouse::error::Error::BadResponse(text.to_owned());
        assert_eq!(
            code(&error("Code: 497. DB::Exception: Not enough privileges")),
            Some(497)
        );
        assert_eq!(
            code(&error("Code: 60, e.displayText() = DB::Exception: Table")),
            Some(60)
        );
        assert_eq!(code(&error("no code at all")), None);
    }

    #[test]
    fn what_was_sent_of_a_segment_is_known() {
        let cursor = Cursor {
            segment: 7,
            offset: 50,
            sealed: 1,
        };
        for (first, sent) in [(1, 100), (7, 50), (9, 0)] {
            assert_eq!(cursor.sent(first, 100), sent, "{first}");
        }
        assert_eq!(cursor.sent(7, 20), 20);
    }
}
