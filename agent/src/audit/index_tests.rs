//! The index against the log itself: whatever was recorded, in whatever portions it was taken in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::AuditConfig;
use crate::model::{
    BootId, ConnectionId, Environment, Executable, NetnsCookie, OperationId, OriginalDst, Outcome,
    OutcomeStatus, Principal, PrincipalKind, Process, Protocol, RecordingLevel, RunId, SessionId, Target,
    TargetName,
};

use super::*;

pub(super) fn config(dir: &Path, segment_bytes: u64) -> AuditConfig {
    AuditConfig {
        dir: dir.to_owned(),
        segment_bytes,
        segment_age: Duration::from_secs(3600),
        min_free_bytes: 0,
        clickhouse: None,
    }
}

pub(super) fn scene(who: &str, target: &str) -> Arc<Scene> {
    let principal = Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        subject: who.to_owned(),
        display: who.to_uppercase(),
        groups: [].into(),
        expires_at: None,
    };
    let process = Process {
        tgid: 7,
        start_ns: 1,
        uid: 0,
        gid: 0,
        exe: Executable {
            path: "/bin/x".into(),
            device: 1,
            inode: 2,
        },
        cgroup: 1,
        netns: NetnsCookie(1),
        comm: "x".into(),
    };
    let target = Target {
        name: TargetName(target.into()),
        environment: Environment("prod".into()),
        labels: BTreeMap::new(),
        protocol: Protocol::Postgres,
        configured: true,
    };
    Arc::new(Scene {
        run: RunId::new(),
        connection: ConnectionId::new(),
        session: SessionId::new(),
        principal: Arc::new(principal),
        process: Arc::new(process),
        target: Arc::new(target),
        original: OriginalDst("10.0.0.1:5432".parse().expect("an address")),
        stored: Stored::default(),
    })
}

pub(super) fn judged(scene: &Arc<Scene>, kind: u8) -> Event {
    let judged = match kind {
        0 => JudgedAs::Allowed {
            policies: Vec::new(),
            ticket: None,
        },
        1 => JudgedAs::Refused {
            policies: Vec::new(),
            reason: "no".into(),
            kind: "denied",
            ticket: None,
        },
        _ => JudgedAs::Held {
            policies: Vec::new(),
            reason: "wait".into(),
            ticket: "apr-7k2m9x".parse().expect("a ticket"),
        },
    };
    Event::Operation {
        scene: Arc::clone(scene),
        event: OperationEvent {
            id: OperationId::new(),
            operation: None,
            judged,
            bundle: None,
            recording: RecordingLevel::Operations,
            degraded: false,
            trace: None,
        },
    }
}

pub(super) fn closed(scene: &Arc<Scene>) -> Event {
    Event::SessionClosed {
        scene: Arc::clone(scene),
        outcome: Outcome::bare(OutcomeStatus::Completed, "done"),
    }
}

/// What the log itself says: for each session operations, refusals, holds, whether it ended.
fn counted(dir: &Path) -> BTreeMap<String, (u64, u64, u64, bool)> {
    let mut sessions: BTreeMap<String, (u64, u64, u64, bool)> = BTreeMap::new();
    let mut opened = std::collections::BTreeSet::new();
    let each = |r: Record| {
        if r.session.is_empty() {
            return;
        }
        let session = r.session.clone();
        let line = sessions.entry(r.session).or_default();
        line.0 += u64::from(r.kind == "operation" && r.verdict != "held");
        line.1 += u64::from(r.verdict == "refused");
        line.2 += u64::from(r.verdict == "held");
        line.3 |= r.kind == "session.closed";
        opened.extend((r.kind == "session.opened").then_some(session));
    };
    read_all(dir, each).expect("readable");
    // Of one whose every operation was refused nothing else is recorded.
    for (session, line) in &mut sessions {
        line.3 |= !opened.contains(session);
    }
    sessions
}

fn listed(index: &Index) -> BTreeMap<String, (u64, u64, u64, bool)> {
    let lines = index.sessions(&Wanted::default()).expect("listed");
    let line = |l: SessionLine| (l.session, (l.operations, l.refused, l.held, l.ended));
    lines.into_iter().map(line).collect()
}

/// Two sessions, one operation of each kind in the first.
async fn two_sessions(dir: &Path) -> (Arc<Scene>, Arc<Scene>) {
    let log = AuditLog::open(&config(dir, 1 << 20), "here", BootId::new()).expect("opened");
    let (a, b) = (scene("alice", "shop"), scene("bob", "stock"));
    for scene in [&a, &b] {
        let opened = Event::SessionOpened {
            scene: Arc::clone(scene),
        };
        let _receipt = log.record(opened).await.expect("durable");
    }
    for kind in 0..3 {
        let _receipt = log.record(judged(&a, kind)).await.expect("durable");
    }
    let _receipt = log.record(closed(&a)).await.expect("durable");
    log.close().await;
    (a, b)
}

