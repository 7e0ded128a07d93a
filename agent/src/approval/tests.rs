//! Consent: who may give it, what it is bound to, and that it is used once.
#![expect(clippy::wildcard_enum_match_arm, reason = "any other answer fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::audit::{AuditLog, Event};
use crate::config::ApprovalConfig;
use crate::model::{
    Digest, Environment, Fingerprint, IssuerName, OperationId, Principal, PrincipalKind, Protocol, Target,
    TargetName, Timestamp,
};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(4_000_000_000);

fn config() -> ApprovalConfig {
    ApprovalConfig {
        hold: Duration::from_secs(1),
        request_ttl: Duration::from_secs(3600),
        grant_ttl: Duration::from_secs(60),
    }
}

fn person(subject: &str, groups: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        issuer: Some(IssuerName::from("corp")),
        subject: subject.into(),
        display: subject.into(),
        groups: groups.iter().map(|g| (*g).into()).collect(),
        expires_at: None,
    }
}

fn voter(subject: &str, groups: &[&str]) -> Voter {
    Voter {
        principal: person(subject, groups),
        uid: Some(1000),
    }
}

fn target() -> Target {
    Target {
        name: TargetName("shop".into()),
        environment: Environment("prod".into()),
        labels: BTreeMap::new(),
        protocol: Protocol::Postgres,
        configured: true,
    }
}

fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint(Digest::of(text.as_bytes()))
}

fn ask(text: &str, approvers: &[&[&str]], min_approvals: u32) -> Ask {
    let set =
        |names: &&[&str]| -> BTreeSet<crate::model::Group> { names.iter().map(|n| (*n).into()).collect() };
    Ask {
        operation: OperationId::new(),
        principal: person("alice", &["dba"]),
        target: target(),
        fingerprint: fingerprint(text),
        action: "sql.update_all".into(),
        text: text.into(),
        process: "psql".into(),
        policies: vec!["p".into()],
        reason: "A DBA must see this.".into(),
        approvers: approvers.iter().map(set).collect(),
        min_approvals,
    }
}

fn broker(dir: &std::path::Path, audit: &AuditLog) -> Broker {
    Broker::open_store(&dir.join("approvals.db"), audit.clone(), config()).expect("opened")
}

fn steps(audit: &AuditLog) -> Vec<&'static str> {
    let name = |event: &Event| match event {
        Event::Approval { step, .. } => match step {
            ApprovalStepName::Requested { .. } => "requested",
            ApprovalStepName::Viewed => "viewed",
            ApprovalStepName::Approved => "approved",
            ApprovalStepName::Denied { .. } => "denied",
            ApprovalStepName::Rejected { .. } => "rejected",
            ApprovalStepName::Expired => "expired",
            ApprovalStepName::Used => "used",
        },
        _ => "other",
    };
    audit.events().iter().map(name).collect()
}
use crate::audit::ApprovalStep as ApprovalStepName;

#[tokio::test]
async fn consent_is_given_by_another_person_and_used_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let broker = broker(dir.path(), &audit);
    let ticket = broker
        .open(&ask("UPDATE t", &[&["dba"]], 1), NOW)
        .await
        .expect("opened");
    assert_eq!(
        broker
            .open(&ask("UPDATE t", &[&["dba"]], 1), NOW)
            .await
            .expect("the same"),
        ticket
    );

    for (who, why) in [
        (voter("alice", &["dba"]), "your own"),
        (voter("bob", &["sales"]), "none of the groups"),
        (
            Voter {
                principal: Principal {
                    kind: PrincipalKind::Workload,
                    ..person("w", &["dba"])
                },
                uid: None,
            },
            "identified",
        ),
    ] {
        let error = broker
            .vote(&ticket, &who, Vote::Approve, NOW)
            .await
            .expect_err("rejected");
        assert!(error.to_string().contains(why), "{error}");
    }
    let alice = person("alice", &[]);
    assert_eq!(
        broker
            .claim(&alice, &target(), fingerprint("UPDATE t"), NOW)
            .await
            .expect("store"),
        None
    );
    broker
        .vote(&ticket, &voter("dora", &["dba"]), Vote::Approve, NOW)
        .await
        .expect("counted");
    let other = broker
        .claim(&alice, &target(), fingerprint("UPDATE u"), NOW)
        .await
        .expect("store");
    assert_eq!(other, None, "bound to the operation");
    let somebody = broker
        .claim(&person("bob", &[]), &target(), fingerprint("UPDATE t"), NOW)
        .await
        .expect("store");
    assert_eq!(somebody, None, "bound to the person");
    let shop = target();
    let (one, two) = tokio::join!(
        broker.claim(&alice, &shop, fingerprint("UPDATE t"), NOW),
        broker.claim(&alice, &shop, fingerprint("UPDATE t"), NOW)
    );
    let used: Vec<Consent> = [one.expect("store"), two.expect("store")]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(used.len(), 1, "used once");
    assert!(used[0].groups().contains(&"dba".into()) && used[0].groups().contains(&"corp/dba".into()));
    assert_eq!(
        steps(&audit),
        [
            "requested",
            "rejected",
            "rejected",
            "rejected",
            "approved",
            "used"
        ]
    );
}

