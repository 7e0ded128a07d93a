//! Other values in the places of some, and every other byte of a JSON text as it was: order, spaces, how numbers are
//! written.

use serde_json::Value;

/// How much of the text before a value its reader sees, in bytes.
const BEFORE: usize = 48;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of a member.
    Name,
    /// A string.
    Text,
    /// A number.
    Number,
}

/// A name, string or number of a JSON text.
#[derive(Debug, Clone, Copy)]
pub struct Scalar<'a> {
    /// What it is.
    pub kind: Kind,
    /// The text shortly before it, as written: words that say what a number is.
    pub before: &'a str,
    /// A string without quotes and escapes; a number as written.
    pub text: &'a str,
}

/// `text` with a string in the place of each value for which `change` gives one; `None` where it gives none. `text` must
/// be one that `parse` takes: then every reader finds the same values in it.
pub fn replaced(text: &str, change: &mut dyn FnMut(&Scalar<'_>) -> Option<String>) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    // Of each open container, whether it is an object.
    let mut open: Vec<bool> = Vec::new();
    let mut names = false;
    while let Some(byte) = bytes.get(at) {
        let (kind, end) = match byte {
            b'{' | b'[' => {
                open.push(*byte == b'{');
                names = *byte == b'{';
                at += 1;
                continue;
            }
            b'}' | b']' => {
                open.pop();
                at += 1;
                continue;
            }
            b',' => {
                names = open.last().copied().unwrap_or(false);
                at += 1;
                continue;
            }
            b'"' => (if names { Kind::Name } else { Kind::Text }, string_end(bytes, at)),
            b'-' | b'0'..=b'9' => (Kind::Number, number_end(bytes, at)),
            _ => {
                at += 1;
                continue;
            }
        };
        names = false;
        let literal = text.get(at..end).unwrap_or_default();
        let plain = match kind {
            Kind::Number => Some(literal.to_owned()),
            Kind::Name | Kind::Text => serde_json::from_str(literal).ok(),
        };
        let new = plain.and_then(|plain| {
            change(&Scalar {
                kind,
                before: before(text, at),
                text: &plain,
            })
        });
        if let Some(new) = new {
            out.push_str(text.get(copied..at).unwrap_or_default());
            out.push_str(&Value::from(new).to_string());
            copied = end;
        }
        at = end;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Some(out)
}

/// The place behind the quote that ends the string at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    bytes.len()
}

fn number_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let in_number = |b: &u8| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
    at + rest.iter().take_while(|b| in_number(b)).count().max(1)
}

fn before(text: &str, at: usize) -> &str {
    let from = at.saturating_sub(BEFORE);
    (from..=at)
        .find_map(|from| text.get(from..at))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::parse;

    #[test]
    fn what_is_not_replaced_stays_byte_by_byte() {
        let text = r#" {"b" : [1.50, "x\u0041", {"x": -7e2}], "x":"say \"x\"", "n": null, "e": ""} "#;
        let mut seen = Vec::new();
        let same = replaced(text, &mut |one| {
            seen.push((one.kind, one.text.to_owned()));
            None
        });
        assert_eq!(same, None);
        let expected = [
            (Kind::Name, "b"),
            (Kind::Number, "1.50"),
            (Kind::Text, "xA"),
            (Kind::Name, "x"),
            (Kind::Number, "-7e2"),
            (Kind::Name, "x"),
            (Kind::Text, "say \"x\""),
            (Kind::Name, "n"),
            (Kind::Name, "e"),
            (Kind::Text, ""),
        ];
        assert_eq!(seen, expected.map(|(kind, text)| (kind, text.to_owned())));
        let out = replaced(text, &mut |one| match (one.kind, one.text) {
            (Kind::Text, "xA") => Some("a\"b".to_owned()),
            (Kind::Number, "-7e2") => Some("7".to_owned()),
            _ => None,
        });
        let expected = r#" {"b" : [1.50, "a\"b", {"x": "7"}], "x":"say \"x\"", "n": null, "e": ""} "#;
        assert_eq!(out.as_deref(), Some(expected));
    }

    #[test]
    fn a_reader_sees_what_stands_before() {
        let text = r#"{"label": "ssn", "é": ["078051120"]}"#;
        let mut seen = String::new();
        replaced(text, &mut |one| {
            if one.text == "078051120" {
                one.before.clone_into(&mut seen);
            }
            None
        });
        assert_eq!(seen, r#"{"label": "ssn", "é": ["#);
    }

    proptest! {
        #[test]
        fn every_value_is_met_once_and_in_its_place(text in "[ {}\\[\\]\",:0-9a-z\\\\.u-]{0,60}") {
            let Ok(value) = parse(text.as_bytes()) else { return Ok(()) };
            let again = replaced(&text, &mut |one| (one.kind != Kind::Number).then(|| one.text.to_owned()));
            if let Some(again) = again {
                prop_assert_eq!(parse(again.as_bytes()).expect("JSON"), value);
            }
        }
    }
}
