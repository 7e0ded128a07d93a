//! The one writer: a thread that takes what waits, writes it as one group commit, syncs, and hands out receipts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::config::AuditConfig;
use crate::model::{BootId, Digest};

use super::log::AuditError;
use super::queue::{Batch, Consumer, Waiting};
use super::seal::{self, Seal, Signer, Statement, sync_directory};
use super::space::Space;
use super::tally::Tally;
use super::{chain, segment};

/// Bytes of records after which a group commit takes no more, before compression.
const MAX_COMMIT_BYTES: usize = 8 * 1024 * 1024;
/// A segment's file is written with zeros this far ahead, in bytes: less at first, more the longer it is. A commit then
/// changes no size and no block list, which would cost the sync a journal commit of the file system.
const AHEAD: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// How long the room on the disk is believed.
const SPACE_BELIEVED: Duration = Duration::from_millis(250);

/// The files of one boot.
pub(super) struct Writer {
    config: AuditConfig,
    boot: String,
    dir: PathBuf,
    // Held for the life of the agent: says that this boot is alive.
    _lock: File,
    signer: Signer,
    file: Option<Open>,
    next: u64,
    head: Digest,
    previous: Digest,
    broken: bool,
    encoder: segment::Encoder,
    space: Arc<Space>,
    tally: Arc<Tally>,
    space_seen: Option<Instant>,
    // Records that nobody waits for and that the disk did not take: they go before the next.
    owed: Vec<(Waiting, Vec<u8>)>,
}

/// The segment that is written to.
struct Open {
    file: File,
    path: PathBuf,
    first: u64,
    length: u64,
    /// Up to where the file has zeros.
    prepared: u64,
    since: Instant,
    before: Digest,
    leaves: Vec<Digest>,
}

