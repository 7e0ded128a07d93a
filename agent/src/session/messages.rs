//! The two promises for protocols whose bytes a library writes (HTTP): a request body type that only a permit makes,
//! and an answer type that only masked content, a refusal or the agent's own words make.
//!
//! A connection to a target is a `hyper` sender of `Permitted` bodies, a connection to the process a `hyper` service
//! of `AnswerBody`: sending anything else does not compile.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use crate::mask::Masked;
use crate::model::{Operation, Refusal, TraceContext};

use super::authorize::{Judged, Permit};
use super::downstream::RefusalWords;
use super::speech::AgentSpeech;
use super::upload::{Sending, Upload};
use super::upstream::InFlight;

/// Pieces that are together at most so many bytes are one: a frame of HTTP/2 costs more than the copy.
const SMALL: usize = 16 * 1024;

/// A judged request that goes on as a message with a head and a body.
pub trait Message: Judged {
    /// Head and body, exactly as judged, with the real credential in its place.
    fn into_message(self) -> hyper::Request<Outgoing>;
}

/// The body of a judged request.
#[derive(Debug)]
pub enum Outgoing {
    /// As it was read.
    Whole(Bytes),
    /// Judged as one that nobody has read.
    Upload(Upload),
}

/// The body of a request that was permitted. The only body type of connections to targets.
#[derive(Debug)]
pub struct Permitted(Allowed);

#[derive(Debug)]
enum Allowed {
    Whole(Option<Bytes>),
    Upload(Sending),
}

/// A meaning that goes along with a message of which it is a part, and the trace that the message names.
#[derive(Debug)]
pub struct Part(pub Arc<Operation>, pub Option<TraceContext>);

impl Judged for Part {
    fn operation(&self) -> &Arc<Operation> {
        &self.0
    }

    fn trace(&self) -> Option<TraceContext> {
        self.1
    }
}

impl Permit<Part> {
    /// What is owed for it, once the message it belongs to is on its way. Sends nothing itself.
    pub fn along(self) -> InFlight {
        self.into_parts().1
    }
}

impl<M: Message> Permit<M> {
    /// The very message that was judged, ready to be sent, and what its answer must obey.
    pub fn into_message(self) -> (hyper::Request<Permitted>, InFlight) {
        let (message, in_flight) = self.into_parts();
        let wrap = |content: Outgoing| {
            Permitted(match content {
                Outgoing::Whole(content) => Allowed::Whole((!content.is_empty()).then_some(content)),
                Outgoing::Upload(upload) => Allowed::Upload(upload.sending()),
            })
        };
        (message.into_message().map(wrap), in_flight)
    }
}

impl Body for Permitted {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut self.get_mut().0 {
            Allowed::Whole(content) => Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Allowed::Upload(sending) => sending.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Allowed::Whole(content) => content.is_none(),
            Allowed::Upload(sending) => sending.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Allowed::Whole(content) => {
                let length = content.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Allowed::Upload(sending) => sending.size_hint(),
        }
    }
}

/// A masked piece of an answer's body.
#[derive(Debug)]
pub enum Piece {
    /// Content.
    Content(Masked<Bytes>),
    /// Fields after the content (RFC 9110, 6.5).
    Trailers(Masked<HeaderMap>),
}

/// What an answer in events says before it is there, and at last the answer.
#[derive(Debug)]
pub enum Meanwhile {
    /// Whole events or comments.
    Said(AgentSpeech),
    /// The answer. JSON becomes one event; `otherwise` stands for what is neither events nor JSON.
    Answer {
        /// As it would have been given.
        answer: Answer,
        /// A whole event.
        otherwise: AgentSpeech,
    },
}

/// Frames of an answer that began before it was there.
type Frames = Pin<Box<dyn Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>;

/// Masked pieces of an answer's body, in order.
type Pieces = Pin<Box<dyn Stream<Item = std::io::Result<Piece>> + Send>>;

/// The body of what the process is answered.
pub struct AnswerBody(Content);

