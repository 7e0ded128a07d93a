//! Classes of sensitive data.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a data class, such as `pii.email` or `pci.card`: words of lower-case letters, digits and `_`, joined
/// by dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataClass(Arc<str>);

/// The text is no class name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a data class: write words of lower-case letters, digits and `_` joined by dots, such as pii.email"
)]
pub struct InvalidClass(pub String);

impl DataClass {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DataClass {
    type Err = InvalidClass;

    fn from_str(text: &str) -> Result<Self, InvalidClass> {
        let word = |w: &str| {
            !w.is_empty()
                && w.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if text.split('.').all(word) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidClass(text.to_owned()))
        }
    }
}

impl fmt::Display for DataClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many values of each class were masked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaskCounts(pub BTreeMap<DataClass, u64>);

impl MaskCounts {
    /// Counts `n` more values of `class`.
    pub fn add(&mut self, class: &DataClass, n: u64) {
        if n == 0 {
            return;
        }
        match self.0.get_mut(class) {
            Some(count) => *count = count.saturating_add(n),
            None => {
                self.0.insert(class.clone(), n);
            }
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (class, n) in &other.0 {
            self.add(class, *n);
        }
    }

    /// All values masked.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}
