//! The kernel's rules follow the addresses of targets.

use std::sync::Arc;

use crate::config::NetworkRule;
use crate::connection::Targets;
use crate::guard::{GuardError, RuleTable};

/// Loads the rules. Without networks there is nothing to be an exception of: then there are none.
///
/// # Errors
/// Where they are too many for the kernel's table.
pub(super) fn load(
    table: &mut RuleTable,
    networks: &[NetworkRule],
    targets: &Targets,
) -> Result<(), GuardError> {
    if networks.is_empty() {
        return table.replace(&[], &[]);
    }
    table.replace(networks, &targets.governed())
}

/// Loads them again whenever a name of a target means something else.
pub(super) async fn follow(mut table: RuleTable, networks: Vec<NetworkRule>, targets: Arc<Targets>) {
    let mut changes = targets.changes();
    while changes.changed().await.is_ok() {
        if let Err(error) = load(&mut table, &networks, &targets) {
            tracing::error!(%error, "the kernel's rules stay as they were");
        }
    }
}
