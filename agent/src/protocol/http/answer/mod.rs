//! What comes back from the target: decoded, masked, counted, and the outcome recorded at its end.

mod coding;
mod echo;
mod events;
mod fields;
mod grpc;
mod masker;
mod shape;

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use prost_reflect::MessageDescriptor;

use crate::config::Unreadable;
use crate::mask::{MaskPlan, Masked, NoData};
use crate::model::{MaskCounts, Outcome, OutcomeStatus};
use crate::session::{Answer, InFlight, Piece, Recording, Unkeepable, Upload};

use super::call::essence;
use super::dialect::Dialect;
use super::kept::Kept;
use super::screen::{remove, strip_connection};
pub(super) use coding::{Decoder, STEP};
pub(super) use echo::{Redact, Spellings};
pub(super) use events::mask as mask_event;
use fields::{Fields, Head};
pub(super) use grpc::{described, messages};
pub(super) use masker::{Masker, Next};
pub(super) use shape::Shape;
pub(super) use shape::shape;

/// An answer whose length is announced and at most this, in bytes, is put together before anything of it is shown, and then
/// shown at once…
const AT_ONCE: u64 = 256 * 1024;
/// …unless the rest of it takes longer than this to come.
const PATIENCE: Duration = Duration::from_millis(3);
/// Bytes that are masked at once where no coding is to be undone.
const LARGE_STEP: usize = 64 * 1024;

/// Why an answer is not shown.
#[derive(Debug)]
pub(super) struct Withheld {
    pub(super) reason: String,
    pub(super) next_step: &'static str,
}

/// Everything about a request that its answer needs.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) in_flight: InFlight,
    /// Outcomes of further operations of the same request.
    pub(super) along: Vec<InFlight>,
    /// Whether it was a HEAD.
    pub(super) is_head: bool,
    /// Bytes of its body.
    pub(super) sent: u64,
    /// The body, where it was not read.
    pub(super) upload: Option<Upload>,
    pub(super) dialect: Option<Box<dyn Dialect>>,
    /// The real credential that went with it.
    pub(super) spellings: Option<Spellings>,
    /// When the answer must be complete; a stream of events must have begun by then.
    pub(super) until: Option<Instant>,
    /// Largest body of an answer, in bytes, as the process would see it.
    pub(super) max_answer: Option<u64>,
    /// What happens to what no detector reads.
    pub(super) unreadable: Unreadable,
    /// What the messages of its answer are, where it is a call of gRPC that is described.
    pub(super) gives: Option<MessageDescriptor>,
}

impl Owed {
    /// Where the answer is recorded.
    fn recording(&mut self) -> Option<Box<Recording>> {
        let mut all = std::iter::once(&mut self.in_flight).chain(&mut self.along);
        all.find_map(|one| one.recording.take())
    }

    /// Records one outcome for every operation.
    pub(super) fn finish(self, mut outcome: Outcome) {
        outcome.bytes_up = self.sent;
        if let Some(upload) = &self.upload {
            outcome.bytes_up = upload.sent();
            outcome.detail.push_str("; ");
            outcome.detail.push_str(&upload.note());
        }
        for further in self.along {
            further.outcome.finish(outcome.clone());
        }
        self.in_flight.outcome.finish(outcome);
    }
}

/// Fields about the bytes of a body, which are others after masking and decoding, or about other ways to it.
const ABOUT_BYTES: [&str; 10] = [
    "content-length",
    "content-encoding",
    "etag",
    "accept-ranges",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "content-range",
    // Another way to the same answer.
    "alt-svc",
];

