//! How much may be asked: names are short, and few. What policies permit could carry data otherwise.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::DnsConfig;
use crate::model::{DnsFacts, Timestamp};

/// From this length on a part of a name is looked at for entropy: below, words and random characters look alike.
const LONG: usize = 20;
/// Names that are counted within a minute, under all domains.
const MAX_COUNTED: usize = 16_384;

/// The budget of a run.
#[derive(Debug)]
pub(super) struct Budget {
    config: DnsConfig,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    second: i64,
    asked: u32,
    /// Refused for their rate since the last record of it.
    unrecorded: u64,
    recorded: i64,
    minute: i64,
    counted: usize,
    hasher: RandomState,
    /// Hashes of names by the domain that they lie in.
    names: HashMap<String, HashSet<u64>>,
}

/// Too many within a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFast {
    /// How many there were since the last record, where it is time for one: each second.
    pub(super) record: Option<u64>,
}

impl Budget {
    pub(super) fn new(config: DnsConfig) -> Self {
        Self {
            config,
            used: Mutex::default(),
        }
    }

    /// Types that may be asked for.
    pub(super) fn types(&self) -> &[String] {
        &self.config.types
    }

    /// Counts a question.
    pub(super) fn rate(&self, now: Timestamp) -> Result<(), TooFast> {
        let second = now.as_millis().div_euclid(1000);
        let mut used = self.lock();
        if used.second != second {
            used.second = second;
            used.asked = 0;
        }
        used.asked = used.asked.saturating_add(1);
        if used.asked <= self.config.per_second {
            return Ok(());
        }
        used.unrecorded += 1;
        let record = (used.recorded != second).then(|| {
            used.recorded = second;
            std::mem::take(&mut used.unrecorded)
        });
        Err(TooFast { record })
    }

    /// Whether a name may be asked for; names of targets always may.
    pub(super) fn check(&self, facts: &DnsFacts, now: Timestamp) -> Result<(), String> {
        if facts.target {
            return Ok(());
        }
        let config = &self.config;
        if facts.name.len() > config.max_name {
            return Err(format!(
                "The name has {} characters, and [dns] max_name is {}.",
                facts.name.len(),
                config.max_name
            ));
        }
        for label in facts.name.split('.') {
            if label.len() > config.max_label {
                return Err(format!(
                    "A part of the name has {} characters, and [dns] max_label is {}.",
                    label.len(),
                    config.max_label
                ));
            }
            if label.len() >= LONG && entropy(label) * 100.0 > f64::from(config.max_entropy) {
                let most = config.max_entropy;
                return Err(format!(
                    "A part of the name looks random: more than {most} hundredths of a bit a character, which is [dns] max_entropy."
                ));
            }
        }
        self.count(facts, now)
    }

    /// Counts the name under every domain of at least two parts that it lies in.
    fn count(&self, facts: &DnsFacts, now: Timestamp) -> Result<(), String> {
        let most = self.config.names_per_domain;
        let mut used = self.lock();
        let minute = now.as_millis().div_euclid(60_000);
        if used.minute != minute {
            used.minute = minute;
            used.counted = 0;
            used.names.clear();
        }
        let hash = used.hasher.hash_one(&facts.name);
        let domains = || facts.within().skip(1).filter(|domain| domain.contains('.'));
        let full = |names: &HashSet<u64>| names.len() >= most && !names.contains(&hash);
        if let Some(domain) = domains().find(|domain| used.names.get(*domain).is_some_and(full)) {
            return Err(format!(
                "More than {most} names under {domain} within a minute, which is [dns] names_per_domain."
            ));
        }
        for domain in domains() {
            if used.counted >= MAX_COUNTED {
                return Err("More names within a minute than are counted.".into());
            }
            let new = used.names.entry(domain.to_owned()).or_default().insert(hash);
            used.counted += usize::from(new);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bits a character, after Shannon.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for byte in text.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    let length = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    let part = |count: &u32| {
        let share = f64::from(*count) / length;
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let config = crate::config::defaults().dns;
        Budget::new(DnsConfig {
            names_per_domain: 3,
            per_second: 2,
            ..config
        })
    }

    fn facts(name: &str) -> DnsFacts {
        DnsFacts {
            name: name.into(),
            kind: "A".into(),
            ..DnsFacts::default()
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn names_that_look_like_data_are_refused() {
        let hex = "0123456789abcdef".repeat(4);
        let table = [
            ("www.example.com", None),
            ("internal-payments-api.eu-west-1.elb.example.com", None),
            ("ip-10-20-30-40.eu-central-1.compute.internal", None),
            (&format!("{}.example.com", hex.split_at(41).0), Some("max_label")),
            (&format!("{}.com", "abcdefgh.".repeat(14)), Some("max_name")),
            // Base32 of random bytes.
            (
                "mzxw6ytboi3dcnrrgaytemzugq2tmnzy.example.com",
                Some("max_entropy"),
            ),
        ];
        for (name, expected) in table {
            let said = budget().check(&facts(name), at(0)).err();
            match expected {
                None => assert_eq!(said, None, "{name}"),
                Some(part) => assert!(
                    said.as_ref().is_some_and(|s| s.contains(part)),
                    "{name}: {said:?}"
                ),
            }
            let known = DnsFacts {
                target: true,
                ..facts(name)
            };
            assert_eq!(budget().check(&known, at(0)), Ok(()), "{name}");
        }
    }

    #[test]
    fn many_names_under_a_domain_are_refused_at_any_depth() {
        let budget = budget();
        for name in ["a.evil.com", "b.evil.com", "a.evil.com", "x.c.evil.com"] {
            assert_eq!(budget.check(&facts(name), at(0)), Ok(()), "{name}");
        }
        for name in ["d.evil.com", "x.y.z.evil.com", "a.b.evil.com"] {
            let said = budget.check(&facts(name), at(59_999)).expect_err(name);
            assert!(said.contains("under evil.com"), "{said}");
        }
        // What was counted may be asked again; the domain itself and its neighbours are others.
        for name in ["a.evil.com", "evil.com", "a.good.com", "com", ""] {
            assert_eq!(budget.check(&facts(name), at(59_999)), Ok(()), "{name}");
        }
        assert_eq!(budget.check(&facts("d.evil.com"), at(60_000)), Ok(()));
    }

    #[test]
    fn too_many_questions_are_recorded_once_a_second() {
        let budget = budget();
        let mut refused = 0;
        for second in 1..=10 {
            let mut records = 0;
            for question in 0..100 {
                match budget.rate(at(second * 1000 + question)) {
                    Ok(()) => assert!(question < 2),
                    Err(TooFast { record }) => {
                        records += usize::from(record.is_some());
                        refused += record.unwrap_or(0);
                    }
                }
            }
            assert_eq!(records, 1);
        }
        assert_eq!(refused, 9 * 98 + 1);
    }
}
