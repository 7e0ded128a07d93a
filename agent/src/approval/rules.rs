//! Who may decide what; pure.

use std::collections::BTreeSet;

use crate::model::{Group, Principal, PrincipalKind, Timestamp};

use super::store::{Request, RequestState};

/// Why a vote does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nobody approves their own request.
    #[error("this is your own request: somebody else must decide it")]
    OwnRequest,
    /// A workload is nobody.
    #[error("only an identified person can decide: give a token")]
    NotAPerson,
    /// Not in any group that may.
    #[error("you are in none of the groups that may decide this ({0})")]
    NotAnApprover(String),
    /// Voted already.
    #[error("you have approved this already; it needs another person")]
    Twice,
    /// Decided or expired.
    #[error("this request is {0} already")]
    Over(&'static str),
}

/// Whether `voter` may decide `request` at `now`.
pub(super) fn may_vote(request: &Request, voter: &Principal, now: Timestamp) -> Result<(), Rejection> {
    if request.state != RequestState::Open {
        return Err(Rejection::Over(request.state.name()));
    }
    if now >= request.expires_at {
        return Err(Rejection::Over("expired"));
    }
    if voter.kind != PrincipalKind::User {
        return Err(Rejection::NotAPerson);
    }
    if voter.key() == request.principal {
        return Err(Rejection::OwnRequest);
    }
    let named: BTreeSet<&Group> = request.approvers.iter().flatten().collect();
    if !named.iter().any(|group| is_in(voter, group)) {
        let names: Vec<&str> = named.iter().map(|g| g.as_str()).collect();
        return Err(Rejection::NotAnApprover(names.join(", ")));
    }
    if request.votes.iter().any(|vote| vote.principal == voter.key()) {
        return Err(Rejection::Twice);
    }
    Ok(())
}

/// Whether the votes are enough: somebody of each set of groups, and as many people as asked for.
pub(super) fn is_granted(request: &Request) -> bool {
    let people = u32::try_from(request.votes.len()).unwrap_or(u32::MAX);
    let each_set = request.approvers.iter().all(|set| {
        request
            .votes
            .iter()
            .any(|vote| set.iter().any(|group| vote.groups.contains(group)))
    });
    people >= request.min_approvals.max(1) && each_set
}

/// Plain names count for any issuer, `issuer/name` for that one only.
fn is_in(voter: &Principal, group: &Group) -> bool {
    groups_of(voter).contains(group)
}

/// The voter's groups under both names.
pub(super) fn groups_of(voter: &Principal) -> BTreeSet<Group> {
    let mut all = voter.groups.clone();
    if let Some(issuer) = &voter.issuer {
        all.extend(
            voter
                .groups
                .iter()
                .map(|group| Group::new(format!("{issuer}/{group}"))),
        );
    }
    all
}