/// Shows an answer.
pub(super) async fn answer(response: Response<Incoming>, mut owed: Owed) -> Result<Answer, Withheld> {
    let (parts, body) = response.into_parts();
    let (status, mut headers) = (parts.status, parts.headers);
    let plan = owed.in_flight.plan.clone();
    let mut counts = MaskCounts::default();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(withhold(owed, "a change of protocol that nobody asked for"));
    }
    let empty = owed.is_head
        || body.is_end_stream()
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    strip_connection(&mut headers);
    let mut echoed = 0;
    if let Some(spellings) = &owed.spellings {
        echoed = spellings.redact_fields(&mut headers);
    }
    if essence(&headers) == "text/event-stream" {
        owed.until = None;
    }
    let (decoder, shape) = match (Decoder::new(&headers), shape(&headers)) {
        (Some(decoder), Ok(shape)) => (decoder, shape),
        // Without a body there is nothing to look into.
        _ if empty => (Decoder::none(), Shape::Unknown),
        (None, _) => return Err(withhold(owed, "a content coding that Interdict does not know")),
        (_, Err(charset)) => return Err(withhold(owed, &format!("the charset {charset:?}"))),
    };
    if !empty
        && owed
            .max_answer
            .is_some_and(|most| body.size_hint().lower() > most)
    {
        return Err(withhold(
            owed,
            "more than the bytes that the target may answer (max_answer)",
        ));
    }
    let recording = owed.recording();
    if !empty {
        let dialect = owed.dialect.take();
        let cut = dialect.map(|mut dialect| (dialect.response(status, &headers), dialect));
        remove(&mut headers, &ABOUT_BYTES);
        let gives = match shape {
            Shape::Grpc { gzip } if cut.is_none() => owed.gives.take().map(|of| (gzip, of)),
            Shape::Grpc { .. } | Shape::Text(_) | Shape::Events | Shape::Unknown => None,
        };
        let mut kept = recording.map(|recording| match &gives {
            Some((_gzip, of)) => Kept::described(recording, &plan, of.clone()),
            None => Kept::new(recording, &plan, shape, cut.as_ref()),
        });
        if let Some(kept) = &mut kept {
            kept.head(status, &headers);
        }
        let must_be_read = owed.unreadable == Unreadable::Refuse && shape == Shape::Unknown;
        let at_once = shape != Shape::Events && body.size_hint().exact().is_some_and(|size| size <= AT_ONCE);
        let head = plan.apply(Head(status, headers), &mut counts);
        let mut flow = Flow {
            body,
            pending: Bytes::new(),
            trailers: None,
            state: FlowState::Open,
            decoder,
            masker: match gives {
                Some((gzip, of)) => Masker::described(gzip, of),
                None => Masker::new(shape, cut, &plan),
            },
            redact: owed.spellings.clone().map(Redact::new),
            plan,
            counts,
            shown: 0,
            echoed,
            status,
            owed: Some(owed),
            taken: None,
            kept,
        };
        let mut ready = Vec::new();
        if at_once && flow.gather(&mut ready).await {
            return Ok(Answer::joined(head, ready));
        }
        if must_be_read && ready.is_empty() && flow.taken.is_none() {
            // Its first bytes tell, and may be a reason to show no head either.
            flow.taken = flow.next().await;
        }
        // Nothing of it is shown yet: there is still a place for the reason.
        if ready.is_empty()
            && let Some(Err(error)) = &flow.taken
        {
            return Err(Withheld {
                reason: format!("The target did it, but its answer is withheld: {error}."),
                next_step: "Ask for it in another form (Accept, Accept-Encoding, Accept-Charset).",
            });
        }
        let ready = stream::iter(ready.into_iter().map(|content| Ok(Piece::Content(content))));
        let pieces = stream::unfold(flow, |mut flow| async move {
            let piece = flow.next().await?;
            Some((piece, flow))
        });
        return Ok(Answer::pieces(head, ready.chain(pieces)));
    }
    bodiless((status, headers), owed, recording, counts, echoed).await
}

/// Shows an answer without a body.
async fn bodiless(
    (status, mut headers): (StatusCode, HeaderMap),
    owed: Owed,
    recording: Option<Box<Recording>>,
    mut counts: MaskCounts,
    echoed: u64,
) -> Result<Answer, Withheld> {
    let plan = owed.in_flight.plan.clone();
    remove(&mut headers, &ABOUT_BYTES);
    if let Some(recording) = recording {
        let mut kept = Kept::new(recording, &plan, Shape::Unknown, None);
        kept.head(status, &headers);
        if let Err(error) = kept.settle().await {
            return Err(unrecorded(owed, &error));
        }
    }
    let head = plan.apply(Head(status, headers), &mut counts);
    let note = if echoed > 0 {
        ": it sent the credential back, which was taken out"
    } else {
        ""
    };
    let mut outcome = outcome(status, note);
    outcome.masked = counts;
    owed.finish(outcome);
    Ok(Answer::head(head))
}

