//! What a target speaks inside of a WebSocket. A conversation does no IO: the relay cuts messages, judges, records,
//! forwards and writes; the conversation says what each message means and whose answer it belongs to, and masks it.

use std::fmt::Debug;

use bytes::Bytes;

use crate::mask::MaskPlan;
use crate::model::{MaskCounts, Operation, OutcomeStatus, Refusal};

use super::dialect::{Conceals, Obliged};

/// One operation of a WebSocket, counted from 1 by the relay.
pub type Turn = u64;

/// What a message of the process asks for.
#[derive(Debug)]
pub struct Question {
    /// What it means. Its fingerprint covers everything in the message that the target acts on; the relay adds where it goes.
    pub operation: Operation,
    /// What has to hear that it is permitted.
    pub obliged: Box<dyn Obliged>,
}

/// A turn whose answer is complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Over {
    /// Which.
    pub turn: Turn,
    /// How it ended.
    pub status: OutcomeStatus,
    /// What its record says of it. Never data.
    pub detail: String,
}

/// All that is said in one WebSocket; messages are texts, each a whole one.
pub trait Conversation: Debug + Send {
    /// A message of the process, whatever it is; `turn` is its name until it is refused or over. Its lane: messages of one
    /// lane are judged and sent one after another, and those of different lanes do not wait for each other.
    fn received(&mut self, turn: Turn, text: &[u8]) -> String;

    /// What the message asks for, once everything before it in its lane is sent or refused.
    ///
    /// # Errors
    /// The refusal for what is not understood; the relay records it. `plan` masks what records show of it.
    fn asked(&mut self, turn: Turn, text: &Bytes, plan: &MaskPlan) -> Result<Question, Refusal>;

    /// What the process is told in its place: one message. The turn is over.
    fn refused(&mut self, turn: Turn, refusal: &Refusal) -> Vec<u8>;

    /// The message is about to be sent: its answer may come from now on.
    fn sent(&mut self, turn: Turn);

    /// Whose answer a message of the target belongs to; `None`: nobody's. Asked before [`Conversation::shown`].
    ///
    /// # Errors
    /// Why it is not understood: nothing more is shown.
    fn whose(&mut self, text: &[u8]) -> Result<Option<Turn>, &'static str>;

    /// The message as the process may see it: one message, several (with texts that were held back), or none. `turn` is
    /// what [`Conversation::whose`] said.
    ///
    /// # Errors
    /// Why it is not understood: nothing more is shown.
    fn shown(
        &mut self,
        turn: Option<Turn>,
        text: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
    ) -> Result<Vec<Vec<u8>>, &'static str>;

    /// The turns that ended with the last message, and are forgotten with this.
    fn over(&mut self) -> Vec<Over>;

    /// The target says nothing more: what is held back of a turn.
    fn left(&mut self, turn: Turn, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>>;

    /// The WebSocket ended within a turn: what its record says beside that. It is forgotten with this.
    fn abandoned(&mut self, turn: Turn) -> String;

    /// What takes out of a message, for its record, the values that are put into it for the process alone.
    fn conceals(&self, turn: Turn) -> Option<Conceals>;
}
