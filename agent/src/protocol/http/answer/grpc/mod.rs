//! Messages of gRPC (its HTTP/2 mapping: a byte that says whether it is compressed, four of length, the message), masked
//! without their schema.
//!
//! Protocol Buffers say of a field only its number and how long it is: text, bytes and a message within look alike. Both
//! readings are masked: first as a message, where it is one from end to end, then what came out as text. Only where the
//! text reading still finds something does it prevail; lengths around a value that changed are written anew. Numbers are
//! not looked at: nothing could stand in their place. Where the target's schema is known, it says what is what (`described`).

mod described;

use std::io::Write;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::header::HeaderMap;
use prost_reflect::MessageDescriptor;

use crate::mask::MaskPlan;
use crate::model::MaskCounts;

use super::super::escapes::{Format, masked_text};
use super::echo::Redact;

/// Largest message, in bytes: what gRPC's own libraries take unless told otherwise.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Messages within one another that are followed; deeper ones are looked at as text.
const MAX_DEPTH: usize = 32;
/// Flag and length.
const PREFIX: usize = 5;

/// The messages of one answer.
#[derive(Debug, Default)]
pub(in super::super) struct Messages {
    waiting: BytesMut,
    /// Whether compressed ones are gzip.
    gzip: bool,
    /// What they are, where that is known.
    of: Option<MessageDescriptor>,
    /// Messages that were no Protocol Buffers and no text.
    pub(in super::super) blind: u64,
}

impl Messages {
    pub(super) fn new(gzip: bool) -> Self {
        Self {
            gzip,
            ..Self::default()
        }
    }

    /// The same for messages that are described.
    pub(super) fn described(self, of: MessageDescriptor) -> Self {
        Self { of: Some(of), ..self }
    }

    /// Takes a piece; appends messages that are complete.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
        mut redact: Option<&mut Redact>,
        out: &mut BytesMut,
    ) -> Result<(), &'static str> {
        self.waiting.extend_from_slice(piece);
        while let Some((flag, length)) = prefix(&self.waiting) {
            if length > MAX_MESSAGE {
                return Err("a message of gRPC is larger than 4 MiB");
            }
            let Some(message) = self.waiting.get(PREFIX..PREFIX + length) else {
                break;
            };
            let unpacked = match flag {
                0 => None,
                1 if self.gzip => Some(gunzip(message)?),
                _ => return Err("a message of gRPC is compressed in a way that Interdict does not know"),
            };
            let plain = unpacked.as_deref().unwrap_or(message);
            let (masked, seen) = Reading {
                plan,
                counts,
                redact: redact.as_deref_mut(),
            }
            .whole(plain, self.of.as_ref());
            self.blind += u64::from(!seen);
            out.put_u8(0);
            out.put_u32(u32::try_from(masked.len()).unwrap_or(u32::MAX));
            out.extend_from_slice(&masked);
            self.waiting.advance(PREFIX + length);
        }
        Ok(())
    }

    /// Whether the answer ends where a message does.
    pub(super) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let (flag, rest) = bytes.split_first()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some((*flag, usize::try_from(u32::from_be_bytes(*length)).ok()?))
}

/// What a message unpacks to, within bounds.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(piece.len()) > MAX_MESSAGE {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        self.0.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn gunzip(message: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut decoder = flate2::write::MultiGzDecoder::new(Bounded::default());
    let unpacked = decoder.write_all(message).and_then(|()| decoder.finish());
    let wrong = |_error| "a compressed message of gRPC cannot be unpacked, or is larger than 4 MiB";
    unpacked.map(|Bounded(bytes)| bytes).map_err(wrong)
}

/// A whole message masked, and whether it could be looked into.
pub(super) fn whole(message: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> (Vec<u8>, bool) {
    let redact = None;
    Reading { plan, counts, redact }.whole(message, None)
}

/// The same by its schema.
pub(in super::super) fn described(
    message: &[u8],
    of: &MessageDescriptor,
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> (Vec<u8>, bool) {
    let redact = None;
    Reading { plan, counts, redact }.whole(message, Some(of))
}

/// All messages of a body with these fields before it, uncompressed.
pub(in super::super) fn messages(headers: &HeaderMap, mut body: &[u8]) -> Result<Vec<Bytes>, &'static str> {
    let gzip = headers
        .get("grpc-encoding")
        .is_some_and(|coding| coding == "gzip");
    let mut all = Vec::new();
    while !body.is_empty() {
        let (flag, length) = prefix(body).ok_or("it ends within a message")?;
        let message = body
            .get(PREFIX..PREFIX.saturating_add(length))
            .ok_or("it ends within a message")?;
        all.push(match flag {
            0 => Bytes::copy_from_slice(message),
            1 if gzip => gunzip(message)?.into(),
            _ => return Err("a message is compressed in a way that Interdict does not know"),
        });
        body = body.get(PREFIX + length..).unwrap_or_default();
    }
    Ok(all)
}

/// How messages are read.
struct Reading<'a> {
    plan: &'a MaskPlan,
    counts: &'a mut MaskCounts,
    /// What takes the real credential out: within a field, so that the lengths around it follow.
    redact: Option<&'a mut Redact>,
}

