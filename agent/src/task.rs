//! The only place that starts tasks: each has a name, a span and an owner.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// A running task that is aborted when its owner lets go of it.
#[derive(Debug)]
#[must_use = "a task ends when its owner drops it"]
pub struct Task<T> {
    handle: JoinHandle<T>,
}

impl<T> Task<T> {
    /// Waits for the end of the task; `None` when it was aborted or panicked.
    pub async fn join(mut self) -> Option<T> {
        (&mut self.handle).await.ok()
    }

    /// Ends the task at its next await point.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Starts `future` under the span `name`.
#[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task {
        handle: tokio::spawn(future.instrument(tracing::info_span!("task", name))),
    }
}

/// A set of tasks with one owner: all are aborted when it is dropped.
#[derive(Debug)]
pub struct Tasks<T> {
    set: tokio::task::JoinSet<T>,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self {
            set: tokio::task::JoinSet::new(),
        }
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Starts `future` under the span `name` as a member of the set.
    pub fn spawn<F>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.set
            .spawn(future.instrument(tracing::info_span!("task", name)));
    }

    /// The next member that ended; `None` when there is none. A member that panicked is skipped with an error line.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            match self.set.join_next().await? {
                Ok(value) => return Some(value),
                Err(error) if error.is_panic() => tracing::error!(%error, "a task panicked"),
                Err(_) => {}
            }
        }
    }

    /// Forgets members that have ended, without waiting.
    pub fn forget_ended(&mut self) {
        while let Some(ended) = self.set.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task panicked");
            }
        }
    }

    /// How many members have not been collected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no member is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}
