//! Undoing escapes before masking: `ada\u0040example.com` is an e-mail address too. What comes out means the same to
//! every reader of its format; what an escape is needed for stays escaped. Pieces may be cut anywhere.

use bytes::{BufMut, BytesMut};

use crate::mask::{BLOCK, CellMask, MaskPlan, between_marks, block, which};
use crate::model::MaskCounts;

use super::path::hex;

/// How far back a number's context is looked for: `"ssn": 078051120`.
const CONTEXT: usize = 64;
/// Shortest number that anything can be found in.
const SHORTEST_NUMBER: usize = 7;
/// Longest number that is looked at as one; longer ones are no values of any class.
const LONGEST_NUMBER: usize = 64;
/// Longest escape that is looked at: `&#0000064;`.
const LONGEST_ESCAPE: usize = 12;

/// A format, by what its escapes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// JSON (RFC 8259), also several values after one another.
    Json,
    /// XML and HTML: numeric character references.
    Markup,
    /// `application/x-www-form-urlencoded`, queries, paths.
    Form,
    /// None; JSON where it begins like JSON, as many servers send it.
    Text,
}

/// Undoes the escapes of one text.
#[derive(Debug)]
pub(super) struct Unescape {
    format: Format,
    state: State,
    /// An escape or a number that is not complete.
    pending: Vec<u8>,
    /// The end of what is out.
    recent: Vec<u8>,
    /// The last byte outside of strings.
    last: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside of JSON strings; the only state of other formats.
    Outside,
    Inside,
    Escape,
    Number,
}

