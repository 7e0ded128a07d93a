//! Requests whose answer is kept until the process asks for it: the dialect says which, the relay carries them to their
//! end, whether or not the process still waits.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::sync::oneshot;

use crate::model::{Operation, Refusal, Ticket};
use crate::session::{AgentSpeech, Answer, Kept, Standing};
use crate::task::{self, Task};

use super::exchange::{Asked, Exchange, No};
use super::refusal::Tongue;
use super::waiting::Waiting;

/// How long a process waits for a kept answer before it is told that there is none yet.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What becomes of a request about an answer that is kept.
#[derive(Debug)]
pub enum Later {
    /// The process is told this; nothing is judged or forwarded.
    Told(Told),
    /// The same, and nobody needs to decide about `ticket` any more.
    Ends {
        /// Of the request for consent.
        ticket: Ticket,
        /// What the process is told.
        told: Told,
    },
    /// Once nobody has to decide about `ticket` any more, what was read is judged and forwarded, and its answer is kept.
    /// Until then the process is told what there is.
    Runs {
        /// Of the request for consent.
        ticket: Ticket,
        /// Where the answer is kept.
        shelf: Arc<dyn Shelf>,
    },
}

/// An answer in JSON: what was kept between two pieces of the agent's own.
#[derive(Debug)]
pub struct Told {
    /// The agent's.
    pub before: Vec<u8>,
    /// What was kept, if anything.
    pub kept: Option<Kept>,
    /// The agent's.
    pub behind: Vec<u8>,
}

impl Told {
    /// As the process is answered.
    pub(in crate::protocol) fn answer(self) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Answer::kept(
            (
                AgentSpeech::status(self.before),
                self.kept,
                AgentSpeech::status(self.behind),
            ),
            (StatusCode::OK, headers),
        )
    }
}

/// A place for one answer.
pub trait Shelf: Debug + Send + Sync {
    /// Largest answer that is kept, in bytes.
    fn most(&self) -> usize;

    /// The work on it goes on, until `work` is let go of.
    fn begun(&self, work: Task<()>);

    /// There is no answer but this refusal.
    fn refused(&self, refusal: &Refusal);

    /// There is an answer; `None`: it broke off, or is larger than what is kept.
    fn keep(&self, kept: Option<Kept>);

    /// What the process is told now.
    fn told(&self) -> Told;
}

/// What is left to do.
pub(super) enum After {
    Answered(Answer),
    Runs(Arc<dyn Shelf>),
}

impl Exchange {
    /// Looks whether somebody has to decide still; `operation` is what it is about.
    pub(super) async fn later(&self, later: Later, operation: Option<&Operation>) -> After {
        match later {
            Later::Told(told) => After::Answered(told.answer()),
            Later::Ends { ticket, told } => {
                self.session.wants_no_longer(&ticket).await;
                After::Answered(told.answer())
            }
            Later::Runs { ticket, shelf } => {
                match self.session.standing(&ticket, operation).await {
                    Standing::Judge => return After::Runs(shelf),
                    Standing::Waits => {}
                    Standing::Refused(refusal) => shelf.refused(&refusal),
                }
                After::Answered(shelf.told().answer())
            }
        }
    }
}

/// Carries a request that was read to its answer, and keeps that. It goes on where the process does not wait for it.
pub(super) async fn apart(
    exchange: Arc<Exchange>,
    asked: Asked,
    tongue: Tongue,
    shelf: Arc<dyn Shelf>,
) -> Answer {
    let mut waiting = Waiting::in_silence(tongue);
    let place = Arc::clone(&shelf);
    let (ended, ends) = oneshot::channel();
    let work = task::spawn("kept answer", async move {
        match Box::pin(exchange.judged_and_sent(asked, &mut waiting)).await {
            Ok(answer) => place.keep(answer.keep(place.most()).await),
            Err(No(refusal, _status)) => place.refused(&refusal),
        }
        // Who does not wait any more asks again.
        let _gone = ended.send(());
    });
    shelf.begun(work);
    // Too late, or cut off: what is told says so.
    let _in_time = tokio::time::timeout(AT_ONCE, ends).await;
    shelf.told().answer()
}
