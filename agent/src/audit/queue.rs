//! What waits to be written: a bounded queue from every session to the one writer.
//!
//! A record that somebody waits for wakes the writer at once. One that nobody waits for (an outcome, a session's end)
//! rides along with the next that somebody waits for, and lingers at most `LINGER`: a commit of its own for each would cost
//! as many syncs again, and everybody behind it their patience.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use super::log::AuditError;

/// Records that may wait to be written.
const ROOM: usize = 8192;
/// Operations whose outcomes are owed: many, as a connection that stays open for days owes one. Not taken from [`ROOM`]:
/// then as many open connections would leave no place for the record of anything else, and nothing would end them.
const OWED: usize = 1 << 17;
/// Kibibytes of content that may wait to be written. It has bounds of its own within [`ROOM`]: who streams must not stand in
/// the way of who asks.
const CONTENT: u32 = 32 * 1024;
/// A piece counts as at least so many of them: many small ones fill a queue too.
const LEAST: u32 = 8;
/// Longest time before a record that nobody waits for is written.
const LINGER: Duration = Duration::from_millis(5);

/// Who is told the number of a record once it is durable.
pub(super) type Answer = oneshot::Sender<Result<u64, AuditError>>;

/// Most bytes that are kept for the next records when these are written.
const KEPT: usize = 1 << 20;

/// A record that waits to be written.
pub(super) struct Waiting {
    /// Bytes of it: JSON without its number.
    pub(super) length: usize,
    pub(super) answer: Option<Answer>,
    // Given back when the record is written.
    _place: Taken,
}

/// A place in the queue, and what content takes besides.
#[derive(Debug)]
struct Taken {
    _place: OwnedSemaphorePermit,
    _content: Option<OwnedSemaphorePermit>,
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Waiting>,
    /// The records, one after another.
    pub(super) json: Vec<u8>,
    /// To be told when everything is sealed: the last batch.
    pub(super) close: Option<oneshot::Sender<()>>,
    /// Nobody can ask for anything any more.
    pub(super) last: bool,
}

#[derive(Default)]
struct State {
    records: Vec<Waiting>,
    // Theirs, one after another: what every session writes and one thread reads is not allocated for each.
    json: Vec<u8>,
    oldest: Option<Instant>,
    urgent: bool,
    close: Option<oneshot::Sender<()>>,
    // No producer is left.
    abandoned: bool,
    // The writer has ended.
    ended: bool,
    sleeps: Sleep,
}

/// How the writer waits, which says who must wake it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    #[default]
    Awake,
    /// It looks again by itself soon: only a record that somebody waits for wakes it.
    Lightly,
    /// Everything wakes it.
    Soundly,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    room: Arc<Semaphore>,
    owed: Arc<Semaphore>,
    content: Arc<Semaphore>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue's two ends.
pub(super) fn queue() -> (Arc<Producer>, Consumer) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        wake: Condvar::new(),
        room: Arc::new(Semaphore::new(ROOM)),
        owed: Arc::new(Semaphore::new(OWED)),
        content: Arc::new(Semaphore::new(CONTENT as usize)),
    });
    (
        Arc::new(Producer {
            shared: Arc::clone(&shared),
        }),
        Consumer { shared },
    )
}

/// The end of those who record. When the last one goes, the writer ends.
pub(super) struct Producer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

/// A reserved place.
#[derive(Debug)]
pub(super) struct Place {
    taken: Taken,
    producer: Arc<Producer>,
}

impl Producer {
    /// Waits for a place.
    pub(super) async fn reserve(self: &Arc<Self>) -> Result<Place, AuditError> {
        let room = Arc::clone(&self.shared.room);
        let permit = room.acquire_owned().await.map_err(|_closed| AuditError::Closed)?;
        Ok(self.place(permit, None))
    }

    /// Waits for a place for so many bytes of content.
    pub(super) async fn reserve_content(self: &Arc<Self>, bytes: usize) -> Result<Place, AuditError> {
        let closed = |_closed| AuditError::Closed;
        let kibibytes = u32::try_from(bytes / 1024)
            .unwrap_or(CONTENT)
            .clamp(LEAST, CONTENT);
        let content = Arc::clone(&self.shared.content);
        let content = content.acquire_many_owned(kibibytes).await.map_err(closed)?;
        let permit = Arc::clone(&self.shared.room)
            .acquire_owned()
            .await
            .map_err(closed)?;
        Ok(self.place(permit, Some(content)))
    }

    fn place(self: &Arc<Self>, place: OwnedSemaphorePermit, content: Option<OwnedSemaphorePermit>) -> Place {
        Place {
            taken: Taken {
                _place: place,
                _content: content,
            },
            producer: Arc::clone(self),
        }
    }

