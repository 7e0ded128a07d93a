//! How often and how long consent can be used.

use std::fmt;
use std::time::Duration;

/// The longest window: what is needed for longer belongs into a policy.
pub const MAX_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
/// The most uses.
pub const MAX_USES: u32 = 1000;

/// What an approver grants: one use unless they say otherwise, within the configured time unless they say otherwise.
/// The operation stays the same: same principal, target and fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    uses: u32,
    window: Option<Duration>,
}

/// The terms cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTerms {
    /// Too few or too many uses.
    #[error("{0} uses cannot be granted: between 1 and {MAX_USES}")]
    Uses(u32),
    /// Too short or too long.
    #[error("the time of a grant lies between 1 second and 24 hours")]
    Window,
}

impl Terms {
    /// One use, within the configured time.
    pub const ONCE: Self = Self {
        uses: 1,
        window: None,
    };

    /// Checks what an approver wrote.
    ///
    /// # Errors
    /// Where it is out of bounds.
    pub fn new(uses: Option<u32>, window: Option<Duration>) -> Result<Self, InvalidTerms> {
        let uses = uses.unwrap_or(1);
        if !(1..=MAX_USES).contains(&uses) {
            return Err(InvalidTerms::Uses(uses));
        }
        if window.is_some_and(|w| !(Duration::from_secs(1)..=MAX_WINDOW).contains(&w)) {
            return Err(InvalidTerms::Window);
        }
        Ok(Self { uses, window })
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uses {
            1 => f.write_str("once")?,
            uses => write!(f, "{uses} uses")?,
        }
        match self.window {
            None => Ok(()),
            Some(window) => write!(f, " within {} s", window.as_secs()),
        }
    }
}

/// What all approvers together grant so far: the strictest of their terms; once it is approved, what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How often it can be used.
    pub uses: u32,
    /// How long, from the last consent that was needed.
    pub window: Duration,
}

impl Grant {
    /// What stands after one more approver's terms.
    pub(super) fn with(before: Option<Self>, terms: Terms, unless_said: Duration) -> Self {
        let window = terms.window.unwrap_or(unless_said);
        match before {
            None => Self {
                uses: terms.uses,
                window,
            },
            Some(before) => Self {
                uses: before.uses.min(terms.uses),
                window: before.window.min(window),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let check = |uses, seconds: Option<u64>, valid: bool| {
            let made = Terms::new(uses, seconds.map(Duration::from_secs));
            assert_eq!(made.is_ok(), valid, "{uses:?} {seconds:?}");
        };
        check(None, None, true);
        check(Some(0), None, false);
        check(Some(MAX_USES), Some(1), true);
        check(Some(MAX_USES + 1), None, false);
        check(None, Some(0), false);
        check(None, Some(24 * 3600), true);
        check(None, Some(24 * 3600 + 1), false);
    }

    #[test]
    fn the_strictest_of_all_counts() {
        let minute = Duration::from_secs(60);
        let five = Terms::new(Some(5), Some(minute * 2)).expect("valid");
        let three = Terms::new(Some(3), None).expect("valid");
        let both = Grant::with(Some(Grant::with(None, five, minute)), three, minute);
        assert_eq!(
            both,
            Grant {
                uses: 3,
                window: minute
            }
        );
        let once = Grant::with(Some(both), Terms::ONCE, minute * 9);
        assert_eq!(
            once,
            Grant {
                uses: 1,
                window: minute
            }
        );
        assert_eq!(five.to_string(), "5 uses within 120 s");
        assert_eq!(Terms::ONCE.to_string(), "once");
    }
}
