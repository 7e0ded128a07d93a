//! Frames of the process (RFC 6455, chapter 5): read into whole messages, each of which is judged, and written anew. Where
//! messages of the target are read as wholes, its frames are read here too.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mask::MaskPlan;
use crate::model::{Action, Digest, Facts, Fingerprint, HttpFacts, Operation};
use crate::session::{Neutral, NeutralReason, Recording, Request};

use super::super::{kept, shown};
use super::{BINARY, CLOSE, CONTINUATION, CONTROL, PING, PONG, Stop, TEXT};

/// Head and key of the largest frame.
const LONGEST_HEAD: usize = 14;

/// Something that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A whole message: whether it is text, and its content.
    Message(bool, Bytes),
    /// A frame of control; it may come within a message.
    Control(Control),
}

/// A frame of control.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) opcode: u8,
    pub(super) payload: Bytes,
}

impl Control {
    /// Whether nothing comes after it.
    pub(super) const fn closes(&self) -> bool {
        self.opcode == CLOSE
    }
}

impl Neutral for Control {
    fn reason(&self) -> NeutralReason {
        NeutralReason::WebSocketControl
    }

    fn encode(self, out: &mut BytesMut) {
        frame(self.opcode, &self.payload, out);
    }
}

/// Reads frames of one side.
#[derive(Debug)]
pub(super) struct Reader {
    most: usize,
    buffer: BytesMut,
    message: Option<(bool, BytesMut)>,
    /// Whether payloads are hidden behind a key: the process's are (RFC 6455, 5.1).
    keyed: bool,
}

impl Reader {
    /// Of the process. `most`: the largest message, in bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            buffer: BytesMut::new(),
            message: None,
            keyed: true,
        }
    }

    /// Of the target.
    pub(super) fn of_target(most: usize) -> Self {
        Self {
            keyed: false,
            ..Self::new(most)
        }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// What is complete; `None`: more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Sent>, Stop> {
        while let Some(head) = self.head()? {
            let Head {
                first,
                long,
                length,
                key,
            } = head;
            if self.buffer.len() < long + length {
                return Ok(None);
            }
            self.buffer.advance(long);
            let mut payload = self.buffer.split_to(length);
            for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
            let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
            if matches!(opcode, CLOSE | PING | PONG) {
                let payload = payload.freeze();
                return Ok(Some(Sent::Control(Control { opcode, payload })));
            }
            let (text, mut whole) = match (opcode, self.message.take()) {
                (CONTINUATION, Some(open)) => open,
                (TEXT | BINARY, None) => (opcode == TEXT, BytesMut::new()),
                _ => return Err("a frame has a kind that does not fit here"),
            };
            whole.unsplit(payload);
            if last {
                if text && std::str::from_utf8(&whole).is_err() {
                    return Err("a text is no UTF-8");
                }
                return Ok(Some(Sent::Message(text, whole.freeze())));
            }
            self.message = Some((text, whole));
        }
        Ok(None)
    }

    /// The head at the beginning of what was read.
    fn head(&self) -> Result<Option<Head>, Stop> {
        let mut rest = self
            .buffer
            .get(..self.buffer.len().min(LONGEST_HEAD))
            .unwrap_or_default();
        let [first, second, after @ ..] = rest else {
            return Ok(None);
        };
        let (first, second) = (*first, *second);
        rest = after;
        if first & 0x70 != 0 {
            return Err("a frame uses an extension that was not agreed on");
        }
        match (self.keyed, second & 0x80 != 0) {
            (true, false) => return Err("a frame of the process is not masked"),
            (false, true) => return Err("a frame of the target is masked"),
            (true, true) | (false, false) => {}
        }
        let (more, length) = match second & 0x7f {
            126 if rest.len() >= 2 => (2, u64::from(rest.get_u16())),
            127 if rest.len() >= 8 => (8, rest.get_u64()),
            126 | 127 => return Ok(None),
            short => (0, u64::from(short)),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if first & 0x08 != 0 && (first & 0x80 == 0 || length > CONTROL) {
            return Err("a control frame is too long, or in parts");
        }
        let before = self.message.as_ref().map_or(0, |(_, whole)| whole.len());
        if first & 0x08 == 0 && before.saturating_add(length) > self.most {
            return Err(TOO_LARGE);
        }
        let key = match (self.keyed, rest.first_chunk::<4>()) {
            (true, Some(key)) => *key,
            (true, None) => return Ok(None),
            (false, _) => [0; 4],
        };
        Ok(Some(Head {
            first,
            long: if self.keyed { 6 } else { 2 } + more,
            length,
            key,
        }))
    }
}

