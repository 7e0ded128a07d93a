//! What is recorded of requests and answers themselves, at the level `full`: in pieces as they pass, each in the log's queue
//! before the process is shown it, up to the target's `recording_limit`. A request is on the disk before it is forwarded.
//!
//! Records hold what was shown and never more: whoever makes pieces masks what a policy reveals to this process too.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::audit::{AuditError, AuditLog, Event, NearlyFull, OutcomeGuard, Scene};
use crate::config::WhenFull;
use crate::mask::Masked;
use crate::model::{
    Content, ContentForm, ContentPart, Digester, OperationId, Outcome, RecordingLevel, Refusal, RefusalKind,
    Unkept,
};

use super::authorize::{Judged, not_recorded};
use super::open::Session;
use super::upstream::InFlight;

/// Largest piece of one record, in bytes.
const PIECE: usize = 64 * 1024;

/// Why content cannot be recorded that has to be: nothing more of it may be shown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unkeepable {
    /// The log does not take it.
    #[error("the record of it could not be made: {0}")]
    Log(#[from] AuditError),
    /// The disk is nearly full.
    #[error("there is no room for the record of it: {0}")]
    Full(NearlyFull),
}

impl Unkeepable {
    /// What the process is told.
    pub(in crate::session) fn refusal(self) -> Refusal {
        match self {
            Self::Log(error) => not_recorded(&error),
            Self::Full(full) => Refusal::new(
                RefusalKind::NotRecorded,
                format!("There is no room for the record of it: {full}."),
                "Tell whoever runs the agent: nothing is forwarded unrecorded.",
            ),
        }
    }
}

/// Bytes that are not kept, only counted and digested.
#[derive(Debug)]
struct Rest {
    why: Unkept,
    digest: Option<Digester>,
    /// How many bytes of the part came before.
    from: u64,
}

impl Rest {
    const fn new(why: Unkept, from: u64) -> Self {
        Self {
            why,
            digest: None,
            from,
        }
    }
}

/// Records one part of an operation. Taking pieces never waits; [`Recording::settle`] does.
#[derive(Debug)]
pub struct Recording {
    log: AuditLog,
    scene: Arc<Scene>,
    id: OperationId,
    part: ContentPart,
    /// How many bytes are kept at most, and how many of them still may be.
    limit: u64,
    left: u64,
    /// Up to where the part is recorded.
    kept: u64,
    /// How many there were.
    whole: u64,
    /// The beginning of a letter whose end has not come.
    letter: Vec<u8>,
    rest: Option<Rest>,
    waiting: VecDeque<Content>,
    /// Whether nothing may be shown that is not recorded, also on a disk that is nearly full.
    strict: bool,
}

impl Recording {
    fn of(&self, part: ContentPart) -> Self {
        Self {
            log: self.log.clone(),
            scene: Arc::clone(&self.scene),
            id: self.id,
            part,
            limit: self.limit,
            left: self.limit,
            kept: 0,
            whole: 0,
            letter: Vec::new(),
            rest: None,
            waiting: VecDeque::new(),
            strict: self.strict,
        }
    }

    /// What stands before the content: a first line, and fields. Masked already.
    pub fn head(&mut self, first: String, fields: Vec<String>) {
        self.waiting.push_back(Content {
            part: ContentPart::AnswerHead,
            at: 0,
            form: ContentForm::Fields(first, fields),
        });
    }

    /// From here on it is messages.
    pub fn messages(&mut self) {
        self.part = ContentPart::Message;
    }

    /// The next piece, as it is shown.
    pub fn push(&mut self, piece: &Masked<impl AsRef<[u8]>>) {
        self.bytes(piece.content().as_ref());
    }

    /// The same of a part of a piece.
    pub fn push_range(&mut self, piece: &Masked<impl AsRef<[u8]>>, range: Range<usize>) {
        self.bytes(piece.content().as_ref().get(range).unwrap_or_default());
    }

    /// The next piece of what no detector reads: it is counted and digested.
    pub fn unread(&mut self, piece: &[u8]) {
        self.without(Unkept::Unread, piece);
    }

