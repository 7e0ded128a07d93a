//! Paths and queries as policies read them: one spelling for one meaning, and no meaning that servers disagree about.

use std::collections::BTreeSet;

/// Longest path and query together, in bytes.
const MAX_LENGTH: usize = 16 * 1024;

/// The path as policies read it: percent-decoded, but for `%2F` and `%25` (decoding them would make two paths one) and
/// for bytes that are no UTF-8.
///
/// # Errors
/// What servers read in different ways: `.` and `..` parts, empty parts, backslashes, control characters.
pub(super) fn path(raw: &str) -> Result<String, String> {
    if raw.len() > MAX_LENGTH {
        return Err("the path is longer than 16 KiB".into());
    }
    if raw == "*" {
        return Ok(raw.to_owned());
    }
    if !raw.starts_with('/') {
        return Err("the path does not begin with a slash".into());
    }
    let decoded = decode(raw)?;
    let mut parts = decoded.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() && parts.peek().is_some() {
            return Err("the path has an empty part (//), which servers read in different ways".into());
        }
        // Some servers cut off what follows a semicolon before they look at the part.
        let bare = part.split(';').next().unwrap_or_default();
        if bare == "." || bare == ".." {
            return Err("the path has a part . or .., which servers read in different ways".into());
        }
    }
    Ok(decoded)
}

fn decode(raw: &str) -> Result<String, String> {
    let mut decoded: Vec<u8> = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after, escaped) = match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let byte =
                    hex(*high, *low).ok_or("the path has a % that no two hexadecimal digits follow")?;
                (byte, after, true)
            }
            (b'%', _) => return Err("the path has a % that no two hexadecimal digits follow".into()),
            (byte, after) => (*byte, after, false),
        };
        match byte {
            b'\\' => return Err("the path has a backslash, which some servers take for a slash".into()),
            0..=0x1f | 0x7f => return Err("the path has a control character".into()),
            b'/' if escaped => decoded.extend_from_slice(b"%2F"),
            b'%' => decoded.extend_from_slice(b"%25"),
            plain => decoded.push(plain),
        }
        rest = after;
    }
    Ok(text(&decoded))
}

/// UTF-8 with what is none written as percent-encoding.
fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The names of a query's parameters, decoded.
pub(super) fn query_names(query: &str) -> BTreeSet<String> {
    pairs(query).map(|(name, _)| form_text(name)).collect()
}

/// The parameters of a query as written; a semicolon separates too, as for some servers.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    query
        .split(['&', ';'])
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        })
}

/// Text of a form: `+` is a blank. Total: what is not encoded properly stays.
pub(super) fn form_text(raw: &str) -> String {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) if hex(*high, *low).is_some() => {
                decoded.extend(hex(*high, *low));
                rest = after;
            }
            (byte, _) => decoded.push(*byte),
        }
    }
    text(&decoded)
}

/// Percent-encoding of everything but unreserved characters (RFC 3986, 2.3).
pub(super) fn encode(bytes: &[u8]) -> zeroize::Zeroizing<String> {
    let mut out = zeroize::Zeroizing::new(String::with_capacity(bytes.len().saturating_mul(3)));
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The byte that two hexadecimal digits are.
pub(super) fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)?.wrapping_shl(4) | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_one_meaning() {
        let table = [
            ("/", Ok("/")),
            ("/orders/7", Ok("/orders/7")),
            ("/orders/", Ok("/orders/")),
            ("/%6frders/%37", Ok("/orders/7")),
            ("/@scope%2Fname", Ok("/@scope%2Fname")),
            ("/a%252Fb", Ok("/a%252Fb")),
            ("/caf%C3%A9", Ok("/café")),
            ("/caf%e9", Ok("/caf%E9")),
            ("*", Ok("*")),
            ("/a/../b", Err("..")),
            ("/a/%2e%2E/b", Err("..")),
            ("/a/..;x/b", Err("..")),
            ("/a/./b", Err(".")),
            ("/a//b", Err("//")),
            ("//a", Err("//")),
            ("/a\\b", Err("backslash")),
            ("/a%5cb", Err("backslash")),
            ("/a%00", Err("control")),
            ("/a%0d", Err("control")),
            ("/a%zz", Err("hexadecimal")),
            ("/a%2", Err("hexadecimal")),
            ("a", Err("slash")),
        ];
        for (raw, expected) in table {
            match (path(raw), expected) {
                (Ok(seen), Ok(expected)) => assert_eq!(seen, expected, "{raw}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{raw}: {why}"),
                (seen, _) => panic!("{raw}: {seen:?}"),
            }
        }
    }

    #[test]
    fn names_of_a_query() {
        let seen: Vec<String> = query_names("b=1&a%20x=2;c&&d+e").into_iter().collect();
        assert_eq!(seen, ["a x", "b", "c", "d e"]);
        assert_eq!(*encode(b"a b/\xff~"), "a%20b%2F%FF~");
    }
}
