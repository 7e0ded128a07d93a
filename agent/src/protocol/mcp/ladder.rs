//! What a client is told while a call waits for somebody's consent: the best that it said it can do.
//!
//! Without sessions (2026-07-28) it is asked at once, by a link where one is configured or by a form, and tries again
//! with the answer; each try waits for a while. With sessions it is asked while it waits. Who cannot be asked hears
//! progress, or comments that keep the connection. At last comes a text with what to do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Group, Refusal, RefusalKind, Ticket};
use crate::protocol::http::dialect::Aloud;

use super::client::Abilities;
use super::refusal;

/// Longest wait of one try of a client that can try again: clients give up after 60 seconds.
pub(super) const ROUND: Duration = Duration::from_secs(45);
/// Longest wait of one that cannot, and does not hear of progress.
pub(super) const LONGEST: Duration = Duration::from_secs(50);
/// How often a client is asked about one call; clients ask people less than ten times.
pub(super) const ROUNDS: u8 = 8;
/// The agent's question among those of a result.
pub(super) const QUESTION: &str = "interdict-approval";

/// How a client is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asking {
    /// To open a page where it can be approved or followed.
    Url(String),
    /// Whether to wait.
    Form,
}

/// The best way to ask; `link` has `{ticket}` in it.
pub(super) fn asking(abilities: Abilities, link: Option<&str>, ticket: &Ticket) -> Option<Asking> {
    match link {
        Some(link) if abilities.url => Some(Asking::Url(link.replace("{ticket}", ticket.as_str()))),
        Some(_) | None => abilities.form.then_some(Asking::Form),
    }
}

/// Parameters of `elicitation/create`; `id` where the revision wants one with a link.
pub(super) fn elicitation(asking: &Asking, refusal: &Refusal, id: Option<&str>) -> Value {
    let message = message(refusal);
    match asking {
        Asking::Url(url) => {
            let mut params = json!({"mode": "url", "url": url, "message": message});
            if let (Some(id), Some(params)) = (id, params.as_object_mut()) {
                params.insert("elicitationId".into(), json!(id));
            }
            params
        }
        Asking::Form => json!({
            "mode": "form",
            "message": message,
            "requestedSchema": {
                "type": "object",
                "properties": {"choice": {
                    "type": "string", "title": "Until somebody decides",
                    "enum": ["wait", "cancel"], "default": "wait",
                }},
                "required": ["choice"],
            },
        }),
    }
}

/// One sentence for who waits.
pub(super) fn message(refusal: &Refusal) -> String {
    match &refusal.kind {
        RefusalKind::PendingApproval { ticket, approvers } => {
            let groups: Vec<&str> = approvers.iter().map(Group::as_str).collect();
            format!(
                "Interdict holds this call: {} Somebody of {} can approve it: interdict approvals approve {ticket}",
                refusal.reason,
                groups.join(", ")
            )
        }
        RefusalKind::Denied
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Identity
        | RefusalKind::NotUnderstood
        | RefusalKind::NotRecorded
        | RefusalKind::Limit
        | RefusalKind::TimeLimit
        | RefusalKind::Unreachable
        | RefusalKind::Cancelled => refusal.to_string(),
    }
}

/// What a stream says while it waits. `progress` is the token under which the client wants to hear of it.
pub(super) fn aloud(
    refusal: &Refusal,
    progress: Option<Value>,
    question: Option<Value>,
    id: &Value,
) -> Aloud {
    let message = message(refusal);
    let ticket = match &refusal.kind {
        RefusalKind::PendingApproval { ticket, .. } => ticket.to_string(),
        RefusalKind::Denied
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Identity
        | RefusalKind::NotUnderstood
        | RefusalKind::NotRecorded
        | RefusalKind::Limit
        | RefusalKind::TimeLimit
        | RefusalKind::Unreachable
        | RefusalKind::Cancelled => String::new(),
    };
    let beat = move |nth: u64| match &progress {
        Some(token) => event(&json!({
            "jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": nth, "message": message},
        })),
        // Nobody acts on a comment (HTML standard, 9.2); what is between here and there sees life.
        None => format!(": Interdict waits for approval {ticket}\n\n").into_bytes(),
    };
    let mut opening = beat(0);
    if let Some(question) = question {
        opening.extend(event(&question));
    }
    Aloud {
        opening,
        beat: Box::new(beat),
        otherwise: event(&refusal::withheld(Some(id))),
    }
}

/// A message as an event.
fn event(message: &Value) -> Vec<u8> {
    format!("event: message\ndata: {message}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> Refusal {
        let kind = RefusalKind::PendingApproval {
            ticket: "apr-k3m9xq".parse().expect("ticket"),
            approvers: [Group::new("dba")].into(),
        };
        Refusal::new(kind, "A DBA must agree.", "")
    }

    #[test]
    fn the_best_that_the_client_can() {
        let ticket: Ticket = "apr-k3m9xq".parse().expect("ticket");
        let link = Some("https://approve.example.com/{ticket}");
        let at = Asking::Url("https://approve.example.com/apr-k3m9xq".into());
        for (form, url, link, best) in [
            (false, false, link, None),
            (true, false, link, Some(Asking::Form)),
            (true, true, link, Some(at.clone())),
            (false, true, link, Some(at)),
            (true, true, None, Some(Asking::Form)),
            (false, true, None, None),
        ] {
            let can = Abilities {
                form,
                url,
                tasks: false,
            };
            assert_eq!(asking(can, link, &ticket), best);
        }
    }

    #[test]
    fn who_wants_progress_hears_it_and_others_a_comment() {
        let aloud = |progress| aloud(&pending(), progress, None, &json!(7));
        let said = String::from_utf8(aloud(None).opening).expect("text");
        assert_eq!(said, ": Interdict waits for approval apr-k3m9xq\n\n");
        let one = aloud(Some(json!("t")));
        let said = String::from_utf8((one.beat)(3)).expect("text");
        let data = said.strip_prefix("event: message\ndata: ").expect("an event");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(data["params"]["progressToken"], "t");
        assert_eq!(data["params"]["progress"], 3);
        let message = data["params"]["message"].as_str().expect("text");
        assert!(
            message.contains("A DBA must agree.") && message.contains("apr-k3m9xq"),
            "{message}"
        );
    }
}
