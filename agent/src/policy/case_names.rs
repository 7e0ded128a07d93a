//! Questions for names, and bodies that are not read, in cases.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::model::{Action, DnsFacts, Facts, HttpBody};

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

/// Whether the body of a case was read; one that was not has the length that is written, or none that is known.
pub(super) const fn body(read: Option<bool>, bytes: Option<u64>) -> HttpBody {
    match (read, bytes) {
        (None | Some(true), _) => HttpBody::Read,
        (Some(false), Some(_)) => HttpBody::Declared,
        (Some(false), None) => HttpBody::Unknown,
    }
}
