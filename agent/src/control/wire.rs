//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use super::metrics::Family;

pub use crate::approval::{MAX_USES, MAX_WINDOW};

/// Version of the wire format.
pub const VERSION: u32 = 1;
/// Longest call, in bytes, its line end included.
pub const MAX_LINE: usize = 64 * 1024;
/// Longest answer, in bytes: a request with the longest statement, each byte of it escaped.
pub const MAX_REPLY: usize = 16 * 1024 * 1024;
/// Characters of a statement in a list.
const LISTED: usize = 1024;

/// A request: one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// [`VERSION`].
    pub v: u32,
    /// The caller's token, for what needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Who answers here.
    Status {},
    /// Figures for monitoring.
    Metrics {},
    /// Requests for approval.
    List {
        /// Decided ones too.
        all: bool,
    },
    /// One request.
    Show {
        /// Which.
        ticket: String,
    },
    /// Yes.
    Approve {
        /// To which.
        ticket: String,
        /// How often it can be used; once unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uses: Option<u32>,
        /// How long it can be used, in seconds; as configured unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
        /// Why; recorded.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        comment: String,
    },
    /// No.
    Deny {
        /// To which.
        ticket: String,
        /// Why.
        comment: String,
    },
}

/// How far a call came; of several agents' failures the last in this order tells most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The call is none, or of another version.
    NotACall,
    /// The ticket is not one of this agent's store.
    UnknownTicket,
    /// The caller's token is not accepted here.
    Token,
    /// The agent would not do it.
    Refused,
}

/// An answer: one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Who answers here.
    Status(Status),
    /// Figures.
    Metrics(Vec<Family>),
    /// Requests.
    Requests(Vec<Request>),
    /// One request, as it is now.
    Request(Box<Request>),
    /// It was not done.
    Error {
        /// How far it came: another agent may know better.
        failure: Failure,
        /// Why, a sentence.
        message: String,
    },
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The run.
    pub run: String,
    /// On whose behalf.
    pub principal: String,
    /// Attached hooks.
    pub hooks: Vec<String>,
}

/// A request for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its ticket.
    pub ticket: String,
    /// `open`, `approved`, `denied`, `used`, `expired`.
    pub state: String,
    /// Whose it is.
    pub principal: String,
    /// The target.
    pub target: String,
    /// The action.
    pub action: String,
    /// The statement, masked; in a list its beginning.
    pub text: String,
    /// Whether `text` is only its beginning.
    #[serde(default)]
    pub text_cut: bool,
    /// The process.
    pub process: String,
    /// The policies that want consent.
    pub policies: Vec<String>,
    /// Their reason.
    pub reason: String,
    /// Somebody of each set must consent.
    pub approvers: Vec<Vec<String>>,
    /// How many people must consent.
    pub min_approvals: u32,
    /// When it was asked, nanoseconds since the Unix epoch.
    pub asked_ns: i64,
    /// Until when it can be decided or used.
    pub expires_ns: i64,
    /// Who consented so far.
    pub approved_by: Vec<String>,
    /// Who denied it, and why.
    pub denied: Option<(String, String)>,
    /// How often it can be used, as far as it is approved.
    #[serde(default)]
    pub uses: Option<u32>,
}

impl From<crate::approval::Request> for Request {
    fn from(request: crate::approval::Request) -> Self {
        let crate::approval::Request {
            ticket,
            state,
            operation: _,
            principal,
            target,
            fingerprint: _,
            action,
            text,
            process,
            policies,
            reason,
            approvers,
            min_approvals,
            asked_at,
            expires_at,
            votes,
            denied,
            grant,
        } = request;
        Self {
            ticket: ticket.to_string(),
            state: state.name().to_owned(),
            principal,
            target,
            action,
            text,
            text_cut: false,
            process,
            policies,
            reason,
            approvers: approvers
                .iter()
                .map(|set| set.iter().map(ToString::to_string).collect())
                .collect(),
            min_approvals,
            asked_ns: asked_at.as_nanos(),
            expires_ns: expires_at.as_nanos(),
            approved_by: votes.into_iter().map(|vote| vote.principal).collect(),
            denied,
            uses: grant.map(|grant| grant.uses),
        }
    }
}

impl Request {
    /// For a list: the beginning of the statement, so that one long statement cannot crowd out the others.
    #[must_use]
    pub fn listed(mut self) -> Self {
        if let Some((end, _)) = self.text.char_indices().nth(LISTED) {
            self.text.truncate(end);
            self.text_cut = true;
        }
        self
    }
}