#[tokio::test]
async fn a_waiter_hears_of_a_decision_made_elsewhere() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let (here, there) = (broker(dir.path(), &audit), broker(dir.path(), &audit));
    let now = crate::clock::now();
    let ticket = here
        .open(&ask("UPDATE t", &[&["dba"]], 1), now)
        .await
        .expect("opened");
    assert_eq!(
        here.wait(&ticket, Duration::ZERO).await.expect("store"),
        Answer::Pending
    );
    let dora = voter("dora", &["dba"]);
    let (answer, vote) = tokio::join!(
        here.wait(&ticket, Duration::from_secs(20)),
        there.vote(&ticket, &dora, Vote::Approve, now)
    );
    vote.expect("counted");
    assert!(matches!(answer.expect("store"), Answer::Granted(_)));
    let ticket = here
        .open(&ask("UPDATE t", &[&["dba"]], 1), now)
        .await
        .expect("opened");
    there
        .vote(&ticket, &dora, Vote::Deny { comment: "no".into() }, now)
        .await
        .expect("counted");
    let answer = here.wait(&ticket, Duration::from_secs(20)).await.expect("store");
    assert_eq!(
        answer,
        Answer::Denied {
            by: "corp/dora".into(),
            comment: "no".into()
        }
    );
}

#[tokio::test]
async fn several_people_of_several_groups() {
    let dir = tempfile::tempdir().expect("temp dir");
    let broker = broker(dir.path(), &AuditLog::in_memory());
    let ticket = broker
        .open(&ask("x", &[&["dba"], &["corp/security"]], 3), NOW)
        .await
        .expect("opened");
    for (subject, group, state) in [
        ("dora", "dba", RequestState::Open),
        ("dan", "dba", RequestState::Open),
        ("sam", "security", RequestState::Approved),
    ] {
        let request = broker
            .vote(&ticket, &voter(subject, &[group]), Vote::Approve, NOW)
            .await
            .expect("counted");
        assert_eq!(request.state, state, "{subject}");
        assert!(
            broker
                .vote(&ticket, &voter(subject, &[group]), Vote::Approve, NOW)
                .await
                .is_err(),
            "twice"
        );
    }
}

#[tokio::test]
async fn requests_survive_a_restart_and_end() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let ticket = broker(dir.path(), &audit)
        .open(&ask("x", &[&["dba"]], 1), NOW)
        .await
        .expect("opened");
    let again = broker(dir.path(), &audit);
    assert_eq!(again.list(false).await.expect("store").len(), 1);
    let late = NOW.plus(Duration::from_secs(4000));
    let error = again
        .vote(&ticket, &voter("dora", &["dba"]), Vote::Approve, late)
        .await
        .expect_err("late");
    assert!(error.to_string().contains("expired"), "{error}");
    again
        .vote(&ticket, &voter("dora", &["dba"]), Vote::Approve, NOW)
        .await
        .expect("in time");
    let alice = person("alice", &[]);
    let late = NOW.plus(Duration::from_secs(61));
    assert_eq!(
        again
            .claim(&alice, &target(), fingerprint("x"), late)
            .await
            .expect("store"),
        None,
        "the grant ended"
    );
}
