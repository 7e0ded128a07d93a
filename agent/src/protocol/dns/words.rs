//! A refusal in the words of DNS: a code, and where the process speaks EDNS an Extended DNS Error (RFC 8914) with the whole
//! story.

use bytes::BytesMut;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;

use crate::model::{Refusal, RefusalKind};
use crate::session::{AgentSpeech, RefusalWords};

use super::answer::reply;
use super::question::Head;

/// The option's number.
const EXTENDED_ERROR: u16 = 15;
/// Longest text, in bytes: the whole answer fits into any datagram.
const MAX_TEXT: usize = 200;

/// Answers one question.
pub(super) struct Words<'a> {
    pub(super) head: &'a Head,
    pub(super) code: ResponseCode,
}

impl RefusalWords for Words<'_> {
    fn encode(&self, refusal: &Refusal, out: &mut BytesMut) {
        let mut message = reply(self.head, self.code);
        explain(&mut message, info(&refusal.kind), &refusal.to_string());
        out.extend_from_slice(&message.to_vec().unwrap_or_default());
    }
}

/// The server could not be asked.
pub(super) fn failed(head: &Head, why: &str) -> AgentSpeech {
    let mut message = reply(head, ResponseCode::ServFail);
    // Network Error.
    explain(&mut message, 23, why);
    AgentSpeech::status(message.to_vec().unwrap_or_default())
}

/// The code that says what is meant (RFC 8914, 4).
const fn info(kind: &RefusalKind) -> u16 {
    match kind {
        // Blocked.
        RefusalKind::Denied
        | RefusalKind::PendingApproval { .. }
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Limit => 15,
        // Prohibited.
        RefusalKind::Identity => 18,
        // Network Error.
        RefusalKind::Unreachable | RefusalKind::TimeLimit => 23,
        // Other.
        RefusalKind::NotUnderstood | RefusalKind::NotRecorded | RefusalKind::Cancelled => 0,
    }
}

fn explain(message: &mut Message, info: u16, text: &str) {
    let Some(edns) = &mut message.edns else { return };
    let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at));
    let text = text.get(..end.unwrap_or(0)).unwrap_or(text);
    let mut content = info.to_be_bytes().to_vec();
    content.extend_from_slice(text.as_bytes());
    edns.options_mut()
        .insert(EdnsOption::Unknown(EXTENDED_ERROR, content));
}