impl Open {
    /// Writes a commit behind the last one, not yet synced, and zeros behind it where there are none left.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        let end = self.length + bytes.len() as u64;
        if end > self.prepared {
            self.prepared = end;
            let until = end + end.clamp(*AHEAD.start(), *AHEAD.end());
            while self.prepared < until {
                // A disk that has no room for zeros may have some for records.
                if self.file.write_all_at(&ZEROS, self.prepared).is_err() {
                    self.prepared = end;
                    return self.file.set_len(end);
                }
                self.prepared += ZEROS.len() as u64;
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Makes the boot's directory, and seals what dead agents left open.
    pub(super) fn open(
        config: &AuditConfig,
        boot: BootId,
        (space, tally): (Arc<Space>, Arc<Tally>),
    ) -> io::Result<Self> {
        fs::create_dir_all(&config.dir)?;
        space.look(&config.dir);
        let signer = Signer::load_or_create(&config.dir)?;
        recover(&config.dir, &signer)?;
        let previous = newest_seal(&config.dir)?;
        let boot = boot.to_string();
        let dir = config.dir.join(&boot);
        fs::create_dir(&dir)?;
        let lock = File::create(dir.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        sync_directory(&config.dir)?;
        Ok(Self {
            config: config.clone(),
            head: chain::start(&boot),
            boot,
            dir,
            _lock: lock,
            signer,
            file: None,
            next: 1,
            previous,
            broken: false,
            encoder: segment::Encoder::new()?,
            space_seen: None,
            space,
            tally,
            owed: Vec::new(),
        })
    }

    /// Works until it is closed or nobody can ask any more.
    pub(super) fn run(mut self, queue: &Consumer) {
        let mut waiting = Vec::new();
        let mut lines = Vec::new();
        let mut batch = Batch::default();
        loop {
            batch = queue.take(batch);
            for (record, json) in std::mem::take(&mut self.owed) {
                self.take(record, &json, &mut lines, &mut waiting);
            }
            let mut rest = batch.json.as_slice();
            for record in batch.records.drain(..) {
                let (json, after) = rest.split_at_checked(record.length).unwrap_or_default();
                rest = after;
                self.take(record, json, &mut lines, &mut waiting);
            }
            self.commit_and_answer(&mut lines, &mut waiting);
            if batch.last {
                self.finish();
                if let Some(done) = batch.close {
                    let _nobody_waits = done.send(());
                }
                return;
            }
        }
    }

    fn take(&mut self, record: Waiting, json: &[u8], lines: &mut Vec<u8>, waiting: &mut Vec<Waiting>) {
        if lines.len() >= MAX_COMMIT_BYTES {
            self.commit_and_answer(lines, waiting);
        }
        let number = self.next + waiting.len() as u64;
        lines.extend_from_slice(b"{\"seq\":");
        lines.extend_from_slice(number.to_string().as_bytes());
        lines.push(b',');
        lines.extend_from_slice(json.get(1..).unwrap_or_default());
        lines.push(b'\n');
        waiting.push(record);
    }

    fn commit_and_answer(&mut self, lines: &mut Vec<u8>, waiting: &mut Vec<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        let first = self.next;
        let begun = Instant::now();
        let result = self.commit(lines);
        self.tally
            .commit(waiting.len() as u64, begun.elapsed(), result.is_ok());
        if let Err(error) = &result {
            tracing::error!(%error, "records could not be made durable: nothing is forwarded");
        }
        let durable = result.is_ok();
        for (number, mut record) in (first..).zip(waiting.drain(..)) {
            let told = match &result {
                Ok(()) => Ok(number),
                Err(error) => Err(AuditError::Disk(error.to_string())),
            };
            match record.answer.take() {
                // Nobody waits any more: the record stays all the same.
                Some(answer) => {
                    let _gone = answer.send(told);
                }
                None if told.is_err() => {
                    let line = usize::try_from(number - first)
                        .ok()
                        .and_then(|at| each(lines).nth(at));
                    let json = without_number(line.unwrap_or_default());
                    self.owed.push((record, json));
                }
                None => {}
            }
        }
        // Nobody has to wait for this part.
        if durable {
            self.follow(lines);
        }
        lines.clear();
    }

    /// One group commit. After a failure the file is cut back, so that no half of it is ever read.
    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        self.look_at_space();
        if self.broken {
            self.mend()?;
        }
        if self.file.is_none() {
            self.file = Some(self.create()?);
        }
        let bytes = self.encoder.encode(lines)?;
        let Some(open) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = open.write(bytes).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            self.broken = true;
            return Err(error);
        }
        open.length += bytes.len() as u64;
        Ok(())
    }

    /// Counts the records of a commit in, and seals the segment where it is complete.
    fn follow(&mut self, lines: &[u8]) {
        let Some(open) = &mut self.file else { return };
        for record in each(lines) {
            self.head = chain::next(self.head, record);
            open.leaves.push(chain::leaf(record));
            self.next += 1;
        }
        let complete =
            open.length >= self.config.segment_bytes || open.since.elapsed() >= self.config.segment_age;
        if complete && let Err(error) = self.seal("complete") {
            // The records are durable; the seal is tried again with the next.
            tracing::error!(%error, "a segment could not be sealed");
        }
    }

    fn look_at_space(&mut self) {
        if self.space_seen.is_none_or(|at| at.elapsed() >= SPACE_BELIEVED) {
            self.space.look(&self.config.dir);
            self.space_seen = Some(Instant::now());
        }
    }

    fn mend(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.file {
            open.file.set_len(open.length)?;
            open.prepared = open.length;
            open.file = fs::OpenOptions::new().write(true).open(&open.path)?;
        }
        self.broken = false;
        Ok(())
    }

    fn create(&self) -> io::Result<Open> {
        let path = self.dir.join(segment::file_name(self.next, "seg"));
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        if let Err(error) = sync_directory(&self.dir) {
            // Its name must be free for the next try.
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Open {
            file,
            path,
            first: self.next,
            length: 0,
            prepared: 0,
            since: Instant::now(),
            before: self.head,
            leaves: Vec::new(),
        })
    }

    fn seal(&mut self, how: &str) -> io::Result<()> {
        let Some(open) = &self.file else {
            return Ok(());
        };
        open.file.set_len(open.length)?;
        open.file.sync_data()?;
        let statement = Statement {
            boot: self.boot.clone(),
            first: open.first,
            count: open.leaves.len() as u64,
            chain_before: open.before.to_string(),
            chain_after: self.head.to_string(),
            merkle_root: chain::root(&open.leaves).to_string(),
            previous: self.previous.to_string(),
            sealed_ns: crate::clock::now().as_nanos(),
            how: how.to_owned(),
        };
        let seal = self.signer.seal(&statement)?;
        seal::write(&open.path.with_extension("seal"), &seal)?;
        self.previous = seal.digest();
        self.file = None;
        Ok(())
    }

    fn finish(&mut self) {
        if let Err(error) = self.seal("complete") {
            tracing::error!(%error, "the last segment could not be sealed; the next agent will");
        }
    }
}

/// Each of some lines, with its end.
fn each(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', lines).filter_map(move |end| {
        let line = lines.get(begin..=end);
        begin = end + 1;
        line
    })
}

