//! Frames of a target (RFC 6455, chapter 5): read as they arrive, each message masked as one text, written anew. A large
//! frame may come out as several fragments; a small one stays one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mask::{MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::super::answer::{Masker, Next, Redact, Shape, Spellings};
use super::super::escapes::{Format, masked_text};
use super::{BINARY, CLOSE, CONTINUATION, CONTROL, PING, PONG, Stop, TEXT};

/// Masked bytes that are collected before a fragment is written.
const FRAGMENT: usize = 64 * 1024;
/// A message that is not complete.
#[derive(Debug)]
struct Message {
    masker: Masker,
    redact: Option<Redact>,
    /// What the next fragment begins with: the message's kind, then "continuation".
    opcode: u8,
    /// Masked bytes that are not written.
    ready: BytesMut,
}

impl Message {
    fn write(&mut self, last: bool, out: &mut BytesMut) {
        frame(last, self.opcode, &self.ready, out);
        self.ready.clear();
        self.opcode = CONTINUATION;
    }
}

/// A data frame whose payload is being read.
#[derive(Debug, Clone, Copy)]
struct Payload {
    left: u64,
    last: bool,
}

/// Reads and masks the frames of one direction.
#[derive(Debug)]
pub(in crate::protocol::http) struct Frames {
    plan: MaskPlan,
    spellings: Option<Spellings>,
    /// A head, or a control frame, that is not complete.
    buffer: BytesMut,
    payload: Option<Payload>,
    message: Option<Message>,
    closed: bool,
}

impl Frames {
    pub(in crate::protocol::http) fn new(plan: MaskPlan, spellings: Option<Spellings>) -> Self {
        Self {
            plan,
            spellings,
            buffer: BytesMut::new(),
            payload: None,
            message: None,
            closed: false,
        }
    }

    pub(super) const fn plan(&self) -> &MaskPlan {
        &self.plan
    }

    fn push(
        &mut self,
        piece: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
        out: &mut BytesMut,
    ) -> Result<(), Stop> {
        self.buffer.extend_from_slice(piece);
        loop {
            if let Some(payload) = self.payload {
                if payload.left > 0 && self.buffer.is_empty() {
                    return Ok(());
                }
                self.data(payload, plan, counts, out)?;
            } else if !self.head(plan, counts, out)? {
                return Ok(());
            }
        }
    }

    /// The next head, and the whole frame where it is one of control. `false`: it is not complete.
    fn head(&mut self, plan: &MaskPlan, counts: &mut MaskCounts, out: &mut BytesMut) -> Result<bool, Stop> {
        let (Some(first), Some(second)) = (self.buffer.first().copied(), self.buffer.get(1).copied()) else {
            return Ok(false);
        };
        if self.closed {
            return Err("a frame came after the one that closes");
        }
        if first & 0x70 != 0 {
            return Err("a frame uses an extension that was not agreed on");
        }
        if second & 0x80 != 0 {
            return Err("a frame of the target is masked");
        }
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let Some((long, length)) = self.length(second) else {
            return Ok(false);
        };
        if length > u64::MAX / 2 {
            return Err("the length of a frame is no length");
        }
        match (opcode, &self.message) {
            (CONTINUATION, Some(_)) => {}
            (TEXT | BINARY, None) => {
                let shape = if opcode == TEXT {
                    Shape::Text(Format::Text)
                } else {
                    Shape::Unknown
                };
                self.message = Some(Message {
                    masker: Masker::new(shape, None, plan),
                    redact: self.spellings.clone().map(Redact::new),
                    opcode,
                    ready: BytesMut::new(),
                });
            }
            (CLOSE | PING | PONG, _) => {
                let size = usize::try_from(length).unwrap_or(usize::MAX);
                if !last || size > CONTROL {
                    return Err("a control frame is too long, or in parts");
                }
                if self.buffer.len() < long + size {
                    return Ok(false);
                }
                self.buffer.advance(long);
                let payload = self.buffer.split_to(size);
                self.control(opcode, &payload, plan, counts, out);
                return Ok(true);
            }
            _ => return Err("a frame has a kind that does not fit here"),
        }
        self.buffer.advance(long);
        self.payload = Some(Payload { left: length, last });
        Ok(true)
    }

