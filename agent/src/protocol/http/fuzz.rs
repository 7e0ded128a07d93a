//! Rewriting of HTTP's answers, and the watch over its messages, for the fuzzer.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::fuzz::{cut, plan, revealing};
use crate::model::MaskCounts;
use crate::session::Recording;

use super::answer::{Masker, Next, Shape, mask_event, shape};
use super::escapes::{Format, Unescape};
use super::framing::{Noted, Watched};
use super::kept;
use super::websocket::{self, Frames, More};

/// Escapes are undone alike wherever the bytes are cut.
pub(crate) fn text(data: &[u8]) {
    let (kind, rest) = data.split_first().unwrap_or((&0, &[]));
    let format = match kind % 4 {
        0 => Format::Json,
        1 => Format::Markup,
        2 => Format::Form,
        _ => Format::Text,
    };
    let (first, second) = cut(rest);
    let plan = plan();
    let undone = |pieces: &[&[u8]]| {
        let (mut undoing, mut out, mut counts) =
            (Unescape::new(format), BytesMut::new(), MaskCounts::default());
        for piece in pieces {
            undoing.push(piece, &plan, &mut out, &mut counts);
        }
        undoing.finish(&plan, &mut out, &mut counts);
        out
    };
    assert_eq!(
        undone(&[first, second]),
        undone(&[[first, second].concat().as_slice()])
    );
}

/// An event stays one event.
pub(crate) fn events(data: &[u8]) {
    let mut event = data.to_vec();
    event.retain(|byte| *byte != 0);
    event.extend_from_slice(b"\n\n");
    let _masked = mask_event(&event, &plan(), &mut MaskCounts::default());
}

/// Messages of gRPC are masked alike wherever their bytes are cut.
pub(crate) fn grpc(data: &[u8]) {
    let (first, second) = cut(data);
    let masked = |pieces: &[&[u8]]| -> Result<Vec<u8>, &'static str> {
        let plan = plan();
        let mut masker = Masker::new(Shape::Grpc { gzip: true }, None, &plan);
        let mut out = Vec::new();
        for piece in pieces.iter().copied().map(Some).chain([None]) {
            let next = plan.apply(Next(&mut masker, None, piece), &mut MaskCounts::default());
            out.extend_from_slice(&next.into_content()?);
        }
        Ok(out)
    };
    assert_eq!(
        masked(&[first, second]),
        masked(&[[first, second].concat().as_slice()])
    );
}

/// Messages of a process in a WebSocket are read alike wherever their bytes are cut.
pub(crate) fn sent(data: &[u8]) {
    let (first, second) = cut(data);
    assert_eq!(
        websocket::sent_by_process(&[first, second]),
        websocket::sent_by_process(&[[first, second].concat().as_slice()])
    );
}

/// Messages of a WebSocket are masked alike wherever their bytes are cut.
pub(crate) fn websocket(data: &[u8]) {
    let (first, second) = cut(data);
    let masked = |pieces: &[&[u8]]| {
        let mut frames = Frames::new(plan(), None);
        let mut out = BytesMut::new();
        for piece in pieces {
            let masked = plan().apply(More(&mut frames, piece), &mut MaskCounts::default());
            out.extend_from_slice(&masked.into_content()?);
        }
        Ok::<_, &'static str>(out)
    };
    let whole = masked(&[[first, second].concat().as_slice()]);
    let halves = masked(&[first, second]);
    // What is let through before a stop may differ; whether it stops may not.
    assert_eq!(whole.is_ok(), halves.is_ok());
}

/// The watch sees the same messages wherever the bytes are cut.
pub(crate) fn framing(data: &[u8]) {
    let (first, second) = cut(data);
    let seen = |pieces: Pieces<'_>| {
        let noted = Arc::new(Noted::default());
        let mut watched = Watched::new(pieces, Arc::clone(&noted));
        let mut all = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let end = {
            let mut reading = pin!(watched.read_to_end(&mut all));
            // Pending is how a refused head waits for its answer.
            Future::poll(reading.as_mut(), &mut context).map(|end| end.is_ok())
        };
        (noted.why(), end == Poll::Ready(true))
    };
    let whole = [first, second].concat();
    assert_eq!(seen(Pieces(&[], &whole)), seen(Pieces(first, second)));
}

/// What stands in a body that nobody may see in records.
const CANARY: &[u8] = b"\n ada.canary@example.com \n";

/// What is recorded of a request, and of an answer that its process may see more of, has nothing in it that is to be hidden;
/// and of an answer the same, wherever it was cut.
pub(crate) fn kept(data: &[u8]) {
    const KINDS: [&str; 6] = [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/html",
        "text/plain",
        "text/event-stream",
        "application/octet-stream",
    ];
    let (kind, rest) = data.split_first().unwrap_or((&0, &[]));
    let kind = KINDS
        .get(usize::from(*kind) % KINDS.len())
        .copied()
        .unwrap_or_default();
    let (first, second) = cut(rest);
    let body = Bytes::from([first, CANARY, second].concat());
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let hidden = |text: &[u8]| memchr::memmem::find(text, b"ada.canary@example.com").is_none();

    let mut recording = Recording::of_nothing(1 << 20);
    kept::request(&headers, &body, &plan(), &mut recording);
    assert!(hidden(&recording.recorded().0), "{kind}");

    let Ok(shape) = shape(&headers) else { return };
    let plan = revealing("pii.email");
    let recorded = |pieces: &[&[u8]]| {
        let mut masker = Masker::new(shape, None, &plan);
        let mut kept = kept::Kept::new(Box::new(Recording::of_nothing(1 << 20)), &plan, shape, None);
        for piece in pieces.iter().copied().map(Some).chain([None]) {
            let next = plan.apply(Next(&mut masker, None, piece), &mut MaskCounts::default());
            let Ok(shown) = next.transpose() else {
                return None;
            };
            kept.piece(&shown, masker.is_blind());
        }
        kept.end();
        Some(kept.recorded())
    };
    let whole = recorded(&[&body]);
    assert!(whole.as_deref().is_none_or(hidden), "{kind}");
    assert_eq!(recorded(&[first, CANARY, second]), whole, "{kind}");
}

/// Two pieces, and the end.
struct Pieces<'a>(&'a [u8], &'a [u8]);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            self.0 = std::mem::take(&mut self.1);
        }
        let (head, rest) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(head);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}
