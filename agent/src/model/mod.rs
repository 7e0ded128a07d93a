//! The vocabulary: plain values. No input or output, no async, no serde: each room that stores or sends a value has
//! wire types of its own, so that a stored format never changes because a word here did.

mod action;
mod address;
mod class;
mod content;
mod document;
mod duration;
mod id;
mod obligation;
mod offer;
mod operation;
mod outcome;
mod principal;
mod process;
mod refusal;
mod target;
mod time;
mod trace;

pub use action::Action;
pub use address::{FlowKey, ListenerAddr, NetnsCookie, OriginalDst, PeerAddr, UpstreamAddr};
pub use class::{DataClass, InvalidClass, MaskCounts};
pub use content::{Content, ContentForm, ContentPart, Unkept};
pub use document::Document;
pub use duration::{InvalidDuration, duration, duration_text};
pub use id::{
    BootId, ConnectionId, Digest, Digester, Fingerprint, Group, InvalidTicket, IssuerName, OperationId,
    PolicyId, RunId, SessionId, Ticket, WorkloadName,
};
pub use obligation::{Alias, Limits, Obligations, PromptDuty, PromptMask, RecordingLevel};
pub use offer::Offer;
pub use operation::{
    ConnectFacts, DnsFacts, Facts, HttpBody, HttpFacts, LlmFacts, McpFacts, Operation, ParameterShown, Spent,
    SqlFacts, StatementFacts, StatementKind, TableName, Usage,
};
pub use outcome::{Outcome, OutcomeStatus};
pub use principal::{Principal, PrincipalKind};
pub use process::{Executable, Process};
pub use refusal::{Refusal, RefusalKind};
pub use target::{Environment, Protocol, Target, TargetName};
pub use time::Timestamp;
pub use trace::{SpanId, TraceContext, TraceId};