impl Unescape {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            state: State::Outside,
            pending: Vec::new(),
            recent: Vec::new(),
            last: b' ',
        }
    }

    /// Takes a piece; appends what is decided to `out`. Numbers that are sensitive by themselves become masked strings
    /// here: nothing else could stand in their place and leave JSON.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        plan: &MaskPlan,
        out: &mut BytesMut,
        counts: &mut MaskCounts,
    ) {
        let begin = out.len();
        out.reserve(piece.len());
        let mut rest = piece;
        // So many bytes before the end blocks are tried again.
        let mut blocks = piece.len();
        while !rest.is_empty() {
            let mut run = 0;
            if rest.len() <= blocks {
                run = self.blocks(rest);
                blocks = rest.len().saturating_sub(run.max(BLOCK));
            }
            if run == 0 {
                run = self.run(rest);
            }
            let (run, after) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            out.put_slice(run);
            let Some((byte, after)) = after.split_first() else {
                break;
            };
            self.byte(*byte, plan, (&mut *out, begin), counts);
            rest = after;
        }
        self.remember(out.get(begin..).unwrap_or_default());
    }

    /// The text is complete.
    pub(super) fn finish(mut self, plan: &MaskPlan, out: &mut BytesMut, counts: &mut MaskCounts) {
        match self.state {
            State::Number => {
                let begin = out.len();
                self.number(plan, (out, begin), counts);
            }
            State::Outside | State::Inside | State::Escape => out.put_slice(&self.pending),
        }
    }

    /// How many bytes at the beginning of `rest` can be copied without looking at each.
    fn run(&mut self, rest: &[u8]) -> usize {
        let next = match (self.format, self.state) {
            (Format::Json, State::Outside) => return self.between(rest),
            (Format::Json, State::Inside) => memchr::memchr2(b'"', b'\\', rest),
            (Format::Markup, State::Outside) => memchr::memchr(b'&', rest),
            (Format::Form, State::Outside) => memchr::memchr(b'%', rest),
            (Format::Text, _) if self.last != b' ' => None,
            _ => Some(0),
        };
        next.unwrap_or(rest.len())
    }

    /// How many bytes of JSON are copied as they are because they stand in blocks without escapes, and without numbers
    /// that are long enough to be looked at.
    fn blocks(&mut self, rest: &[u8]) -> usize {
        if self.format != Format::Json || !matches!(self.state, State::Outside | State::Inside) {
            return 0;
        }
        let mut at = 0;
        while let Some(block) = block(rest, at) {
            let quotes = which(block, |byte| byte == b'"');
            let begun = if self.state == State::Inside { u64::MAX } else { 0 };
            let inside = between_marks(quotes) ^ begun;
            let numeric = which(block, in_number) & !inside;
            let two = numeric & numeric << 1;
            let four = two & two << 2;
            let seven = four & four << 3;
            if seven != 0 || which(block, |byte| byte == b'\\') != 0 {
                break;
            }
            // A number at the end may go on.
            let open = numeric.leading_ones();
            let taken = u64::MAX >> open;
            let outside = (!inside | quotes) & taken;
            let place = |bits: u64| usize::try_from(bits.checked_ilog2()?).ok();
            if let Some(last) = place(outside).and_then(|last| rest.get(at + last)) {
                self.last = *last;
            }
            let ends_inside = inside & taken & !(taken >> 1) != 0;
            self.state = if ends_inside {
                State::Inside
            } else {
                State::Outside
            };
            at += BLOCK - usize::try_from(open).unwrap_or(0);
        }
        at
    }

    /// How many bytes outside of strings are copied as they are: up to a string, or to a number that is long enough to
    /// be looked at.
    fn between(&mut self, rest: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = rest.get(at) {
            let mut length = 1;
            match byte {
                b'"' => break,
                b'0'..=b'9' | b'-' if self.begins_number() => {
                    let whole = rest.get(at..at + SHORTEST_NUMBER).unwrap_or_default();
                    match whole.iter().position(|b| !of_number(*b)) {
                        Some(short) => length = short,
                        None => break,
                    }
                }
                _ => {}
            }
            at += length;
            self.last = rest.get(at - 1).copied().unwrap_or(b' ');
        }
        at
    }

    fn begins_number(&self) -> bool {
        matches!(self.last, b':' | b',' | b'[' | b'{') || self.last.is_ascii_whitespace()
    }

    fn remember(&mut self, new: &[u8]) {
        if new.len() >= CONTEXT {
            self.recent.clear();
        }
        self.recent
            .extend_from_slice(new.get(new.len().saturating_sub(CONTEXT)..).unwrap_or_default());
        let excess = self.recent.len().saturating_sub(CONTEXT);
        self.recent.drain(..excess);
    }

    fn byte(
        &mut self,
        byte: u8,
        plan: &MaskPlan,
        (out, begin): (&mut BytesMut, usize),
        counts: &mut MaskCounts,
    ) {
        if self.format == Format::Text && !byte.is_ascii_whitespace() {
            // Once, at the first byte that says something.
            if self.last == b' ' && matches!(byte, b'{' | b'[') {
                self.format = Format::Json;
            } else {
                self.last = byte;
            }
        }
        match (self.format, self.state) {
            (Format::Text, _) => out.put_u8(byte),
            (Format::Markup | Format::Form, State::Escape) => self.reference(byte, out),
            (Format::Markup, _) if byte == b'&' => self.begin(State::Escape, byte),
            (Format::Form, _) if byte == b'%' => self.begin(State::Escape, byte),
            (Format::Markup | Format::Form, _) => out.put_u8(byte),
            (Format::Json, State::Outside) => self.outside(byte, out),
            (Format::Json, State::Number) => {
                if of_number(byte) {
                    self.pending.push(byte);
                    if self.pending.len() > LONGEST_NUMBER {
                        self.settle(State::Outside, out);
                    }
                    self.last = byte;
                } else {
                    self.number(plan, (&mut *out, begin), counts);
                    self.state = State::Outside;
                    self.outside(byte, out);
                }
            }
            (Format::Json, State::Inside) => self.inside(byte, out),
            (Format::Json, State::Escape) => self.escape(byte, out),
        }
    }

    fn begin(&mut self, state: State, byte: u8) {
        self.state = state;
        self.pending.clear();
        self.pending.push(byte);
    }

    /// What is pending stays as it is.
    fn settle(&mut self, state: State, out: &mut BytesMut) {
        out.put_slice(&self.pending);
        self.pending.clear();
        self.state = state;
    }

    fn inside(&mut self, byte: u8, out: &mut BytesMut) {
        match byte {
            b'\\' => self.begin(State::Escape, byte),
            b'"' => {
                out.put_u8(byte);
                self.state = State::Outside;
            }
            plain => out.put_u8(plain),
        }
    }

    fn outside(&mut self, byte: u8, out: &mut BytesMut) {
        let begins = self.begins_number();
        self.last = byte;
        match byte {
            b'0'..=b'9' | b'-' if begins => self.begin(State::Number, byte),
            b'"' => {
                out.put_u8(byte);
                self.state = State::Inside;
            }
            other => out.put_u8(other),
        }
    }

    /// A number is complete: sensitive, it becomes a string.
    fn number(&mut self, plan: &MaskPlan, (out, begin): (&mut BytesMut, usize), counts: &mut MaskCounts) {
        let token = std::mem::take(&mut self.pending);
        if token.len() < SHORTEST_NUMBER {
            return out.put_slice(&token);
        }
        let mut masked = BytesMut::new();
        if plan.text(None, &token, &mut masked, counts) == CellMask::Unchanged {
            masked.clear();
            // Some numbers are sensitive only after a word such as "ssn".
            let fresh = out.get(begin..).unwrap_or_default();
            let mut text = self.recent.clone();
            text.extend_from_slice(fresh);
            text.drain(..text.len().saturating_sub(CONTEXT));
            text.extend_from_slice(&token);
            let mut ignored = MaskCounts::default();
            let whole = plan.text(None, &text, &mut masked, &mut ignored);
            if whole == CellMask::Unchanged || (whole == CellMask::Replaced && masked.ends_with(&token)) {
                return out.put_slice(&token);
            }
            counts.merge(&ignored);
            return out.put_slice(b"\"[masked]\"");
        }
        if masked.is_empty() {
            return out.put_slice(b"null");
        }
        out.put_u8(b'"');
        out.put_slice(&masked);
        out.put_u8(b'"');
    }

    /// One more byte of a JSON escape.
    fn escape(&mut self, byte: u8, out: &mut BytesMut) {
        self.pending.push(byte);
        match self.pending.as_slice() {
            [_, b'/'] => self.decided('/', out),
            [_, b'u'] => {}
            [_, _] => self.settle(State::Inside, out),
            pending => match unicode(pending) {
                Unicode::More => {}
                Unicode::Is(letter) => self.decided(letter, out),
                // A quotation mark in the place of a digit ends the string all the same.
                Unicode::Stays if !byte.is_ascii_hexdigit() => {
                    self.pending.pop();
                    self.settle(State::Inside, out);
                    self.inside(byte, out);
                }
                Unicode::Stays => self.settle(State::Inside, out),
            },
        }
    }

    fn decided(&mut self, letter: char, out: &mut BytesMut) {
        let mut buffer = [0; 4];
        out.put_slice(letter.encode_utf8(&mut buffer).as_bytes());
        self.pending.clear();
        self.state = State::Inside;
    }

    /// One more byte of a character reference, or of percent-encoding.
    fn reference(&mut self, byte: u8, out: &mut BytesMut) {
        if matches!(byte, b'&' | b'%') {
            self.settle(State::Outside, out);
            return self.begin(State::Escape, byte);
        }
        self.pending.push(byte);
        let decoded = if self.format == Format::Form {
            percent(&self.pending)
        } else {
            character(&self.pending)
        };
        match decoded {
            Unicode::More if self.pending.len() < LONGEST_ESCAPE => {}
            Unicode::Is(letter) => {
                self.decided(letter, out);
                self.state = State::Outside;
            }
            Unicode::More | Unicode::Stays => self.settle(State::Outside, out),
        }
    }
}

