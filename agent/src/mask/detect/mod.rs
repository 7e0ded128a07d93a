//! What a value of each kind looks like, and whether a candidate is one.
//!
//! A detector is a function of a view and a place: it reads bytes one at a time through the view, so that looking past
//! the end of an unfinished text is noticed, and it reads a bounded number of them.

mod card;
mod context;
pub(super) mod email;
mod iban;
mod ip;
mod jwt;
mod keys;
pub(super) mod pem;
mod phone;
mod ssn;
#[cfg(test)]
mod tests;

use super::view::View;

macro_rules! detectors {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// What finds a kind of value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum Detector {
            $(#[doc = $name] $variant),*
        }

        impl Detector {
            /// All, the more specific first: of two values of the same length, the earlier detector's is meant.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in `classes.toml`.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }
        }
    };
}

detectors! {
    PemKey "pem_key",
    Jwt "jwt",
    AnthropicKey "anthropic_key",
    OpenAiKey "openai_key",
    StripeKey "stripe_key",
    GitHubKey "github_key",
    SlackKey "slack_key",
    AwsKey "aws_key",
    Email "email",
    Iban "iban",
    Card "card",
    UsSsn "us_ssn",
    Phone "phone",
    Ipv4 "ipv4",
    Ipv6 "ipv6",
}

impl Detector {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }

    const fn bit(self) -> u32 {
        1 << match self {
            Self::PemKey => 0,
            Self::Jwt => 1,
            Self::AnthropicKey => 2,
            Self::OpenAiKey => 3,
            Self::StripeKey => 4,
            Self::GitHubKey => 5,
            Self::SlackKey => 6,
            Self::AwsKey => 7,
            Self::Email => 8,
            Self::Iban => 9,
            Self::Card => 10,
            Self::UsSsn => 11,
            Self::Phone => 12,
            Self::Ipv4 => 13,
            Self::Ipv6 => 14,
        }
    }
}

/// A set of detectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Enabled {
    on: u32,
    early: u32,
}

impl Enabled {
    pub(super) const fn with(self, detector: Detector) -> Self {
        Self {
            on: self.on | detector.bit(),
            ..self
        }
    }

    /// The same, where what stands in a value's place says nothing of it: then nobody has to wait for its end.
    pub(super) const fn with_early(self, detector: Detector) -> Self {
        Self {
            on: self.on | detector.bit(),
            early: self.early | detector.bit(),
        }
    }

    #[inline]
    pub(super) const fn has(self, detector: Detector) -> bool {
        self.on & detector.bit() != 0
    }

    #[inline]
    pub(super) const fn is_early(self, detector: Detector) -> bool {
        self.early & detector.bit() != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.on == 0
    }
}

/// A value, with the place of its first byte and the place behind its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) detector: Detector,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What follows a value and belongs to it, of whatever length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    None,
    /// The rest of a private key: to its END line, or to the end of the text.
    Pem,
    /// The rest of a key or token that is longer than any real one.
    Run,
    /// The rest of a token that was certain early, with the dots that it had until there.
    Token(u8),
    /// The rest of a key that was certain early.
    Key(keys::Alphabet),
}

impl Tail {
    /// How far the tail reaches from `pos`, and what is still open there.
    pub(super) fn swallow(self, view: &View<'_>, pos: usize) -> (usize, Self) {
        let (end, open) = match self {
            Self::None => (pos, false),
            Self::Pem => pem::tail(view, pos),
            Self::Run => {
                let end = view.run(pos, usize::MAX, jwt::belongs);
                (end, view.take_short())
            }
            Self::Token(dots) => return jwt::tail(view, pos, dots),
            Self::Key(alphabet) => {
                let end = view.run(pos, usize::MAX, |b| alphabet.has(b));
                (end, view.take_short())
            }
        };
        (end, if open { self } else { Self::None })
    }
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A value.
    Value(Found, Tail),
    /// Something harmless up to here, whose parts may look like values (a UUID).
    Other(usize),
    /// Nothing.
    Nothing,
}

/// The longest candidate at one place.
struct Best {
    enabled: Enabled,
    start: usize,
    found: Option<(Found, Tail)>,
}