impl Reading<'_> {
    fn whole(&mut self, message: &[u8], of: Option<&MessageDescriptor>) -> (Vec<u8>, bool) {
        if !self.plan.is_usable() {
            // A message without fields.
            return (Vec::new(), true);
        }
        if let Some(masked) = of.and_then(|of| self.described(message, of, 0)) {
            return (masked, true);
        }
        let read = self.fields(message, 0);
        let seen = read.is_some() || std::str::from_utf8(message).is_ok();
        let masked = read.unwrap_or_else(|| message.to_vec());
        (self.as_text(masked, false), seen)
    }

    /// What came out of one reading, masked as text where it is text, or `always`.
    fn as_text(&mut self, mut bytes: Vec<u8>, always: bool) -> Vec<u8> {
        if always || std::str::from_utf8(&bytes).is_ok() {
            let mut found = MaskCounts::default();
            let masked = masked_text(&bytes, Format::Text, self.plan, &mut found);
            if found.total() > 0 {
                self.counts.merge(&found);
                bytes = masked.to_vec();
            }
        }
        let redacted = self.redact.as_deref_mut().and_then(|redact| redact.whole(&bytes));
        redacted.unwrap_or(bytes)
    }

    /// A field's content of which nothing else is known.
    fn guessed(&mut self, content: &[u8], depth: usize) -> Vec<u8> {
        // Deeper than is followed: lengths within it make it no text, and values in it are found all the same.
        let too_deep = depth == MAX_DEPTH && is_message(content);
        let read = self
            .fields(content, depth + 1)
            .unwrap_or_else(|| content.to_vec());
        self.as_text(read, too_deep)
    }

    /// The fields of a message, masked; `None` where the bytes are no message from end to end.
    fn fields(&mut self, mut bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
        if depth > MAX_DEPTH || !is_message(bytes) {
            return None;
        }
        let mut out = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let field = Field::read(bytes)?;
            let (head, rest) = bytes.split_at_checked(field.head)?;
            let (content, rest) = rest.split_at_checked(field.length)?;
            bytes = rest;
            if !field.delimited {
                out.extend_from_slice(head);
                out.extend_from_slice(content);
                continue;
            }
            let masked = self.guessed(content, depth);
            if masked == content {
                out.extend_from_slice(head);
            } else {
                out.extend_from_slice(head.get(..field.tag)?);
                put_varint(&mut out, u64::try_from(masked.len()).ok()?);
            }
            out.extend_from_slice(&masked);
        }
        Some(out)
    }
}

fn is_message(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some(field) = Field::read(bytes) else {
            return false;
        };
        match bytes.get(field.head.saturating_add(field.length)..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}

/// Where the parts of one field are.
struct Field {
    number: u32,
    /// Bytes of its number and kind.
    tag: usize,
    /// The same with those of a length.
    head: usize,
    /// Bytes of its content.
    length: usize,
    /// Whether the length stands before it.
    delimited: bool,
}

impl Field {
    /// The field at the beginning; groups, which nothing makes any more, are none.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (tag, at) = varint(bytes)?;
        // Numbers from 1 to 2^29 - 1.
        if tag >> 3 == 0 || tag >> 32 != 0 {
            return None;
        }
        let number = u32::try_from(tag >> 3).ok()?;
        let plain = |length| Self {
            number,
            tag: at,
            head: at,
            length,
            delimited: false,
        };
        match tag & 7 {
            0 => varint(bytes.get(at..)?).map(|(_, length)| plain(length)),
            1 => Some(plain(8)),
            5 => Some(plain(4)),
            2 => {
                let (length, more) = varint(bytes.get(at..)?)?;
                Some(Self {
                    number,
                    tag: at,
                    head: at + more,
                    length: usize::try_from(length).ok()?,
                    delimited: true,
                })
            }
            _ => None,
        }
    }
}

