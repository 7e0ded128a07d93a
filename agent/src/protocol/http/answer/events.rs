//! Server-sent events (HTML standard, 9.2): cut at empty lines, masked one by one. Clients act on complete events, so
//! holding one back until its empty line is there delays nothing.

use bytes::{Buf, BytesMut};

use crate::mask::MaskPlan;
use crate::model::MaskCounts;

use super::super::escapes::{Format, masked_text};

/// Largest event, in bytes.
const MAX_EVENT: usize = 4 * 1024 * 1024;

/// Cuts a stream into events.
#[derive(Debug, Default)]
pub(in super::super) struct Cutter {
    buffer: BytesMut,
    /// Bytes that were looked at.
    seen: usize,
    /// Where the line begins.
    line: usize,
    /// Whether every line so far is a comment.
    comments: bool,
    /// The byte before was a carriage return: a line feed belongs to it.
    after_return: bool,
}

/// An event is larger than is held back.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Cutter {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete event with its empty line, or complete comments.
    pub(super) fn next(&mut self) -> Result<Option<BytesMut>, TooLarge> {
        while let Some(byte) = self.buffer.get(self.seen).copied() {
            let belongs = self.after_return && byte == b'\n';
            self.after_return = byte == b'\r';
            self.seen += 1;
            if belongs {
                // The end of a line that was counted with its carriage return.
                self.line = self.seen;
                if self.seen == 1 {
                    return Ok(Some(self.cut()));
                }
                continue;
            }
            if !matches!(byte, b'\r' | b'\n') {
                continue;
            }
            let empty = self.seen == self.line + 1;
            let comment = self.buffer.get(self.line) == Some(&b':');
            let first = self.line == 0;
            self.comments = comment && (first || self.comments);
            self.line = self.seen;
            if empty || self.comments {
                return Ok(Some(self.cut()));
            }
        }
        if self.buffer.len() > MAX_EVENT {
            return Err(TooLarge);
        }
        Ok(None)
    }

    /// What is left when the stream ends.
    pub(super) fn rest(&mut self) -> BytesMut {
        self.seen = self.buffer.len();
        self.cut()
    }

    fn cut(&mut self) -> BytesMut {
        let event = self.buffer.split_to(self.seen);
        self.seen = 0;
        self.line = 0;
        self.comments = false;
        event
    }
}

/// One line of an event: content and its end.
struct Line<'a> {
    content: &'a [u8],
    end: &'a [u8],
}

fn lines(mut event: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    while event.has_remaining() {
        let at = memchr::memchr2(b'\r', b'\n', event).unwrap_or(event.len());
        let (content, rest) = event.split_at_checked(at).unwrap_or((event, &[]));
        let long = if rest.starts_with(b"\r\n") { 2 } else { 1 };
        let (end, after) = rest.split_at_checked(long).unwrap_or((rest, &[]));
        lines.push(Line { content, end });
        event = after;
    }
    lines
}

/// Field and value of a line: the colon and one blank belong to the field.
fn field(content: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr::memchr(b':', content).map_or(content.len(), |at| at + 1);
    let (name, value) = content.split_at_checked(colon).unwrap_or((content, &[]));
    match value.strip_prefix(b" ") {
        Some(rest) => (content.get(..colon + 1).unwrap_or(name), rest),
        None => (name, value),
    }
}

/// Masks one event: its data as one text, every other line by itself. A value over several lines (a key that a server
/// wrote after one `data:`) takes with it what clients would ignore.
pub(in super::super) fn mask(event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
    let all = lines(event);
    if !has_value_over_lines(&all, plan) {
        return fields(&all, plan, counts);
    }
    let known: Vec<Line<'_>> = all.into_iter().filter(is_known).collect();
    fields(&known, plan, counts)
}

fn is_data(line: &&Line<'_>) -> bool {
    line.content.starts_with(b"data:")
}

/// Whether clients know what a line is; they ignore all others.
fn is_known(line: &Line<'_>) -> bool {
    let name = line.content.split(|b| *b == b':').next().unwrap_or_default();
    matches!(name, b"" | b"data" | b"event" | b"id" | b"retry")
}