/// Shows the head of an agreed handshake; the outcome stays owed.
pub(super) fn handshake(
    status: StatusCode,
    mut headers: HeaderMap,
    plan: &MaskPlan,
    spellings: Option<&Spellings>,
) -> Answer {
    strip_connection(&mut headers);
    if let Some(spellings) = spellings {
        spellings.redact_fields(&mut headers);
    }
    remove(&mut headers, &ABOUT_BYTES);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Answer::head(plan.apply(Head(status, headers), &mut MaskCounts::default()))
}

pub(super) fn withhold(owed: Owed, what: &str) -> Withheld {
    let outcome = Outcome::bare(OutcomeStatus::Failed, "the answer was withheld");
    owed.finish(outcome);
    Withheld {
        reason: format!("The target did it, but its answer is withheld: it has {what}."),
        next_step: "Ask for it in another form (Accept, Accept-Encoding, Accept-Charset).",
    }
}

fn unrecorded(owed: Owed, error: &Unkeepable) -> Withheld {
    let outcome = Outcome::bare(OutcomeStatus::Failed, "the answer was withheld");
    owed.finish(outcome);
    Withheld {
        reason: format!("The target did it, but its answer is withheld: {error}."),
        next_step: "Tell whoever runs the agent: nothing is shown unrecorded.",
    }
}

fn outcome(status: StatusCode, note: &str) -> Outcome {
    let ended = if status.is_client_error() || status.is_server_error() {
        OutcomeStatus::Failed
    } else {
        OutcomeStatus::Completed
    };
    Outcome::bare(ended, format!("{}{note}", status.as_u16()))
}

#[derive(Debug, PartialEq, Eq)]
enum FlowState {
    Open,
    /// The target sent everything: what the decoder holds is due,
    Decoded,
    /// what the masks hold,
    Masked,
    /// the trailers and the outcome.
    Trailers,
    Done,
}

/// One body on its way.
struct Flow {
    body: Incoming,
    /// What came and is not decoded yet.
    pending: Bytes,
    trailers: Option<HeaderMap>,
    state: FlowState,
    decoder: Decoder,
    masker: Masker,
    redact: Option<Redact>,
    plan: MaskPlan,
    counts: MaskCounts,
    shown: u64,
    /// Fields that the credential was taken out of.
    echoed: u64,
    status: StatusCode,
    owed: Option<Owed>,
    /// A piece that was taken and could not be shown with those before it, or before it was recorded.
    taken: Option<io::Result<Piece>>,
    /// Where it is recorded.
    kept: Option<Kept>,
}

