//! Masks one body as it arrives.

use bytes::{Bytes, BytesMut};
use prost_reflect::MessageDescriptor;

use crate::mask::{MaskPlan, Maskable, StreamMask};
use crate::model::MaskCounts;

use super::super::dialect::{Cut, Dialect};
use super::super::escapes::Unescape;
use super::echo::Redact;
use super::events::{Cutter, mask};
use super::grpc::Messages;
use super::shape::{Shape, Sniffed, sniff};

/// Largest answer that a dialect gets as a whole.
const MAX_WHOLE: usize = 16 * 1024 * 1024;

/// Why a stream of events ends before its end.
const TOO_LARGE: Stop = "an event is larger than 4 MiB";

/// Masks one body. Nothing of it is out that was not looked at, but for formats that no detector reads.
#[derive(Debug)]
pub(in super::super) enum Masker {
    Text(Box<(Unescape, StreamMask)>),
    Events(Cutter, Option<Box<dyn Dialect>>),
    Whole(BytesMut, Box<dyn Dialect>),
    Messages(Messages),
    /// First bytes that say nothing yet.
    Unknown(BytesMut),
    /// No detector reads it.
    Binary,
    /// The end, and what the dialect says of it.
    Done(String),
}

/// Why a body cannot go on.
pub(in super::super) type Stop = &'static str;

impl Masker {
    pub(in super::super) fn new(
        shape: Shape,
        dialect: Option<(Cut, Box<dyn Dialect>)>,
        plan: &MaskPlan,
    ) -> Self {
        match (dialect, shape) {
            (Some((Cut::Whole, dialect)), _) => Self::Whole(BytesMut::new(), dialect),
            (Some((Cut::Events, dialect)), _) => Self::Events(Cutter::default(), Some(dialect)),
            (Some((Cut::Http, _)) | None, Shape::Events) => Self::Events(Cutter::default(), None),
            (Some((Cut::Http, _)) | None, Shape::Text(format)) => {
                Self::Text(Box::new((Unescape::new(format), plan.stream())))
            }
            (Some((Cut::Http, _)) | None, Shape::Grpc { gzip }) => Self::Messages(Messages::new(gzip)),
            (Some((Cut::Http, _)) | None, Shape::Unknown) => Self::Unknown(BytesMut::new()),
        }
    }

    /// For messages of gRPC that are described.
    pub(in super::super) fn described(gzip: bool, of: MessageDescriptor) -> Self {
        Self::Messages(Messages::new(gzip).described(of))
    }

    /// Whether its bytes are not looked at.
    pub(in super::super) const fn is_blind(&self) -> bool {
        match self {
            Self::Binary => true,
            Self::Messages(messages) => messages.blind > 0,
            Self::Text(_) | Self::Events(..) | Self::Whole(..) | Self::Unknown(_) | Self::Done(_) => false,
        }
    }

    /// What the dialect says beside the status.
    pub(super) fn note(&self) -> String {
        match self {
            Self::Events(_, Some(dialect)) | Self::Whole(_, dialect) => dialect.note(),
            Self::Done(note) => note.clone(),
            Self::Text(_) | Self::Messages(_) | Self::Events(_, None) | Self::Unknown(_) | Self::Binary => {
                String::new()
            }
        }
    }

    /// `redact` for what has to take the credential out itself; other bodies are looked through behind the mask.
    fn push(
        &mut self,
        piece: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
        redact: Option<&mut Redact>,
    ) -> Result<BytesMut, Stop> {
        let mut out = BytesMut::new();
        match self {
            Self::Text(text) => {
                let (unescape, stream) = &mut **text;
                stream.push_by(&mut out, |text| unescape.push(piece, plan, text, counts));
            }
            Self::Events(cutter, dialect) => {
                cutter.push(piece);
                loop {
                    let event = match cutter.next() {
                        Ok(Some(event)) => event,
                        Ok(None) => break,
                        Err(_too_large) => {
                            // Its words first: the next piece finds the end.
                            let words = dialect
                                .as_mut()
                                .map(|dialect| dialect.response_stopped(TOO_LARGE));
                            let words = words.filter(|words| !words.is_empty()).ok_or(TOO_LARGE)?;
                            out.extend_from_slice(&words);
                            let note = dialect.as_ref().map(|dialect| dialect.note());
                            *self = Self::Done(note.unwrap_or_default());
                            break;
                        }
                    };
                    out.extend_from_slice(&one(&event, dialect, plan, counts));
                }
            }
            Self::Whole(whole, _) => {
                if whole.len().saturating_add(piece.len()) > MAX_WHOLE {
                    return Err("it is larger than 16 MiB");
                }
                whole.extend_from_slice(piece);
            }
            Self::Unknown(first) => {
                first.extend_from_slice(piece);
                let first = first.clone();
                self.settle(&first, false, plan)?;
                if !matches!(self, Self::Unknown(_)) {
                    return self.push(&first, plan, counts, redact);
                }
            }
            Self::Messages(messages) => messages.push(piece, plan, counts, redact, &mut out)?,
            Self::Binary => out.extend_from_slice(piece),
            Self::Done(_) => return Err("it goes on behind its end"),
        }
        Ok(out)
    }

