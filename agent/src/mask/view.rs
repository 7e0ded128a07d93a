//! A text that may go on: whoever looks past its end leaves a note, and what was concluded is then not final.
//!
//! This is what makes streamed masking independent of where the reads were split: a place is decided only after an
//! evaluation that did not look past the end.

use std::cell::Cell;

/// How far back evaluations look from a place: context words, escapes. A stream keeps this many bytes that are
/// already out.
pub(super) const LOOK_BACK: usize = 64;

/// Bytes, and whether more may follow.
#[derive(Debug)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
    complete: bool,
    short: Cell<bool>,
}

impl<'a> View<'a> {
    /// `complete`: nothing follows.
    pub(super) const fn new(bytes: &'a [u8], complete: bool) -> Self {
        Self {
            bytes,
            complete,
            short: Cell::new(false),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The byte at `at`; `None` past the end, which is noted where more may follow.
    #[inline]
    pub(super) fn at(&self, at: usize) -> Option<u8> {
        let byte = self.bytes.get(at).copied();
        if byte.is_none() && !self.complete {
            self.short.set(true);
        }
        byte
    }

    /// Bytes that are known to be there; empty otherwise.
    pub(super) fn known(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The byte `distance` before `at`; `None` before the beginning.
    #[inline]
    pub(super) fn back(&self, at: usize, distance: usize) -> Option<u8> {
        self.bytes.get(at.checked_sub(distance)?).copied()
    }

    /// Up to `LOOK_BACK` bytes before `at`.
    pub(super) fn before(&self, at: usize) -> &'a [u8] {
        self.known(at.saturating_sub(LOOK_BACK), at)
    }

    /// Whether the bytes at `at` are `word`; stops at the first difference.
    pub(super) fn has(&self, at: usize, word: &[u8]) -> bool {
        word.iter()
            .enumerate()
            .all(|(index, byte)| self.at(at + index) == Some(*byte))
    }

    /// The end of the longest run of bytes that `belongs` accepts, from `start`, of at most `limit` bytes.
    pub(super) fn run(&self, start: usize, limit: usize, belongs: impl Fn(u8) -> bool) -> usize {
        let mut end = start;
        while end - start < limit && self.at(end).is_some_and(&belongs) {
            end += 1;
        }
        end
    }

    /// Whether a word or number that ends at `end` really ends there: no letter or digit follows.
    pub(super) fn ends_at(&self, end: usize) -> bool {
        !self.at(end).is_some_and(|b| b.is_ascii_alphanumeric())
    }

    /// Whether something can begin at `at`: at the beginning, after anything but a letter or digit, or after an escape
    /// (`\n` of JSON and COPY, `\u0020`, `%20`) whose last character only looks like one.
    #[inline]
    pub(super) fn begins_at(&self, at: usize) -> bool {
        match self.back(at, 1) {
            Some(last) if last.is_ascii_alphanumeric() => self.after_escape(at, last),
            Some(_) | None => true,
        }
    }

    fn after_escape(&self, at: usize, last: u8) -> bool {
        if self.back(at, 2) == Some(b'\\') {
            return matches!(last, b'n' | b'r' | b't' | b'b' | b'f' | b'v');
        }
        if !last.is_ascii_hexdigit() {
            return false;
        }
        let hex = |distance| self.back(at, distance).is_some_and(|b| b.is_ascii_hexdigit());
        (self.back(at, 3) == Some(b'%') && hex(2))
            || (self.back(at, 6) == Some(b'\\') && self.back(at, 5) == Some(b'u') && (2..5).all(hex))
    }

    /// Whether somebody looked past the end since the last call.
    pub(super) fn take_short(&self) -> bool {
        self.short.replace(false)
    }
}
