//! A WebSocket whose messages a conversation of the target's dialect reads: each message of the process is an operation of
//! its own, and what the target says belongs to one of them. A refusal is answered in the dialect's words, and the WebSocket
//! goes on.

mod asking;
mod hearing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, mpsc};

use crate::model::{Operation, Outcome, OutcomeStatus};
use crate::session::{Downstream, InFlight, Session, Upstream};

use super::super::answer::Spellings;
use super::super::conversation::Conversation;
use super::kept::Kept;
use super::{Goodbye, TIME_LIMIT, say_down, say_up};
use asking::Asking;
use hearing::{Hearing, Told};

/// Operations of one WebSocket that are not over, at the same time.
const OPEN: usize = 64;

/// What both directions ask; never locked while somebody waits.
#[derive(Debug, Clone)]
struct Talk(Arc<Mutex<Box<dyn Conversation>>>);

impl Talk {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Conversation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a WebSocket is carried with.
pub(super) struct Setting {
    pub(super) conversation: Box<dyn Conversation>,
    pub(super) spellings: Option<Spellings>,
    /// The handshake.
    pub(super) operation: Arc<Operation>,
    /// Largest message of the process, in bytes.
    pub(super) max_message: usize,
    /// Most that the process is shown of one answer, in bytes.
    pub(super) max_answer: Option<u64>,
    /// Room for what is held, in KiB, of all connections to the target.
    pub(super) bodies: Arc<Semaphore>,
}

/// Carries messages both ways until one side ends.
pub(super) async fn relay(
    session: &Session,
    (process, target): (Upgraded, Upgraded),
    in_flight: InFlight,
    setting: Setting,
) {
    let InFlight {
        outcome: owed,
        plan,
        limits: _,
        recording,
    } = in_flight;
    let (from_process, to_process) = tokio::io::split(TokioIo::new(process));
    let (from_target, to_target) = tokio::io::split(TokioIo::new(target));
    let talk = Talk(Arc::new(Mutex::new(setting.conversation)));
    let (tells, told) = mpsc::channel::<Told>(OPEN);
    let kept = recording.map(|recording| Kept::new(recording, &plan));
    let mut hearing = Hearing::new(
        (from_target, Downstream::new(to_process)),
        talk.clone(),
        told,
        (session.masks_nothing_revealed(), kept),
    );
    hearing.spellings = setting.spellings;
    hearing.max_answer = setting.max_answer;
    let mut asking = Asking::new(
        session,
        (from_process, Upstream::new(to_target)),
        (talk, tells),
        (setting.operation, setting.max_message),
    );
    asking.bodies = setting.bodies;
    let (ended, said) = {
        let running = hearing.run();
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => (ended, None),
            goodbye = asking.run() => match goodbye {
                // The target may still say goodbye.
                None => (tokio::time::timeout(TIME_LIMIT, running).await.unwrap_or(Ok(())), None),
                Some(goodbye) => (Ok(()), Some(goodbye)),
            }
        }
    };
    // What waits for consent is not sent any more.
    let (mut to, sent) = asking.into_end();
    let mut outcome = match (&ended, &said) {
        (_, Some(goodbye)) => {
            let detail = format!("101: closed with {}", goodbye.code);
            Outcome::bare(OutcomeStatus::Failed, detail)
        }
        (Ok(()), None) => Outcome::bare(OutcomeStatus::Completed, "101"),
        (Err(why), None) => Outcome::bare(OutcomeStatus::Failed, format!("101: {why}")),
    };
    hearing.end(ended.err()).await;
    if let Some(goodbye) = said.or_else(|| ended.err().map(Goodbye::broken)) {
        say_up(&mut to, &goodbye).await;
        let (to, from) = hearing.ends();
        say_down(to, from, &goodbye).await;
    }
    outcome.bytes_up = sent;
    (outcome.bytes_down, outcome.masked) = hearing.nobodys();
    owed.finish(outcome);
}