#[tokio::test]
async fn sessions_are_found_by_what_is_known_of_them() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (a, b) = two_sessions(dir.path()).await;
    let index = Index::open(dir.path()).expect("opened");
    assert!(!index.is_in_memory());
    let (a, b) = (a.session.to_string(), b.session.to_string());
    let later = Some(crate::clock::now().as_nanos() + 1);
    let wanted = |change: fn(&mut Wanted)| {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        wanted
    };
    let table = [
        (wanted(|_| {}), vec![&a, &b]),
        (wanted(|w| w.principal = Some("ali".into())), vec![&a]),
        (wanted(|w| w.principal = Some("BOB".into())), vec![&b]),
        (wanted(|w| w.target = Some("stock".into())), vec![&b]),
        (wanted(|w| w.target = Some("sto".into())), vec![]),
        (wanted(|w| w.decision = Some("refused".into())), vec![&a]),
        (wanted(|w| w.decision = Some("observed".into())), vec![]),
        (
            Wanted {
                since_ns: later,
                ..Wanted::default()
            },
            vec![],
        ),
    ];
    for (wanted, expected) in table {
        let found = index.sessions(&wanted).expect("listed");
        let found: Vec<&String> = found.iter().map(|l| &l.session).collect();
        assert_eq!(found, expected, "{wanted:?}");
    }
    let line = &index.sessions(&Wanted::default()).expect("listed")[0];
    assert_eq!((line.operations, line.refused, line.held), (2, 1, 1));
    assert_eq!(
        (line.principal.as_str(), line.comm.as_str(), line.pid),
        ("workload/alice", "x", 7)
    );
    let records = index.records(&a).expect("records");
    let kinds: Vec<&str> = records.iter().map(|r| &*r.kind).collect();
    let expected = [
        "session.opened",
        "operation",
        "operation",
        "operation",
        "session.closed",
    ];
    assert_eq!(kinds, expected);
    assert!(records.is_sorted_by_key(|r| r.seq));
    assert_eq!(index.records("nothing-like-it").expect("none"), []);
}

#[tokio::test]
async fn what_is_gone_from_the_log_is_gone_from_the_index() {
    let dir = tempfile::tempdir().expect("temp dir");
    two_sessions(dir.path()).await;
    two_sessions(dir.path()).await;
    assert_eq!(listed(&Index::open(dir.path()).expect("opened")).len(), 4);
    let boots = segment::boots(dir.path()).expect("boots");
    // As retention does it, and as recovery does it.
    fs::remove_dir_all(&boots[0]).expect("removed");
    let segment = &segment::list(&boots[1]).expect("segments")[0].1;
    let bytes = fs::read(segment).expect("read");
    fs::write(segment, &bytes[..segment::whole_commits(&bytes, 1).0]).expect("cut");
    let index = Index::open(dir.path()).expect("opened");
    assert_eq!(listed(&index), counted(dir.path()));
    assert_eq!(listed(&index).len(), 1);
    fs::write(segment, &bytes).expect("back");
    let index = Index::open(dir.path()).expect("opened");
    assert_eq!(listed(&index), counted(dir.path()));
}

#[tokio::test]
async fn an_index_that_is_damaged_old_or_impossible_is_no_obstacle() {
    let dir = tempfile::tempdir().expect("temp dir");
    two_sessions(dir.path()).await;
    let expected = counted(dir.path());
    let file = dir.path().join("index.db");
    fs::write(
        &file,
        "this is no database, and long enough to be looked at as one".repeat(90),
    )
    .expect("written");
    assert_eq!(listed(&Index::open(dir.path()).expect("opened")), expected);
    {
        let old = rusqlite::Connection::open(&file).expect("opened");
        old.execute_batch(
            "DROP TABLE records; CREATE TABLE records (other TEXT); UPDATE made_with SET tables = 'old'",
        )
        .expect("changed");
    }
    assert_eq!(listed(&Index::open(dir.path()).expect("opened")), expected);
    assert_eq!(Index::rebuild(dir.path()).expect("rebuilt"), 6);
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("in its way");
    let index = Index::open(dir.path()).expect("opened");
    assert!(index.is_in_memory());
    assert_eq!(listed(&index), expected);
    assert_eq!(verify(dir.path(), None).expect("readable").findings, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_says_what_the_log_says(portions in proptest::collection::vec(proptest::collection::vec((0..4_usize, 0..4_u8), 1..12), 1..4)) {
        let dir = tempfile::tempdir().expect("temp dir");
        let scenes: Vec<Arc<Scene>> = (0..4).map(|n| scene(&format!("p{n}"), "shop")).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        for portion in portions {
            runtime.block_on(async {
                // Small segments: several of them, some open when they are taken in.
                let log = AuditLog::open(&config(dir.path(), 900), "here", BootId::new()).expect("opened");
                for (who, what) in portion {
                    let event = if what == 3 { closed(&scenes[who]) } else { judged(&scenes[who], what) };
                    let _receipt = log.record(event).await.expect("durable");
                    if what == 1 {
                        let index = Index::open(dir.path()).expect("opened");
                        assert_eq!(listed(&index), counted(dir.path()));
                    }
                }
                log.close().await;
            });
            let index = Index::open(dir.path()).expect("opened");
            prop_assert_eq!(listed(&index), counted(dir.path()));
        }
        let before = listed(&Index::open(dir.path()).expect("opened"));
        Index::rebuild(dir.path()).expect("rebuilt");
        prop_assert_eq!(listed(&Index::open(dir.path()).expect("opened")), before);
    }
}
