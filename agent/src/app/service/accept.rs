//! Accepting for a workload whose configuration can change: each connection is served as it is configured when it comes.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::connection::{Accepted, Acceptor};
use crate::model::NetnsCookie;
use crate::task::Tasks;

use super::super::serve::{Serving, Strangers};

/// What new connections are served with.
pub(super) struct Current {
    pub(super) serving: Arc<Serving>,
    /// Whether targets are dialled from the namespace that the process connected in.
    pub(super) from_inside: bool,
}

/// How the accepting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not yet.
    No,
    /// What waits to be accepted comes first: nobody else will accept it.
    Empty,
    /// At once: what waits is the next agent's.
    HandOver,
}

/// Serves what `acceptor` accepts, until it is told to end; then what is there already, to its end.
pub(super) async fn accept(
    current: Arc<ArcSwap<Current>>,
    acceptor: Acceptor,
    namespace: NetnsCookie,
    mut ending: watch::Receiver<Ending>,
) {
    let mut sessions = Tasks::default();
    let mut strangers = Strangers::default();
    loop {
        let told = *ending.borrow_and_update();
        if told == Ending::HandOver {
            break;
        }
        let room = Arc::clone(&current.load().serving);
        tokio::select! {
            biased;
            (accepted, room) = room.accept(&acceptor) => match accepted {
                Accepted::Connection(mut connection) => {
                    let Current { serving, from_inside } = &**current.load();
                    connection.upstream.from = from_inside.then_some(namespace);
                    let serving = Arc::clone(serving);
                    sessions.spawn("session", async move {
                        serving.session(connection).await;
                        drop(room);
                    });
                }
                Accepted::Stranger { peer } => {
                    tracing::warn!(%peer, "a connection that the kernel did not redirect was reset");
                    if let Some(count) = strangers.next(Instant::now()) {
                        current.load_full().serving.record_strangers(count).await;
                    }
                }
            },
            _ = sessions.next(), if !sessions.is_empty() => {}
            changed = ending.changed(), if told == Ending::No => if changed.is_err() { break },
            () = std::future::ready(()), if told == Ending::Empty => break,
        }
    }
    drop(acceptor);
    while sessions.next().await.is_some() {}
}
