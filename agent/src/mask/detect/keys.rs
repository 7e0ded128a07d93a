//! API keys: the vendors' prefixes, then enough characters that no person would write.

use super::super::view::View;
use super::context;
use super::{Detector, Enabled, Tail};

/// Longest key that is replaced as one value, in bytes; what follows of a longer one is left out.
const LONGEST: usize = 512;
/// Within so many characters behind its prefix a key looks like one, or is none.
const EARLY: usize = 96;
/// Characters that the key of an AWS access key must be, and the words that must stand before it.
const AWS_SECRET: usize = 40;
const AWS_WORDS: &[&[u8]] = &[
    b"secret_access_key",
    b"secretaccesskey",
    b"secret access key",
    b"secret-access-key",
    b"aws_secret",
    b"aws_secret_key",
    b"aws_secret_access_key",
    b"aws secret",
    b"secret key",
    b"secret_key",
    b"secretkey",
];

/// The alphabet of a key behind its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mask) enum Alphabet {
    /// Letters and digits.
    Plain,
    /// Also `_`.
    Underscore,
    /// Also `-`.
    Dash,
    /// Also `-` and `_`.
    Both,
    /// Capital letters and digits.
    Capitals,
}

impl Alphabet {
    pub(super) fn has(self, byte: u8) -> bool {
        match self {
            Self::Plain => byte.is_ascii_alphanumeric(),
            Self::Underscore => byte.is_ascii_alphanumeric() || byte == b'_',
            Self::Dash => byte.is_ascii_alphanumeric() || byte == b'-',
            Self::Both => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Capitals => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        }
    }
}

struct Kind {
    detector: Detector,
    prefix: &'static [u8],
    alphabet: Alphabet,
    /// Fewest characters behind the prefix.
    least: usize,
    /// Most characters behind the prefix; a run that is longer is no such key.
    most: Option<usize>,
}

const fn kind(detector: Detector, prefix: &'static [u8], alphabet: Alphabet, least: usize) -> Kind {
    Kind {
        detector,
        prefix,
        alphabet,
        least,
        most: None,
    }
}

const fn aws(prefix: &'static [u8]) -> Kind {
    Kind {
        most: Some(16),
        ..kind(Detector::AwsKey, prefix, Alphabet::Capitals, 16)
    }
}

const KINDS: &[Kind] = &[
    aws(b"AKIA"),
    aws(b"ASIA"),
    aws(b"ABIA"),
    aws(b"ACCA"),
    kind(Detector::GitHubKey, b"ghp_", Alphabet::Plain, 36),
    kind(Detector::GitHubKey, b"gho_", Alphabet::Plain, 36),
    kind(Detector::GitHubKey, b"ghu_", Alphabet::Plain, 36),
    kind(Detector::GitHubKey, b"ghs_", Alphabet::Plain, 36),
    kind(Detector::GitHubKey, b"ghr_", Alphabet::Plain, 36),
    kind(Detector::GitHubKey, b"github_pat_", Alphabet::Underscore, 22),
    kind(Detector::SlackKey, b"xoxa-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxb-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxe-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxo-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxp-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxr-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xoxs-", Alphabet::Dash, 10),
    kind(Detector::SlackKey, b"xapp-", Alphabet::Dash, 10),
    kind(Detector::StripeKey, b"sk_live_", Alphabet::Plain, 16),
    kind(Detector::StripeKey, b"sk_test_", Alphabet::Plain, 16),
    kind(Detector::StripeKey, b"rk_live_", Alphabet::Plain, 16),
    kind(Detector::StripeKey, b"rk_test_", Alphabet::Plain, 16),
    kind(Detector::StripeKey, b"whsec_", Alphabet::Plain, 24),
    kind(Detector::AnthropicKey, b"sk-ant-", Alphabet::Both, 20),
    kind(Detector::OpenAiKey, b"sk-", Alphabet::Both, 20),
];

/// Offers the vendors' keys at `at` to `best`.
pub(super) fn offer(
    view: &View<'_>,
    at: usize,
    enabled: Enabled,
    mut best: impl FnMut(Detector, &dyn Fn() -> Option<(usize, Tail)>),
) {
    if !matches!(view.at(at), Some(b'A' | b'g' | b'x' | b's' | b'r' | b'w')) {
        return;
    }
    for kind in KINDS {
        if view.has(at, kind.prefix) {
            best(kind.detector, &|| match kind.most {
                None if enabled.is_early(kind.detector) => early(view, at, kind),
                None | Some(_) => end(view, at, kind),
            });
        }
    }
}

/// The end of what makes the key at `at` certain: no more is looked at.
fn early(view: &View<'_>, at: usize, kind: &Kind) -> Option<(usize, Tail)> {
    let start = at + kind.prefix.len();
    let mut end = start;
    while end - start < EARLY && view.at(end).is_some_and(|b| kind.alphabet.has(b)) {
        end += 1;
        if end - start >= kind.least && looks_random(view.known(start, end), kind.least) {
            return Some((end, Tail::Key(kind.alphabet)));
        }
    }
    None
}

fn end(view: &View<'_>, at: usize, kind: &Kind) -> Option<(usize, Tail)> {
    let start = at + kind.prefix.len();
    let limit = kind.most.map_or(LONGEST, |most| most + 1);
    let end = view.run(start, limit, |b| kind.alphabet.has(b));
    let length = end - start;
    if length < kind.least
        || kind.most.is_some_and(|most| length > most)
        || !looks_random(view.known(start, end), kind.least)
    {
        return None;
    }
    if kind.most.is_some() {
        return view.ends_at(end).then_some((end, Tail::None));
    }
    let tail = if length == LONGEST { Tail::Run } else { Tail::None };
    Some((end, tail))
}

/// The secret of an AWS access key: forty characters of base 64 in one piece, after words that say so.
pub(super) fn aws_secret(view: &View<'_>, at: usize) -> Option<(usize, Tail)> {
    if matches!(view.back(at, 1), Some(b'/' | b'+')) {
        return None;
    }
    let in_key = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+');
    let end = view.run(at, AWS_SECRET + 1, in_key);
    let key = view.known(at, end);
    if key.len() != AWS_SECRET {
        return None;
    }
    let first_word = key.split(|b| *b == b'/').next().unwrap_or_default();
    let has_digit = first_word.iter().any(u8::is_ascii_digit);
    let has_upper = first_word.len() < key.len() && first_word.iter().any(u8::is_ascii_uppercase);
    let random = (has_digit || has_upper) && distinct(key) >= 16 && key.iter().any(u8::is_ascii_lowercase);
    (random && context::says(view, at, AWS_WORDS)).then_some((end, Tail::None))
}

/// Letters and digits, of some variety, in at least one long piece: names made of words are no keys.
fn looks_random(key: &[u8], least: usize) -> bool {
    let longest = key
        .split(|b| matches!(b, b'-' | b'_'))
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0);
    key.iter().any(u8::is_ascii_digit)
        && key.iter().any(u8::is_ascii_alphabetic)
        && distinct(key) >= 4
        && longest >= least.min(16)
}

/// How many different characters there are.
fn distinct(text: &[u8]) -> u32 {
    let seen = text
        .iter()
        .filter(|b| b.is_ascii())
        .fold(0u128, |set, b| set | (1 << u32::from(*b)));
    seen.count_ones()
}