fn fields(lines: &[Line<'_>], plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
    let mut data: Vec<u8> = Vec::new();
    for (at, line) in lines.iter().filter(is_data).enumerate() {
        if at > 0 {
            data.push(b'\n');
        }
        data.extend_from_slice(field(line.content).1);
    }
    let masked = masked_text(&data, Format::Text, plan, counts);
    let mut values = masked.as_ref().split(|b: &u8| *b == b'\n');
    let mut out = BytesMut::new();
    for line in lines {
        if line.content.starts_with(b"data:") {
            // A value over several lines leaves fewer of them, never more.
            let Some(value) = values.next() else { continue };
            out.extend_from_slice(field(line.content).0);
            out.extend_from_slice(value);
        } else {
            out.extend_from_slice(&masked_text(line.content, Format::Text, plan, counts));
        }
        out.extend_from_slice(line.end);
    }
    out
}

/// Whether a value begins in one line and ends in another: masked, the text has fewer lines.
fn has_value_over_lines(lines: &[Line<'_>], plan: &MaskPlan) -> bool {
    let content = |line: &Line<'_>| {
        if is_known(line) {
            field(line.content).1.to_vec()
        } else {
            line.content.to_vec()
        }
    };
    let text = lines.iter().map(content).collect::<Vec<_>>().join(&b'\n');
    let (mut masked, mut stream) = (BytesMut::new(), plan.stream());
    stream.push(&text, &mut masked);
    let _counted_elsewhere = stream.finish(&mut masked);
    let count = |text: &[u8]| memchr::memchr_iter(b'\n', text).count();
    count(&masked) != count(&text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::MaskEngine;

    const STREAM: &str = ": hello\n\nevent: a\ndata: {\"mail\":\"ada@example.com\"}\n\n\
        id: 7\r\ndata:x\r\ndata:  y\r\n\r\nretry: 5\rdata\rdata: 1\r\r: ping\ndata: last";

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut cutter = Cutter::default();
        let mut events: Vec<Vec<u8>> = Vec::new();
        for piece in pieces {
            cutter.push(piece);
            while let Some(event) = cutter.next().expect("small") {
                events.push(event.to_vec());
            }
        }
        events.push(cutter.rest().to_vec());
        events
            .into_iter()
            .map(|e| String::from_utf8(e).expect("text"))
            .collect()
    }

    #[test]
    fn events_are_cut_at_their_empty_lines() {
        let seen = cut(&[STREAM.as_bytes()]);
        assert_eq!(
            seen,
            [
                ": hello\n",
                "\n",
                "event: a\ndata: {\"mail\":\"ada@example.com\"}\n\n",
                "id: 7\r\ndata:x\r\ndata:  y\r\n\r",
                "\n",
                "retry: 5\rdata\rdata: 1\r\r",
                ": ping\n",
                "data: last",
            ]
        );
        for at in 0..=STREAM.len() {
            let (one, two) = STREAM.as_bytes().split_at(at);
            assert_eq!(cut(&[one, two]), seen, "{at}");
        }
    }

    #[test]
    fn data_is_masked_as_one_text_and_the_rest_stays() {
        let plan = Arc::new(MaskEngine::default()).plan(&[].into());
        let masked = |event: &str| {
            let out = mask(event.as_bytes(), &plan, &mut MaskCounts::default());
            String::from_utf8(out.to_vec()).expect("text")
        };
        for event in [
            "data: x\n\n",
            "data:x\r\ndata:  y\r\n\r\n",
            "id: 7\rdata\r\r",
            ": ping\n",
            "\n",
            "",
        ] {
            assert_eq!(masked(event), event);
        }
        assert_eq!(
            masked("id: bob@example.org\ndata: {\"mail\":\ndata: \"ada\\u0040example.com\"}\n\n"),
            "id: b***@e***.org\ndata: {\"mail\":\ndata: \"a***@e***.com\"}\n\n"
        );
        let key = "data: -----BEGIN PRIVATE KEY-----\ndata: MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\ndata: -----END PRIVATE KEY-----\n\n";
        assert!(!masked(key).contains("MIIEv"), "{}", masked(key));
        // Without `data:` on each line: a client would not see them, the process would.
        let loose = key.replace("\ndata: ", "\n");
        assert!(!masked(&loose).contains("MIIEv"), "{}", masked(&loose));
        // Lines of JSON that are called events.
        assert_eq!(
            masked("{\"mail\":\"ada\\u0040example.com\"}\n{\"a\":1}\n\n"),
            "{\"mail\":\"a***@e***.com\"}\n{\"a\":1}\n\n"
        );
    }
}
