//! Base64 in answers (`blob` of resources, `data` of contents, `data:` URIs): text in it is masked and coded again.
//!
//! It is looked for in every string, whatever its member is called: what a client does with a member is its own affair.
//! Strings are found by their quotes alone, so that no difference between readers of JSON hides one.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::mask::MaskPlan;
use crate::model::MaskCounts;

use super::dialect::{masked_json, masked_plain};

/// Shortest base64 in which anything can be found: that of `a@b.io`.
const SHORTEST: usize = 8;
/// Contents of at least this many bytes are counted as binary; shorter ones are mostly words.
const CONTENT: usize = 64;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
static PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
static URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// `text` with what its strings carry as base64 masked, and how many contents no detector reads.
pub(in crate::protocol) fn masked(text: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> (Vec<u8>, u64) {
    let (mut out, mut unseen) = (Vec::with_capacity(text.len()), 0_u64);
    let mut rest = text;
    while let Some((before, string, after)) = next_string(rest) {
        out.extend_from_slice(before);
        match string_masked(string, plan, counts) {
            Seen::Unchanged => out.extend_from_slice(string),
            Seen::Unread => {
                unseen = unseen.saturating_add(1);
                out.extend_from_slice(string);
            }
            Seen::Masked(masked) => out.extend_from_slice(masked.as_bytes()),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    (out, unseen)
}

/// What comes before the next string (its quote included), the string without quotes, and the rest. That begins with
/// the closing quote: what stands between two strings is looked at like one, so a quote too many hides nothing.
fn next_string(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut from = 0;
    loop {
        let begin = memchr::memchr(b'"', text.get(from..)?)?
            .checked_add(from)?
            .checked_add(1)?;
        let mut at = begin;
        loop {
            match text.get(at)? {
                b'"' => {
                    let (before, rest) = text.split_at_checked(begin)?;
                    let (string, after) = rest.split_at_checked(at.checked_sub(begin)?)?;
                    return Some((before, string, after));
                }
                b'\\' => at = at.checked_add(2)?,
                // No string of JSON goes over a line: the quote was no beginning of one.
                b'\r' | b'\n' => break,
                _ => at = at.checked_add(1)?,
            }
        }
        from = at;
    }
}

enum Seen {
    Unchanged,
    /// Content that no detector reads.
    Unread,
    Masked(String),
}

/// A text that a string carries as base64, or as a `data:` URI with it.
pub(in crate::protocol) struct Carried {
    prefix: String,
    engine: &'static GeneralPurpose,
    /// The text.
    pub(in crate::protocol) content: Vec<u8>,
}

impl Carried {
    /// What `plain` carries; `None` where it is no base64, or none of a text.
    pub(in crate::protocol) fn by(plain: &str) -> Option<Self> {
        match carried(plain) {
            Content::Text(carried) => Some(carried),
            Content::None | Content::Binary => None,
        }
    }

    /// The string that carries `content` in the same way.
    pub(in crate::protocol) fn with(&self, content: &[u8]) -> String {
        format!("{}{}", self.prefix, self.engine.encode(content))
    }
}

enum Content {
    None,
    Binary,
    Text(Carried),
}

fn carried(plain: &str) -> Content {
    let (prefix, coded) = match plain.split_once(";base64,") {
        Some((kind, coded)) if kind.starts_with("data:") => (format!("{kind};base64,"), coded),
        _ => (String::new(), plain),
    };
    let coded: String = coded.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let engine = if coded.contains(['-', '_']) { &URL } else { &PLAIN };
    let Ok(content) = engine.decode(&coded) else {
        return Content::None;
    };
    let content = match wide(&content) {
        Some(text) => text.into_bytes(),
        None if content.contains(&0) && content.len() >= CONTENT => return Content::Binary,
        None => content,
    };
    Content::Text(Carried {
        prefix,
        engine,
        content,
    })
}

fn string_masked(string: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Seen {
    if string.len() < SHORTEST {
        return Seen::Unchanged;
    }
    let plain = if string.contains(&b'\\') {
        let quoted = [b"\"", string, b"\""].concat();
        serde_json::from_slice::<String>(&quoted).ok()
    } else {
        std::str::from_utf8(string).ok().map(str::to_owned)
    };
    let Some(plain) = plain else {
        return Seen::Unchanged;
    };
    let carried = match carried(&plain) {
        Content::None => return Seen::Unchanged,
        Content::Binary => return Seen::Unread,
        Content::Text(carried) => carried,
    };
    let text = &carried.content;
    let mut found = MaskCounts::default();
    let masked = if text.trim_ascii_start().starts_with(b"{") || text.trim_ascii_start().starts_with(b"[") {
        masked_json(text, plan, &mut found)
    } else {
        masked_plain(text, plan, &mut found)
    };
    if found.total() == 0 {
        return Seen::Unchanged;
    }
    counts.merge(&found);
    Seen::Masked(carried.with(&masked).replace('"', "\\\""))
}

/// Text in UTF-16 that says so with its first bytes.
fn wide(content: &[u8]) -> Option<String> {
    let (little, rest) = match content {
        [0xff, 0xfe, rest @ ..] => (true, rest),
        [0xfe, 0xff, rest @ ..] => (false, rest),
        _ => return None,
    };
    let unit = |pair: &[u8; 2]| {
        if little {
            u16::from_le_bytes(*pair)
        } else {
            u16::from_be_bytes(*pair)
        }
    };
    let units: Vec<u16> = rest.as_chunks::<2>().0.iter().map(unit).collect();
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mask::MaskEngine;

    fn plan() -> MaskPlan {
        Arc::new(MaskEngine::default()).plan(&[].into())
    }

    fn through(text: &str) -> (String, u64, u64) {
        let mut counts = MaskCounts::default();
        let (out, unseen) = masked(text.as_bytes(), &plan(), &mut counts);
        (String::from_utf8(out).expect("text"), counts.total(), unseen)
    }

    #[test]
    fn text_in_base64_is_masked_wherever_it_stands() {
        let secret = "mail: ada@example.com, caf\u{e9}?\u{3ff}";
        let wide: Vec<u8> = [0xfeff]
            .into_iter()
            .chain(secret.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        for coded in [
            PLAIN.encode(secret),
            PLAIN.encode(secret).trim_end_matches('=').to_owned(),
            URL.encode(secret),
            PLAIN.encode(wide),
            PLAIN.encode(
                json!({"to": "ada@example.com"})
                    .to_string()
                    .replace('@', "\\u0040"),
            ),
            format!("data:text/plain;base64,{}", PLAIN.encode(secret)),
            PLAIN.encode(secret).replace('t', "t\n"),
        ] {
            let whole = json!({"a": "x\"", "blob": coded, "n": ["ok", 1]});
            for text in [whole.to_string(), whole.to_string().replace('/', "\\/")] {
                let (out, found, _) = through(&text);
                assert_eq!(found, 1, "{text}");
                let out: Value = serde_json::from_str(&out).expect("JSON");
                assert_eq!((&out["a"], &out["n"]), (&whole["a"], &whole["n"]));
                let blob = out["blob"].as_str().expect("text");
                let blob = blob.rsplit(',').next().unwrap_or_default();
                let decoded = URL.decode(blob).or_else(|_| PLAIN.decode(blob)).expect("base64");
                let decoded = String::from_utf8(decoded).expect("text");
                assert!(decoded.contains("a***@e***.com"), "{decoded}");
            }
        }
    }

    #[test]
    fn a_stray_quote_hides_nothing() {
        let coded = PLAIN.encode("mail: ada@example.com");
        for before in ["id: \"x\n", "id: \\\"\r\n", "\"\\\n", ": \"\"\"\n"] {
            assert_eq!(
                through(&format!("{before}data: {{\"blob\":\"{coded}\"}}\n\n")).1,
                1,
                "{before}"
            );
        }
    }

    #[test]
    fn what_is_no_text_stays_and_is_counted() {
        let image = PLAIN.encode([0, 1, 2, 0xff].repeat(64));
        let text =
            json!({"data": image, "name": "username", "path": "/v8/objects/a", "id": "4f2a77c0"}).to_string();
        assert_eq!(through(&text), (text.clone(), 0, 1));
    }

    proptest! {
        #[test]
        fn bytes_without_findings_stay(text in "[\"\\\\a-zA-Z0-9{}:,=\n /+-]{0,200}") {
            let (out, found, _) = through(&text);
            prop_assert!(found > 0 || out == text);
        }
    }
}
