//! The log on a real disk: durable, chained, and honest about what was done to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::AuditConfig;
use crate::model::{BootId, RunId};

use super::*;

fn config(dir: &Path) -> AuditConfig {
    AuditConfig {
        dir: dir.to_owned(),
        segment_bytes: 1 << 20,
        segment_age: Duration::from_secs(3600),
        min_free_bytes: 0,
        clickhouse: None,
    }
}

fn event(n: i32) -> Event {
    Event::RunEnded {
        run: RunId::new(),
        status: n,
    }
}

async fn write(dir: &Path, records: i32, config: &AuditConfig) {
    let log = AuditLog::open(config, "here", BootId::new()).expect("opened");
    for n in 0..records {
        let receipt = log.record(event(n)).await.expect("durable");
        assert_eq!(receipt.sequence(), u64::from(n.unsigned_abs()) + 1);
    }
    log.close().await;
    assert_eq!(verify(dir, None).expect("readable").findings, []);
}

fn statuses(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    read_all(dir, |record| found.push(record.detail)).expect("readable");
    found
}

fn only_segment(dir: &Path) -> PathBuf {
    let boots = segment::boots(dir).expect("boots");
    segment::list(&boots[0]).expect("segments")[0].1.clone()
}

#[tokio::test]
async fn records_are_read_back_in_order_and_verified() {
    let dir = tempfile::tempdir().expect("temp dir");
    write(dir.path(), 5, &config(dir.path())).await;
    write(dir.path(), 3, &config(dir.path())).await;
    assert_eq!(statuses(dir.path()).len(), 8);
    let seen = verify(dir.path(), None).expect("readable");
    assert_eq!(
        (seen.boots, seen.sealed, seen.records, seen.unsealed_records),
        (2, 2, 8, 0)
    );
}

#[tokio::test]
async fn segments_follow_each_other() {
    let dir = tempfile::tempdir().expect("temp dir");
    let small = AuditConfig {
        segment_bytes: 1,
        ..config(dir.path())
    };
    write(dir.path(), 4, &small).await;
    assert_eq!(verify(dir.path(), None).expect("readable").sealed, 4);
}

#[tokio::test]
async fn those_who_wait_together_share_a_commit() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = AuditLog::open(&config(dir.path()), "here", BootId::new()).expect("opened");
    let all = futures_util::future::join_all((0..500).map(|n| log.record(event(n)))).await;
    assert!(all.iter().all(Result::is_ok));
    let slot = log.promise().expect("a place");
    slot.send(event(500));
    log.close().await;
    assert_eq!(statuses(dir.path()).len(), 501);
    assert!(log.record(event(1)).await.is_err(), "a closed log takes nothing");
}

#[tokio::test]
async fn every_tampering_is_found() {
    type Tamper = fn(&Path);
    let table: &[(&str, Tamper)] = &[
        ("a record altered", |segment| {
            let lines = segment::decode(&fs::read(segment).expect("read")).lines;
            let text = String::from_utf8(lines)
                .expect("text")
                .replace("exit status 3", "exit status 0");
            fs::write(segment, encoded(text.as_bytes())).expect("written");
        }),
        ("a record removed", |segment| {
            let lines = segment::decode(&fs::read(segment).expect("read")).lines;
            let cut: Vec<&[u8]> = lines.split_inclusive(|b| *b == b'\n').take(4).collect();
            fs::write(segment, encoded(&cut.concat())).expect("written");
        }),
        ("records reordered", |segment| {
            let lines = segment::decode(&fs::read(segment).expect("read")).lines;
            let mut records: Vec<&[u8]> = lines.split_inclusive(|b| *b == b'\n').collect();
            records.swap(1, 2);
            fs::write(segment, encoded(&records.concat())).expect("written");
        }),
        ("bytes added", |segment| {
            let mut bytes = fs::read(segment).expect("read");
            bytes.extend(b"more");
            fs::write(segment, bytes).expect("written");
        }),
        ("the seal removed", |segment| {
            fs::remove_file(segment.with_extension("seal")).expect("removed")
        }),
        ("the seal forged", |segment| {
            let path = segment.with_extension("seal");
            let text = fs::read_to_string(&path)
                .expect("read")
                .replace("\\\"count\\\":5", "\\\"count\\\":4");
            fs::write(path, text).expect("written");
        }),
        ("the boot removed", |segment| {
            fs::remove_dir_all(segment.parent().expect("boot")).expect("removed")
        }),
    ];
    for (what, tamper) in table {
        let dir = tempfile::tempdir().expect("temp dir");
        write(dir.path(), 5, &config(dir.path())).await;
        write(dir.path(), 2, &config(dir.path())).await;
        tamper(&only_segment(dir.path()));
        assert_ne!(verify(dir.path(), None).expect("readable").findings, [], "{what}");
    }
}

#[tokio::test]
async fn a_crash_at_any_byte_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("temp dir");
    write(dir.path(), 3, &config(dir.path())).await;
    let segment = only_segment(dir.path());
    let whole = fs::read(&segment).expect("read");
    // Where each commit ends: everything before was acknowledged.
    let ends: Vec<usize> = (0..=whole.len())
        .filter(|cut| {
            let commits = segment::decode(&whole[..*cut]);
            commits.end == *cut && !commits.torn
        })
        .collect();
    assert_eq!(ends.len(), 4);
    for cut in 0..=whole.len() {
        let dir = tempfile::tempdir().expect("temp dir");
        let boot = dir
            .path()
            .join(segment.parent().and_then(Path::file_name).expect("boot"));
        fs::create_dir_all(&boot).expect("made");
        fs::write(boot.join("lock"), "").expect("written");
        fs::write(boot.join(segment.file_name().expect("name")), &whole[..cut]).expect("written");
        write(dir.path(), 1, &config(dir.path())).await;
        let acknowledged = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!(statuses(dir.path()).len(), acknowledged + 1, "cut at {cut}");
    }
}

#[tokio::test]
async fn on_a_disk_that_is_nearly_full_there_is_room_for_what_is_owed_only() {
    let dir = tempfile::tempdir().expect("temp dir");
    let full = AuditConfig {
        min_free_bytes: u64::MAX,
        ..config(dir.path())
    };
    let log = AuditLog::open(&full, "here", BootId::new()).expect("opened");
    let error = log.has_room().expect_err("none for what is new");
    assert!(error.to_string().contains("are kept free"), "{error}");
    let _receipt = log.record(event(1)).await.expect("what is owed has room");
    let enough = AuditLog::open(&config(dir.path()), "here", BootId::new()).expect("opened");
    assert_eq!(enough.has_room(), Ok(()));
}

fn encoded(lines: &[u8]) -> Vec<u8> {
    let mut encoder = segment::Encoder::new().expect("zstd");
    encoder.encode(lines).expect("encoded").to_vec()
}
