//! Consent: who may give it, what it is bound to, and that it is used once.
#![expect(clippy::wildcard_enum_match_arm, reason = "any other answer fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::audit::{AuditLog, Event};
use crate::config::ApprovalConfig;
use crate::model::{
    Digest, Environment, Fingerprint, IssuerName, OperationId, Principal, PrincipalKind, Protocol, Target,
    TargetName, Ticket, Timestamp,
};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(4_000_000_000);

fn config() -> ApprovalConfig {
    ApprovalConfig {
        hold: Duration::from_secs(1),
        request_ttl: Duration::from_secs(3600),
        grant_ttl: Duration::from_secs(60),
        url: None,
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

fn approve() -> Vote {
    Vote::Approve {
        terms: Terms::ONCE,
        comment: String::new(),
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
            ApprovalStepName::Approved { .. } => "approved",
            ApprovalStepName::Denied { .. } => "denied",
            ApprovalStepName::Rejected { .. } => "rejected",
            ApprovalStepName::Expired => "expired",
            ApprovalStepName::Withdrawn => "withdrawn",
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
            .vote(&ticket, &who, approve(), NOW)
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
        .vote(&ticket, &voter("dora", &["dba"]), approve(), NOW)
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
        there.vote(&ticket, &dora, approve(), now)
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
            .vote(&ticket, &voter(subject, &[group]), approve(), NOW)
            .await
            .expect("counted");
        assert_eq!(request.state, state, "{subject}");
        assert!(
            broker
                .vote(&ticket, &voter(subject, &[group]), approve(), NOW)
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
    assert_eq!(again.list(false, NOW).await.expect("store").len(), 1);
    again
        .vote(&ticket, &voter("dora", &["dba"]), approve(), NOW)
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

#[tokio::test]
async fn who_asked_can_withdraw_what_nobody_decided() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let broker = broker(dir.path(), &audit);
    let open = async |text: &str| {
        let opened = broker.open(&ask(text, &[&["dba"]], 1), NOW).await;
        opened.expect("opened")
    };
    let standing = async |ticket: &Ticket| broker.standing(ticket, NOW).await.expect("there").state;
    let (first, second) = (open("x").await, open("y").await);
    assert_eq!(standing(&first).await, RequestState::Open);
    broker.withdraw(&first, NOW).await.expect("open");
    broker.withdraw(&first, NOW).await.expect("nothing to do");
    assert_eq!(standing(&first).await, RequestState::Expired);
    let late = broker
        .vote(&first, &voter("dora", &["dba"]), approve(), NOW)
        .await;
    assert!(late.is_err(), "{late:?}");
    broker
        .vote(&second, &voter("dora", &["dba"]), approve(), NOW)
        .await
        .expect("counted");
    broker.withdraw(&second, NOW).await.expect("it stays");
    assert_eq!(standing(&second).await, RequestState::Approved);
    let withdrawn = steps(&audit).into_iter().filter(|step| *step == "withdrawn");
    assert_eq!(withdrawn.count(), 1);
}

/// Two people approve at the same moment through two agents: both votes count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn votes_at_the_same_time_all_count() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let (here, there) = (broker(dir.path(), &audit), broker(dir.path(), &audit));
    for round in 0..20 {
        let ticket = here
            .open(&ask(&format!("UPDATE t{round}"), &[&["dba"]], 3), NOW)
            .await
            .expect("opened");
        let (dora, dan, dee) = (
            voter("dora", &["dba"]),
            voter("dan", &["dba"]),
            voter("dee", &["dba"]),
        );
        let (one, two, three) = tokio::join!(
            here.vote(&ticket, &dora, approve(), NOW),
            there.vote(&ticket, &dan, approve(), NOW),
            here.vote(&ticket, &dee, approve(), NOW),
        );
        let states = [one, two, three].map(|vote| vote.expect("counted").state);
        assert!(
            states.contains(&RequestState::Approved),
            "round {round}: {states:?}"
        );
    }
}

/// The same operation sent at the same moment, also through two agents, makes one request.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn asking_at_the_same_time_makes_one_request() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let (here, there) = (broker(dir.path(), &audit), broker(dir.path(), &audit));
    for round in 0..20 {
        let ask = ask(&format!("UPDATE t{round}"), &[&["dba"]], 1);
        let (one, two, three) =
            tokio::join!(here.open(&ask, NOW), here.open(&ask, NOW), there.open(&ask, NOW));
        let tickets: BTreeSet<_> = [one, two, three].map(|t| t.expect("opened")).into();
        assert_eq!(tickets.len(), 1, "round {round}");
    }
}

/// `corp/dba` means the group of that issuer: another issuer cannot name its own group so.
#[tokio::test]
async fn a_qualified_group_is_of_its_issuer_only() {
    let broker = Broker::in_memory(AuditLog::in_memory(), config()).expect("opened");
    let ticket = broker
        .open(&ask("x", &[&["corp/dba"]], 1), NOW)
        .await
        .expect("opened");
    let mut partner = voter("mallory", &["corp/dba"]);
    partner.principal.issuer = Some(IssuerName::from("partner"));
    assert!(broker.vote(&ticket, &partner, approve(), NOW).await.is_err());
}

#[tokio::test]
async fn what_is_over_says_so_everywhere() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let broker = broker(dir.path(), &audit);
    let dora = voter("dora", &["dba"]);
    let late = NOW.plus(Duration::from_secs(4000));
    let ticket = broker.open(&ask("x", &[&["dba"]], 1), NOW).await.expect("opened");
    let error = broker
        .vote(&ticket, &dora, approve(), late)
        .await
        .expect_err("late");
    assert!(error.to_string().contains("expired"), "{error}");
    let second = broker
        .open(&ask("x", &[&["dba"]], 1), late)
        .await
        .expect("opened");
    assert_ne!(second, ticket, "a new request after the old one ended");
    let later = late.plus(Duration::from_secs(4000));
    assert!(broker.list(false, later).await.expect("store").is_empty());
    let seen = broker.view(&second, &dora, false, later).await.expect("there");
    assert_eq!(seen.state, RequestState::Expired);
    let sales = voter("sam", &["sales"]);
    let hidden = broker.view(&second, &sales, false, later).await;
    assert!(matches!(hidden, Err(BrokerError::Unknown(_))));
    assert!(broker.view(&second, &sales, true, later).await.is_ok());
    assert_eq!(
        steps(&audit),
        [
            "requested",
            "expired",
            "rejected",
            "requested",
            "expired",
            "viewed",
            "rejected",
            "viewed"
        ]
    );
}

#[tokio::test]
async fn a_process_cannot_bury_the_requests_of_others() {
    let broker = Broker::in_memory(AuditLog::in_memory(), config()).expect("opened");
    for n in 0..100 {
        broker
            .open(&ask(&format!("x{n}"), &[&["dba"]], 1), NOW)
            .await
            .expect("opened");
    }
    let error = broker
        .open(&ask("one more", &[&["dba"]], 1), NOW)
        .await
        .expect_err("too many");
    assert!(matches!(error, BrokerError::TooMany(100)), "{error}");
    let known = broker.open(&ask("x7", &[&["dba"]], 1), NOW).await;
    assert!(known.is_ok(), "the same again is not another");
    let mut bob = ask("x", &[&["dba"]], 1);
    bob.principal = person("bob", &[]);
    broker.open(&bob, NOW).await.expect("somebody else's");
}

#[test]
fn a_store_of_an_earlier_form_is_carried_over_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("approvals.db");
    let old = rusqlite::Connection::open(&path).expect("opened");
    old.execute_batch(
        "CREATE TABLE requests (
           ticket TEXT PRIMARY KEY, state TEXT NOT NULL, principal TEXT NOT NULL, target TEXT NOT NULL,
           fingerprint TEXT NOT NULL, asked_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, body TEXT NOT NULL
         ) STRICT;
         INSERT INTO requests VALUES ('apr-000001', 'open', 'p', 't', 'f', 1, 2, '{}'), ('apr-000002', 'open', 'p', 't', 'f', 1, 2, '{}');",
    )
    .expect("made");
    drop(old);
    drop(broker(dir.path(), &AuditLog::in_memory()));
    drop(broker(dir.path(), &AuditLog::in_memory()));
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let now = rusqlite::Connection::open(&path).expect("opened");
    let open: u32 = now
        .query_row("SELECT count(*) FROM requests WHERE state = 'open'", [], |row| {
            row.get(0)
        })
        .expect("counted");
    assert_eq!(open, 1);
    now.pragma_update(None, "user_version", 99).expect("set");
    let refused = Broker::open_store(&path, AuditLog::in_memory(), config()).expect_err("later form");
    assert!(refused.to_string().contains("later version"), "{refused}");
}

