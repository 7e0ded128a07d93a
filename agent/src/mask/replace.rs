//! What stands in the place of a value.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use crate::model::DataClass;

use super::classes::{Strategy, Treatment};
use super::key::MaskKey;

/// Characters of a token behind the class's name: 16 of base 32 are 80 bits.
const TOKEN: usize = 16;
/// Longest last label of an address's domain that is shown.
const TOP: usize = 24;

/// Appends what stands for `value`; `false` where NULL does (and nothing was written).
pub(super) fn replace(
    treatment: Treatment,
    class: &DataClass,
    value: &[u8],
    key: Option<&MaskKey>,
    out: &mut BytesMut,
) -> bool {
    match treatment.strategy {
        Strategy::Null | Strategy::Deny => return false,
        Strategy::Keep => out.put_slice(value),
        Strategy::Redact => redact(class, out),
        Strategy::Partial => partial(value, usize::from(treatment.keep_last), out),
        Strategy::Token => match key {
            Some(key) => token(class, value, key, out),
            None => redact(class, out),
        },
    }
    true
}

/// The class's name in brackets.
pub(super) fn redact(class: &DataClass, out: &mut BytesMut) {
    out.put_u8(b'[');
    out.put_slice(class.as_str().as_bytes());
    out.put_u8(b']');
}

/// The class's name, a colon, and the beginning of HMAC-SHA256 over class and value in lower-case base 32.
fn token(class: &DataClass, value: &[u8], key: &MaskKey, out: &mut BytesMut) {
    let name = class.as_str().as_bytes();
    // A class name holds no zero byte: no class and value run into another class's.
    let tag = key.sign(&[name, &[0], value]);
    let encoded = data_encoding::BASE32_NOPAD
        .encode(tag.as_ref())
        .to_ascii_lowercase();
    out.put_slice(name);
    out.put_u8(b':');
    out.put_slice(encoded.as_bytes().get(..TOKEN).unwrap_or_default());
}

/// Separators stay; of an e-mail address the first letters and the top domain; of IP addresses and of several e-mail
/// addresses nothing; of anything else the last `keep` letters and digits, where at least twice as many are hidden.
fn partial(value: &[u8], keep: usize, out: &mut BytesMut) {
    if let Some((local, domain)) = address(value) {
        return partial_address(local, domain, out);
    }
    let counts = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii();
    let total = value.iter().filter(|b| counts(b)).count();
    let hidden = total < 3 * keep || value.contains(&b'@') || is_ip(value);
    let keep = if hidden { 0 } else { keep };
    let mut seen = 0;
    for byte in value {
        if !counts(byte) {
            // Only what people write between digits stays: a declared value can hold anything.
            let separator = matches!(
                byte,
                b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b':' | b'+' | b',' | b'_'
            );
            out.put_u8(if separator { *byte } else { b'*' });
            continue;
        }
        seen += 1;
        let stays = seen + keep > total && byte.is_ascii();
        out.put_u8(if stays { *byte } else { b'*' });
    }
}

/// Local part and domain of what has one `@` and no blank.
fn address(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'@', value)?;
    let (local, rest) = value.split_at(at);
    let domain = rest.get(1..)?;
    let plain = !domain.contains(&b'@') && !value.iter().any(u8::is_ascii_whitespace);
    (plain && !local.is_empty()).then_some((local, domain))
}

fn partial_address(local: &[u8], domain: &[u8], out: &mut BytesMut) {
    let first = |text: &[u8], out: &mut BytesMut| {
        // Of a single letter, nothing.
        if let [letter, _, ..] = text
            && letter.is_ascii_alphanumeric()
        {
            out.put_u8(*letter);
        }
        out.put_slice(b"***");
    };
    first(local, out);
    out.put_u8(b'@');
    let dot = memchr::memrchr(b'.', domain);
    let (name, top) = domain
        .split_at_checked(dot.unwrap_or(domain.len()))
        .unwrap_or((domain, &[]));
    first(name, out);
    let letters = top.get(1..).unwrap_or_default();
    if !letters.is_empty() && letters.len() <= TOP && letters.iter().all(u8::is_ascii_alphabetic) {
        out.put_slice(top);
    }
}

fn is_ip(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value);
    text.is_ok_and(|t| t.parse::<IpAddr>().is_ok())
}