    /// The next piece of what cannot be recorded as it is shown, and why.
    pub fn without(&mut self, why: Unkept, piece: &[u8]) {
        let rest = self.rest.get_or_insert_with(|| Rest {
            digest: (why == Unkept::Unread).then(Digester::default),
            ..Rest::new(why, self.whole)
        });
        self.whole = self.whole.saturating_add(count(piece));
        if let Some(digest) = &mut rest.digest {
            digest.update(piece);
        }
    }

    /// None of it is kept: why, and its length where that is known.
    pub fn refers(&mut self, why: Unkept, whole: u64) {
        self.longer(whole);
        self.rest = Some(Rest::new(why, self.kept));
    }

    /// The part is longer than what will be given: its length.
    pub fn longer(&mut self, whole: u64) {
        self.whole = self.whole.max(whole);
    }

    /// How many bytes are kept at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }

    /// The part is complete.
    pub fn end(&mut self) {
        if !self.letter.is_empty() {
            let letter = std::mem::take(&mut self.letter);
            self.keep(ContentForm::Bytes(letter));
        }
        if self.rest.is_none() && self.whole > self.kept {
            self.rest = Some(Rest::new(Unkept::Limit, self.kept));
        }
        if let Some(rest) = self.rest.take() {
            self.say(rest, self.whole);
        }
    }

    /// A message is complete, and others follow: one that nobody looked into does not keep them from being recorded.
    pub fn next_message(&mut self) {
        if let Some(rest) = self.rest.take_if(|rest| rest.why == Unkept::Unread) {
            let whole = self.whole.saturating_sub(rest.from);
            self.say(rest, whole);
            self.kept = self.kept.saturating_add(whole);
        }
    }

    fn say(&mut self, rest: Rest, whole: u64) {
        let Rest { why, digest, from: _ } = rest;
        let digest = digest.map(Digester::finish);
        self.waiting.push_back(Content {
            part: self.part,
            at: self.kept,
            form: ContentForm::Rest { why, whole, digest },
        });
    }

    /// Whether something waits for [`Recording::settle`].
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Puts what was taken into the log's queue: it is durable with the next group commit. Cancel-safe.
    ///
    /// # Errors
    /// Where it cannot be recorded and has to be.
    pub async fn settle(&mut self) -> Result<(), Unkeepable> {
        while let Some(next) = self.waiting.front() {
            let size = next.form.size();
            self.look_at_disk()?;
            let place = self.log.room_for_content(size).await?;
            if let Some(content) = self.waiting.pop_front() {
                place.send(self.event(content));
            }
        }
        Ok(())
    }

    /// The same, and waits until all of it is on the disk.
    pub(in crate::session) async fn settle_durably(mut self) -> Result<(), Unkeepable> {
        let Some(last) = self.waiting.pop_back() else {
            return Ok(());
        };
        self.settle().await?;
        self.look_at_disk()?;
        let event = self.event(last);
        let _receipt = self.log.record(event).await?;
        Ok(())
    }

    fn event(&self, content: Content) -> Event {
        Event::Content {
            scene: Arc::clone(&self.scene),
            id: self.id,
            content,
        }
    }

    /// On a disk that is nearly full nothing more is kept, or nothing more is shown.
    fn look_at_disk(&mut self) -> Result<(), Unkeepable> {
        match self.log.has_room() {
            Ok(()) => Ok(()),
            Err(full) if self.strict => Err(Unkeepable::Full(full)),
            Err(_full) => {
                self.rest.get_or_insert(Rest::new(Unkept::Disk, self.kept));
                Ok(())
            }
        }
    }

    fn bytes(&mut self, piece: &[u8]) {
        if self.rest.is_some() {
            return self.without(Unkept::Limit, piece);
        }
        self.whole = self.whole.saturating_add(count(piece));
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = room.saturating_sub(self.letter.len());
        for some in piece.get(..room).unwrap_or(piece).chunks(PIECE) {
            self.some(some);
        }
        if piece.len() > room {
            self.letter.clear();
            self.rest = Some(Rest::new(Unkept::Limit, self.kept));
        }
    }