/// Where a vote stands against each rule: state, who, what, and why not.
#[test]
fn rules() {
    let check =
        |state: RequestState, by: Principal, votes: &[&str], vote: &Vote, expected: Result<(), &str>| {
            let request = Request {
                ticket: Ticket::from_random(7),
                state,
                operation: String::new(),
                principal: "corp/alice".into(),
                target: "shop".into(),
                fingerprint: String::new(),
                action: String::new(),
                text: String::new(),
                process: String::new(),
                policies: Vec::new(),
                reason: String::new(),
                approvers: vec![["dba".into()].into(), ["security".into()].into()],
                min_approvals: 2,
                asked_at: NOW,
                expires_at: NOW.plus(Duration::from_secs(1)),
                votes: votes
                    .iter()
                    .map(|who| Approver {
                        principal: (*who).into(),
                        groups: ["dba".into()].into(),
                        at: NOW,
                    })
                    .collect(),
                denied: None,
                grant: None,
            };
            let found = rules::may_vote(&request, &by, vote, NOW);
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(why), Err(part)) if why.to_string().contains(part) => {}
                (found, expected) => panic!("{state:?} {by:?} {vote:?}: {found:?}, not {expected:?}"),
            }
        };
    use RequestState::{Approved, Denied, Expired, Open, Used};
    let deny = Vote::Deny { comment: "no".into() };
    let dora = || person("dora", &["dba"]);
    let workload = Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        ..dora()
    };
    let other_alice = Principal {
        issuer: Some(IssuerName::from("partner")),
        ..person("alice", &["dba"])
    };
    check(Open, dora(), &[], &approve(), Ok(()));
    check(Open, dora(), &[], &deny, Ok(()));
    check(Open, other_alice, &[], &approve(), Ok(()));
    check(Open, person("alice", &["dba"]), &[], &approve(), Err("your own"));
    check(Open, person("alice", &["dba"]), &[], &deny, Err("your own"));
    check(Open, workload, &[], &approve(), Err("identified"));
    check(
        Open,
        person("bob", &["sales"]),
        &[],
        &approve(),
        Err("dba, security"),
    );
    check(
        Open,
        person("bob", &["sales"]),
        &[],
        &deny,
        Err("none of the groups"),
    );
    check(
        Open,
        dora(),
        &["corp/dora"],
        &approve(),
        Err("approved this already"),
    );
    check(Open, dora(), &["corp/dora"], &deny, Ok(()));
    check(Open, dora(), &["corp/dan"], &approve(), Ok(()));
    check(Approved, dora(), &["corp/dan"], &deny, Ok(()));
    check(
        Approved,
        person("bob", &[]),
        &["corp/dan"],
        &deny,
        Err("none of the groups"),
    );
    for (state, name) in [
        (Approved, "approved"),
        (Denied, "denied"),
        (Used, "used"),
        (Expired, "expired"),
    ] {
        check(state, dora(), &[], &approve(), Err(name));
    }
    for (state, name) in [(Denied, "denied"), (Used, "used"), (Expired, "expired")] {
        check(state, dora(), &[], &deny, Err(name));
    }
}