/// A record's JSON again, from its line.
fn without_number(line: &[u8]) -> Vec<u8> {
    let number = memchr::memchr(b',', line).unwrap_or_default();
    let rest = line.get(number + 1..).unwrap_or_default().trim_ascii_end();
    [b"{", rest].concat()
}

/// The newest seal of all boots: a boot that vanishes leaves a seal that names one which is not there.
fn newest_seal(root: &Path) -> io::Result<Digest> {
    let mut newest: Option<(i64, Digest)> = None;
    for boot in segment::boots(root)? {
        for (_, path) in segment::list(&boot)? {
            let Ok(seal) = seal::read(&path.with_extension("seal")) else {
                continue;
            };
            let Ok(statement) = serde_json::from_str::<Statement>(&seal.statement) else {
                continue;
            };
            if newest.as_ref().is_none_or(|(at, _)| *at <= statement.sealed_ns) {
                newest = Some((statement.sealed_ns, seal.digest()));
            }
        }
    }
    Ok(newest.map_or_else(|| Digest::of(b""), |(_, digest)| digest))
}

/// Seals the open segments of boots that are no longer alive; a torn last commit was never acknowledged and is cut off.
fn recover(root: &Path, signer: &Signer) -> io::Result<()> {
    for dir in segment::boots(root)? {
        // An agent that died between making its directory and its lock left nothing to seal.
        let lock = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        recover_boot(root, &dir, signer)?;
    }
    Ok(())
}

fn recover_boot(root: &Path, dir: &Path, signer: &Signer) -> io::Result<()> {
    let boot = dir
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .to_owned();
    let mut head = chain::start(&boot);
    let mut previous = None;
    for (first, path) in segment::list(dir)? {
        let sealed = seal::read(&path.with_extension("seal")).ok();
        if let Some(seal) = sealed {
            // A sealed segment is not touched: verification judges it.
            let statement: Option<Statement> = serde_json::from_str(&seal.statement).ok();
            head = statement
                .and_then(|s| Digest::from_hex(&s.chain_after))
                .unwrap_or(head);
            previous = Some(seal.digest());
            continue;
        }
        let bytes = fs::read(&path)?;
        let commits = segment::decode(&bytes);
        if commits.torn {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(commits.end as u64)?;
            file.sync_all()?;
        }
        let before = head;
        let mut leaves = Vec::new();
        for record in commits.lines.split_inclusive(|b| *b == b'\n') {
            head = chain::next(head, record);
            leaves.push(chain::leaf(record));
        }
        let statement = Statement {
            boot: boot.clone(),
            first,
            count: leaves.len() as u64,
            chain_before: before.to_string(),
            chain_after: head.to_string(),
            merkle_root: chain::root(&leaves).to_string(),
            previous: match previous {
                Some(digest) => digest.to_string(),
                None => newest_seal(root)?.to_string(),
            },
            sealed_ns: crate::clock::now().as_nanos(),
            how: "recovered".into(),
        };
        let seal: Seal = signer.seal(&statement)?;
        previous = Some(seal.digest());
        seal::write(&path.with_extension("seal"), &seal)?;
    }
    Ok(())
}
