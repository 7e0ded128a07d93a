//! A body that is not read before it is sent: judged by the head of its request, then passed on in pieces, counted, digested
//! and bounded. At no time more of it is held than one piece, and what was read before it was known to be so long.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::model::Digester;

/// How long a process may take for the next piece.
const PATIENCE: Duration = Duration::from_secs(75);

/// Why an upload does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It is longer than the target may be sent.
    TooLarge,
    /// The process sends no more of it.
    BrokeOff,
}

#[derive(Debug)]
struct State {
    /// What was read already.
    read: Option<Bytes>,
    rest: Incoming,
    sent: u64,
    digest: Digester,
    /// It was sent to its end.
    complete: bool,
    stopped: Option<Stopped>,
}

/// The body of a request that was not read. A clone is the same body.
#[derive(Debug, Clone)]
pub struct Upload {
    state: Arc<Mutex<State>>,
    /// Its length, where the head says so.
    declared: Option<u64>,
    most: u64,
}

impl Upload {
    /// What is behind a head: `read` and then `rest`, at most `most` bytes.
    #[must_use]
    pub fn new(read: Bytes, rest: Incoming, most: u64) -> Self {
        let already = u64::try_from(read.len()).unwrap_or(u64::MAX);
        let declared = rest.size_hint().exact().map(|rest| rest.saturating_add(already));
        let state = State {
            read: (!read.is_empty()).then_some(read),
            rest,
            sent: 0,
            digest: Digester::default(),
            complete: false,
            stopped: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            declared,
            most,
        }
    }

    /// Its length, where the head says so.
    #[must_use]
    pub const fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The most that may be sent of it.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    /// How many bytes of it were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    /// Why it did not go on.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.state().stopped
    }

    /// What the record of the outcome says of it.
    #[must_use]
    pub fn note(&self) -> String {
        let state = self.state();
        let digest = state.digest.clone().finish();
        let ended = state.complete || (state.read.is_none() && state.rest.is_end_stream());
        let all = state.stopped.is_none() && (ended || self.declared == Some(state.sent));
        let whole = if all { "sent" } else { "sent in part" };
        format!("upload {whole}: {} bytes, sha256 {digest}", state.sent)
    }

    /// Reads and forgets what is left, at most so many bytes.
    pub async fn drain(&self, mut most: usize) {
        let next = || {
            poll_fn(|cx| {
                let mut state = self.state();
                Pin::new(&mut state.rest).poll_frame(cx)
            })
        };
        while let Some(Ok(frame)) = next().await {
            most = most.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if most == 0 {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be sent, once.
    pub(in crate::session) fn sending(self) -> Sending {
        Sending {
            upload: self,
            patience: Box::pin(sleep(PATIENCE)),
        }
    }
}

/// An upload on its way.
#[derive(Debug)]
pub(in crate::session) struct Sending {
    upload: Upload,
    patience: Pin<Box<Sleep>>,
}

impl Sending {
    pub(in crate::session) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { upload, patience } = self;
        let mut state = upload.state();
        loop {
            let piece = match state.read.take() {
                Some(read) => read,
                None => match Pin::new(&mut state.rest).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(piece) => piece,
                        // Trailers of a request say nothing that the agent carries.
                        Err(_trailers) => continue,
                    },
                    Poll::Ready(None) => {
                        state.complete = true;
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Some(Err(error))) => {
                        state.stopped = Some(Stopped::BrokeOff);
                        return Poll::Ready(Some(Err(io::Error::other(error))));
                    }
                    Poll::Pending => {
                        return match patience.as_mut().poll(cx) {
                            Poll::Pending => Poll::Pending,
                            Poll::Ready(()) => {
                                state.stopped = Some(Stopped::BrokeOff);
                                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
                            }
                        };
                    }
                },
            };
            patience.as_mut().reset(Instant::now() + PATIENCE);
            let sent = state
                .sent
                .saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if sent > upload.most {
                state.stopped = Some(Stopped::TooLarge);
                return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
            }
            state.sent = sent;
            state.digest.update(&piece);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
    }

    pub(in crate::session) fn is_end(&self) -> bool {
        let state = self.upload.state();
        state.read.is_none() && state.rest.is_end_stream()
    }

    pub(in crate::session) fn size_hint(&self) -> SizeHint {
        match self.upload.declared {
            Some(declared) => SizeHint::with_exact(declared.saturating_sub(self.upload.sent())),
            None => SizeHint::default(),
        }
    }
}