/// Whether a number can go on with it.
const fn of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')
}

/// The same without branches.
fn in_number(byte: u8) -> bool {
    byte.is_ascii_digit() | (byte == b'.') | (byte == b'-') | (byte == b'+') | (byte == b'e') | (byte == b'E')
}

/// What an escape turned out to be.
enum Unicode {
    More,
    Is(char),
    /// It is needed, or wrong.
    Stays,
}

/// `\uXXXX`.
fn unicode(pending: &[u8]) -> Unicode {
    let digits = pending.get(2..).unwrap_or_default();
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Unicode::Stays;
    }
    match digits {
        [a, b, c, d] => match (hex(*a, *b), hex(*c, *d)) {
            (Some(0), Some(low)) => plain(char::from(low)),
            _ => Unicode::Stays,
        },
        _ => Unicode::More,
    }
}

/// A letter that may stand for itself (those that mean something to HTML may not). Only ASCII: values of classes are made of it, and whatever encoding the text is
/// in has it at the same place.
fn plain(letter: char) -> Unicode {
    if !letter.is_ascii()
        || letter.is_ascii_control()
        || matches!(letter, '"' | '\\' | '<' | '>' | '&' | '\'')
    {
        Unicode::Stays
    } else {
        Unicode::Is(letter)
    }
}

/// `&#64;` and `&#x40;`.
fn character(pending: &[u8]) -> Unicode {
    let (digits, radix) = match pending {
        [b'&'] | [b'&', b'#'] | [b'&', b'#', b'x' | b'X'] => return Unicode::More,
        [b'&', b'#', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'&', b'#', digits @ ..] => (digits, 10),
        _ => return Unicode::Stays,
    };
    let (digits, complete) = digits
        .strip_suffix(b";")
        .map_or((digits, false), |digits| (digits, true));
    let text = std::str::from_utf8(digits).unwrap_or_default();
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return Unicode::Stays;
    }
    if !complete {
        return Unicode::More;
    }
    let letter = u32::from_str_radix(text, radix).ok().and_then(char::from_u32);
    match letter {
        Some(letter) => plain(letter),
        None => Unicode::Stays,
    }
}

