//! One walk over a text: words are delimited by a byte table, and only a word that can hold a value is looked at.
//!
//! What it finds: at the leftmost place where a value begins, the longest value that does; of two equally long ones,
//! the more specific (the order of `Detector`). Then it goes on behind it. An e-mail address begins with its word.

use super::blocks::{BLOCK, before, block, which_behind};
use super::detect::{Detector, Enabled, Found, Seen, Tail, email, pem, values_at};
use super::view::View;

/// A byte of a word (e-mail local parts, numbers, keys).
const WORD: u8 = 1;
const DIGIT: u8 = 2;
const UPPER: u8 = 4;
const DOT: u8 = 8;
/// A byte outside words that a value can begin with.
const HOT: u8 = 16;

/// Length of `\u0020`, in bytes.
const LONGEST_ESCAPE: usize = 6;
/// Shortest value that is one word, in bytes: `1.1.1.1`.
const SHORTEST_WORD: usize = 7;

static FLAGS: [u8; 256] = flags();

#[expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "evaluated while compiling; the index stays below 256"
)]
const fn flags() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'0'..=b'9' => WORD | DIGIT,
            b'A'..=b'Z' => WORD | UPPER,
            b'.' => WORD | DOT,
            b'a'..=b'z' | b'_' | b'%' | b'+' | b'-' | b'\'' | 0x80.. => WORD,
            b'(' | b':' => HOT,
            _ => 0,
        };
        byte += 1;
    }
    table
}

#[inline]
fn flag(byte: u8) -> u8 {
    FLAGS.get(usize::from(byte)).copied().unwrap_or(0)
}

/// What the walk meets, from left to right, without overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A value.
    Hit(Found),
    /// More of the value before, up to here: it goes with that.
    Gone(usize),
}

/// Where a walk stands between two pieces of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner {
    enabled: Enabled,
    tail: Tail,
}

/// A word: where it ends, and which kinds of byte it has.
#[derive(Debug, Clone, Copy)]
struct Word {
    end: usize,
    kinds: u8,
    /// Whether the end is known; otherwise more of it may follow.
    ended: bool,
}

impl Scanner {
    pub(super) const fn new(enabled: Enabled) -> Self {
        Self {
            enabled,
            tail: Tail::None,
        }
    }

    /// Walks from `from` and tells `sink` what it meets. Returns the place up to which everything is decided: the end
    /// of a complete text.
    pub(super) fn run(&mut self, view: &View<'_>, from: usize, sink: &mut impl FnMut(Event)) -> usize {
        let mut pos = from;
        let mut word: Option<Word> = None;
        loop {
            if self.tail != Tail::None {
                let (end, tail) = self.tail.swallow(view, pos);
                if end > pos {
                    sink(Event::Gone(end));
                }
                pos = end;
                self.tail = tail;
                if tail != Tail::None {
                    return pos;
                }
            }
            let current = match word.filter(|w| w.end > pos) {
                Some(same) => same,
                None => match self.next_word(view, &mut pos, sink) {
                    Ok(found) => found,
                    Err(stop) => return stop,
                },
            };
            word = Some(current);
            match self.in_word(view, pos, current) {
                Step::Hit(found, tail) => {
                    sink(Event::Hit(found));
                    pos = found.end;
                    self.tail = tail;
                }
                Step::Past => pos = current.end,
                Step::On(place) => pos = place,
                Step::Hold(place) => return place,
            }
        }
    }

    /// Goes to the next word. `Err` with the place where the walk stops.
    fn next_word(
        &self,
        view: &View<'_>,
        pos: &mut usize,
        sink: &mut impl FnMut(Event),
    ) -> Result<Word, usize> {
        *pos = skip(view, *pos);
        loop {
            let rest = view.known(*pos, view.len());
            let Some(skipped) = rest.iter().position(|b| flag(*b) != 0) else {
                return Err(view.len());
            };
            *pos += skipped;
            let Some(byte) = rest.get(skipped) else {
                return Err(*pos);
            };
            if flag(*byte) & WORD != 0 {
                return Ok(word_at(view, *pos));
            }
            match places(view, *pos, *pos + 1, self.enabled) {
                Step::Hit(found, _) => {
                    sink(Event::Hit(found));
                    *pos = found.end;
                }
                Step::Past => *pos += 1,
                Step::On(place) => *pos = place,
                Step::Hold(place) => return Err(place),
            }
        }
    }

