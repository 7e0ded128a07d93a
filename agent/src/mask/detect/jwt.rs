//! JSON web tokens (RFC 7519; JWS with three parts, JWE with five): the header must decode.

use super::super::view::View;
use super::Tail;

/// Longest header that is decoded, in bytes.
const HEADER: usize = 1024;
/// Longest token that is replaced as one value, in bytes; what follows of a longer one is left out.
const LONGEST: usize = 8192;

/// A byte of a token or of any key.
pub(super) fn belongs(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// The end of the token at `at`: a header, a dot, a payload (or a second dot), and all parts after them.
pub(super) fn end(view: &View<'_>, at: usize) -> Option<(usize, Tail)> {
    if !view.has(at, b"eyJ") {
        return None;
    }
    let in_part = |b: u8| b != b'.' && belongs(b);
    let dot = view.run(at, HEADER, in_part);
    if view.at(dot)? != b'.' || !is_header(view.known(at, dot)) {
        return None;
    }
    let payload = view.run(dot + 1, 4, in_part);
    let encrypted = view.at(dot + 1) == Some(b'.');
    if payload - dot - 1 < 4 && !encrypted {
        return None;
    }
    let end = view.run(payload, LONGEST, belongs);
    if end - payload == LONGEST {
        return Some((end, Tail::Run));
    }
    let dots = view.known(dot, end).iter().filter(|b| **b == b'.').count();
    // A sentence's full stop is no part of it; an empty signature's dot is.
    let stop = view.known(end - 1, end) == b"." && dots > 2;
    Some((end - usize::from(stop), Tail::None))
}

fn is_header(part: &[u8]) -> bool {
    let decoded = data_encoding::BASE64URL_NOPAD.decode(part);
    decoded.is_ok_and(|json| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json).is_ok_and(|header| {
            ["alg", "enc", "typ", "kid"]
                .iter()
                .any(|name| header.contains_key(*name))
        })
    })
}