    /// Length of the head and of the payload.
    fn length(&self, second: u8) -> Option<(usize, u64)> {
        let mut rest = self.buffer.get(2..)?;
        match second & 0x7f {
            126 if rest.len() >= 2 => Some((4, rest.get_u16().into())),
            127 if rest.len() >= 8 => Some((10, rest.get_u64())),
            126 | 127 => None,
            short => Some((2, short.into())),
        }
    }

    fn control(
        &mut self,
        opcode: u8,
        payload: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
        out: &mut BytesMut,
    ) {
        self.closed = opcode == CLOSE;
        control(opcode, payload, plan, counts, out);
    }

    fn data(
        &mut self,
        payload: Payload,
        plan: &MaskPlan,
        counts: &mut MaskCounts,
        out: &mut BytesMut,
    ) -> Result<(), Stop> {
        let Some(message) = self.message.as_mut() else {
            return Err("a frame belongs to no message");
        };
        let here = usize::try_from(payload.left)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        let piece = self.buffer.split_to(here);
        let left = payload
            .left
            .saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
        let masked = Next(&mut message.masker, message.redact.as_mut(), Some(&piece)).mask(plan, counts)?;
        message.ready.extend_from_slice(&masked);
        if left > 0 {
            self.payload = Some(Payload { left, ..payload });
            if message.ready.len() >= FRAGMENT {
                message.write(false, out);
            }
            return Ok(());
        }
        self.payload = None;
        if payload.last {
            let rest = Next(&mut message.masker, message.redact.as_mut(), None).mask(plan, counts)?;
            message.ready.extend_from_slice(&rest);
            message.write(true, out);
            self.message = None;
        } else if !message.ready.is_empty() {
            message.write(false, out);
        }
        Ok(())
    }
}

/// A frame of control, its payload masked.
pub(super) fn control(
    opcode: u8,
    payload: &[u8],
    plan: &MaskPlan,
    counts: &mut MaskCounts,
    out: &mut BytesMut,
) {
    if opcode != CLOSE {
        let masked = masked_text(payload, Format::Text, plan, counts);
        return frame(true, opcode, masked.get(..CONTROL).unwrap_or(&masked), out);
    }
    let (code, reason) = payload.split_at_checked(2).unwrap_or((payload, &[]));
    let reason = masked_text(reason, Format::Text, plan, counts);
    let closing = with_reason(code, &String::from_utf8_lossy(&reason));
    frame(true, CLOSE, &closing, out);
}

/// What a frame that closes holds: a reason must be UTF-8 as a whole.
fn with_reason(code: &[u8], reason: &str) -> BytesMut {
    let mut closing = BytesMut::from(code);
    for letter in reason.chars() {
        if closing.len() + letter.len_utf8() > CONTROL {
            break;
        }
        closing.put_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    }
    closing
}

/// The frame with which a server closes.
pub(super) fn closing(code: u16, reason: &str) -> Bytes {
    let mut out = BytesMut::new();
    frame(true, CLOSE, &with_reason(&code.to_be_bytes(), reason), &mut out);
    out.freeze()
}

/// Appends one frame, as a server writes it.
pub(super) fn frame(last: bool, opcode: u8, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(opcode | if last { 0x80 } else { 0 });
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => out.put_u8(short),
        (_, Ok(middle)) => {
            out.put_u8(126);
            out.put_u16(middle);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        }
    }
    out.put_slice(payload);
}

/// The next bytes of the target.
pub(in crate::protocol::http) struct More<'a>(
    pub(in crate::protocol::http) &'a mut Frames,
    pub(in crate::protocol::http) &'a [u8],
);

impl Maskable for More<'_> {
    type Output = Result<Bytes, Stop>;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Self::Output {
        let Self(frames, piece) = self;
        let mut out = BytesMut::new();
        frames.push(piece, plan, counts, &mut out)?;
        Ok(out.freeze())
    }
}

