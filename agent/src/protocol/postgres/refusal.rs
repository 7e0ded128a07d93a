//! A refusal in PostgreSQL's words (manual, "Error and Notice Message Fields" and "PostgreSQL Error Codes").

use bytes::{BufMut, BytesMut};

use crate::model::{Refusal, RefusalKind};
use crate::session::RefusalWords;

use super::frame::{put_text, write};

/// How a refusal ends what it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The statement.
    Error,
    /// The session.
    Fatal,
}

impl RefusalWords for Severity {
    fn encode(&self, refusal: &Refusal, out: &mut BytesMut) {
        let severity = match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        };
        write(out, b'E', |out| {
            field(out, b'S', severity);
            field(out, b'V', severity);
            field(out, b'C', code(&refusal.kind));
            field(
                out,
                b'M',
                &format!("{} {}", opening(&refusal.kind), refusal.reason),
            );
            let detail = detail(refusal);
            if !detail.is_empty() {
                field(out, b'D', &detail);
            }
            if !refusal.next_step.is_empty() {
                field(out, b'H', &refusal.next_step);
            }
            out.put_u8(0);
        });
    }
}

fn field(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    put_text(out, text);
}

const fn opening(kind: &RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Denied | RefusalKind::ApprovalDenied { .. } => "Interdict denied this:",
        RefusalKind::PendingApproval { .. } => "Interdict holds this for approval:",
        RefusalKind::Identity
        | RefusalKind::NotUnderstood
        | RefusalKind::NotRecorded
        | RefusalKind::Unreachable
        | RefusalKind::Cancelled => "Interdict did not forward this:",
        RefusalKind::Limit | RefusalKind::TimeLimit => "Interdict stopped this:",
    }
}

fn detail(refusal: &Refusal) -> String {
    let mut parts = Vec::new();
    if !refusal.policies.is_empty() {
        let names: Vec<&str> = refusal
            .policies
            .iter()
            .map(crate::model::PolicyId::as_str)
            .collect();
        parts.push(format!("Policy: {}.", names.join(", ")));
    }
    if let RefusalKind::PendingApproval { ticket, .. } = &refusal.kind {
        parts.push(format!("Ticket: {ticket}."));
    }
    if let Some(operation) = refusal.operation {
        parts.push(format!("Reference: {operation}."));
    }
    parts.join(" ")
}

/// SQLSTATE (manual, appendix A).
const fn code(kind: &RefusalKind) -> &'static str {
    match kind {
        // insufficient_privilege
        RefusalKind::Denied | RefusalKind::PendingApproval { .. } | RefusalKind::ApprovalDenied { .. } => {
            "42501"
        }
        // invalid_authorization_specification
        RefusalKind::Identity => "28000",
        // feature_not_supported
        RefusalKind::NotUnderstood => "0A000",
        // io_error
        RefusalKind::NotRecorded => "58030",
        // program_limit_exceeded
        RefusalKind::Limit => "54000",
        // sqlclient_unable_to_establish_sqlconnection
        RefusalKind::Unreachable => "08001",
        // query_canceled
        RefusalKind::Cancelled | RefusalKind::TimeLimit => "57014",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OperationId;

    #[test]
    fn a_refusal_names_policy_reference_and_way_out() {
        let ticket: crate::model::Ticket = "apr-7k2m9x".parse().expect("ticket");
        let kind = RefusalKind::PendingApproval {
            ticket,
            approvers: std::collections::BTreeSet::new(),
        };
        let mut refusal = Refusal::new(kind, "A DBA must see this.", "Ask a DBA.");
        refusal.policies = vec!["needs-dba".into()];
        refusal.operation = Some(OperationId::new());
        let mut out = BytesMut::new();
        Severity::Error.encode(&refusal, &mut out);
        let shown = String::from_utf8_lossy(&out).into_owned();
        for part in ["42501", "needs-dba", "apr-7k2m9x", "Reference", "Ask a DBA."] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
