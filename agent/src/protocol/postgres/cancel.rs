//! Keys for cancelling: the process gets the agent's own, which stand for the target's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::connection::tls::UpstreamVerifier;
use crate::model::UpstreamAddr;
use crate::session::AgentSpeech;

use super::login::{LoginError, dial_tls, say};

/// How long the target may take to hear a wish to stop.
const HEARD: Duration = Duration::from_secs(5);

/// Sessions by the agent's own process number.
#[derive(Debug, Default)]
pub struct CancelKeys {
    sessions: Mutex<HashMap<u32, Entry>>,
}

#[derive(Debug)]
struct Entry {
    key: [u8; 4],
    address: UpstreamAddr,
    tls: Option<UpstreamVerifier>,
    target: (u32, Bytes),
    held: Arc<Held>,
}

/// Whether a session's statement waits for approval, and the wish to end that wait.
#[derive(Debug, Default)]
pub(super) struct Held {
    waits: AtomicBool,
    cancelled: Notify,
}

impl Held {
    pub(super) fn set(&self, waits: bool) {
        self.waits.store(waits, Ordering::SeqCst);
        if !waits {
            // A wish that came too late for this statement is not one for the next.
            let _late = self.cancelled.notified().now_or_never();
        }
    }

    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

/// A session's registration; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    /// Where it is registered.
    pub(super) keys: Arc<CancelKeys>,
    /// What the process is told.
    pub(super) pid: u32,
    /// What the process is told.
    pub(super) key: [u8; 4],
    /// The session's side.
    pub(super) held: Arc<Held>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.keys
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.pid);
    }
}

impl CancelKeys {
    /// Registers a session under a random number and key.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub(super) fn register(
        self: &Arc<Self>,
        address: UpstreamAddr,
        tls: Option<&UpstreamVerifier>,
        target: (u32, Bytes),
    ) -> Result<Registered, aws_lc_rs::error::Unspecified> {
        let held = Arc::<Held>::default();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (mut pid, mut key) = ([0; 4], [0; 4]);
            aws_lc_rs::rand::fill(&mut pid)?;
            aws_lc_rs::rand::fill(&mut key)?;
            // Positive, as process numbers are.
            let pid = u32::from_be_bytes(pid) >> 1;
            if pid != 0 && !sessions.contains_key(&pid) {
                let entry = Entry {
                    key,
                    address,
                    tls: tls.cloned(),
                    target,
                    held: Arc::clone(&held),
                };
                sessions.insert(pid, entry);
                return Ok(Registered {
                    keys: Arc::clone(self),
                    pid,
                    key,
                    held,
                });
            }
        }
    }

    /// Acts on a cancel request: ends a wait for approval, or asks the target. A wrong key does nothing, as with the
    /// server itself.
    pub(super) async fn cancel(&self, pid: u32, key: &[u8]) -> Result<(), LoginError> {
        let found = {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = sessions
                .get(&pid)
                .filter(|e| aws_lc_rs::constant_time::verify_slices_are_equal(&e.key, key).is_ok());
            entry.map(|e| (e.address, e.tls.clone(), e.target.clone(), Arc::clone(&e.held)))
        };
        let Some((address, tls, (target_pid, target_key), held)) = found else {
            return Ok(());
        };
        if held.waits.load(Ordering::SeqCst) {
            held.cancelled.notify_one();
            return Ok(());
        }
        let mut stream = dial_tls(address, tls.as_ref()).await?;
        say(&mut stream, words(target_pid, &target_key)).await
    }

    /// Asks the target to stop what a session does, and waits until it has heard it: the server closes the connection after
    /// it has passed the wish on.
    pub(super) async fn stop(&self, pid: u32) -> Result<(), LoginError> {
        let found = {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions
                .get(&pid)
                .map(|e| (e.address, e.tls.clone(), e.target.clone()))
        };
        let Some((address, tls, (target_pid, target_key))) = found else {
            return Ok(());
        };
        let heard = async {
            let mut stream = dial_tls(address, tls.as_ref()).await?;
            say(&mut stream, words(target_pid, &target_key)).await?;
            let mut nothing = [0; 1];
            // A server that closes without the farewell of TLS has heard it too.
            let _closed = stream.read(&mut nothing).await;
            Ok(())
        };
        tokio::time::timeout(HEARD, heard)
            .await
            .map_err(|_slow| LoginError::Io(std::io::ErrorKind::TimedOut.into()))?
    }
}

fn words(pid: u32, key: &Bytes) -> AgentSpeech {
    let mut request = BytesMut::new();
    request.put_u32(u32::try_from(12 + key.len()).unwrap_or(16));
    request.put_u32(80_877_102);
    request.put_u32(pid);
    request.extend_from_slice(key);
    AgentSpeech::cancel(request.freeze())
}
