//! Requests for consent, as those look at them who asked.

use std::sync::Arc;

use crate::approval::RequestState;
use crate::model::{Operation, PolicyId, Refusal, Ticket};

use super::authorize::{expired, not_approved};
use super::open::Session;

/// How a request for consent stands.
#[derive(Debug)]
pub enum Standing {
    /// Nobody has decided.
    Waits,
    /// It is for the policies to say.
    Judge,
    /// Nobody consents; recorded.
    Refused(Refusal),
}

impl Session {
    /// How a request stands that was made for `operation`. Where that cannot be known, it is judged: that says why.
    pub async fn standing(&self, ticket: &Ticket, operation: Option<&Operation>) -> Standing {
        let request = match self.rooms.broker.standing(ticket, crate::clock::now()).await {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%error, %ticket, "a request for approval cannot be looked up");
                return Standing::Judge;
            }
        };
        let policies: Vec<PolicyId> = request
            .policies
            .iter()
            .map(|id| PolicyId::new(id.as_str()))
            .collect();
        let refusal = match request.state {
            RequestState::Open => return Standing::Waits,
            // Where the same was sent twice, and the other one used it, it is asked for again.
            RequestState::Approved | RequestState::Used => return Standing::Judge,
            RequestState::Denied => {
                let (by, comment) = request.denied.unwrap_or_default();
                not_approved(&policies, request.ticket, &by, &comment)
            }
            RequestState::Expired => expired(&policies, request.ticket),
        };
        let operation = operation.cloned().map(Arc::new);
        Standing::Refused(self.refuse(operation, refusal).await)
    }

    /// Nobody needs to decide about it any more.
    pub async fn wants_no_longer(&self, ticket: &Ticket) {
        if let Err(error) = self.rooms.broker.withdraw(ticket, crate::clock::now()).await {
            tracing::warn!(%error, %ticket, "a request for approval stays open");
        }
    }
}