    /// Text up to the last whole letter, or bytes.
    fn some(&mut self, piece: &[u8]) {
        let mut bytes = std::mem::take(&mut self.letter);
        bytes.extend_from_slice(piece);
        let form = match String::from_utf8(bytes) {
            Ok(text) => text_or_bytes(text),
            Err(error) => {
                let (end, cut) = (
                    error.utf8_error().valid_up_to(),
                    error.utf8_error().error_len().is_none(),
                );
                let mut bytes = error.into_bytes();
                if cut {
                    self.letter = bytes.split_off(end);
                }
                match String::from_utf8(bytes) {
                    Ok(text) => text_or_bytes(text),
                    Err(error) => ContentForm::Bytes(error.into_bytes()),
                }
            }
        };
        self.keep(form);
    }

    fn keep(&mut self, form: ContentForm) {
        let size = form.size();
        if size == 0 {
            return;
        }
        self.waiting.push_back(Content {
            part: self.part,
            at: self.kept,
            form,
        });
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        self.kept = self.kept.saturating_add(size);
        self.left = self.left.saturating_sub(size);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Recording {
    /// One of an answer that nobody has asked for, for tests: up to `limit` bytes.
    pub(crate) fn of_nothing(limit: u64) -> Self {
        Self {
            log: AuditLog::in_memory(),
            scene: Arc::new(super::fuzz::scene()),
            id: OperationId::new(),
            part: ContentPart::Answer,
            limit,
            left: limit,
            kept: 0,
            whole: 0,
            letter: Vec::new(),
            rest: None,
            waiting: VecDeque::new(),
            strict: true,
        }
    }

    /// What it has recorded: bytes in order, and why there are no more. Each piece stands where the one before ended.
    pub(crate) fn recorded(&self) -> (Vec<u8>, Option<(Unkept, u64)>) {
        let (mut all, mut rest) = (Vec::new(), None);
        for content in &self.waiting {
            match &content.form {
                ContentForm::Text(text) => all.extend_from_slice(text.as_bytes()),
                ContentForm::Bytes(bytes) => all.extend_from_slice(bytes),
                ContentForm::Fields(..) => continue,
                ContentForm::Rest { why, whole, .. } => rest = Some((*why, *whole)),
            }
            let end = content
                .at
                .saturating_add(u64::try_from(content.form.size()).unwrap_or(u64::MAX));
            assert_eq!(end, count(&all));
        }
        (all, rest)
    }
}

/// An operation that ended while content of it was still to be recorded: that comes first, and the outcome behind it.
/// Dropping it records the operation as abandoned.
#[derive(Debug)]
pub struct Ended {
    recording: Box<Recording>,
    owed: OutcomeGuard,
    outcome: Outcome,
}

impl Ended {
    /// As [`Recording::settle`].
    ///
    /// # Errors
    /// As there.
    pub async fn settle(&mut self) -> Result<(), Unkeepable> {
        self.recording.settle().await
    }

    /// Records the outcome.
    pub fn finish(self) {
        self.owed.finish(self.outcome);
    }
}

impl InFlight {
    /// Records the outcome; where content is to be recorded before, what has to be settled and finished.
    #[must_use = "dropping it records the operation as abandoned"]
    pub fn finish(self, outcome: Outcome) -> Option<Ended> {
        let Self {
            outcome: owed,
            plan: _,
            limits: _,
            recording,
        } = self;
        let Some(mut recording) = recording else {
            owed.finish(outcome);
            return None;
        };
        recording.end();
        Some(Ended {
            recording,
            owed,
            outcome,
        })
    }
}

/// Zero bytes are in no text: numbers and lengths look like letters.
fn text_or_bytes(text: String) -> ContentForm {
    if memchr::memchr(0, text.as_bytes()).is_some() {
        ContentForm::Bytes(text.into_bytes())
    } else {
        ContentForm::Text(text)
    }
}

fn count(piece: &[u8]) -> u64 {
    u64::try_from(piece.len()).unwrap_or(u64::MAX)
}

impl Session {
    /// The content of a permitted request, taken but not in the log yet, and what its answer is recorded with.
    pub(in crate::session) fn content_of<R: Judged>(
        &self,
        request: &R,
        id: OperationId,
        by_policy: RecordingLevel,
    ) -> (Recording, Box<Recording>) {
        let mut sent = Recording {
            log: self.rooms.audit.clone(),
            scene: Arc::clone(&self.scene),
            id,
            part: ContentPart::Request,
            limit: self.target.recording_limit,
            left: self.target.recording_limit,
            kept: 0,
            whole: 0,
            letter: Vec::new(),
            rest: None,
            waiting: VecDeque::new(),
            strict: self.target.when_full != WhenFull::Metadata || by_policy > RecordingLevel::Metadata,
        };
        let answer = Box::new(sent.of(ContentPart::Answer));
        request.record(&self.masks_nothing_revealed(), &mut sent);
        sent.end();
        (sent, answer)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::audit::{Record, read_all};
    use crate::config::AuditConfig;
    use crate::mask::NoData;
    use crate::model::BootId;

    fn recording(dir: &std::path::Path, kept_free: u64, strict: bool) -> Recording {
        let config = AuditConfig {
            dir: dir.to_owned(),
            segment_bytes: 1 << 20,
            segment_age: std::time::Duration::from_secs(60),
            min_free_bytes: kept_free,
            clickhouse: None,
        };
        Recording {
            log: AuditLog::open(&config, "host", BootId::new()).expect("a log"),
            scene: Arc::new(crate::session::fuzz::scene()),
            id: OperationId::new(),
            part: ContentPart::Answer,
            limit: 10,
            left: 10,
            kept: 0,
            whole: 0,
            letter: Vec::new(),
            rest: None,
            waiting: VecDeque::new(),
            strict,
        }
    }

    async fn kept(
        mut recording: Recording,
        pieces: &[&[u8]],
        dir: &std::path::Path,
    ) -> Vec<(u64, String, String)> {
        for piece in pieces {
            let piece = Bytes::copy_from_slice(piece);
            recording.push(&Masked::without_data(piece, NoData::Uninspected));
            recording.settle().await.expect("settled");
        }
        recording.end();
        recording.settle().await.expect("settled");
        recording.log.close().await;
        let mut all = Vec::new();
        read_all(
            dir,
            |Record {
                 at_byte,
                 text,
                 reason,
                 ..
             }| all.push((at_byte, text, reason)),
        )
        .expect("read");
        all
    }

    #[tokio::test]
    async fn letters_stay_whole_and_what_is_longer_is_said() {
        let said = |all: &[(u64, &str, &str)]| -> Vec<(u64, String, String)> {
            all.iter()
                .map(|(at, text, why)| (*at, (*text).to_owned(), (*why).to_owned()))
                .collect()
        };
        let limit = Unkept::Limit.reason();
        for (pieces, expected) in [
            (
                ["a\u{e9}b".as_bytes(), b"c"],
                said(&[(0, "a\u{e9}b", ""), (4, "c", "")]),
            ),
            (
                [&b"a\xc3"[..], &b"\xa9b"[..]],
                said(&[(0, "a", ""), (1, "\u{e9}b", "")]),
            ),
            ([&b"0123456789"[..], &b""[..]], said(&[(0, "0123456789", "")])),
            (
                [&b"0123456789"[..], &b"0"[..]],
                said(&[(0, "0123456789", ""), (10, "", limit)]),
            ),
            (
                [&b"012345678\xc3"[..], &b"\xa9"[..]],
                said(&[(0, "012345678", ""), (9, "", limit)]),
            ),
            ([&b"a\0b"[..], &b"c"[..]], said(&[(0, "YQBi", ""), (3, "c", "")])),
            ([&b"a\xc3"[..], &b""[..]], said(&[(0, "a", ""), (1, "ww==", "")])),
        ] {
            let dir = tempfile::tempdir().expect("temp dir");
            let one = recording(dir.path(), 0, true);
            assert_eq!(kept(one, &pieces, dir.path()).await, expected, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn on_a_disk_that_is_nearly_full_nothing_is_shown_or_nothing_more_is_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut strict = recording(dir.path(), u64::MAX, true);
        strict.push(&Masked::without_data(
            Bytes::from_static(b"a"),
            NoData::Uninspected,
        ));
        assert!(matches!(strict.settle().await, Err(Unkeepable::Full(_))));
        assert!(matches!(strict.settle_durably().await, Err(Unkeepable::Full(_))));
        let dir = tempfile::tempdir().expect("temp dir");
        let lenient = recording(dir.path(), u64::MAX, false);
        let all = kept(lenient, &[b"a", b"b", b"c"], dir.path()).await;
        let reasons: Vec<&str> = all.iter().map(|(_, _, why)| why.as_str()).collect();
        assert_eq!(reasons, ["", Unkept::Disk.reason()]);
    }
}