    /// What is next in the word from `pos`.
    fn in_word(&self, view: &View<'_>, pos: usize, word: Word) -> Step {
        if !word.ended {
            // An address can still begin in the last bytes of it; what begins before them is no part of one.
            let open = word.end.saturating_sub(email::LOCAL).max(pos);
            return match places(view, pos, open, self.enabled) {
                Step::Past => Step::Hold(open),
                other @ (Step::Hit(..) | Step::On(_) | Step::Hold(_)) => other,
            };
        }
        let special = self.special(view, pos, word);
        let until = match special {
            Special::None => word.end,
            Special::At(found, _) => found.start,
            Special::Open(start) => start,
        };
        if worth_looking(view, word) {
            match places(view, pos, until, self.enabled) {
                Step::Past => {}
                other @ (Step::Hit(..) | Step::On(_) | Step::Hold(_)) => return other,
            }
        }
        match special {
            Special::None => Step::Past,
            Special::At(found, tail) => Step::Hit(found, tail),
            Special::Open(start) => Step::Hold(start),
        }
    }

    /// What the end of a word tells: an e-mail address, or the beginning of a private key.
    fn special(&self, view: &View<'_>, pos: usize, word: Word) -> Special {
        let (detector, start, end, tail) = match view.known(word.end, word.end + 1) {
            b"@" if self.enabled.has(Detector::Email) => {
                let start = email::start(view, pos, word.end);
                (
                    Detector::Email,
                    start,
                    email::end(view, start, word.end),
                    Tail::None,
                )
            }
            b" " if self.enabled.has(Detector::PemKey) => match pem::start(view, pos, word.end) {
                Some(start) => (Detector::PemKey, start, pem::header(view, word.end), Tail::Pem),
                None => return Special::None,
            },
            _ => return Special::None,
        };
        match end {
            _ if view.take_short() => Special::Open(start),
            Some(end) => Special::At(Found { detector, start, end }, tail),
            None => Special::None,
        }
    }
}

/// What the end of a word tells.
#[derive(Clone, Copy)]
enum Special {
    None,
    At(Found, Tail),
    /// Perhaps something that begins here.
    Open(usize),
}

/// How the walk goes on.
enum Step {
    /// Behind a value.
    Hit(Found, Tail),
    /// Behind everything that was looked at.
    Past,
    /// At this place, in the same word.
    On(usize),
    /// Not before more of the text is there: from this place on nothing is decided.
    Hold(usize),
}

/// Goes over whole blocks in which nothing begins: a place from which the walk goes on as it would from `from`.
fn skip(view: &View<'_>, from: usize) -> usize {
    let bytes = view.known(from, view.len());
    let mut at = 0;
    'blocks: while let Some(here) = block(bytes, at) {
        let mut hints = which_behind(&before(bytes, at), here, hint);
        while hints != 0 {
            let place = at + usize::try_from(hints.trailing_zeros()).unwrap_or(BLOCK);
            let Some(end) = harmless(view, from, from + place) else {
                return from + begin(bytes, place);
            };
            let gone = (end - from).saturating_sub(at);
            if gone >= BLOCK {
                at += gone;
                continue 'blocks;
            }
            hints &= u64::MAX << gone;
        }
        at += BLOCK;
    }
    from + begin(bytes, at)
}

