//! Questions for names in cases.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::model::{Action, DnsFacts, Facts};

/// `context.dns`.
#[derive(Deserialize, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDns {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    target: bool,
    tcp: bool,
}

impl RawDns {
    /// The facts of a case that asks for a name.
    pub(super) fn facts(self, actions: &BTreeSet<Action>) -> Result<Facts, String> {
        let Self {
            name,
            kind,
            target,
            tcp,
        } = self;
        if actions.len() > 1 || name.is_empty() {
            return Err("dns.resolve goes with no other action, and needs context.dns.name".into());
        }
        Ok(Facts::Dns(DnsFacts {
            name,
            kind: kind.unwrap_or_else(|| "A".into()),
            target,
            tcp,
        }))
    }
}
