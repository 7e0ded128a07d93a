//! Who may decide what; pure.

use std::collections::BTreeSet;

use crate::model::{Group, Principal, PrincipalKind, Timestamp};

use super::ask::Vote;
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

/// Whether `voter` may decide `request` at `now`. What is granted can still be denied as long as it is not used up.
pub(super) fn may_vote(
    request: &Request,
    voter: &Principal,
    vote: &Vote,
    now: Timestamp,
) -> Result<(), Rejection> {
    match (request.state, vote) {
        (RequestState::Open, _) | (RequestState::Approved, Vote::Deny { .. }) => {}
        (
            RequestState::Approved | RequestState::Denied | RequestState::Used | RequestState::Expired,
            Vote::Approve { .. } | Vote::Deny { .. },
        ) => return Err(Rejection::Over(request.state.name())),
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
    let voted = request.votes.iter().any(|vote| vote.principal == voter.key());
    match vote {
        Vote::Approve { .. } if voted => Err(Rejection::Twice),
        Vote::Approve { .. } | Vote::Deny { .. } => Ok(()),
    }
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

/// The voter's groups under both names: plain, and with the issuer before it.
///
/// A group whose own name reads like that of another issuer (`corp/dba` in a token of `partner`) counts with its issuer
/// only (`partner/corp/dba`): else any issuer could put its people into a group that a policy keeps for `corp`.
pub(super) fn groups_of(voter: &Principal) -> BTreeSet<Group> {
    let Some(issuer) = &voter.issuer else {
        return voter.groups.clone();
    };
    let plain = |group: &&Group| match group.as_str().split_once('/') {
        // Issuer names are never empty: `/dba` (a path, as Keycloak writes it) is nobody's else.
        Some((first, _)) => first.is_empty() || first == issuer.as_str(),
        None => true,
    };
    let mut all: BTreeSet<Group> = voter.groups.iter().filter(plain).cloned().collect();
    all.extend(
        voter
            .groups
            .iter()
            .map(|group| Group::new(format!("{issuer}/{group}"))),
    );
    all
}

/// Whether a request concerns somebody: their own, or one that their groups may decide.
#[must_use]
pub fn concerns(request: &Request, reader: &Principal) -> bool {
    let groups = groups_of(reader);
    request.principal == reader.key()
        || request
            .approvers
            .iter()
            .flatten()
            .any(|group| groups.contains(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{IssuerName, PrincipalKind};

    fn check(issuer: &str, groups: &[&str], expected: &[&str]) {
        let voter = Principal {
            kind: PrincipalKind::User,
            issuer: Some(IssuerName::from(issuer)),
            subject: "x".into(),
            display: "x".into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            expires_at: None,
        };
        let expected: BTreeSet<Group> = expected.iter().map(|g| (*g).into()).collect();
        assert_eq!(groups_of(&voter), expected, "{issuer} {groups:?}");
    }

    #[test]
    fn groups_under_both_names() {
        check("corp", &[], &[]);
        check("corp", &["dba"], &["dba", "corp/dba"]);
        check("corp", &["/dba"], &["/dba", "corp//dba"]);
        check("corp", &["corp/dba"], &["corp/dba", "corp/corp/dba"]);
        check("partner", &["corp/dba"], &["partner/corp/dba"]);
        check("partner", &["corp/"], &["partner/corp/"]);
    }
}
