//! JSON web tokens (RFC 7519; JWS with three parts, JWE with five): the header must decode.

use super::super::view::View;
use super::Tail;

/// Longest header that is decoded, in bytes.
const HEADER: usize = 1024;
/// Bytes of a header after which the beginning of it must tell.
const EARLY: usize = 96;
/// Bytes before a payload that must be those of a header and its dot; less than a view can look back.
const BEHIND: usize = 60;
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

/// The end of what makes the token at `at` certain: no more is looked at, and at most `EARLY` bytes of its header. Of a
/// longer one the beginning must tell; of one whose beginning does not, the payload is found by itself.
pub(super) fn early(view: &View<'_>, at: usize) -> Option<(usize, Tail)> {
    if !view.has(at, b"eyJ") {
        return None;
    }
    let in_part = |b: u8| b != b'.' && belongs(b);
    if is_payload(view, at) {
        return Some((at + 3, Tail::Token(1)));
    }
    let dot = view.run(at, EARLY, in_part);
    if dot - at == EARLY {
        return begins_header(view.known(at, dot)).then_some((dot, Tail::Token(0)));
    }
    if view.at(dot)? != b'.' || !is_header(view.known(at, dot)) {
        return None;
    }
    if view.at(dot + 1)? == b'.' {
        return Some((dot + 2, Tail::Token(2)));
    }
    let payload = view.run(dot + 1, 4, in_part);
    (payload - dot - 1 == 4).then_some((payload, Tail::Token(1)))
}

/// How far a token that was certain early reaches from `pos`, and what is still open there.
pub(super) fn tail(view: &View<'_>, pos: usize, dots: u8) -> (usize, Tail) {
    let end = view.run(pos, usize::MAX, belongs);
    let open = view.take_short();
    let last = view.known(pos, end).iter().rposition(|b| *b != b'.');
    let solid = last.map_or(pos, |last| pos + last + 1);
    let count = |end: usize| {
        let more = view.known(pos, end).iter().filter(|b| **b == b'.').count();
        dots.saturating_add(u8::try_from(more).unwrap_or(u8::MAX))
    };
    if open {
        // Dots at the end may be a sentence's.
        return (solid, Tail::Token(count(solid)));
    }
    // As above: a sentence's full stop is no part of it; an empty signature's dot is.
    let stop = end > solid && count(end) > 2;
    (end - usize::from(stop), Tail::None)
}

/// Whether a payload begins at `at`, behind a header that was too long to be read.
fn is_payload(view: &View<'_>, at: usize) -> bool {
    let in_part = |b: u8| b != b'.' && belongs(b);
    view.back(at, 1) == Some(b'.') && (2..=BEHIND).all(|n| view.back(at, n).is_some_and(in_part))
}

/// Whether the beginning of a header tells: its first name is one of JOSE's (RFC 7515, 7516, 7517, 7797), or a common one
/// follows.
fn begins_header(part: &[u8]) -> bool {
    const NAMES: &[&[u8]] = &[
        b"alg",
        b"enc",
        b"typ",
        b"cty",
        b"kid",
        b"jku",
        b"jwk",
        b"x5u",
        b"x5c",
        b"x5t",
        b"x5t#S256",
        b"crit",
        b"zip",
        b"b64",
        b"epk",
        b"apu",
        b"apv",
        b"iv",
        b"tag",
        b"p2s",
        b"p2c",
        b"nonce",
        b"url",
        b"ver",
        b"iss",
        b"ppt",
    ];
    let whole = part.get(..part.len() / 4 * 4).unwrap_or_default();
    let Ok(json) = data_encoding::BASE64URL_NOPAD.decode(whole) else {
        return false;
    };
    let first = json
        .trim_ascii_start()
        .strip_prefix(b"{")
        .map(<[u8]>::trim_ascii_start);
    let name = first.and_then(|rest| rest.strip_prefix(b"\"")?.split(|b| *b == b'"').next());
    let common: [&[u8]; 4] = [b"\"alg\"", b"\"enc\"", b"\"typ\"", b"\"kid\""];
    name.is_some_and(|name| NAMES.contains(&name))
        || common
            .iter()
            .any(|name| memchr::memmem::find(&json, name).is_some())
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
