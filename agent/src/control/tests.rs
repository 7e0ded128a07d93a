//! The control socket from end to end: real tokens, a real socket, and what must not get through.
#![expect(clippy::wildcard_enum_match_arm, reason = "any other answer fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use proptest::prelude::*;
use serde_json::json;

use crate::approval::Broker;
use crate::audit::{ApprovalStep, AuditLog, Event};
use crate::config::{ApprovalConfig, IssuerConfig, KeySource};
use crate::identity::Issuers;
use crate::model::{
    Digest, Environment, Fingerprint, IssuerName, OperationId, Principal, PrincipalKind, Protocol, Target,
    TargetName, Ticket,
};

use super::client::{self, Agents, ClientError};
use super::server::understood;
use super::wire::{Ask, Call, Failure, MAX_LINE, Reply, Request, Status, VERSION};
use super::*;

/// A local user that is neither root nor the agent's.
const STRANGER: u32 = 54_321;

/// An agent's control side with an issuer of its own.
struct World {
    dir: tempfile::TempDir,
    key: Ed25519KeyPair,
    rooms: Arc<ControlRooms>,
    audit: AuditLog,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = Ed25519KeyPair::generate().expect("key");
        let jwks = dir.path().join("jwks.json");
        let public = b64(key.public_key().as_ref());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": public}]});
        std::fs::write(&jwks, keys.to_string()).expect("written");
        let issuer = IssuerConfig {
            name: IssuerName::from("corp"),
            issuer: "https://id.example".into(),
            audiences: vec!["interdict".into()],
            keys: KeySource::File(jwks),
            algorithms: vec!["EdDSA".into()],
            groups_claim: vec!["groups".into()],
            subject_claim: "sub".into(),
            skew: Duration::ZERO,
            ca_file: None,
        };
        let config = ApprovalConfig {
            hold: Duration::from_secs(1),
            request_ttl: Duration::from_secs(3600),
            grant_ttl: Duration::from_secs(60),
            url: None,
        };
        let audit = AuditLog::in_memory();
        let rooms = ControlRooms {
            broker: Broker::open_store(&dir.path().join("approvals.db"), audit.clone(), config)
                .expect("opened"),
            issuers: Issuers::new(&[issuer]),
            status: Status {
                version: "test".into(),
                pid: std::process::id(),
                run: "run".into(),
                principal: "corp/alice".into(),
                hooks: Vec::new(),
            },
            metrics: MetricSource::new(Vec::new),
        };
        Self {
            dir,
            key,
            rooms: Arc::new(rooms),
            audit,
        }
    }

    fn token(&self, subject: &str, groups: &[&str], lasts: i64) -> String {
        let ends = crate::clock::now().as_seconds() + lasts;
        let header = b64(json!({"alg": "EdDSA", "kid": "ed"}).to_string());
        let claims = json!({"iss": "https://id.example", "aud": "interdict", "sub": subject, "exp": ends, "groups": groups});
        let message = format!("{header}.{}", b64(claims.to_string()));
        format!("{message}.{}", b64(self.key.sign(message.as_bytes()).as_ref()))
    }

    async fn request(&self, text: &str, approvers: &str) -> Ticket {
        let ask = crate::approval::Ask {
            operation: OperationId::new(),
            principal: Principal {
                kind: PrincipalKind::User,
                issuer: Some(IssuerName::from("corp")),
                subject: "alice".into(),
                display: "alice".into(),
                groups: BTreeSet::new(),
                expires_at: None,
            },
            target: Target {
                name: TargetName("shop".into()),
                environment: Environment("prod".into()),
                labels: BTreeMap::new(),
                protocol: Protocol::Postgres,
                configured: true,
            },
            fingerprint: Fingerprint(Digest::of(text.as_bytes())),
            action: "sql.update_all".into(),
            text: text.into(),
            process: "psql (pid 1, /usr/bin/psql)".into(),
            policies: vec!["p".into()],
            reason: "A DBA must see this.".into(),
            approvers: vec![[approvers.into()].into()],
            min_approvals: 1,
        };
        self.rooms
            .broker
            .open(&ask, crate::clock::now())
            .await
            .expect("opened")
    }

    /// The answer to `ask` of a local user.
    async fn answer(&self, uid: u32, token: Option<&str>, ask: Ask) -> Reply {
        let call = Call {
            v: VERSION,
            token: token.map(str::to_owned),
            ask,
        };
        understood(&serde_json::to_vec(&call).expect("json"), uid, &self.rooms).await
    }

    fn rejections(&self) -> usize {
        let rejected = |event: &Event| {
            matches!(
                event,
                Event::Approval {
                    step: ApprovalStep::Rejected { .. },
                    ..
                }
            )
        };
        self.audit.events().iter().filter(|event| rejected(event)).count()
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes.as_ref())
}

fn approve(ticket: &Ticket) -> Ask {
    Ask::Approve {
        ticket: ticket.to_string(),
        uses: None,
        seconds: None,
        comment: String::new(),
    }
}

fn show(ticket: &Ticket) -> Ask {
    Ask::Show {
        ticket: ticket.to_string(),
    }
}

