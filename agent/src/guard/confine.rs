//! The command and its descendants in a Landlock domain of their own (landlock(7), Linux 6.12 and later): processes outside
//! of it cannot be traced, nor their memory opened, nor signalled, nor reached over abstract Unix sockets.
//!
//! Nothing else changes: no right to files or mounts is handled, so none is restricted.

use landlock::{
    CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// Confines this process and all that it becomes and starts. False where the kernel has no such domains: `interdict
/// doctor` says what is open then.
///
/// # Errors
/// Where the kernel has them and refuses.
pub(super) fn confine() -> Result<bool, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        // The launcher sets that itself, and only where the command runs as somebody else.
        .no_new_privs(false)
        .restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// Whether the kernel has domains as [`confine`] makes them; nothing is confined by asking.
#[must_use]
pub fn has_domains() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
        .and_then(Ruleset::create)
        .is_ok()
}