impl Best {
    fn offer(&mut self, detector: Detector, find: impl FnOnce() -> Option<usize>) {
        self.offer_open(detector, || find().map(|end| (end, Tail::None)));
    }

    fn offer_open(&mut self, detector: Detector, find: impl FnOnce() -> Option<(usize, Tail)>) {
        if !self.enabled.has(detector) {
            return;
        }
        let Some((end, tail)) = find() else { return };
        let found = Found {
            detector,
            start: self.start,
            end,
        };
        let better = match &self.found {
            None => true,
            Some((other, _)) => end > other.end || (end == other.end && detector < other.detector),
        };
        if better {
            self.found = Some((found, tail));
        }
    }
}

/// What begins at `at`, where something can begin (`View::begins_at`). E-mail addresses and PEM keys are found by the
/// end of their first word instead.
pub(super) fn values_at(view: &View<'_>, at: usize, enabled: Enabled) -> Seen {
    let mut best = Best {
        enabled,
        start: at,
        found: None,
    };
    match view.at(at) {
        Some(b'0'..=b'9') => {
            if let Some(end) = numbers(view, at, &mut best) {
                return Seen::Other(end);
            }
        }
        Some(b'a'..=b'z' | b'A'..=b'Z') => {
            if let Some(end) = uuid_end(view, at) {
                return Seen::Other(end);
            }
            best.offer_open(Detector::Jwt, || match enabled.is_early(Detector::Jwt) {
                true => jwt::early(view, at),
                false => jwt::end(view, at),
            });
            keys::offer(view, at, enabled, |detector, find| {
                best.offer_open(detector, find)
            });
            best.offer(Detector::Iban, || iban::end(view, at));
            best.offer_open(Detector::AwsKey, || keys::aws_secret(view, at));
            best.offer(Detector::Ipv6, || ip::v6(view, at));
        }
        Some(b'+') => best.offer(Detector::Phone, || phone::international(view, at)),
        Some(b'(') => best.offer(Detector::Phone, || phone::in_parentheses(view, at)),
        // Only two colons begin an address; one stands behind every name of JSON.
        Some(b':') if view.at(at + 1) == Some(b':') => best.offer(Detector::Ipv6, || ip::v6(view, at)),
        Some(_) | None => {}
    }
    best.found
        .map_or(Seen::Nothing, |(found, tail)| Seen::Value(found, tail))
}

/// Offers what begins with a digit; only what the first digits and the byte behind them leave possible is looked at.
/// Returns the end of a UUID.
fn numbers(view: &View<'_>, at: usize, best: &mut Best) -> Option<usize> {
    const LONG: usize = 20;
    let digits = view.run(at, LONG, |b| b.is_ascii_digit()) - at;
    let next = view.at(at + digits);
    let joined = matches!(next, Some(b' ' | b'-' | b'.' | b'/' | b'('));
    if next.is_some_and(|b| b.is_ascii_hexdigit() || (b == b'-' && digits == 8))
        && let Some(end) = uuid_end(view, at)
    {
        return Some(end);
    }
    if digits >= card::SHORTEST || (digits >= 3 && joined) {
        best.offer(Detector::Card, || card::end(view, at));
    }
    if digits == 9 || (digits == 3 && joined) {
        best.offer(Detector::UsSsn, || ssn::end(view, at));
    }
    if digits >= phone::SHORTEST || joined {
        best.offer(Detector::Phone, || phone::national(view, at));
    }
    if digits <= 3 && next == Some(b'.') {
        best.offer(Detector::Ipv4, || ip::v4(view, at));
    }
    if next.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+')) {
        best.offer_open(Detector::AwsKey, || keys::aws_secret(view, at));
    }
    if digits <= 4 && next.is_some_and(|b| b == b':' || b.is_ascii_hexdigit()) {
        best.offer(Detector::Ipv6, || ip::v6(view, at));
    }
    None
}

/// The end of a UUID (RFC 9562): its groups can look like card and phone numbers.
fn uuid_end(view: &View<'_>, at: usize) -> Option<usize> {
    let mut place = at;
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            if view.at(place) != Some(b'-') {
                return None;
            }
            place += 1;
        }
        let end = view.run(place, length, |b| b.is_ascii_hexdigit());
        if end - place != length {
            return None;
        }
        place = end;
    }
    view.ends_at(place).then_some(place)
}