/// What the process sees of these pieces.
#[cfg(test)]
pub(in super::super) fn shown(pieces: &[&[u8]], plan: &MaskPlan) -> Result<Vec<u8>, Stop> {
    let mut frames = Frames::new(plan.clone(), None);
    let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
    for piece in pieces {
        frames.push(piece, plan, &mut counts, &mut out)?;
    }
    Ok(out.to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::MaskEngine;

    fn framed(frames: &[(bool, u8, &[u8])]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for (last, opcode, payload) in frames {
            frame(*last, *opcode, payload, &mut out);
        }
        out.to_vec()
    }

    fn masked(pieces: &[&[u8]]) -> Result<Vec<u8>, Stop> {
        let plan = Arc::new(MaskEngine::default()).plan(&[].into());
        shown(pieces, &plan)
    }

    /// Messages and control frames, whatever the fragments.
    fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let (mut all, mut open) = (Vec::new(), None);
        while bytes.has_remaining() {
            let first = bytes.get_u8();
            let length = match bytes.get_u8() {
                126 => usize::from(bytes.get_u16()),
                127 => usize::try_from(bytes.get_u64()).expect("small"),
                short => usize::from(short),
            };
            let payload = bytes.copy_to_bytes(length).to_vec();
            if first & 0x0f >= 8 {
                all.push((first & 0x0f, payload));
                continue;
            }
            let message = open.get_or_insert((first & 0x0f, Vec::new()));
            message.1.extend(payload);
            if first & 0x80 != 0 {
                all.extend(open.take());
            }
        }
        all
    }

    #[test]
    fn messages_are_masked_wherever_their_bytes_are_cut() {
        let long = "x ".repeat(40_000);
        let sent = framed(&[
            (true, TEXT, b"hello"),
            (false, TEXT, b"mail ada@exam"),
            (true, PING, b"p"),
            (false, CONTINUATION, b""),
            (true, CONTINUATION, b"ple.com."),
            (true, BINARY, b"\0\x01ada@example.com"),
            (true, BINARY, b"{\"mail\":\"ada\\u0040example.com\"}"),
            (true, TEXT, b""),
            (true, CLOSE, b"\x03\xe8bye ada@example.com"),
        ]);
        let expected: Vec<(u8, Vec<u8>)> = vec![
            (TEXT, b"hello".to_vec()),
            (PING, b"p".to_vec()),
            (TEXT, b"mail a***@e***.com.".to_vec()),
            (BINARY, b"\0\x01ada@example.com".to_vec()),
            (BINARY, b"{\"mail\":\"a***@e***.com\"}".to_vec()),
            (TEXT, Vec::new()),
            (CLOSE, b"\x03\xe8bye a***@e***.com".to_vec()),
        ];
        for cut in 0..=sent.len() {
            let (one, two) = sent.split_at(cut);
            let seen = masked(&[one, two]).expect("frames");
            assert_eq!(messages(&seen), expected, "{cut}");
        }
        let whole = framed(&[(true, TEXT, long.as_bytes())]);
        let pieces: Vec<&[u8]> = whole.chunks(1000).collect();
        let seen = messages(&masked(&pieces).expect("frames"));
        assert!(seen == [(TEXT, long.clone().into_bytes())]);
    }

    #[test]
    fn what_is_no_frame_of_a_target_ends_it() {
        let table: [(&[u8], &str); 8] = [
            (b"\xc1\x01x", "extension"),
            (b"\x81\x81\0\0\0\0x", "masked"),
            (b"\x80\x01x", "kind"),
            (b"\x83\x01x", "kind"),
            (b"\x01\x01x\x81\x01y", "kind"),
            (b"\x09\x00", "in parts"),
            (b"\x89\x7e\x00\x80", "too long"),
            (b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "no length"),
        ];
        for (bytes, expected) in table {
            let why = masked(&[bytes]).expect_err(expected);
            assert!(why.contains(expected), "{why}");
        }
        assert!(masked(&[b"\x88\x00\x81\x00"]).is_err());
    }
}
