//! What a target speaks inside of HTTP (MCP, for example). A dialect does no IO: the relay collects, judges, records,
//! forwards and writes; the dialect says what bytes mean, and masks them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use tokio::sync::Notify;

use crate::mask::{MaskPlan, StreamMask};
use crate::model::{MaskCounts, Operation, PromptDuty, Refusal};
use crate::session::Prospects;

use super::answer::mask_event;
use super::conversation::Conversation;
use super::escapes::{Format, Unescape, masked_text, unescaped};
pub use super::kept::Conceals;
use super::later::Later;

/// What a target speaks; one value for all its connections, so it may remember (behind a lock of its own).
pub trait Speaks: Debug + Send + Sync {
    /// A dialect for one request and its answer.
    fn exchange(&self) -> Box<dyn Dialect>;
}

/// The head of a request after the relay screened it: one host, one path, no fields of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host that the request names, lower case, without the port.
    pub host: &'a str,
    /// The path as policies read it.
    pub path: &'a str,
    /// The query as sent.
    pub query: Option<&'a str>,
    /// Fields that go on to the target. No `Content-Encoding`: the relay has undone it.
    pub headers: &'a HeaderMap,
}

/// How the relay cuts an answer's body for the dialect, after the content coding is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The dialect does not look at it: the relay masks it like any other answer.
    Http,
    /// At once, as a whole; an answer that is too large for that is withheld.
    Whole,
    /// Event by event (`text/event-stream`), each with all its lines and the empty line that ends it. Comments come the
    /// same way.
    Events,
}

/// A refusal in the dialect's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its media type.
    pub content_type: &'static str,
    /// Its body. Holds nothing that came from the target.
    pub body: Vec<u8>,
    /// Further fields of its head.
    pub fields: &'static [(&'static str, &'static str)],
}

/// What goes with a request while it is judged.
pub trait Obliged: Debug + Send {
    /// The request is permitted, with what `prompt` demands of it. `None`: it goes as it came.
    ///
    /// # Errors
    /// The refusal where it cannot be masked.
    fn permitted(&mut self, prompt: &PromptDuty) -> Result<Option<Changed>, Refusal>;
}

/// A request as it goes after all.
#[derive(Debug)]
pub struct Changed {
    /// Its body.
    pub body: Bytes,
    /// What records show of it; `None`: what they would have shown.
    pub text: Option<String>,
}

/// What becomes of a request that waits for consent.
#[derive(Debug)]
pub struct Held {
    /// How long it waits.
    pub patience: Duration,
    /// What the process hears meanwhile; `None`: nothing.
    pub aloud: Option<Aloud>,
}

/// What a process hears while its request waits, as `text/event-stream`. The agent's own words.
pub struct Aloud {
    /// At once.
    pub opening: Vec<u8>,
    /// Now and then; counted from 1.
    pub beat: Box<dyn Fn(u64) -> Vec<u8> + Send>,
    /// In the place of an answer that is neither events nor JSON.
    pub otherwise: Vec<u8>,
}

impl Debug for Aloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aloud").finish_non_exhaustive()
    }
}

/// One request and its answer.
pub trait Dialect: Debug + Send {
    /// What policies say about offers of the target, for dialects that have lists of them. Comes before the request.
    fn foresee(&mut self, _prospects: Prospects) {}

    /// Whose request it is (issuer and subject in one word). Comes before the request.
    fn asks(&mut self, _principal: &str) {}

    /// What has to hear that the request was permitted. Asked for once, behind the request.
    fn obliged(&mut self) -> Option<Box<dyn Obliged>> {
        None
    }