impl Flow {
    /// Takes pieces of content as long as they come at once; whether that is all there is.
    async fn gather(&mut self, ready: &mut Vec<Masked<Bytes>>) -> bool {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(None) => return true,
                Ok(Some(Ok(Piece::Content(content)))) => ready.push(content),
                Ok(other) => {
                    self.taken = other;
                    return false;
                }
                Err(_elapsed) => return false,
            }
        }
    }

    /// The next piece that is not empty. Cancel-safe.
    async fn next(&mut self) -> Option<io::Result<Piece>> {
        loop {
            // In the log's queue before it is shown, and before the outcome.
            if let Some(kept) = &mut self.kept
                && let Err(error) = kept.settle().await
            {
                self.kept = None;
                self.cut_off(io::Error::other(error));
            }
            if let Some(taken) = self.taken.take() {
                return Some(taken);
            }
            match self.advance().await {
                Ok(Some(Piece::Content(content))) if content.size() == 0 => {}
                Ok(Some(piece)) if self.kept.is_some() => self.taken = Some(Ok(piece)),
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => return None,
                Err(error) => self.cut_off(error),
            }
        }
    }

    /// Nothing more is shown.
    fn cut_off(&mut self, error: io::Error) {
        self.state = FlowState::Done;
        if let Some(kept) = &mut self.kept {
            kept.end();
        }
        self.end(
            OutcomeStatus::Failed,
            &format!(": the answer was cut off, {error}"),
        );
        self.taken = Some(Err(error));
    }

    async fn advance(&mut self) -> io::Result<Option<Piece>> {
        match self.state {
            FlowState::Done => Ok(None),
            FlowState::Open if self.pending.is_empty() => {
                self.read().await?;
                Ok(Some(Piece::Content(Masked::without_data(
                    Bytes::new(),
                    NoData::ProtocolState,
                ))))
            }
            FlowState::Open if self.decoder.is_identity() => {
                let step = self.pending.split_to(self.pending.len().min(LARGE_STEP));
                self.masked(Some(&step)).map(Some)
            }
            FlowState::Open => {
                let step = self.pending.split_to(self.pending.len().min(STEP));
                let plain = self.decoder.step(&step)?;
                self.masked(Some(&plain)).map(Some)
            }
            FlowState::Decoded => {
                self.state = FlowState::Masked;
                let plain = self.decoder.finish()?;
                self.masked(Some(&plain)).map(Some)
            }
            FlowState::Masked => {
                self.state = FlowState::Trailers;
                let last = self.masked(None)?;
                if let Some(kept) = &mut self.kept {
                    kept.end();
                    self.trailers.iter().for_each(|trailers| kept.trailers(trailers));
                }
                Ok(Some(last))
            }
            FlowState::Trailers => {
                self.state = FlowState::Done;
                let note = if self.masker.is_blind() {
                    ": not looked into"
                } else {
                    ""
                };
                let spellings = self.owed.as_ref().and_then(|owed| owed.spellings.clone());
                let trailers = self.trailers.take().map(|mut trailers| {
                    strip_connection(&mut trailers);
                    if let Some(spellings) = spellings {
                        self.echoed += spellings.redact_fields(&mut trailers);
                    }
                    Piece::Trailers(self.plan.apply(Fields(trailers), &mut self.counts))
                });
                self.end(OutcomeStatus::Completed, note);
                Ok(trailers)
            }
        }
    }

    /// Waits for more from the target.
    async fn read(&mut self) -> io::Result<()> {
        let until = self.owed.as_ref().and_then(|owed| owed.until);
        let frame = match until {
            None => self.body.frame().await,
            Some(until) => tokio::time::timeout_at(until.into(), self.body.frame())
                .await
                .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "a policy bounds its time"))?,
        };
        match frame {
            None => self.state = FlowState::Decoded,
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.pending = data,
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        Ok(())
    }

    /// Masks the next plain bytes, or the end.
    fn masked(&mut self, plain: Option<&[u8]>) -> io::Result<Piece> {
        let piece = self.plan.apply(
            Next(&mut self.masker, self.redact.as_mut(), plain),
            &mut self.counts,
        );
        let stop = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let content = piece.transpose().map_err(stop)?;
        let size = u64::try_from(content.size()).unwrap_or(u64::MAX);
        self.shown = self.shown.saturating_add(size);
        let owed = self.owed.as_ref();
        if self.masker.is_blind() && owed.is_some_and(|owed| owed.unreadable == Unreadable::Refuse) {
            return Err(stop(
                "no detector reads its format, which the target does not allow (unreadable)",
            ));
        }
        let most = owed.and_then(|owed| owed.max_answer);
        if most.is_some_and(|most| self.shown > most) {
            return Err(stop("it is larger than the target may answer (max_answer)"));
        }
        if let Some(kept) = &mut self.kept {
            kept.piece(&content, self.masker.is_blind());
        }
        Ok(Piece::Content(content))
    }

    fn end(&mut self, ended: OutcomeStatus, note: &str) {
        let Some(owed) = self.owed.take() else { return };
        let mut outcome = outcome(self.status, note);
        if ended != OutcomeStatus::Completed {
            outcome.status = ended;
        }
        let beside = self.masker.note();
        if !beside.is_empty() {
            outcome.detail.push_str("; ");
            outcome.detail.push_str(&beside);
        }
        outcome.bytes_down = self.shown;
        let echoed = self.echoed + self.redact.as_ref().map_or(0, |redact| redact.count);
        if echoed > 0 {
            outcome
                .detail
                .push_str(": it sent the credential back, which was taken out");
        }
        outcome.masked = std::mem::take(&mut self.counts);
        owed.finish(outcome);
    }
}

impl Drop for Flow {
    /// The process went away before the end: what it was shown until then is counted.
    fn drop(&mut self) {
        self.end(OutcomeStatus::Abandoned, ": nobody saw its end");
    }
}
