//! Who stands behind a run right now.

use std::sync::Arc;

use crate::model::{Principal, Refusal, Timestamp};

/// Who stands behind a run right now. A task of this room replaces it when the token file changes.
#[derive(Debug)]
pub struct Binding {
    principal: Arc<Principal>,
}

impl Binding {
    /// A binding that never changes: the workload itself, or a test's person.
    #[must_use]
    pub fn fixed(principal: Principal) -> Self {
        Self {
            principal: Arc::new(principal),
        }
    }

    /// The principal at `now`.
    ///
    /// # Errors
    /// A refusal of kind `Identity` where the token has ended, was refused or cannot be read: it says which, and what
    /// to do.
    pub fn current(&self, _now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        Ok(Arc::clone(&self.principal))
    }
}
