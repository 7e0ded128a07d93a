//! The log: hands out a receipt once a record is durable.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::config::AuditConfig;
use crate::model::{BootId, OperationId, TraceContext, WorkloadName};

use super::event::Event;
use super::queue::{Answer, Place, Producer, queue};
use super::record::{Origin, encode};
use super::space::{NearlyFull, Space};
use super::spans::{Span, Spans};
use super::tally::{Counted, Measures, Tally};
use super::writer::Writer;

/// Most bytes that a thread keeps to encode the next record in.
const KEPT: usize = 64 * 1024;

/// The witness that a record is durable. Made only in this file.
#[derive(Debug)]
#[must_use = "a receipt is what a permit is made from"]
pub struct Receipt {
    sequence: u64,
}

impl Receipt {
    /// The record's number in the log of this boot.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Why a record could not be made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The log's writer has ended.
    #[error("the audit log is closed")]
    Closed,
    /// So many operations are under way that the outcome of one more could not be owed.
    #[error("{0} operations are under way, which is as many as can be")]
    TooManyOpen(usize),
    /// The disk did not take it.
    #[error("{0}")]
    Disk(String),
    /// The log could not be opened.
    #[error("the audit log in {dir} cannot be opened: {reason}")]
    Open {
        /// Where.
        dir: std::path::PathBuf,
        /// Why.
        reason: String,
    },
}

/// A handle to the log; cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    sink: Sink,
}

#[derive(Debug, Clone)]
enum Sink {
    Disk {
        queue: Arc<Producer>,
        origin: Arc<Origin>,
        space: Arc<Space>,
        tally: Arc<Tally>,
    },
    Memory(Arc<Mutex<Vec<Event>>>),
}