    /// A place for what is owed later; refused where there are too many already: waiting would have no end.
    pub(super) fn promise(self: &Arc<Self>) -> Result<Place, AuditError> {
        let owed = Arc::clone(&self.shared.owed).try_acquire_owned();
        let permit = owed.map_err(|error| match error {
            TryAcquireError::NoPermits => AuditError::TooManyOpen(OWED),
            TryAcquireError::Closed => AuditError::Closed,
        })?;
        Ok(self.place(permit, None))
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> u64 {
        ROOM.saturating_sub(self.shared.room.available_permits()) as u64
    }

    /// Asks for a seal over everything; answered when it is there, dropped where the writer has ended.
    pub(super) fn close(&self, done: oneshot::Sender<()>) {
        let mut state = self.shared.state();
        if !state.ended {
            state.close = Some(done);
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        self.shared.wake.notify_one();
    }
}

impl Place {
    /// Puts a record there; never waits. The answer is dropped where the writer has ended.
    pub(super) fn put(self, json: &[u8], answer: Option<Answer>) {
        let Self { taken, producer } = self;
        let shared = &producer.shared;
        let mut state = shared.state();
        if state.ended {
            return;
        }
        let urgent = answer.is_some();
        state.urgent |= urgent;
        state.oldest.get_or_insert_with(Instant::now);
        state.json.extend_from_slice(json);
        state.records.push(Waiting {
            length: json.len(),
            answer,
            _place: taken,
        });
        let wakes = match state.sleeps {
            Sleep::Awake => false,
            Sleep::Lightly => urgent,
            Sleep::Soundly => true,
        };
        drop(state);
        if wakes {
            shared.wake.notify_one();
        }
    }
}

/// The writer's end. Dropping it tells everybody who waits that there is no writer.
pub(super) struct Consumer {
    shared: Arc<Shared>,
}

impl Consumer {
    /// Waits for what is to be written next. After the batch that is the last there is no other. `done` is a batch that is
    /// written: its memory is used again.
    pub(super) fn take(&self, done: Batch) -> Batch {
        let Batch {
            mut records,
            mut json,
            ..
        } = done;
        records.clear();
        json.clear();
        json.shrink_to(KEPT);
        let mut state = self.shared.state();
        let mut slept_in_vain = false;
        loop {
            let ends = state.close.is_some() || state.abandoned;
            let due = state.oldest.is_some_and(|since| since.elapsed() >= LINGER);
            if state.urgent || due || ends {
                state.urgent = false;
                state.oldest = None;
                return Batch {
                    records: std::mem::replace(&mut state.records, records),
                    json: std::mem::replace(&mut state.json, json),
                    close: state.close.take(),
                    last: ends,
                };
            }
            state = if slept_in_vain && state.records.is_empty() {
                state.sleeps = Sleep::Soundly;
                let woken = self.shared.wake.wait(state);
                woken.unwrap_or_else(PoisonError::into_inner)
            } else {
                state.sleeps = Sleep::Lightly;
                let woken = self.shared.wake.wait_timeout(state, LINGER);
                woken.unwrap_or_else(PoisonError::into_inner).0
            };
            slept_in_vain = state.records.is_empty();
            state.sleeps = Sleep::Awake;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.room.close();
        self.shared.owed.close();
        self.shared.content.close();
        let mut state = self.shared.state();
        state.ended = true;
        state.records.clear();
        state.json.clear();
        state.close = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(producer: &Arc<Producer>, answer: Option<Answer>) {
        let place = producer.reserve().await.expect("room");
        place.put(b"{}", answer);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_rides_along() {
        let (producer, consumer) = queue();
        put(&producer, None).await;
        let (answer, _told) = oneshot::channel();
        put(&producer, Some(answer)).await;
        let batch = consumer.take(Batch::default());
        assert_eq!((batch.records.len(), batch.last), (2, false));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_all_the_same() {
        let (producer, consumer) = queue();
        let writer = std::thread::spawn(move || consumer.take(Batch::default()).records.len());
        put(&producer, None).await;
        assert_eq!(writer.join().expect("no panic"), 1);
        drop(producer);
    }

    #[tokio::test]
    async fn what_is_owed_leaves_room_for_records_and_is_bounded() {
        let (producer, consumer) = queue();
        let owed: Vec<Place> = (0..OWED).map(|_| producer.promise().expect("a place")).collect();
        assert!(matches!(producer.promise(), Err(AuditError::TooManyOpen(OWED))));
        put(&producer, None).await;
        assert_eq!(consumer.take(Batch::default()).records.len(), 1);
        drop(owed);
        assert!(producer.promise().is_ok());
    }

    #[tokio::test]
    async fn content_waits_within_bounds_and_leaves_room_for_records() {
        let (producer, consumer) = queue();
        let mut held = Vec::new();
        let full = loop {
            let next = producer.reserve_content(64 * 1024);
            match tokio::time::timeout(Duration::from_millis(20), next).await {
                Ok(place) => held.push(place.expect("room")),
                Err(_waits) => break held.len(),
            }
        };
        assert_eq!(full, 512, "32 MiB in pieces of 64 KiB");
        put(&producer, None).await;
        assert_eq!(consumer.take(Batch::default()).records.len(), 1);
        held.pop();
        assert!(producer.reserve_content(1).await.is_ok());
        drop(consumer);
        assert!(producer.reserve_content(1).await.is_err());
    }

    #[tokio::test]
    async fn the_last_one_to_go_ends_the_writer_and_nothing_is_lost() {
        let (producer, consumer) = queue();
        let place = producer.reserve().await.expect("room");
        drop(producer);
        place.put(b"{}", None);
        let batch = consumer.take(Batch::default());
        assert_eq!((batch.records.len(), batch.last), (1, true));
    }

    #[tokio::test]
    async fn without_a_writer_everybody_is_told() {
        let (producer, consumer) = queue();
        let (answer, told) = oneshot::channel();
        put(&producer, Some(answer)).await;
        let place = producer.reserve().await.expect("room");
        drop(consumer);
        assert!(told.await.is_err());
        let (answer, told) = oneshot::channel();
        place.put(b"", Some(answer));
        assert!(told.await.is_err());
        assert!(producer.reserve().await.is_err());
        let (done, told) = oneshot::channel();
        producer.close(done);
        assert!(told.await.is_err());
    }
}
