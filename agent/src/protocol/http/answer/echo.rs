//! A target may send back what it was sent (a debug page, an error with the request in it): the real credential is taken
//! out of answers in every spelling that it can have there.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use hyper::header::{HeaderMap, HeaderValue};
use memchr::memmem;
use zeroize::Zeroizing;

use super::super::path::encode;

/// What stands in its place.
const REDACTED: &[u8] = b"[credential]";
/// Shorter ones are words too; nothing is looked for then.
const SHORTEST: usize = 8;

/// The spellings of one credential.
#[derive(Clone)]
pub(in super::super) struct Spellings(Arc<Vec<Zeroizing<Vec<u8>>>>);

impl std::fmt::Debug for Spellings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spellings")
    }
}

impl Spellings {
    /// Of `secret`; `also` is another form in which it was sent.
    pub(in super::super) fn new(secret: &[u8], also: Option<&[u8]>) -> Option<Self> {
        if secret.len() < SHORTEST {
            return None;
        }
        let mut all = vec![Zeroizing::new(secret.to_vec())];
        all.extend(also.map(|form| Zeroizing::new(form.to_vec())));
        if let Ok(text) = std::str::from_utf8(secret) {
            let json = Zeroizing::new(serde_json::Value::from(text).to_string());
            let inside = json.strip_prefix('"').and_then(|json| json.strip_suffix('"'));
            all.extend(inside.map(|inside| Zeroizing::new(inside.as_bytes().to_vec())));
        }
        all.push(Zeroizing::new(encode(secret).as_bytes().to_vec()));
        // Of two that begin at the same place, the longer one is taken out.
        all.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
        Some(Self(Arc::new(all)))
    }

    /// The first spelling in `text`, with its length.
    fn find(&self, text: &[u8]) -> Option<(usize, usize)> {
        let found = self
            .0
            .iter()
            .filter_map(|s| memmem::find(text, s).map(|at| (at, s.len())));
        found.min_by_key(|(at, _)| *at)
    }

    /// How many bytes at the end of `text` may be the beginning of a spelling.
    fn open(&self, text: &[u8]) -> usize {
        let open = |spelling: &Zeroizing<Vec<u8>>| {
            let near = text.len().saturating_sub(spelling.len().saturating_sub(1));
            let tail = text.get(near..).unwrap_or_default();
            let first = spelling.first().copied().unwrap_or_default();
            let mut begins = memchr::memchr_iter(first, tail).filter_map(|at| tail.get(at..));
            begins
                .find(|rest| spelling.starts_with(rest))
                .map_or(0, <[u8]>::len)
        };
        self.0.iter().map(open).max().unwrap_or(0)
    }

    /// Takes it out of fields.
    pub(super) fn redact_fields(&self, headers: &mut HeaderMap) -> u64 {
        let mut count = 0;
        for value in headers.values_mut() {
            if self.find(value.as_bytes()).is_some() {
                *value = HeaderValue::from_static("[credential]");
                count += 1;
            }
        }
        count
    }
}

/// Takes it out of one body as it arrives.
#[derive(Debug)]
pub(in super::super) struct Redact {
    spellings: Spellings,
    held: BytesMut,
    /// How often it was found.
    pub(in super::super) count: u64,
}

impl Redact {
    pub(in super::super) fn new(spellings: Spellings) -> Self {
        Self {
            spellings,
            held: BytesMut::new(),
            count: 0,
        }
    }

    /// Takes a piece; what can no more be part of a spelling.
    pub(super) fn push(&mut self, piece: &[u8]) -> BytesMut {
        self.held.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while let Some((at, length)) = self.spellings.find(&self.held) {
            out.put(self.held.split_to(at));
            out.put_slice(REDACTED);
            self.held.advance(length);
            self.count += 1;
        }
        let open = self.spellings.open(&self.held);
        out.put(self.held.split_to(self.held.len() - open));
        out
    }

    /// Takes it out of bytes that are whole; `None` where it is not in them.
    pub(in super::super) fn whole(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.spellings.find(bytes)?;
        let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
        while let Some((at, length)) = self.spellings.find(rest) {
            out.extend_from_slice(rest.get(..at)?);
            out.extend_from_slice(REDACTED);
            rest = rest.get(at + length..)?;
            self.count += 1;
        }
        out.extend_from_slice(rest);
        Some(out)
    }

    /// The body is complete: the rest.
    pub(super) fn finish(&mut self) -> BytesMut {
        self.held.split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(pieces: &[&[u8]]) -> String {
        let spellings = Spellings::new(b"se\"cret/+key", Some(b"dXNlcjpzZQ==")).expect("long");
        let mut redact = Redact::new(spellings);
        let mut out = BytesMut::new();
        for piece in pieces {
            out.put(redact.push(piece));
        }
        out.put(redact.finish());
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn every_spelling_is_taken_out_wherever_it_is_cut() {
        let text =
            r#"a se"cret/+key b {"k":"se\"cret/+key"} ?k=se%22cret%2F%2Bkey dXNlcjpzZQ== se"cret/+ke se"#;
        let expected = r#"a [credential] b {"k":"[credential]"} ?k=[credential] [credential] se"cret/+ke se"#;
        for cut in 0..=text.len() {
            let (one, two) = text.as_bytes().split_at(cut);
            assert_eq!(redacted(&[one, two]), expected, "{cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(redacted(&bytes), expected);
        assert!(Spellings::new(b"short", None).is_none());
    }

    #[test]
    fn nothing_is_held_that_is_no_beginning() {
        let mut redact = Redact::new(Spellings::new(b"secret-key", None).expect("long"));
        assert_eq!(redact.push(b"data: x\n\n").as_ref(), b"data: x\n\n");
        assert_eq!(redact.push(b"sesec").as_ref(), b"se");
        assert_eq!(redact.finish().as_ref(), b"sec");
    }
}
