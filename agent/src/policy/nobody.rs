//! A principal and targets, for tests and the fuzzer.

use std::collections::BTreeMap;

use crate::model::{Environment, Principal, PrincipalKind, Protocol, Target, TargetName};

/// A workload without groups.
pub(super) fn principal() -> Principal {
    Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        subject: "x".into(),
        display: "x".into(),
        groups: [].into(),
        expires_at: None,
    }
}

/// A target in production.
pub(super) fn target(name: &str, protocol: Protocol) -> Target {
    Target {
        name: TargetName(name.into()),
        environment: Environment("prod".into()),
        labels: BTreeMap::new(),
        protocol,
        configured: true,
    }
}