/// `%40`: letters that say nothing about a form's or path's own parts.
fn percent(pending: &[u8]) -> Unicode {
    match pending {
        [b'%'] => Unicode::More,
        [b'%', high] if high.is_ascii_hexdigit() => Unicode::More,
        [b'%', high, low] => match hex(*high, *low).map(char::from) {
            Some(letter) if letter.is_ascii_alphanumeric() || "-._~@:()".contains(letter) => {
                Unicode::Is(letter)
            }
            _ => Unicode::Stays,
        },
        _ => Unicode::Stays,
    }
}

/// Whether a whole text can have escapes that are undone, or numbers that are looked at apart.
pub(super) fn may_be_escaped(text: &[u8], format: Format) -> bool {
    match format {
        Format::Json => true,
        Format::Markup => memchr::memchr(b'&', text).is_some(),
        Format::Form => memchr::memchr(b'%', text).is_some(),
        Format::Text => matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')),
    }
}

/// A whole text, its escapes undone and masked. Total: what cannot be masked is left out.
pub(super) fn masked_text(text: &[u8], format: Format, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
    let (mut plain, mut out) = (
        BytesMut::with_capacity(text.len()),
        BytesMut::with_capacity(text.len()),
    );
    let mut unescape = Unescape::new(format);
    unescape.push(text, plan, &mut plain, counts);
    unescape.finish(plan, &mut plain, counts);
    let mut stream = plan.stream();
    stream.push(&plain, &mut out);
    counts.merge(&stream.finish(&mut out));
    out
}

/// A whole text with its escapes undone.
pub(super) fn unescaped(text: &[u8], format: Format, plan: &MaskPlan) -> BytesMut {
    let (mut out, mut counts) = (BytesMut::with_capacity(text.len()), MaskCounts::default());
    let mut unescape = Unescape::new(format);
    unescape.push(text, plan, &mut out, &mut counts);
    unescape.finish(plan, &mut out, &mut counts);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::MaskEngine;

    #[test]
    fn escapes_are_undone_wherever_they_are_cut() {
        let plan = Arc::new(MaskEngine::default()).plan(&[].into());
        let table: [(Format, &str, &str); 12] = [
            (Format::Json, r#"{"a":"x\u0040y\u0040z"}"#, r#"{"a":"x@y@z"}"#),
            (
                Format::Json,
                r#"["ada\u0040example.com","\u0041"]"#,
                r#"["ada@example.com","A"]"#,
            ),
            (
                Format::Json,
                r#"["\u00e9 \ud83d\ude00 \u003c \" \n \/"]"#,
                r#"["\u00e9 \ud83d\ude00 \u003c \" \n /"]"#,
            ),
            (Format::Json, r#"["\u12", "\u0041"]"#, r#"["\u12", "A"]"#),
            (
                Format::Json,
                r#"[4111111111111111, 12, 1.5e3, true]"#,
                r#"["************1111", 12, 1.5e3, true]"#,
            ),
            (
                Format::Json,
                r#"{"ok": -1, "n": 20250101}"#,
                r#"{"ok": -1, "n": 20250101}"#,
            ),
            (Format::Text, r#" {"a":"\u0041"}"#, r#" {"a":"A"}"#),
            (Format::Text, r"a \u0041", r"a \u0041"),
            (
                Format::Markup,
                "<a>x&#64;y &#x40; &amp; &#60; &#233;</a>",
                "<a>x@y @ &amp; &#60; &#233;</a>",
            ),
            (
                Format::Markup,
                "a && b &#99999999999999; &",
                "a && b &#99999999999999; &",
            ),
            (Format::Form, "a%40b%26%3D%25%zz%4", "a@b%26%3D%25%zz%4"),
            (Format::Form, "%%40", "%@"),
        ];
        for (format, text, expected) in table {
            for cut in 0..=text.len() {
                let (one, two) = text.as_bytes().split_at(cut);
                let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
                let mut unescape = Unescape::new(format);
                unescape.push(one, &plan, &mut out, &mut counts);
                unescape.push(two, &plan, &mut out, &mut counts);
                unescape.finish(&plan, &mut out, &mut counts);
                assert_eq!(String::from_utf8_lossy(&out), expected, "{text} {cut}");
            }
        }
    }
}
