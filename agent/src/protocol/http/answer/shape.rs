//! What an answer's body is, by its head.

use hyper::header::{self, HeaderMap};

use super::super::call::essence;
use super::super::escapes::Format;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Shape {
    /// Text with escapes of this format.
    Text(Format),
    /// Server-sent events.
    Events,
    /// Messages of gRPC; those that are compressed are gzip, or in a way that is not known.
    Grpc {
        /// Whether the head names gzip.
        gzip: bool,
    },
    /// What its first bytes tell.
    Unknown,
}

impl Shape {
    /// The shape of what came out of masking: messages of gRPC are written uncompressed.
    pub(in super::super) const fn uncoded(self) -> Self {
        match self {
            Self::Grpc { .. } => Self::Grpc { gzip: false },
            Self::Text(_) | Self::Events | Self::Unknown => self,
        }
    }
}

/// Charsets in which ASCII stands at the places where detectors look for it.
const LIKE_ASCII: [&str; 8] = [
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-",
    "windows-125",
    "latin1",
    "koi8-",
];

/// The shape of a body; `Err` with the charset that nobody can look into.
pub(in super::super) fn shape(headers: &HeaderMap) -> Result<Shape, String> {
    let essence = essence(headers);
    let (kind, subtype) = essence.split_once('/').unwrap_or((&essence, ""));
    let suffix = subtype.rsplit_once('+').map_or(subtype, |(_, suffix)| suffix);
    let shape = match (kind, subtype, suffix) {
        ("text", "event-stream", _) => Shape::Events,
        ("application", "grpc", _) => return Ok(grpc(headers)),
        ("application", _, _) if subtype.starts_with("grpc+") => return Ok(grpc(headers)),
        (_, "html" | "xml", _) | (_, _, "xml") => Shape::Text(Format::Markup),
        (_, "x-www-form-urlencoded", _) => Shape::Text(Format::Form),
        (_, _, "json" | "json-seq")
        | (_, "jsonl" | "x-ndjson" | "ndjson" | "json5" | "x-jsonlines" | "jsonlines" | "x-json", _) => {
            Shape::Text(Format::Json)
        }
        ("text", _, _)
        | (
            _,
            "javascript" | "x-javascript" | "ecmascript" | "yaml" | "x-yaml" | "toml" | "graphql" | "sql"
            | "x-sh",
            _,
        )
        | (_, _, "yaml") => Shape::Text(Format::Text),
        _ => Shape::Unknown,
    };
    if shape != Shape::Unknown
        && let Some(charset) = charset(headers)
        && !LIKE_ASCII.iter().any(|known| charset.starts_with(known))
    {
        return Err(charset);
    }
    Ok(shape)
}

fn grpc(headers: &HeaderMap) -> Shape {
    let gzip = headers
        .get("grpc-encoding")
        .is_some_and(|coding| coding == "gzip");
    Shape::Grpc { gzip }
}

fn charset(headers: &HeaderMap) -> Option<String> {
    let value = headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()?
        .to_ascii_lowercase();
    let named = value
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim() == "charset")?;
    Some(named.1.trim().trim_matches('"').to_owned())
}

/// What the first bytes of a body are, as soon as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sniffed {
    Text,
    /// No detector reads it: an image, an archive, a program.
    Binary,
    /// Text in an encoding that no detector reads.
    Wide,
    More,
}

/// Bytes that decide.
const ENOUGH: usize = 512;

/// Looks at the first bytes; `complete`: there are no others.
pub(super) fn sniff(bytes: &[u8], complete: bool) -> Sniffed {
    let looked = bytes.get(..ENOUGH).unwrap_or(bytes);
    if complete || looked.len() >= 4 {
        let wide: [&[u8]; 4] = [b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"+/v"];
        if wide.iter().any(|mark| looked.starts_with(mark)) {
            return Sniffed::Wide;
        }
    } else {
        return Sniffed::More;
    }
    if memchr::memchr(0, looked).is_some() {
        return Sniffed::Binary;
    }
    match std::str::from_utf8(looked) {
        // A letter that was cut off at the end says nothing.
        Err(error) if error.error_len().is_some() || (complete && bytes.len() <= ENOUGH) => Sniffed::Binary,
        _ if complete || bytes.len() >= ENOUGH => Sniffed::Text,
        _ => Sniffed::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content_type: &str) -> Result<Shape, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().expect("value"));
        shape(&headers)
    }

    #[test]
    fn a_head_tells_what_a_body_is() {
        let table = [
            ("application/json; charset=utf-8", Ok(Shape::Text(Format::Json))),
            ("application/problem+json", Ok(Shape::Text(Format::Json))),
            ("Application/X-NDJSON", Ok(Shape::Text(Format::Json))),
            ("text/html; charset=ISO-8859-1", Ok(Shape::Text(Format::Markup))),
            ("image/svg+xml", Ok(Shape::Text(Format::Markup))),
            ("text/event-stream", Ok(Shape::Events)),
            ("application/grpc+proto", Ok(Shape::Grpc { gzip: false })),
            ("text/csv", Ok(Shape::Text(Format::Text))),
            ("application/octet-stream", Ok(Shape::Unknown)),
            ("image/png", Ok(Shape::Unknown)),
            ("", Ok(Shape::Unknown)),
            ("text/plain; charset=\"UTF-16\"", Err("utf-16".to_owned())),
            ("application/json; charset=utf-7", Err("utf-7".to_owned())),
        ];
        for (content_type, expected) in table {
            assert_eq!(of(content_type), expected, "{content_type}");
        }
    }

    #[test]
    fn first_bytes_tell_what_a_body_is() {
        assert_eq!(sniff(b"ada", false), Sniffed::More);
        assert_eq!(sniff(b"ada@example.com", false), Sniffed::More);
        assert_eq!(sniff(b"ada@example.com", true), Sniffed::Text);
        assert_eq!(sniff("é".repeat(300).as_bytes(), false), Sniffed::Text);
        assert_eq!(sniff(b"PK\x03\x04\0\0", false), Sniffed::Binary);
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n", false), Sniffed::Binary);
        assert_eq!(sniff(b"\xff\xfea\0b\0", false), Sniffed::Wide);
        assert_eq!(sniff(b"", true), Sniffed::Text);
    }
}