/// A number, and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index * 7).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::echo::Spellings;
    use super::*;
    use crate::mask::MaskEngine;

    fn plan() -> MaskPlan {
        Arc::new(MaskEngine::default()).plan(&[].into())
    }

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number << 3 | 2);
        put_varint(&mut out, content.len() as u64);
        out.extend_from_slice(content);
        out
    }

    fn masked(message: &[u8]) -> Vec<u8> {
        whole(message, &plan(), &mut MaskCounts::default()).0
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short");
        [&[0], length.to_be_bytes().as_slice(), message].concat()
    }

    #[test]
    fn texts_are_masked_at_any_depth_and_lengths_follow() {
        let long = "x".repeat(200);
        let build = |mail: &str| {
            let person = [
                vec![0x08, 7],
                field(2, mail.as_bytes()),
                field(3, long.as_bytes()),
            ]
            .concat();
            [
                field(1, &person),
                field(15, &field(1, &person)),
                vec![0x1d, 1, 2, 3, 4],
            ]
            .concat()
        };
        assert_eq!(masked(&build("ada@example.com")), build("a***@e***.com"));
        assert_eq!(masked(&build("nobody")), build("nobody"));
        // JSON in a field, its escapes undone.
        let json = field(4, br#"{"m":"ada\u0040example.com"}"#);
        assert_eq!(masked(&json), field(4, br#"{"m":"a***@e***.com"}"#));
        // What is no message is text.
        assert_eq!(masked(b"got ada@example.com"), b"got a***@e***.com");
        let (bytes, seen) = whole(&[0xff, 0xfe, 0x00], &plan(), &mut MaskCounts::default());
        assert!(!seen && bytes == [0xff, 0xfe, 0x00]);
        // Deeper than is followed: as text, which may break the message, but shows nothing.
        let deep = (0..100).fold(b"ada@example.com".to_vec(), |inner, _| field(1, &inner));
        assert!(memchr::memmem::find(&masked(&deep), b"ada@example.com").is_none());
    }

    #[test]
    fn an_echoed_credential_is_cut_out_and_the_lengths_around_it_follow() {
        let echo = |secret: &str| {
            let inner = [
                field(1, format!("Bearer {secret}, ada@example.com").as_bytes()),
                vec![0x10, 7],
            ]
            .concat();
            [
                field(3, &inner),
                field(4, b"\xff\xfe"),
                field(5, &[&[0xff], secret.as_bytes()].concat()),
            ]
            .concat()
        };
        let long = format!("the-real-key-{}", "x".repeat(200));
        for secret in ["the-real-key", &long] {
            let mut redact = Redact::new(Spellings::new(secret.as_bytes(), None).expect("long"));
            let (mut messages, mut out) = (Messages::new(false), BytesMut::new());
            let frames = [framed(&echo(secret)), framed(&echo("another"))].concat();
            for piece in frames.chunks(7) {
                let counts = &mut MaskCounts::default();
                messages
                    .push(piece, &plan(), counts, Some(&mut redact), &mut out)
                    .expect("read");
            }
            assert!(messages.is_complete());
            let masked = |secret: &str| {
                let inner = [
                    field(1, format!("Bearer {secret}, a***@e***.com").as_bytes()),
                    vec![0x10, 7],
                ]
                .concat();
                [
                    field(3, &inner),
                    field(4, b"\xff\xfe"),
                    field(5, &[&[0xff], secret.as_bytes()].concat()),
                ]
                .concat()
            };
            let expected = [framed(&masked("[credential]")), framed(&masked("another"))].concat();
            assert_eq!(out.to_vec(), expected);
            assert_eq!(redact.count, 2);
        }
    }

    #[test]
    fn compressed_messages_are_unpacked_and_the_unknown_stops() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&field(1, b"ada@example.com")).expect("packed");
        let packed = packer.finish().expect("packed");
        let mut frame = framed(&packed);
        frame[0] = 1;
        let push = |gzip, bytes: &[u8]| {
            let mut out = BytesMut::new();
            let result = Messages::new(gzip).push(bytes, &plan(), &mut MaskCounts::default(), None, &mut out);
            result.map(|()| out.to_vec())
        };
        assert_eq!(push(true, &frame), Ok(framed(&field(1, b"a***@e***.com"))));
        assert!(push(false, &frame).is_err());
        assert!(push(true, &[1, 0, 0, 0, 1, 9]).is_err());
        assert!(push(true, &[0, 0xff, 0, 0, 0]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_does_not_matter_where_messages_are_cut(cut in 0usize..80, number in 1u64..1000, text in "[ -~]{0,20}") {
            let one = framed(&field(number, format!("{text} bob@example.org").as_bytes()));
            let all = [one.clone(), framed(&[]), one].concat();
            let run = |pieces: [&[u8]; 2]| {
                let (mut messages, mut out) = (Messages::new(false), BytesMut::new());
                for piece in pieces {
                    messages.push(piece, &plan(), &mut MaskCounts::default(), None, &mut out).expect("read");
                }
                assert!(messages.is_complete());
                out.to_vec()
            };
            let cut = cut.min(all.len());
            let whole = run([&all, &[]]);
            prop_assert_eq!(run([&all[..cut], &all[cut..]]), whole.clone());
            prop_assert!(memchr::memmem::find(&whole, b"bob@example.org").is_none());
        }

        #[test]
        fn any_bytes_are_read_without_end_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _any = whole(&bytes, &plan(), &mut MaskCounts::default());
        }
    }
}
