//! How many calls a local user may have open: one who holds many must not keep approvers out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Open calls of one user; root and the agent's own user have no such limit.
const MAX_OF_ONE: usize = 8;

/// Open calls by user.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers {
    open: Arc<Mutex<BTreeMap<u32, usize>>>,
}

/// An open call; the place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    callers: Callers,
    uid: u32,
}

impl Callers {
    /// A place for one more call of `uid`; `None` where that user has too many.
    pub(super) fn enter(&self, uid: u32, trusted: bool) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if *count >= MAX_OF_ONE && !trusted {
            return None;
        }
        *count += 1;
        Some(Place {
            callers: self.clone(),
            uid,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.callers.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_keep_others_out() {
        let callers = Callers::default();
        let mut places: Vec<Place> = (0..MAX_OF_ONE).filter_map(|_| callers.enter(7, false)).collect();
        assert_eq!(places.len(), MAX_OF_ONE);
        assert!(callers.enter(7, false).is_none());
        let others = (callers.enter(8, false), callers.enter(0, true));
        assert!(others.0.is_some() && others.1.is_some());
        places.pop();
        assert!(callers.enter(7, false).is_some());
        drop(places);
        drop(others);
        assert!(callers.open.lock().expect("whole").is_empty());
    }
}