    /// What the request asks for. Each operation must be permitted, or nothing is forwarded. Where the list is empty
    /// the request is judged as what it is in HTTP (`http.*`). The fingerprint of an operation covers everything in the
    /// body that the target acts on (not a request's number); the relay adds method, host, path and query.
    ///
    /// # Errors
    /// The refusal for what is not understood; the relay records it.
    /// `plan` masks what records show of it.
    fn request(&mut self, asked: &Asked<'_>, body: &[u8], plan: &MaskPlan)
    -> Result<Vec<Operation>, Refusal>;

    /// Who reads what is said in the WebSocket that this request asks for. It is judged as what it is in HTTP
    /// (`http.websocket`), in the place of [`Dialect::request`]. `None`: such a WebSocket is not carried.
    fn converses(&mut self, _asked: &Asked<'_>) -> Option<Box<dyn Conversation>> {
        None
    }

    /// The agent's own answer to what is no operation of the target's. Asked for once, behind the request; then nothing
    /// is judged or forwarded.
    fn own(&mut self) -> Option<Words> {
        None
    }

    /// The body that is judged and forwarded in place of the one that came: without what was for the agent. Asked for
    /// once, behind the request.
    fn body(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Where it is about an answer that is kept, or its own is kept. Asked for once, behind the request.
    fn later(&mut self) -> Option<Later> {
        None
    }

    /// The fields that go in the place of those that came. Asked for once, behind the request.
    fn fields(&mut self) -> Option<HeaderMap> {
        None
    }

    /// The request waits for consent; `pending` is what the process would be told now, `usual` how long it would wait.
    fn held(&mut self, _pending: &Refusal, usual: Duration) -> Held {
        Held {
            patience: usual,
            aloud: None,
        }
    }

    /// What tells that the process does not want to wait any longer.
    fn stop(&self) -> Option<Arc<Notify>> {
        None
    }

    /// How the answer with this head is to be cut.
    fn response(&mut self, status: StatusCode, headers: &HeaderMap) -> Cut;

    /// The masked form of a piece that was cut out. Total: what cannot be read is redacted or left out (empty).
    fn response_event(&mut self, event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8>;

    /// What is still held back when the answer is complete, masked.
    fn response_end(&mut self, _plan: &MaskPlan, _counts: &mut MaskCounts) -> Vec<u8> {
        Vec::new()
    }

    /// The stream of events cannot go on: the last words to the process, in the dialect's form.
    fn response_stopped(&mut self, _why: &str) -> Vec<u8> {
        Vec::new()
    }

    /// A refusal in the dialect's words; `None`: as a problem document.
    fn refusal(&self, refusal: &Refusal) -> Option<Words>;

    /// What takes out of an answer, for its record, the values that are put into it for the process alone. Asked for behind
    /// [`Dialect::response`].
    fn conceals(&self) -> Option<Conceals> {
        None
    }

    /// Whether one text may come in several events.
    fn splits(&self) -> bool {
        false
    }

    /// What the record of the outcome says beside the status, once the answer is through. Never data.
    fn note(&self) -> String {
        String::new()
    }
}

/// Masks one text that arrives in pieces, its escapes undone first.
#[derive(Debug)]
pub struct MaskedText {
    unescape: Unescape,
    mask: StreamMask,
    plan: MaskPlan,
}

impl MaskedText {
    /// A text of which nothing else is known; JSON where it begins like JSON.
    #[must_use]
    pub fn new(plan: &MaskPlan) -> Self {
        Self {
            unescape: Unescape::new(Format::Text),
            mask: plan.stream(),
            plan: plan.clone(),
        }
    }

    /// Takes a piece; what is decided.
    pub fn push(&mut self, piece: &[u8], counts: &mut MaskCounts) -> Vec<u8> {
        let (mut plain, mut out) = (BytesMut::new(), BytesMut::new());
        self.unescape.push(piece, &self.plan, &mut plain, counts);
        self.mask.push(&plain, &mut out);
        out.to_vec()
    }

    /// The text is complete: the rest.
    pub fn finish(self, counts: &mut MaskCounts) -> Vec<u8> {
        let Self {
            unescape,
            mut mask,
            plan,
        } = self;
        let (mut plain, mut out) = (BytesMut::new(), BytesMut::new());
        unescape.finish(&plan, &mut plain, counts);
        mask.push(&plain, &mut out);
        counts.merge(&mask.finish(&mut out));
        out.to_vec()
    }
}

/// Masks a whole JSON text as the relay masks any other.
pub fn masked_json(text: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
    masked_text(text, Format::Json, plan, counts).to_vec()
}

/// Masks a whole text of which nothing else is known.
pub fn masked_plain(text: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
    masked_text(text, Format::Text, plan, counts).to_vec()
}

/// A whole text of which nothing else is known, with its escapes undone.
#[must_use]
pub fn plain(text: &[u8], plan: &MaskPlan) -> Vec<u8> {
    unescaped(text, Format::Text, plan).to_vec()
}

/// Masks one event as the relay masks any other: its data as one text.
pub fn masked_event(event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
    mask_event(event, plan, counts).to_vec()
}
