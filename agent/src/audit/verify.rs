//! Looking for what was removed, added, reordered or altered.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::model::Digest;

use super::seal::{self, Statement};
use super::{chain, segment};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file.
    pub file: String,
    /// What.
    pub what: String,
}

/// What verification saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Boots looked at.
    pub boots: u64,
    /// Segments whose seal holds.
    pub sealed: u64,
    /// Records in all.
    pub records: u64,
    /// Records that no seal covers yet: of agents that are alive.
    pub unsealed_records: u64,
    /// What is wrong; empty where nothing is.
    pub findings: Vec<Finding>,
}

/// Verifies every record and seal below `dir`. With `key` (hexadecimal), seals must be of that key: give one that was kept
/// elsewhere, because whoever can write here can replace the key here too.
///
/// # Errors
/// Where files cannot be read at all.
pub fn verify(dir: &Path, key: Option<&str>) -> std::io::Result<Verification> {
    let key = match key {
        Some(key) => key.to_owned(),
        None => seal::public_key(dir)?,
    };
    let mut seen = Verification::default();
    let mut digests = HashSet::from([Digest::of(b"").to_string()]);
    let mut named = Vec::new();
    for boot in segment::boots(dir)? {
        seen.boots += 1;
        verify_boot(&boot, &key, &mut seen, &mut digests, &mut named)?;
    }
    for (file, previous) in named {
        if !digests.contains(&previous) {
            seen.wrong(
                &file,
                format!("it names a seal before it that is not there ({previous}): segments were removed"),
            );
        }
    }
    Ok(seen)
}

impl Verification {
    fn wrong(&mut self, file: &str, what: impl Into<String>) {
        self.findings.push(Finding {
            file: file.to_owned(),
            what: what.into(),
        });
    }
}

fn verify_boot(
    dir: &Path,
    key: &str,
    seen: &mut Verification,
    digests: &mut HashSet<String>,
    named: &mut Vec<(String, String)>,
) -> std::io::Result<()> {
    let boot = dir
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .to_owned();
    let mut head = chain::start(&boot);
    let mut next = 1u64;
    let segments = segment::list(dir)?;
    let last = segments.len();
    for (at, (first, path)) in segments.into_iter().enumerate() {
        let file = path
            .strip_prefix(dir.parent().unwrap_or(dir))
            .unwrap_or(&path)
            .display()
            .to_string();
        if first != next {
            seen.wrong(
                &file,
                format!(
                    "records {next} to {} are missing before it",
                    first.saturating_sub(1)
                ),
            );
        }
        let commits = segment::decode(&fs::read(&path)?);
        let before = head;
        let mut leaves = Vec::new();
        next = first;
        for line in commits.lines.split_inclusive(|b| *b == b'\n') {
            if !line.starts_with(format!("{{\"seq\":{next},").as_bytes()) {
                seen.wrong(&file, format!("where record {next} should be, another stands"));
            }
            head = chain::next(head, line);
            leaves.push(chain::leaf(line));
            next += 1;
        }
        seen.records += leaves.len() as u64;
        let sealed = path.with_extension("seal");
        if !sealed.exists() {
            let open = at + 1 == last && is_alive(dir);
            if open {
                seen.unsealed_records += leaves.len() as u64;
            } else {
                seen.wrong(
                    &file,
                    "it has no seal, and its agent is not alive (start an agent once to seal it)",
                );
            }
            continue;
        }
        if commits.torn {
            seen.wrong(&file, "bytes stand in it that are no record");
        }
        match seal::read(&sealed) {
            Err(error) => seen.wrong(&file, format!("its seal cannot be read: {error}")),
            Ok(seal) => {
                digests.insert(seal.digest().to_string());
                match seal.check(key) {
                    Err(what) => seen.wrong(&file, format!("its seal does not hold: {what}")),
                    Ok(statement) => {
                        named.push((file.clone(), statement.previous.clone()));
                        compare(&statement, (&boot, first, before, head), &leaves, &file, seen);
                    }
                }
            }
        }
    }
    Ok(())
}

fn compare(
    statement: &Statement,
    (boot, first, before, after): (&str, u64, Digest, Digest),
    leaves: &[Digest],
    file: &str,
    seen: &mut Verification,
) {
    let wrong = seen.findings.len();
    if statement.boot != boot || statement.first != first {
        seen.wrong(file, "its seal belongs to another segment");
    }
    if statement.count != leaves.len() as u64 {
        seen.wrong(
            file,
            format!(
                "{} records were sealed, {} are there",
                statement.count,
                leaves.len()
            ),
        );
    }
    if statement.merkle_root != chain::root(leaves).to_string() {
        seen.wrong(file, "its records are not the ones that were sealed");
    }
    if statement.chain_before != before.to_string() {
        seen.wrong(file, "it does not follow the segment before it");
    } else if statement.chain_after != after.to_string() && statement.count == leaves.len() as u64 {
        seen.wrong(file, "its chain does not end where the seal says");
    }
    if seen.findings.len() == wrong {
        seen.sealed += 1;
    }
}

fn is_alive(boot: &Path) -> bool {
    File::open(boot.join("lock"))
        .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}
