//! How a tool stands: pure.

use crate::config::{ChangedTools, NewTools, ToolRules};
use crate::model::Digest;

use super::store::Kept;

/// How a tool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is what was accepted.
    Accepted,
    /// It is not, and may be used all the same.
    Flagged,
    /// It was never accepted.
    New,
    /// It says something else than what was accepted.
    Changed,
}

impl Standing {
    /// Whether it is listed and may be called.
    #[must_use]
    pub const fn passes(self) -> bool {
        match self {
            Self::Accepted | Self::Flagged => true,
            Self::New | Self::Changed => false,
        }
    }
}

/// How a tool stands that is offered as `seen`; `kept` is what is known of it.
#[must_use]
pub fn standing(kept: Option<&Kept>, seen: &Digest, rules: ToolRules) -> Standing {
    let is = |known: Option<&String>| known.is_some_and(|text| Digest::of(text.as_bytes()) == *seen);
    let (first, accepted) = match kept {
        Some(kept) => (kept.first.as_ref(), kept.accepted.as_ref()),
        None => (None, None),
    };
    if is(first) {
        return Standing::Accepted;
    }
    // What a person accepted counts, unless the configuration is stricter than that.
    if first.is_some() {
        match rules.changed {
            ChangedTools::Flag if is(accepted) => Standing::Accepted,
            ChangedTools::Flag => Standing::Flagged,
            ChangedTools::Hold if is(accepted) => Standing::Accepted,
            ChangedTools::Hold | ChangedTools::Block => Standing::Changed,
        }
    } else {
        match rules.new {
            NewTools::Accept | NewTools::Hold if is(accepted) => Standing::Accepted,
            NewTools::Accept | NewTools::Hold if accepted.is_some() => match rules.changed {
                ChangedTools::Flag => Standing::Flagged,
                ChangedTools::Hold | ChangedTools::Block => Standing::Changed,
            },
            // Whoever first sees it accepts it: the caller keeps it as the first.
            NewTools::Accept => Standing::Accepted,
            NewTools::Hold | NewTools::Block => Standing::New,
        }
    }
}
