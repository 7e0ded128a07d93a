//! What an allowed operation must still obey.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::class::DataClass;

/// How much of an operation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordingLevel {
    /// Who, what kind, where, the verdict; no statement text.
    Metadata,
    /// Statement text and parameters too, masked.
    Operations,
    /// What the process was shown too.
    Full,
}

impl RecordingLevel {
    /// The name in configuration and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Operations => "operations",
            Self::Full => "full",
        }
    }
}

/// Bounds on one operation; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Rows that the process may be shown.
    pub max_rows: Option<u64>,
    /// Time that the operation may take.
    pub max_time: Option<Duration>,
}

impl Limits {
    /// The narrower of both, bound by bound.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rows = [self.max_rows, other.max_rows];
        let times = [self.max_time, other.max_time];
        Self {
            max_rows: rows.into_iter().flatten().min(),
            max_time: times.into_iter().flatten().min(),
        }
    }
}

/// What becomes of a word that stands for a value in a prompt, where the model writes it in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alias {
    /// The process gets its own value back.
    Reversible,
    /// It stays.
    Final,
}

/// Classes of data that are masked in a prompt before it goes out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptMask(pub BTreeMap<DataClass, Alias>);

impl PromptMask {
    /// Whether nothing is masked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The classes whose values the process gets back.
    #[must_use]
    pub fn reversible(&self) -> BTreeSet<DataClass> {
        let back = self.0.iter().filter(|(_, alias)| **alias == Alias::Reversible);
        back.map(|(class, _)| class.clone()).collect()
    }
}

/// What a prompt must still obey.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptDuty {
    /// What is masked in it.
    pub mask: PromptMask,
    /// Whether some policy reads what prompts take: the provider is asked to count then.
    pub counted: bool,
}

/// What an allowed operation must still obey. Always destructure it without `..`: a new obligation must not compile
/// until every room honours it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligations {
    /// Classes that the principal may see as they are; all others are masked.
    pub revealed: BTreeSet<DataClass>,
    /// How much is kept.
    pub recording: RecordingLevel,
    /// Bounds.
    pub limits: Limits,
    /// What a prompt must obey.
    pub prompt: PromptDuty,
}