    /// Decides what unknown bytes are, once they tell.
    fn settle(&mut self, first: &[u8], complete: bool, plan: &MaskPlan) -> Result<(), Stop> {
        match sniff(first, complete) {
            Sniffed::More => {}
            Sniffed::Wide => return Err("it is text in an encoding that Interdict cannot look into"),
            Sniffed::Binary => *self = Self::Binary,
            Sniffed::Text => *self = Self::new(Shape::Text(super::super::escapes::Format::Text), None, plan),
        }
        Ok(())
    }

    fn finish(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Result<BytesMut, Stop> {
        let mut out = BytesMut::new();
        if let Self::Unknown(first) = self {
            let first = std::mem::take(first);
            self.settle(&first, true, plan)?;
            out = self.push(&first, plan, counts, None)?;
        }
        match std::mem::replace(self, Self::Done(String::new())) {
            Self::Text(text) => {
                let (unescape, mut stream) = *text;
                stream.push_by(&mut out, |text| unescape.finish(plan, text, counts));
                counts.merge(&stream.finish(&mut out));
            }
            Self::Events(mut cutter, mut dialect) => {
                let rest = cutter.rest();
                if !rest.is_empty() {
                    out.extend_from_slice(&one(&rest, &mut dialect, plan, counts));
                }
                if let Some(mut dialect) = dialect {
                    out.extend_from_slice(&dialect.response_end(plan, counts));
                    *self = Self::Done(dialect.note());
                }
            }
            Self::Whole(whole, mut dialect) => {
                out.extend_from_slice(&dialect.response_event(&whole, plan, counts));
                *self = Self::Done(dialect.note());
            }
            Self::Messages(messages) => {
                if !messages.is_complete() {
                    return Err("it ends within a message of gRPC");
                }
                *self = Self::Messages(messages);
            }
            Self::Binary => *self = Self::Binary,
            Self::Done(note) => *self = Self::Done(note),
            Self::Unknown(_) => {}
        }
        Ok(out)
    }
}

fn one(
    event: &[u8],
    dialect: &mut Option<Box<dyn Dialect>>,
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> Vec<u8> {
    match dialect {
        // The line feed after the carriage return that ended an event.
        _ if event.iter().all(|b| matches!(b, b'\r' | b'\n')) => event.to_vec(),
        Some(dialect) => dialect.response_event(event, plan, counts),
        None => mask(event, plan, counts).to_vec(),
    }
}

/// The next piece of a body, or its end (`None`).
#[derive(Debug)]
pub(in super::super) struct Next<'a>(
    pub(in super::super) &'a mut Masker,
    pub(in super::super) Option<&'a mut Redact>,
    pub(in super::super) Option<&'a [u8]>,
);

impl Maskable for Next<'_> {
    type Output = Result<Bytes, Stop>;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Self::Output {
        let Self(masker, mut redact, piece) = self;
        let out = match piece {
            Some(piece) => masker.push(piece, plan, counts, redact.as_deref_mut()),
            None => masker.finish(plan, counts),
        }?;
        // Last, when escapes are undone.
        let Some(redact) = redact.filter(|_| !matches!(masker, Masker::Messages(_))) else {
            return Ok(out.freeze());
        };
        let mut shown = redact.push(&out);
        if piece.is_none() {
            shown.extend_from_slice(&redact.finish());
        }
        Ok(shown.freeze())
    }
}