impl AuditLog {
    /// A log in memory, for tests of other rooms.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            sink: Sink::Memory(Arc::default()),
        }
    }

    /// What a log in memory holds.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        match &self.sink {
            Sink::Memory(events) => events.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Disk { .. } => Vec::new(),
        }
    }

    /// Opens the log on disk for a new boot, after sealing what dead agents left open.
    ///
    /// # Errors
    /// Where its directory cannot be used.
    pub fn open(config: &AuditConfig, host: &str, boot: BootId) -> Result<Self, AuditError> {
        let failed = |error: std::io::Error| AuditError::Open {
            dir: config.dir.clone(),
            reason: error.to_string(),
        };
        let space = Arc::new(Space::new(config.min_free_bytes));
        let tally = Arc::<Tally>::default();
        let writer = Writer::open(config, boot, (Arc::clone(&space), Arc::clone(&tally)));
        let writer = writer.map_err(failed)?;
        let (producer, consumer) = queue();
        let spawned = std::thread::Builder::new()
            .name("audit-writer".into())
            .spawn(move || writer.run(&consumer));
        spawned.map(|_detached| ()).map_err(failed)?;
        Ok(Self {
            sink: Sink::Disk {
                queue: producer,
                origin: Arc::new(Origin::new(host, boot)?),
                space,
                tally,
            },
        })
    }

    /// The same log; what is recorded through this handle names `workload`.
    ///
    /// # Errors
    /// Where the name cannot be stored.
    pub fn about(&self, workload: &WorkloadName) -> Result<Self, AuditError> {
        let sink = match &self.sink {
            Sink::Memory(events) => Sink::Memory(Arc::clone(events)),
            Sink::Disk {
                queue,
                origin,
                space,
                tally,
            } => Sink::Disk {
                queue: Arc::clone(queue),
                origin: Arc::new(origin.about(workload.as_str())?),
                space: Arc::clone(space),
                tally: Arc::clone(tally),
            },
        };
        Ok(Self { sink })
    }

    /// Appends `event` and waits until it is durable. Everything that waits shares one `fdatasync`.
    ///
    /// # Errors
    /// Where it cannot be made durable: then nothing may be forwarded.
    pub async fn record(&self, event: Event) -> Result<Receipt, AuditError> {
        match &self.sink {
            Sink::Memory(events) => {
                let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
                events.push(event);
                Ok(Receipt {
                    sequence: events.len() as u64,
                })
            }
            Sink::Disk {
                queue, origin, tally, ..
            } => {
                tally.event(&event, origin.workload());
                let place = queue.reserve().await?;
                let (answer, told) = oneshot::channel();
                put(place, &event, origin, Some(answer))?;
                let sequence = told.await.map_err(|_ended| AuditError::Closed)??;
                Ok(Receipt { sequence })
            }
        }
    }

    /// Whether there is room for the record of something new. What is owed is recorded as long as anything is free.
    ///
    /// # Errors
    /// Where the disk is nearly full: nothing new may be forwarded, or only with metadata.
    pub fn has_room(&self) -> Result<(), NearlyFull> {
        match &self.sink {
            Sink::Disk { space, .. } => space.check(),
            Sink::Memory(_) => Ok(()),
        }
    }

    /// How the log is doing, and what it has counted.
    #[must_use]
    pub fn measures(&self) -> Measures {
        match &self.sink {
            Sink::Disk {
                queue, space, tally, ..
            } => tally.measures(queue.taken(), space.free()),
            Sink::Memory(_) => Measures::default(),
        }
    }

    /// From now on spans are made of what is recorded: of so many of a hundred sessions, and of whatever stands in a trace that
    /// its beginner keeps. They come out here; those that nobody takes in time are dropped and counted. Until `untrace`.
    #[must_use]
    pub fn trace(&self, percent: u8) -> mpsc::Receiver<Span> {
        let (spans, waiting) = Spans::new(percent);
        match &self.sink {
            Sink::Disk { tally, .. } => tally.spans.store(Some(Arc::new(spans))),
            Sink::Memory(_) => {}
        }
        waiting
    }

    /// The host and the boot that every record names.
    #[must_use]
    pub fn origin(&self) -> (String, String) {
        match &self.sink {
            Sink::Disk { origin, .. } => origin.names(),
            Sink::Memory(_) => <(String, String)>::default(),
        }
    }

    /// No more spans: who takes them comes to their end.
    pub fn untrace(&self) {
        match &self.sink {
            Sink::Disk { tally, .. } => tally.spans.store(None),
            Sink::Memory(_) => {}
        }
    }

    /// Counts what became of spans, by `result`.
    pub fn count_spans(&self, result: &str, times: u64) {
        match &self.sink {
            Sink::Disk { tally, .. } if times > 0 => tally.add("", Counted::Spans, result, times),
            Sink::Disk { .. } | Sink::Memory(_) => {}
        }
    }

    /// What a target is told, where the process named a trace: that the operation's span calls. `None`: the process's own words
    /// stay, because no span is made of it.
    #[must_use]
    pub fn continues(&self, id: OperationId, asked: TraceContext) -> Option<TraceContext> {
        match &self.sink {
            Sink::Disk { tally, .. } => tally.spans.load().as_ref()?.continues(id, asked),
            Sink::Memory(_) => None,
        }
    }

    /// Reserves a place in the queue for an event that must be recorded later from where nothing can be awaited.
    ///
    /// # Errors
    /// Where the log is closed, or too many are reserved.
    pub fn promise(&self) -> Result<OutcomeSlot, AuditError> {
        self.slot(Producer::promise)
    }

    fn slot(
        &self,
        place: impl FnOnce(&Arc<Producer>) -> Result<Place, AuditError>,
    ) -> Result<OutcomeSlot, AuditError> {
        match &self.sink {
            Sink::Memory(events) => Ok(OutcomeSlot(Slot::Memory(Arc::clone(events)))),
            Sink::Disk {
                queue, origin, tally, ..
            } => Ok(OutcomeSlot(Slot::Disk {
                place: place(queue)?,
                origin: Arc::clone(origin),
                tally: Arc::clone(tally),
            })),
        }
    }

    /// Waits for a place for so many bytes of content; what is put there is durable with the next group commit. Cancel-safe.
    ///
    /// # Errors
    /// Where the log is closed.
    pub async fn room_for_content(&self, bytes: usize) -> Result<OutcomeSlot, AuditError> {
        let place = match &self.sink {
            Sink::Memory(_) => None,
            Sink::Disk { queue, .. } => Some(queue.reserve_content(bytes).await?),
        };
        self.slot(|_queue| place.ok_or(AuditError::Closed))
    }

    /// Queues `event` without waiting for the disk; it is durable with the next group commit. For what is not a
    /// promise to anybody: session ends, kernel denials.
    ///
    /// # Errors
    /// Where the log is closed.
    pub async fn post(&self, event: Event) -> Result<(), AuditError> {
        let place = match &self.sink {
            Sink::Memory(_) => None,
            Sink::Disk { queue, .. } => Some(queue.reserve().await?),
        };
        let slot = self.slot(|_queue| place.ok_or(AuditError::Closed))?;
        slot.send(event);
        Ok(())
    }

    /// Seals what there is. The log takes nothing after it.
    pub async fn close(&self) {
        if let Sink::Disk { queue, .. } = &self.sink {
            let (done, told) = oneshot::channel();
            queue.close(done);
            let _ended_anyway = told.await;
        }
    }
}

/// Encodes `event` and puts it into its place.
fn put(place: Place, event: &Event, origin: &Origin, answer: Option<Answer>) -> Result<(), AuditError> {
    thread_local! {
        /// Where records are encoded before they are queued.
        static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    ENCODED.with_borrow_mut(|json| {
        encode(event, origin, json)?;
        place.put(json, answer);
        json.shrink_to(KEPT);
        Ok(())
    })
}

/// A reserved place in the queue.
#[derive(Debug)]
pub struct OutcomeSlot(Slot);

#[derive(Debug)]
enum Slot {
    Disk {
        place: Place,
        origin: Arc<Origin>,
        tally: Arc<Tally>,
    },
    Memory(Arc<Mutex<Vec<Event>>>),
}

impl OutcomeSlot {
    /// Puts `event` there; never waits.
    pub fn send(self, event: Event) {
        match self.0 {
            Slot::Memory(events) => events.lock().unwrap_or_else(PoisonError::into_inner).push(event),
            Slot::Disk { place, origin, tally } => {
                tally.event(&event, origin.workload());
                if let Err(error) = put(place, &event, &origin, None) {
                    tracing::error!(%error, "an outcome could not be recorded");
                }
            }
        }
    }
}