/// A grant of several uses: counted across agents, bound to the operation, and it can be taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grant_of_several_uses() {
    let dir = tempfile::tempdir().expect("temp dir");
    let audit = AuditLog::in_memory();
    let (here, there) = (broker(dir.path(), &audit), broker(dir.path(), &audit));
    let (alice, shop, dora) = (person("alice", &[]), target(), voter("dora", &["dba"]));
    let give = |uses, seconds| Vote::Approve {
        terms: Terms::new(Some(uses), Some(Duration::from_secs(seconds))).expect("valid"),
        comment: "for the migration".into(),
    };
    let ticket = here.open(&ask("x", &[&["dba"]], 1), NOW).await.expect("opened");
    here.vote(&ticket, &dora, give(3, 600), NOW)
        .await
        .expect("counted");
    let later = NOW.plus(Duration::from_secs(599));
    let claim = |broker: &Broker, text: &'static str| {
        let (broker, alice, shop) = (broker.clone(), alice.clone(), shop.clone());
        async move {
            broker
                .claim(&alice, &shop, fingerprint(text), later)
                .await
                .expect("store")
        }
    };
    assert_eq!(claim(&here, "y").await, None, "another operation");
    let five = tokio::join!(
        claim(&here, "x"),
        claim(&there, "x"),
        claim(&here, "x"),
        claim(&there, "x"),
        claim(&here, "x")
    );
    let used = [five.0, five.1, five.2, five.3, five.4]
        .into_iter()
        .flatten()
        .count();
    assert_eq!(used, 3);
    let said = audit.events().iter().any(|event| match event {
        Event::Approval {
            step: ApprovalStepName::Approved { terms },
            ..
        } => terms == "3 uses within 600 s: for the migration",
        _ => false,
    });
    assert!(said, "the terms are on record");

    let ticket = here.open(&ask("x", &[&["dba"]], 1), NOW).await.expect("opened");
    here.vote(&ticket, &dora, give(3, 600), NOW)
        .await
        .expect("counted");
    assert!(claim(&there, "x").await.is_some());
    let back = Vote::Deny {
        comment: "enough".into(),
    };
    there.vote(&ticket, &dora, back, NOW).await.expect("taken back");
    assert_eq!(claim(&here, "x").await, None);

    let ticket = here.open(&ask("x", &[&["dba"]], 1), NOW).await.expect("opened");
    here.vote(&ticket, &dora, give(3, 598), NOW)
        .await
        .expect("counted");
    assert_eq!(claim(&here, "x").await, None, "the window is over");
}

/// What cannot be recorded does not happen.
#[tokio::test]
async fn a_decision_that_cannot_be_recorded_is_none() {
    let dir = tempfile::tempdir().expect("temp dir");
    let disk = crate::config::AuditConfig {
        dir: dir.path().join("audit"),
        segment_bytes: 1 << 20,
        segment_age: Duration::from_secs(60),
        min_free_bytes: 0,
        clickhouse: None,
    };
    let audit = AuditLog::open(&disk, "host", crate::model::BootId::new()).expect("opened");
    let broker = broker(dir.path(), &audit);
    let ticket = broker.open(&ask("x", &[&["dba"]], 1), NOW).await.expect("opened");
    audit.close().await;
    let error = broker
        .vote(&ticket, &voter("dora", &["dba"]), approve(), NOW)
        .await;
    assert!(matches!(error, Err(BrokerError::Audit(_))));
    assert!(broker.open(&ask("y", &[&["dba"]], 1), NOW).await.is_err());
    let open = Broker::open_store(&dir.path().join("approvals.db"), AuditLog::in_memory(), config())
        .expect("opened")
        .list(true, NOW)
        .await
        .expect("store");
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].state, open[0].votes.len()), (RequestState::Open, 0));
}