/// Why a message is not taken that could be read.
pub(super) const TOO_LARGE: Stop = "a message is larger than the target's max_body";

struct Head {
    first: u8,
    /// Bytes of the head itself.
    long: usize,
    /// Bytes of the payload.
    length: usize,
    /// Zeros change nothing.
    key: [u8; 4],
}

/// The frame with which a client closes.
pub(super) fn closing(code: u16) -> Bytes {
    let mut out = BytesMut::new();
    frame(CLOSE, &code.to_be_bytes(), &mut out);
    out.freeze()
}

/// Appends one text, as a client writes it.
pub(super) fn text(payload: &[u8], out: &mut BytesMut) {
    frame(TEXT, payload, out);
}

/// Appends one frame, as a client writes it: masked with a key that nobody can foresee (RFC 6455, 5.3).
fn frame(opcode: u8, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(opcode | 0x80);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => out.put_u8(short | 0x80),
        (_, Ok(middle)) => {
            out.put_u8(126 | 0x80);
            out.put_u16(middle);
        }
        _ => {
            out.put_u8(127 | 0x80);
            out.put_u64(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        }
    }
    let mut key = [0; 4];
    if aws_lc_rs::rand::fill(&mut key).is_err() {
        tracing::debug!("no random key for a frame");
    }
    out.put_slice(&key);
    out.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// A message with what it means.
#[derive(Debug)]
pub(super) struct Message {
    text: bool,
    payload: Bytes,
    operation: Arc<Operation>,
}

impl Message {
    /// `handshake`: what the WebSocket began with; a message goes where that went.
    pub(super) fn new(handshake: &Operation, text: bool, payload: Bytes, plan: &MaskPlan) -> Self {
        let Facts::Http(to) = &handshake.facts else {
            return Self {
                text,
                payload,
                operation: Arc::new(handshake.clone()),
            };
        };
        let parsed = crate::json::parse(&payload).ok();
        let content_type = match (&parsed, text) {
            (Some(_), _) => "application/json",
            (None, true) => "text/plain",
            (None, false) => "application/octet-stream",
        };
        let facts = HttpFacts {
            method: "MESSAGE".into(),
            headers: [].into(),
            content_type: content_type.into(),
            body_bytes: u64::try_from(payload.len()).unwrap_or(u64::MAX),
            input: parsed.and_then(|value| crate::json::facts(&value).ok()),
            ..to.clone()
        };
        let mut shown_text = handshake.text.replacen("GET", "MESSAGE", 1);
        let excerpt = shown::body(content_type, &payload, plan);
        if !excerpt.is_empty() {
            shown_text.push_str("\n\n");
            shown_text.push_str(&excerpt);
        }
        let port = to.port.to_be_bytes();
        let fields: [&[u8]; 6] = [
            b"websocket",
            to.host.as_bytes(),
            &port,
            handshake.text.as_bytes(),
            &[u8::from(text)],
            &payload,
        ];
        let operation = Operation {
            actions: [Action::HttpWebSocket].into(),
            facts: Facts::Http(facts),
            text: shown_text,
            fingerprint: Fingerprint(Digest::of_fields(&fields)),
            parameters: Vec::new(),
        };
        Self {
            text,
            payload,
            operation: Arc::new(operation),
        }
    }
}

impl Request for Message {
    fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    fn encode(self, out: &mut BytesMut) {
        frame(if self.text { TEXT } else { BINARY }, &self.payload, out);
    }

    fn record(&self, plan: &MaskPlan, recording: &mut Recording) {
        kept::message(self.text, &self.payload, plan, recording);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame(opcode, payload, &mut out);
        if !last {
            out[0] &= 0x7f;
        }
        out.to_vec()
    }

    fn read(pieces: &[&[u8]], most: usize) -> Result<Vec<Sent>, Stop> {
        let (mut reader, mut all) = (Reader::new(most), Vec::new());
        for piece in pieces {
            reader.push(piece);
            while let Some(sent) = reader.next()? {
                all.push(sent);
            }
        }
        Ok(all)
    }

    fn control(opcode: u8, payload: &'static [u8]) -> Sent {
        let payload = Bytes::from_static(payload);
        Sent::Control(Control { opcode, payload })
    }

    #[test]
    fn messages_are_whole_wherever_their_bytes_are_cut() {
        let long = vec![b'y'; 70_000];
        let bytes = [
            client(true, TEXT, b"hello"),
            client(false, BINARY, b"one "),
            client(true, PING, b"p"),
            client(true, CONTINUATION, b"two"),
            client(true, BINARY, &long),
            client(true, CLOSE, b"\x03\xe8"),
        ]
        .concat();
        let expected = vec![
            Sent::Message(true, Bytes::from_static(b"hello")),
            control(PING, b"p"),
            Sent::Message(false, Bytes::from_static(b"one two")),
            Sent::Message(false, long.into()),
            control(CLOSE, b"\x03\xe8"),
        ];
        for cut in (0..40).chain([bytes.len() - 3, bytes.len()]) {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(read(&[one, two], 1 << 20).as_ref(), Ok(&expected), "{cut}");
        }
    }

    #[test]
    fn what_is_no_frame_of_a_client_stops() {
        let unmasked = [0x81, 1, b'a'];
        let mut extended = client(true, TEXT, b"a");
        extended[0] |= 0x40;
        for wrong in [
            unmasked.to_vec(),
            extended,
            client(true, CONTINUATION, b"a"),
            client(false, PING, b"a"),
            client(true, PING, &[0; 126]),
            client(true, TEXT, b"\xff"),
            client(true, 3, b"a"),
            [client(false, TEXT, b"a"), client(true, TEXT, b"b")].concat(),
        ] {
            assert!(read(&[&wrong], 1 << 20).is_err(), "{wrong:?}");
        }
        let parts = [
            client(false, TEXT, &[b'a'; 60]),
            client(true, CONTINUATION, &[b'a'; 60]),
        ]
        .concat();
        assert_eq!(read(&[&parts], 100), Err(TOO_LARGE));
        // Refused by its length, before it is there.
        assert_eq!(
            read(&[&client(true, TEXT, &[b'a'; 200])[..4]], 100),
            Err(TOO_LARGE)
        );
    }

    #[test]
    fn frames_of_a_target_are_read_wherever_they_are_cut_and_have_no_key() {
        let mut bytes = BytesMut::new();
        let long = vec![b'y'; 70_000];
        for (last, opcode, payload) in [
            (true, TEXT, b"hello".as_slice()),
            (false, TEXT, b"one "),
            (true, PING, b"p"),
            (true, CONTINUATION, b"two"),
            (true, TEXT, &long),
            (true, CLOSE, b"\x03\xe8"),
        ] {
            super::super::frames::frame(last, opcode, payload, &mut bytes);
        }
        let expected = vec![
            Sent::Message(true, Bytes::from_static(b"hello")),
            control(PING, b"p"),
            Sent::Message(true, Bytes::from_static(b"one two")),
            Sent::Message(true, long.into()),
            control(CLOSE, b"\x03\xe8"),
        ];
        let read = |pieces: &[&[u8]]| {
            let (mut reader, mut all) = (Reader::of_target(1 << 20), Vec::new());
            for piece in pieces {
                reader.push(piece);
                while let Some(sent) = reader.next()? {
                    all.push(sent);
                }
            }
            Ok::<_, Stop>(all)
        };
        for cut in (0..40).chain([bytes.len() - 3, bytes.len()]) {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(read(&[one, two]).as_ref(), Ok(&expected), "{cut}");
        }
        assert!(read(&[&client(true, TEXT, b"a")]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_end_alike_wherever_they_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..80) {
            let (one, two) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(read(&[one, two], 64).is_ok(), read(&[&bytes], 64).is_ok());
        }
    }
}