enum Content {
    Whole(Option<Bytes>),
    /// Masked pieces that are all there, and how many bytes they are together.
    Joined(VecDeque<Bytes>, usize),
    Pieces(Pieces),
    Held(Frames),
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut self.get_mut().0 {
            Content::Whole(content) => Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Content::Joined(pieces, left) => {
                let piece = pieces.pop_front();
                *left -= piece.as_ref().map_or(0, Bytes::len);
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            Content::Pieces(pieces) => pieces
                .as_mut()
                .poll_next(cx)
                .map(|piece| piece.map(|piece| piece.map(frame))),
            Content::Held(frames) => frames.as_mut().poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(content) => content.is_none(),
            Content::Joined(pieces, _) => pieces.is_empty(),
            Content::Pieces(_) | Content::Held(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(content) => {
                let length = content.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::Joined(_, left) => SizeHint::with_exact(u64::try_from(*left).unwrap_or(u64::MAX)),
            Content::Pieces(_) | Content::Held(_) => SizeHint::default(),
        }
    }
}

fn said(speech: AgentSpeech) -> Frames {
    Box::pin(stream::iter([Ok(Frame::data(speech.into_bytes()))]))
}

/// An answer in the words of a stream that has begun already.
fn as_events(answer: Response<AnswerBody>, otherwise: AgentSpeech) -> Frames {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "text/event-stream" => Box::pin(BodyStream::new(answer.into_body())),
        "application/json" => Box::pin(stream::once(async move {
            let whole = answer.into_body().collect().await?.to_bytes();
            let mut event = b"event: message\n".to_vec();
            for line in whole.split(|byte| matches!(byte, b'\n' | b'\r')) {
                event.extend([b"data: ", line, b"\n"].concat());
            }
            event.push(b'\n');
            Ok(Frame::data(event.into()))
        })),
        _ => said(otherwise),
    }
}

fn frame(piece: Piece) -> Frame<Bytes> {
    match piece {
        Piece::Content(content) => Frame::data(content.into_content()),
        Piece::Trailers(trailers) => Frame::trailers(trailers.into_content()),
    }
}

/// The content of an answer that is kept until the process asks for it, as it would have been shown.
#[derive(Debug, Clone)]
pub struct Kept(Bytes);

impl Kept {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing but white space.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.0.trim_ascii().is_empty()
    }
}

/// What the process is answered: masked content, or a refusal.
#[derive(Debug)]
#[must_use = "an answer is there to be given"]
pub struct Answer(Response<AnswerBody>);

impl Answer {
    /// A masked head without a body.
    pub fn head(head: Masked<(StatusCode, HeaderMap)>) -> Self {
        Self::with(head, Content::Whole(None))
    }

    /// A masked head and a body whose masked pieces are all there.
    pub fn joined(head: Masked<(StatusCode, HeaderMap)>, pieces: Vec<Masked<Bytes>>) -> Self {
        let length = pieces.iter().map(Masked::size).sum();
        let mut content: VecDeque<Bytes> = pieces.into_iter().map(Masked::into_content).collect();
        content.retain(|piece| !piece.is_empty());
        if content.len() > 1 && length <= SMALL {
            let mut whole = BytesMut::with_capacity(length);
            content.iter().for_each(|piece| whole.extend_from_slice(piece));
            content = [whole.freeze()].into();
        }
        Self::with(head, Content::Joined(content, length))
    }

    /// A masked head and a body that comes in masked pieces.
    pub fn pieces(
        head: Masked<(StatusCode, HeaderMap)>,
        pieces: impl Stream<Item = std::io::Result<Piece>> + Send + 'static,
    ) -> Self {
        Self::with(head, Content::Pieces(Box::pin(pieces)))
    }

    /// A refusal, in the protocol's words; `status` and `headers` are the agent's own.
    pub fn refuse(
        words: &impl RefusalWords,
        refusal: &Refusal,
        (status, headers): (StatusCode, HeaderMap),
    ) -> Self {
        let mut body = BytesMut::new();
        words.encode(refusal, &mut body);
        let body = (!body.is_empty()).then(|| body.freeze());
        let mut response = Response::new(AnswerBody(Content::Whole(body)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Self(response)
    }

    /// The agent's own answer, to what is no operation of the target's.
    pub fn say(speech: AgentSpeech, (status, headers): (StatusCode, HeaderMap)) -> Self {
        let body = speech.into_bytes();
        let mut response = Response::new(AnswerBody(Content::Whole((!body.is_empty()).then_some(body))));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Self(response)
    }

    /// Keeps the content instead of giving it; `None` where it breaks off, or is larger than `most` bytes.
    pub async fn keep(self, most: usize) -> Option<Kept> {
        let whole = Limited::new(self.0.into_body(), most).collect().await;
        whole.ok().map(|whole| Kept(whole.to_bytes()))
    }

    /// What was kept, between words of the agent's own.
    pub fn kept(
        (before, kept, behind): (AgentSpeech, Option<Kept>, AgentSpeech),
        (status, headers): (StatusCode, HeaderMap),
    ) -> Self {
        let mut whole = BytesMut::from(before.into_bytes());
        whole.extend_from_slice(&kept.map(|kept| kept.0).unwrap_or_default());
        whole.extend_from_slice(&behind.into_bytes());
        let mut response = Response::new(AnswerBody(Content::Whole(Some(whole.freeze()))));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Self(response)
    }

    /// An answer in events (`text/event-stream`) that begins while its operation waits.
    pub fn held(meanwhile: impl Stream<Item = Meanwhile> + Send + 'static) -> Self {
        let frames = meanwhile.flat_map(|one| match one {
            Meanwhile::Said(speech) => said(speech),
            Meanwhile::Answer { answer, otherwise } => as_events(answer.0, otherwise),
        });
        let mut response = Response::new(AnswerBody(Content::Held(Box::pin(frames))));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self(response)
    }

    /// For the service of the connection to the process.
    #[must_use]
    pub fn into_response(self) -> Response<AnswerBody> {
        self.0
    }

    fn with(head: Masked<(StatusCode, HeaderMap)>, content: Content) -> Self {
        let (status, headers) = head.into_content();
        let mut response = Response::new(AnswerBody(content));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Self(response)
    }
}
