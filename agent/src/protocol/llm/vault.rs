//! What aliases in prompts stand for: in memory, of one target, apart for each principal, for as long as the agent runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memchr::memmem;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::mask::{MaskKey, alias};
use crate::model::DataClass;

/// Values of one principal; of more, those that were not used for the longest time are forgotten.
const MOST: usize = 4096;
/// Bytes of them.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Longest value that is kept; a longer one stays masked.
const LONGEST: usize = 64 * 1024;
/// Principals; of more, those whom nobody serves at the moment are forgotten.
const PRINCIPALS: usize = 1024;

/// Every principal's values at one target.
pub(super) struct Vaults {
    /// Made for this one value: aliases of another target, or of another run, mean nothing here.
    key: Option<Arc<MaskKey>>,
    by: Mutex<HashMap<String, Arc<Vault>>>,
}

impl fmt::Debug for Vaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vaults")
    }
}

impl Default for Vaults {
    fn default() -> Self {
        Self {
            key: MaskKey::random().ok().map(Arc::new),
            by: Mutex::default(),
        }
    }
}

impl Vaults {
    /// Those of a principal; `None` where the system gives no randomness to make aliases of.
    pub(super) fn of(&self, principal: &str) -> Option<Arc<Vault>> {
        let key = self.key.as_ref()?;
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if by.len() >= PRINCIPALS && !by.contains_key(principal) {
            by.retain(|_, vault| Arc::strong_count(vault) > 1);
        }
        let vault = by.entry(principal.to_owned()).or_insert_with(|| {
            Arc::new(Vault {
                key: Arc::clone(key),
                principal: principal.to_owned(),
                kept: Mutex::default(),
            })
        });
        Some(Arc::clone(vault))
    }
}

/// One principal's values.
pub(super) struct Vault {
    key: Arc<MaskKey>,
    principal: String,
    kept: Mutex<Kept>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

#[derive(Default)]
struct Kept {
    /// By alias, lower case.
    values: BTreeMap<String, Entry>,
    /// Aliases by when they were used last.
    ages: BTreeMap<u64, String>,
    age: u64,
    bytes: usize,
}

struct Entry {
    value: Zeroizing<String>,
    class: DataClass,
    age: u64,
}

/// What a run of letters is.
pub(super) enum Look {
    /// Its first so many bytes are the alias of this value.
    Is(usize, Zeroizing<String>),
    /// It may become an alias.
    Open,
    /// None.
    Nothing,
}

impl Vault {
    /// The alias of a value that stands in a prompt; `keep`: so that it can be found again. `words`: what already looks
    /// like aliases in the prompt, lower case; none of them is given a meaning.
    pub(super) fn alias(
        &self,
        class: &DataClass,
        value: &str,
        keep: bool,
        words: &BTreeSet<String>,
    ) -> String {
        let mut kept = self.kept();
        let mut attempt = 0;
        loop {
            let word = alias(
                &self.key,
                &[self.principal.as_bytes()],
                class,
                value.as_bytes(),
                attempt,
            );
            let lower = word.to_ascii_lowercase();
            attempt += 1;
            match kept.values.get(&lower) {
                Some(entry) if entry.value.as_str() == value && entry.class == *class => {
                    kept.touch(&lower);
                    return word;
                }
                Some(_) => continue,
                None => {}
            }
            let written = words.range(lower.clone()..).next();
            if written.is_some_and(|one| one.starts_with(&lower)) {
                continue;
            }
            if keep && value.len() <= LONGEST {
                kept.insert(lower, class, value);
            }
            return word;
        }
    }

    /// `text` with the aliases of values in their places, also where they stand in JSON, and in JSON in a string of JSON:
    /// what records show of an answer that values were put back into.
    pub(super) fn concealed(&self, text: &[u8]) -> Vec<u8> {
        let escaped = |value: &str| {
            let quoted = Value::from(value).to_string();
            quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
        };
        let mut found: Vec<(Zeroizing<String>, String)> = Vec::new();
        for (alias, Entry { value, .. }) in &self.kept().values {
            let once = Zeroizing::new(escaped(value));
            let twice = Zeroizing::new(escaped(&once));
            let forms = [twice, once, value.clone()];
            let there = forms
                .into_iter()
                .filter(|form| !form.is_empty() && memmem::find(text, form.as_bytes()).is_some());
            found.extend(there.map(|form| (form, alias.clone())));
        }
        // Of two that begin at the same place, the longer one is taken out.
        found.sort_by_key(|(form, _)| std::cmp::Reverse(form.len()));
        let mut out = text.to_vec();
        for (form, alias) in found {
            let mut next = Vec::with_capacity(out.len());
            let mut copied = 0;
            for at in memmem::find_iter(&out, form.as_bytes()) {
                next.extend_from_slice(out.get(copied..at).unwrap_or_default());
                next.extend_from_slice(alias.as_bytes());
                copied = at + form.len();
            }
            next.extend_from_slice(out.get(copied..).unwrap_or_default());
            out = next;
        }
        out
    }

