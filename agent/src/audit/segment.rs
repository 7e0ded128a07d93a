//! Segment files: group commits one after another, each `length ‖ checksum ‖ zstd frame of lines`.
//!
//! `BOOT/SEQ.seg` holds the records from number SEQ on, one JSON object a line; `BOOT/SEQ.seal` is written when it is
//! complete. One that is still written to may end in zeros, which are no commit.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::model::Digest;

/// Largest group commit that is read back, uncompressed, in bytes.
const MAX_COMMIT: usize = 256 * 1024 * 1024;
/// Length and checksum.
const HEADER: usize = 4 + 8;

/// Makes the bytes of group commits.
pub(super) struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    // The last commit's, or more.
    bytes: Vec<u8>,
}

impl Encoder {
    /// Level 1: the log must not become the bottleneck.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(1)?,
            bytes: Vec::new(),
        })
    }

    /// The bytes of one group commit.
    pub(super) fn encode(&mut self, lines: &[u8]) -> io::Result<&[u8]> {
        let room = HEADER + zstd::zstd_safe::compress_bound(lines.len());
        if self.bytes.len() < room || self.bytes.len() > room.saturating_mul(64) {
            self.bytes = vec![0; room];
        }
        let (header, frame) = self.bytes.split_at_mut(HEADER);
        let length = self.compressor.compress_to_buffer(lines, frame)?;
        let (size, check) = header.split_at_mut(4);
        size.copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
        check.copy_from_slice(&checksum(frame.get(..length).unwrap_or_default()));
        Ok(self.bytes.get(..HEADER + length).unwrap_or_default())
    }
}

fn checksum(frame: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(Digest::of(frame).as_bytes().split_at(8).0);
    short
}

/// The whole commits of a segment file.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Their lines, one after another.
    pub(super) lines: Vec<u8>,
    /// Where the last whole one ends in the file.
    pub(super) end: usize,
    /// Whether anything follows that is no whole commit.
    pub(super) torn: bool,
}

/// Reads the whole commits at the start of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Commits {
    let mut commits = Commits::default();
    let mut rest = bytes;
    while let Some((frame, tail)) = next(rest) {
        let Ok(lines) = zstd::bulk::decompress(
            frame,
            MAX_COMMIT.min(frame.len().saturating_mul(4096).max(1 << 16)),
        ) else {
            break;
        };
        commits.lines.extend_from_slice(&lines);
        commits.end += rest.len() - tail.len();
        rest = tail;
    }
    commits.torn = !rest.is_empty();
    commits
}

/// How many bytes the whole commits at the start take, up to the commit in which `records` is reached, and how many records they hold.
pub(super) fn whole_commits(bytes: &[u8], records: usize) -> (usize, usize) {
    let (mut rest, mut seen) = (bytes, 0);
    while seen < records
        && let Some((frame, tail)) = next(rest)
    {
        let commit = rest.get(..rest.len() - tail.len()).unwrap_or_default();
        debug_assert!(frame.len() < commit.len());
        seen += decode(commit).lines.iter().filter(|b| **b == b'\n').count();
        rest = tail;
    }
    (bytes.len() - rest.len(), seen)
}

/// The bytes of a file from `from` up to `to`.
pub(super) fn read_range(path: &Path, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(to.saturating_sub(from)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The whole commits of a file from `from` on, up to the commit in which `records` is reached: no more of it is read than that takes.
pub(super) fn read_commits(path: &Path, from: u64, records: usize) -> io::Result<Vec<u8>> {
    const CHUNK: u64 = 1 << 20;
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    loop {
        let more = file.by_ref().take(CHUNK).read_to_end(&mut bytes)?;
        let (length, seen) = whole_commits(&bytes, records);
        if more == 0 || seen >= records {
            bytes.truncate(length);
            return Ok(bytes);
        }
    }
}

fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let (frame, tail) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (checksum(frame) == *expected).then_some((frame, tail))
}

/// The segment files of a boot's directory with their first numbers, in order.
pub(super) fn list(boot: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(boot)? {
        let path = entry?.path();
        let first = path
            .file_stem()
            .and_then(|s| s.to_str())
            .and_then(|s| s.parse().ok());
        if let (Some("seg"), Some(first)) = (path.extension().and_then(|e| e.to_str()), first) {
            segments.push((first, path));
        }
    }
    segments.sort();
    Ok(segments)
}

/// The directories of boots below `root`, in the order of their starts (their names sort by time).
pub(super) fn boots(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut boots = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let named = path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.parse::<crate::model::BootId>().is_ok());
        if path.is_dir() && named {
            boots.push(path);
        }
    }
    boots.sort();
    Ok(boots)
}

/// The file name of the segment that starts at `first`.
pub(super) fn file_name(first: u64, extension: &str) -> String {
    format!("{first:016}.{extension}")
}
