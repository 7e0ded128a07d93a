//! Requests that wait for somebody's consent while the process hears of it: the answer is a stream of events that begins
//! before anybody has decided.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::{Notify, oneshot};

use crate::model::Refusal;
use crate::session::{AgentSpeech, Answer, Meanwhile};

use super::dialect::{Aloud, Held};
use super::exchange::{Asked, DRAIN_TIME, DRAINED, Exchange, No};
use super::later::apart;
use super::refusal::{self, Tongue};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(10);

type Rest = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Who is told that a request waits, and says how long it may.
pub(super) struct Waiting {
    pub(super) tongue: Tongue,
    told: Option<oneshot::Sender<Aloud>>,
}

impl Waiting {
    /// Nobody hears that it waits.
    pub(super) const fn in_silence(tongue: Tongue) -> Self {
        Self { tongue, told: None }
    }

    /// The request for consent is open.
    pub(super) fn held(&mut self, pending: &Refusal, usual: Duration) -> Duration {
        let Tongue::Dialect(dialect) = &mut self.tongue else {
            return usual;
        };
        let Held { patience, aloud } = dialect.held(pending, usual);
        if let (Some(aloud), Some(told)) = (aloud, self.told.take()) {
            // Who does not listen any more is gone, and so is this.
            let _gone = told.send(aloud);
        }
        patience
    }

    /// What tells that the process waits no longer.
    pub(super) fn stop(&self) -> Option<Arc<Notify>> {
        match &self.tongue {
            Tongue::Dialect(dialect) => dialect.stop(),
            Tongue::Plain | Tongue::Grpc => None,
        }
    }
}

/// Ready once `stop` says so; never without it.
pub(super) async fn stopped(stop: Option<Arc<Notify>>) {
    match stop {
        Some(stop) => stop.notified().await,
        None => std::future::pending().await,
    }
}

/// Carries a request that was read to its answer. Where it has to wait and the dialect has words for that, the answer
/// begins with them. Dropping the future, or the answer's body, forwards nothing that was not forwarded yet.
pub(super) async fn carried(exchange: Arc<Exchange>, mut asked: Asked, tongue: Tongue) -> Answer {
    if let Some(shelf) = asked.shelf.take() {
        return apart(exchange, asked, tongue, shelf).await;
    }
    let (told, hears) = oneshot::channel();
    let mut waiting = Waiting {
        tongue,
        told: Some(told),
    };
    let unread = asked.unread();
    let mut rest: Rest = Box::pin(async move {
        match exchange.judged_and_sent(asked, &mut waiting).await {
            Ok(answer) => answer,
            Err(No(refusal, status)) => {
                if let Some(unread) = unread {
                    // Who sends slowly is answered all the same.
                    let _in_time = tokio::time::timeout(DRAIN_TIME, unread.drain(DRAINED)).await;
                }
                refusal::answer(&refusal, status, &waiting.tongue)
            }
        }
    });
    tokio::select! {
        biased;
        answer = &mut rest => answer,
        Ok(aloud) = hears => Answer::held(meanwhile(rest, aloud)),
    }
}

/// What is said until the answer is there, and the answer.
fn meanwhile(rest: Rest, aloud: Aloud) -> impl Stream<Item = Meanwhile> {
    stream::unfold(
        (Some(rest), aloud, 0_u64),
        |(rest, mut aloud, beats)| async move {
            let mut rest = rest?;
            if beats == 0 {
                let opening = AgentSpeech::status(std::mem::take(&mut aloud.opening));
                return Some((Meanwhile::Said(opening), (Some(rest), aloud, 1)));
            }
            match tokio::time::timeout(BEAT, &mut rest).await {
                Ok(answer) => {
                    let otherwise = AgentSpeech::status(std::mem::take(&mut aloud.otherwise));
                    Some((Meanwhile::Answer { answer, otherwise }, (None, aloud, beats)))
                }
                Err(_still_waits) => {
                    let beat = AgentSpeech::status((aloud.beat)(beats));
                    Some((
                        Meanwhile::Said(beat),
                        (Some(rest), aloud, beats.saturating_add(1)),
                    ))
                }
            }
        },
    )
}