#[track_caller]
fn refused(reply: Reply, failure: Failure, part: &str) {
    match reply {
        Reply::Error {
            failure: found,
            message,
        } if found == failure && message.contains(part) => {}
        other => panic!("{other:?}, not {failure:?} with {part:?}"),
    }
}

fn listed(reply: Reply) -> Vec<Request> {
    match reply {
        Reply::Requests(requests) => requests,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_a_token_of_the_right_person_decides() {
    let w = World::new();
    let ticket = w.request("UPDATE t", "dba").await;
    for uid in [0, STRANGER] {
        refused(
            w.answer(uid, None, approve(&ticket)).await,
            Failure::Refused,
            "your own token",
        );
        let expired = w.token("dora", &["dba"], -10);
        let foreign = World::new().token("dora", &["dba"], 60);
        for wrong in ["", "x", "a.b.c", &expired, &foreign] {
            refused(
                w.answer(uid, Some(wrong), approve(&ticket)).await,
                Failure::Token,
                "not accepted",
            );
        }
        let own = w.token("alice", &["dba"], 60);
        refused(
            w.answer(uid, Some(&own), approve(&ticket)).await,
            Failure::Refused,
            "your own request",
        );
        let other = w.token("bob", &["sales"], 60);
        refused(
            w.answer(uid, Some(&other), approve(&ticket)).await,
            Failure::Refused,
            "none of the groups",
        );
    }
    assert_eq!(w.rejections(), 4, "own and foreign, from both users");
    let dora = w.token("dora", &["dba"], 60);
    let none = "apr-000000".parse().expect("a ticket");
    refused(
        w.answer(STRANGER, Some(&dora), approve(&none)).await,
        Failure::UnknownTicket,
        "no request",
    );
    let much = Ask::Approve {
        ticket: ticket.to_string(),
        uses: Some(100_000),
        seconds: None,
        comment: String::new(),
    };
    refused(
        w.answer(STRANGER, Some(&dora), much).await,
        Failure::Refused,
        "100000 uses",
    );
    match w.answer(STRANGER, Some(&dora), approve(&ticket)).await {
        Reply::Request(request) => {
            assert_eq!((request.state.as_str(), request.uses), ("approved", Some(1)));
            assert_eq!(request.approved_by, ["corp/dora"]);
        }
        other => panic!("{other:?}"),
    }
    let uid = w.audit.events().into_iter().find_map(|event| match event {
        Event::Approval {
            step: ApprovalStep::Approved { .. },
            actor_uid,
            ..
        } => actor_uid,
        _ => None,
    });
    assert_eq!(uid, Some(STRANGER), "the local user is on record");
}

#[tokio::test]
async fn people_see_what_concerns_them() {
    let w = World::new();
    let (dba, qualified) = (
        w.request("one", "dba").await,
        w.request("two", "corp/security").await,
    );
    let all = Ask::List { all: true };
    refused(
        w.answer(STRANGER, None, all.clone()).await,
        Failure::Refused,
        "needs a token",
    );
    refused(
        w.answer(STRANGER, None, show(&dba)).await,
        Failure::Refused,
        "needs a token",
    );
    assert_eq!(
        listed(w.answer(0, None, all.clone()).await).len(),
        2,
        "root may look"
    );
    for (subject, group, seen) in [
        ("dora", "dba", vec!["one"]),
        ("sam", "security", vec!["two"]),
        ("bob", "sales", vec![]),
        ("alice", "sales", vec!["one", "two"]),
    ] {
        let token = w.token(subject, &[group], 60);
        let list = listed(w.answer(STRANGER, Some(&token), all.clone()).await);
        let found: BTreeSet<&str> = list.iter().map(|r| r.text.as_str()).collect();
        assert_eq!(found, seen.iter().copied().collect(), "{subject}");
        for (ticket, text) in [(&dba, "one"), (&qualified, "two")] {
            match w.answer(STRANGER, Some(&token), show(ticket)).await {
                Reply::Request(request) if seen.contains(&text) => assert_eq!(request.text, text),
                Reply::Error {
                    failure: Failure::UnknownTicket,
                    ..
                } if !seen.contains(&text) => {}
                other => panic!("{subject}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_long_statement_does_not_crowd_out_the_list() {
    let w = World::new();
    let long = "\u{1}ü".repeat(300_000);
    let ticket = w.request(&long, "dba").await;
    let list = listed(w.answer(0, None, Ask::List { all: false }).await);
    assert!(list[0].text_cut && list[0].text.chars().count() == 1024);
    match w.answer(0, None, show(&ticket)).await {
        Reply::Request(whole) => assert!(whole.text == long && !whole.text_cut, "approvers see all of it"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_call_is_told_so() {
    let w = World::new();
    let long = vec![b' '; MAX_LINE + 1];
    for (line, part) in [
        (long.as_slice(), "at most"),
        (b"".as_slice(), "no call"),
        (b"[]", "no call"),
        (br#"{"v":1}"#, "no call of version 1"),
        (br#"{"v":2,"ask":{"fly":{}}}"#, "not 2"),
        (
            br#"{"v":1,"ask":{"status":{}},"extra":"SECRET"}"#,
            "no call of version 1",
        ),
    ] {
        let reply = understood(line, 0, &w.rooms).await;
        assert!(!format!("{reply:?}").contains("SECRET"));
        refused(reply, Failure::NotACall, part);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is sent, the answer is an error, and nothing changes.
    #[test]
    fn garbage_is_refused(line in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "\\{\"v\":1,\"(ask|token)\":\\PC{0,40}\\}".prop_map(String::into_bytes),
        "\\{\"v\":1,\"ask\":\\{\"(approve|deny|show)\":\\{\"ticket\":\"\\PC{0,12}\"\\}\\}\\}".prop_map(String::into_bytes),
    ]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let w = World::new();
            let reply = understood(&line, 0, &w.rooms).await;
            assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
            assert!(w.audit.events().is_empty());
        });
    }
}

/// Asks from another thread, as a command would.
async fn command(agents: &Agents, token: Option<String>, ask: Ask) -> Result<Reply, ClientError> {
    let agents = agents.clone();
    tokio::task::spawn_blocking(move || client::ask(&agents, token.as_deref(), &ask))
        .await
        .expect("ended")
}

#[tokio::test]
async fn over_the_socket() {
    let w = World::new();
    let sockets = w.dir.path().join("sockets");
    let agents = Agents::Of(vec![w.dir.path().join("nothing"), sockets.clone()]);
    let none = command(&agents, None, Ask::Status {})
        .await
        .expect_err("no agent");
    assert!(matches!(none, ClientError::NoAgent(_)), "{none}");

    // What agents that died left: one of this very process number, one of a number that nobody has.
    std::fs::create_dir(&sockets).expect("made");
    let own = sockets.join(format!("run-{}.sock", std::process::id()));
    for name in [own.as_path(), &sockets.join("run-4294967295.sock")] {
        drop(std::os::unix::net::UnixListener::bind(name).expect("bound"));
    }
    let none = command(&agents, None, Ask::Status {})
        .await
        .expect_err("nobody listens");
    assert!(matches!(none, ClientError::NoAgent(_)), "{none}");

    let server = Server::listen(&sockets).expect("listens");
    assert_eq!(server.path(), Some(own.as_path()));
    assert!(!sockets.join("run-4294967295.sock").exists());
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&own), 0o666);
    let serving = crate::task::spawn("control", server.serve(Arc::clone(&w.rooms)));

    let ticket = w.request("UPDATE t", "dba").await;
    let dora = Some(w.token("dora", &["dba"], 60));
    let list = listed(
        command(&agents, dora.clone(), Ask::List { all: false })
            .await
            .expect("answered"),
    );
    assert_eq!(list[0].ticket, ticket.as_str());
    let comment = "x".repeat(MAX_LINE);
    let long = Ask::Deny {
        ticket: ticket.to_string(),
        comment,
    };
    let long = command(&agents, dora.clone(), long).await.expect_err("too long");
    assert!(matches!(long, ClientError::TooLong), "{long}");
    let raw = own.clone();
    let told = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(raw).expect("connected");
        stream.write_all(&vec![b'x'; MAX_LINE + 1]).expect("sent");
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("answered");
        told
    });
    assert!(told.await.expect("ended").contains("at most"));
    for (agents, expected) in [(&agents, "approved"), (&Agents::At(own.clone()), "denied")] {
        let ask = match expected {
            "approved" => approve(&ticket),
            _ => Ask::Deny {
                ticket: ticket.to_string(),
                comment: "back".into(),
            },
        };
        match command(agents, dora.clone(), ask).await.expect("answered") {
            Reply::Request(request) => assert_eq!(request.state, expected),
            other => panic!("{other:?}"),
        }
    }
    serving.abort();
    let _none = serving.join().await;
    assert!(!own.exists(), "the socket goes with its server");
}

#[tokio::test]
async fn one_refusal_of_agents_that_share_a_store_is_recorded_once() {
    let w = World::new();
    let ticket = w.request("UPDATE t", "dba").await;
    let mut tasks = Vec::new();
    let mut dirs = Vec::new();
    for name in ["one", "two"] {
        let dir = w.dir.path().join(name);
        let server = Server::listen(&dir).expect("listens");
        tasks.push(crate::task::spawn("control", server.serve(Arc::clone(&w.rooms))));
        dirs.push(dir);
    }
    let agents = Agents::Of(dirs);
    let bob = Some(w.token("bob", &["sales"], 60));
    let reply = command(&agents, bob, approve(&ticket)).await.expect("answered");
    refused(reply, Failure::Refused, "none of the groups");
    assert_eq!(w.rejections(), 1);
    assert_eq!(
        listed(
            command(&agents, None, Ask::List { all: false })
                .await
                .expect("answered")
        )
        .len(),
        1
    );
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let open = dir.path().join("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("set");
    let error = place::prepare(&open).expect_err("open to all");
    assert!(error.to_string().contains("only its owner"), "{error}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).expect("made");
    assert!(place::prepare(&link).is_err());
    let fresh = dir.path().join("deep/fresh");
    place::prepare(&fresh).expect("made");
    let mode = std::fs::metadata(&fresh).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}