    /// What `run` (ASCII letters) begins with. `open`: more letters may follow. Only values of `classes` are found.
    pub(super) fn look(&self, run: &str, open: bool, classes: &BTreeSet<DataClass>) -> Look {
        let kept = self.kept();
        let lower = run.to_ascii_lowercase();
        let rest = (Bound::Excluded(lower.clone()), Bound::Unbounded);
        if open
            && let Some((longer, _)) = kept.values.range(rest).next()
            && longer.starts_with(&lower)
        {
            return Look::Open;
        }
        let found = (1..=lower.len()).rev().find_map(|length| {
            let entry = kept.values.get(lower.get(..length)?)?;
            let shown = classes.contains(&entry.class);
            shown.then(|| Look::Is(length, entry.value.clone()))
        });
        found.unwrap_or(Look::Nothing)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn touch(&mut self, word: &str) {
        self.age += 1;
        if let Some(entry) = self.values.get_mut(word) {
            self.ages.remove(&entry.age);
            entry.age = self.age;
            self.ages.insert(self.age, word.to_owned());
        }
    }

    fn insert(&mut self, word: String, class: &DataClass, value: &str) {
        self.bytes += value.len();
        while self.values.len() >= MOST || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.ages.pop_first() else {
                break;
            };
            if let Some(entry) = self.values.remove(&oldest) {
                self.bytes -= entry.value.len();
            }
        }
        self.age += 1;
        self.ages.insert(self.age, word.clone());
        let entry = Entry {
            value: Zeroizing::new(value.to_owned()),
            class: class.clone(),
            age: self.age,
        };
        self.values.insert(word, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> DataClass {
        name.parse().expect("class")
    }

    #[test]
    fn a_value_has_one_alias_and_only_its_owner_gets_it_back() {
        let vaults = Vaults::default();
        let (alice, bob) = (vaults.of("alice").expect("key"), vaults.of("bob").expect("key"));
        let email = class("pii.email");
        let word = alice.alias(&email, "ada@example.com", true, &BTreeSet::new());
        assert_eq!(
            word,
            alice.alias(&email, "ada@example.com", true, &BTreeSet::new())
        );
        assert_ne!(
            word,
            bob.alias(&email, "ada@example.com", false, &BTreeSet::new())
        );
        let back = |vault: &Vault, run: &str, classes: &[DataClass]| match vault.look(
            run,
            false,
            &classes.iter().cloned().collect(),
        ) {
            Look::Is(length, value) => Some((length, value.as_str().to_owned())),
            Look::Open | Look::Nothing => None,
        };
        let emails = [email.clone()];
        let found = Some((word.len(), "ada@example.com".to_owned()));
        assert_eq!(back(&alice, &word, &emails), found);
        assert_eq!(back(&alice, &format!("{}s", word.to_uppercase()), &emails), found);
        assert_eq!(back(&alice, &word, &[class("pci.card")]), None);
        assert_eq!(back(&bob, &word, &emails), None);
        assert_eq!(back(&vaults.of("alice").expect("key"), &word, &emails), found);
        assert_eq!(
            back(&Vaults::default().of("alice").expect("key"), &word, &emails),
            None
        );
        let (half, _) = word.split_at(15);
        assert!(matches!(alice.look(half, true, &BTreeSet::new()), Look::Open));
        assert!(matches!(alice.look(half, false, &BTreeSet::new()), Look::Nothing));
    }

    #[test]
    fn what_already_looks_like_an_alias_gets_no_meaning() {
        let vaults = Vaults::default();
        let vault = vaults.of("alice").expect("key");
        let email = class("pii.email");
        let first = vault.alias(&email, "ada@example.com", false, &BTreeSet::new());
        let written = BTreeSet::from([format!("{}s", first.to_lowercase())]);
        let second = vault.alias(&email, "ada@example.com", true, &written);
        assert_ne!(first, second);
        assert!(matches!(
            vault.look(&first, false, &[email].into()),
            Look::Nothing
        ));
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let vaults = Vaults::default();
        let vault = vaults.of("alice").expect("key");
        let email = class("pii.email");
        let first = vault.alias(&email, "first", true, &BTreeSet::new());
        let second = vault.alias(&email, "second", true, &BTreeSet::new());
        for nth in 0..MOST - 1 {
            vault.alias(&email, "first", true, &BTreeSet::new());
            vault.alias(&email, &nth.to_string(), true, &BTreeSet::new());
        }
        let classes = BTreeSet::from([email.clone()]);
        assert!(matches!(vault.look(&first, false, &classes), Look::Is(..)));
        assert!(matches!(vault.look(&second, false, &classes), Look::Nothing));
        assert_eq!(vault.kept().values.len(), MOST);
        let long = "x".repeat(LONGEST + 1);
        let long = vault.alias(&email, &long, true, &BTreeSet::new());
        assert!(matches!(vault.look(&long, false, &classes), Look::Nothing));
        for nth in 0..100 {
            let large = nth.to_string().repeat(LONGEST / 2);
            vault.alias(
                &email,
                large.get(..LONGEST).unwrap_or(&large),
                true,
                &BTreeSet::new(),
            );
        }
        assert!(vault.kept().bytes <= MOST_BYTES);
    }
}
