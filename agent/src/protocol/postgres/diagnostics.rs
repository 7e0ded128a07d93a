//! Masking errors, notices and notifications of the target.

use bytes::{BufMut, BytesMut};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::frame::{Frame, put_text, write};

/// An `ErrorResponse` or a `NoticeResponse`.
pub(super) struct Diagnostics<'a> {
    /// The frame.
    pub(super) frame: &'a Frame,
    /// Where the target has protected columns, the statement that it answers: what is quoted in the message and is
    /// neither from there nor the name of an object may be a value of such a column.
    pub(super) statement: Option<&'a str>,
}

impl Maskable for Diagnostics<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.frame.bytes().len());
        let known = self.statement.map(|statement| Known::of(statement, self.frame));
        let mut fields = self.frame.fields();
        write(&mut out, self.frame.kind(), |out| {
            while let (Ok(kind), Ok(text)) = (fields.u8(), fields.raw_text()) {
                out.put_u8(kind);
                put_text(out, &field(kind, text, known.as_ref(), plan, counts));
            }
            out.put_u8(0);
        });
        out
    }
}

/// Words that a message may quote.
struct Known<'a> {
    statement: &'a str,
    /// Schema, table, column, type and constraint of the error (fields `s`, `t`, `c`, `d`, `n`).
    objects: Vec<&'a str>,
}

impl<'a> Known<'a> {
    fn of(statement: &'a str, frame: &'a Frame) -> Self {
        let mut objects = Vec::new();
        let mut fields = frame.fields();
        while let (Ok(kind), Ok(text)) = (fields.u8(), fields.text()) {
            if matches!(kind, b's' | b't' | b'c' | b'd' | b'n') {
                objects.push(text);
            }
        }
        Self { statement, objects }
    }

    fn has(&self, word: &str) -> bool {
        self.objects.contains(&word) || is_word_of(self.statement, word)
    }
}

/// Whether `text` has `word`, and not only as a part of a longer one.
fn is_word_of(text: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let (before, rest) = text.split_at_checked(at).unwrap_or((text, ""));
            let after = rest.get(word.len()..).and_then(|r| r.chars().next());
            !inside(before.chars().next_back()) && !inside(after)
        })
}

fn field(
    kind: u8,
    text: &[u8],
    known: Option<&Known<'_>>,
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> String {
    let shown = String::from_utf8_lossy(text);
    let shown = match (kind, known) {
        // Severity, code, position, file, line and routine hold no data.
        (b'S' | b'V' | b'C' | b'P' | b'p' | b'F' | b'L' | b'R', _) => return shown.into_owned(),
        // `Key (email)=(…)`, `Failing row contains (…)`, and the statements of functions.
        (b'D' | b'W' | b'q', Some(_)) => return "[masked: the target has protected columns]".into(),
        // The names of objects are checked against themselves.
        (b's' | b't' | b'c' | b'd' | b'n', _) | (_, None) => shown.into_owned(),
        (_, Some(known)) => hide_quoted(&shown, known),
    };
    content(shown, plan, counts)
}

fn content(shown: String, plan: &MaskPlan, counts: &mut MaskCounts) -> String {
    let mut masked = BytesMut::new();
    match plan.text(None, shown.as_bytes(), &mut masked, counts) {
        CellMask::Unchanged => shown,
        CellMask::Replaced => String::from_utf8_lossy(&masked).into_owned(),
        CellMask::Null => "[masked]".into(),
    }
}

/// What the server says between two quoted names. Anything else there may be part of a value that holds quotes itself.
const BETWEEN: [&str; 12] = [
    " of relation ",
    " of table ",
    " of type ",
    " for type ",
    " in table ",
    " on table ",
    " in relation ",
    " for relation ",
    " violates foreign key constraint ",
    " violates check constraint ",
    " violates not-null constraint ",
    " is of type ",
];

/// `time zone "…" not recognized`: what is quoted stays only where it is known.
fn hide_quoted(message: &str, known: &Known<'_>) -> String {
    // Other languages' quotation marks: the server was told to speak one (lc_messages).
    if message.contains([
        '„', '“', '”', '«', '»', '‹', '›', '「', '」', '『', '』', '‘', '’', '‚',
    ]) {
        return "[masked: the target has protected columns]".into();
    }
    let parts: Vec<&str> = message.split('"').collect();
    let quoted = parts.iter().skip(1).step_by(2);
    let between = parts.iter().skip(2).step_by(2).rev().skip(1);
    let paired = parts.len() % 2 == 1;
    if paired && quoted.into_iter().all(|q| known.has(q)) && between.into_iter().all(|b| BETWEEN.contains(b))
    {
        return message.to_owned();
    }
    hide_all(message)
}

fn hide_all(message: &str) -> String {
    match (message.split_once('"'), message.rsplit_once('"')) {
        (Some((head, _)), Some((_, tail))) => format!("{head}\"[masked]\"{tail}"),
        _ => message.to_owned(),
    }
}

/// A `NotificationResponse`.
pub(super) struct Notification<'a>(pub(super) &'a Frame);

impl Maskable for Notification<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let mut out = BytesMut::new();
        let mut fields = self.0.fields();
        let (Ok(pid), Ok(channel), Ok(payload)) = (fields.i32(), fields.raw_text(), fields.raw_text()) else {
            return out;
        };
        let payload = content(String::from_utf8_lossy(payload).into_owned(), plan, counts);
        write(&mut out, b'A', |out| {
            out.put_i32(pid);
            put_text(out, &String::from_utf8_lossy(channel));
            put_text(out, &payload);
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_are_hidden_and_quoted_names_stay() {
        let known = Known {
            statement: "SELECT timezone(name, now()) FROM customers WHERE \"Id\" = 7",
            objects: vec!["customers_email_key"],
        };
        for (message, expected) in [
            (
                "relation \"customers\" does not exist",
                "relation \"customers\" does not exist",
            ),
            (
                "time zone \"Ada\" not recognized",
                "time zone \"[masked]\" not recognized",
            ),
            (
                "column \"nam\" does not exist",
                "column \"[masked]\" does not exist",
            ),
            (
                "violates unique constraint \"customers_email_key\"",
                "violates unique constraint \"customers_email_key\"",
            ),
            ("bad \"Ada \"Lovelace\" here", "bad \"[masked]\" here"),
            ("bad \"customers\" and \"Ada\" here", "bad \"[masked]\" here"),
            ("bad \"name\" Ada \"now\" here", "bad \"[masked]\" here"),
            (
                "column \"name\" of relation \"customers\" is wrong",
                "column \"name\" of relation \"customers\" is wrong",
            ),
            (
                "Zeitzone „Ada“ nicht erkannt",
                "[masked: the target has protected columns]",
            ),
            ("division by zero", "division by zero"),
        ] {
            assert_eq!(hide_quoted(message, &known), expected);
        }
    }
}