/// Whether a byte can be part of a value, or stand right behind its first word.
#[inline]
fn hint(before: u8, byte: u8) -> bool {
    // Every name of JSON ends with a quotation mark and a colon.
    byte.is_ascii_digit()
        | (byte == b'@')
        | (byte == b'(')
        | (byte == b'/')
        | (byte == b'.')
        | ((byte == b':') & (before != b'"'))
        | ((byte == b'-') & (before == b'-'))
}

/// Where the word begins that goes up to `place`, or the colon before it that may be the first of two.
fn begin(bytes: &[u8], place: usize) -> usize {
    let before = bytes.get(..place).unwrap_or_default();
    if before.ends_with(b":") {
        return place - 1;
    }
    let apart = before.iter().rposition(|byte| flag(*byte) & WORD == 0);
    apart.map_or(0, |apart| apart + 1)
}

/// Where the walk from `from` goes on behind the hint at `place`, where no value begins with it or the word around it.
fn harmless(view: &View<'_>, from: usize, place: usize) -> Option<usize> {
    let hint = *view.known(place, place + 1).first()?;
    let next = *view.known(place + 1, place + 2).first()?;
    let before = view.known(from, place);
    let apart = before.iter().rposition(|byte| flag(*byte) & WORD == 0);
    let start = from + apart.map_or(0, |apart| apart + 1);
    let alone = start == place && flag(hint) & WORD == 0;
    let word = word_at(view, start);
    let worth = || {
        let worth = worth_looking(view, word);
        // Whoever looks at it for good sees the end again.
        worth | view.take_short()
    };
    let is = match hint {
        b'@' => !alone,
        b'(' => next.is_ascii_digit(),
        b':' => next == b':' || before.ends_with(b":") || (!alone && worth()),
        b'/' => !alone && worth(),
        _ => {
            let behind = *view.known(word.end, word.end + 1).first()?;
            // These stand in no value.
            let closed = matches!(behind, b'"' | b',' | b'}' | b']' | b'<' | b'\n' | b'\r');
            if closed && word.end - start < SHORTEST_WORD {
                return Some(word.end);
            }
            let begins = behind == b' ' && view.known(start, word.end).ends_with(b"BEGIN");
            behind == b'@' || begins || worth()
        }
    };
    (!is).then(|| word.end.max(place + 1))
}

fn word_at(view: &View<'_>, pos: usize) -> Word {
    let mut kinds = 0;
    let mut end = pos;
    for byte in view.known(pos, view.len()) {
        let kind = flag(*byte);
        if kind & WORD == 0 {
            break;
        }
        kinds |= kind;
        end += 1;
    }
    Word {
        end,
        kinds,
        ended: end < view.len() || view.is_complete(),
    }
}

/// Every value except an address and a PEM key has a digit in its first word, or is a token with dots, or goes on
/// behind the word's end.
fn worth_looking(view: &View<'_>, word: Word) -> bool {
    let has = |kinds| word.kinds & kinds == kinds;
    if has(DIGIT) || has(UPPER | DOT) {
        return true;
    }
    match view.known(word.end, word.end + 1) {
        b"/" => has(UPPER),
        b":" => view
            .at(word.end + 1)
            .is_none_or(|b| b == b':' || b.is_ascii_hexdigit()),
        _ => false,
    }
}

/// The first value that begins in `from..until`.
fn places(view: &View<'_>, from: usize, until: usize, enabled: Enabled) -> Step {
    let percent = memchr::memchr(b'%', view.known(from, until)).is_some();
    for at in from..until {
        // Escapes are what comes shortly before a word, and what a `%` in it begins.
        let begins = if percent || at - from < LONGEST_ESCAPE {
            view.begins_at(at)
        } else {
            !view.back(at, 1).is_some_and(|b| b.is_ascii_alphanumeric())
        };
        if !begins {
            continue;
        }
        let seen = values_at(view, at, enabled);
        if view.take_short() {
            return Step::Hold(at);
        }
        match seen {
            Seen::Value(found, tail) => return Step::Hit(found, tail),
            Seen::Other(end) => return Step::On(end),
            Seen::Nothing => {}
        }
    }
    Step::Past
}
