//! What was spent, in cases.

use serde::Deserialize;

use crate::model::{Spent, Usage};

/// `context.usage`.
#[derive(Deserialize, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUsage {
    tokens_hour: u64,
    requests_hour: u64,
    model_tokens_hour: u64,
    model_requests_hour: u64,
}

impl RawUsage {
    /// The usage of a case; it frees up never.
    pub(super) const fn usage(self) -> Usage {
        Usage {
            hour: Spent {
                tokens: self.tokens_hour,
                requests: self.requests_hour,
                model_tokens: self.model_tokens_hour,
                model_requests: self.model_requests_hour,
            },
            later: Vec::new(),
        }
    }
}
