//! Finding candidates: one pass of one automaton over all patterns, behind a cheap look at which bytes there are.

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::validate;

macro_rules! detectors {
    ($($variant:ident $name:literal $pattern:literal),* $(,)?) => {
        /// What finds a kind of value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum Detector {
            $(#[doc = $name] $variant),*
        }

        const ALL: &[(Detector, &str, &str)] = &[$((Detector::$variant, $name, $pattern)),*];
    };
}

// In the order of precedence where two match at the same place.
detectors! {
    PemKey "pem_key" r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\z)",
    Jwt "jwt" r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*",
    AnthropicKey "anthropic_key" r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    OpenAiKey "openai_key" r"\bsk-[A-Za-z0-9_-]{20,}",
    StripeKey "stripe_key" r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",
    AwsKey "aws_key" r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    GitHubKey "github_key" r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})",
    SlackKey "slack_key" r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    Email "email" r"[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+",
    Iban "iban" r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    UsSsn "us_ssn" r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b|\b[0-9]{9}\b",
    Card "card" r"\b[0-9](?:[ -]?[0-9]){12,18}\b",
    Phone "phone" r"\+[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,4}\))?(?:[ .-]?[0-9]{2,5}){2,5}\b|(?:\([2-9][0-9]{2}\) ?|\b[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}\b",
    Ipv4 "ipv4" r"\b[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\b",
    Ipv6 "ipv6" r"(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}",
}

impl Detector {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(_, known, _)| *known == name)
            .map(|(detector, ..)| *detector)
    }

    pub(super) fn names() -> String {
        ALL.iter()
            .map(|(_, name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// One value found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) detector: Detector,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// All detectors, compiled.
#[derive(Debug)]
pub(super) struct Detectors {
    automaton: Regex,
}

impl Detectors {
    /// Compiles them; `None` where the library refuses a pattern (a test keeps that from happening).
    pub(super) fn compile() -> Option<Self> {
        let patterns: Vec<&str> = ALL.iter().map(|(_, _, pattern)| *pattern).collect();
        let bytes = syntax::Config::new().unicode(false).utf8(false);
        let config = regex_automata::meta::Config::new().utf8_empty(false);
        let automaton = Regex::builder()
            .syntax(bytes)
            .configure(config)
            .build_many(&patterns)
            .ok()?;
        Some(Self { automaton })
    }

    /// Calls `found` for every value in `text`, from left to right, without overlaps.
    pub(super) fn find(&self, text: &[u8], mut found: impl FnMut(Found)) {
        if !worth_looking(text) {
            return;
        }
        let mut at = 0;
        while at < text.len() {
            let input = Input::new(text).span(at..text.len()).anchored(Anchored::No);
            let Some(candidate) = self.automaton.search(&input) else {
                return;
            };
            let Some((detector, ..)) = ALL.get(candidate.pattern().as_usize()) else {
                return;
            };
            let (start, end) = (candidate.start(), candidate.end());
            match validate::check(*detector, text, start, end) {
                Some(end) => {
                    found(Found {
                        detector: *detector,
                        start,
                        end,
                    });
                    at = end.max(start + 1);
                }
                None => at = self.after_miss(text, *detector, start, &mut found),
            }
        }
    }

    /// A candidate that is none hides others that begin at the same place: those are tried one by one.
    fn after_miss(
        &self,
        text: &[u8],
        missed: Detector,
        start: usize,
        found: &mut impl FnMut(Found),
    ) -> usize {
        let later = ALL
            .iter()
            .enumerate()
            .skip_while(|(_, (d, ..))| *d != missed)
            .skip(1);
        for (index, (detector, ..)) in later {
            let Ok(pattern) = regex_automata::PatternID::new(index) else {
                break;
            };
            let input = Input::new(text)
                .span(start..text.len())
                .anchored(Anchored::Pattern(pattern));
            if let Some(candidate) = self.automaton.search(&input)
                && let Some(end) = validate::check(*detector, text, start, candidate.end())
            {
                found(Found {
                    detector: *detector,
                    start,
                    end,
                });
                return end.max(start + 1);
            }
        }
        start + 1
    }
}

/// Every pattern needs `@`, seven digits, four digits with three dots, two colons, or a key's punctuation with length.
fn worth_looking(text: &[u8]) -> bool {
    let (mut digits, mut dots, mut colons, mut marks) = (0u32, 0u32, 0u32, 0u32);
    for byte in text {
        match byte {
            b'@' => return true,
            b'0'..=b'9' => {
                digits += 1;
                if digits >= 7 {
                    return true;
                }
            }
            b'.' => dots += 1,
            b':' => colons += 1,
            b'-' | b'_' => marks += 1,
            _ => {}
        }
    }
    (dots >= 3 && digits >= 4)
        || colons >= 2
        || (text.len() >= 16 && (marks > 0 || dots >= 2 || has_aws_prefix(text)))
}

fn has_aws_prefix(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"AKIA").is_some() || memchr::memmem::find(text, b"ASIA").is_some()
}
