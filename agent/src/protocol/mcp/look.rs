//! Looks at messages of the server for an exchange: what of a list stays, what the client may be asked, what it hears of.

use serde_json::{Map, Value};

use crate::inventory::Standing;
use crate::mask::MaskPlan;
use crate::model::{Offer, Refusal, RefusalKind};
use crate::session::Prospects;

use super::offers::Looks;
use super::requests;
use super::server::Exchange;

/// An exchange that looks at a message.
pub(super) struct Look<'a> {
    pub(super) exchange: &'a mut Exchange,
    pub(super) prospects: Prospects,
    /// Masks what records show.
    pub(super) plan: Option<MaskPlan>,
}

impl Looks for Look<'_> {
    fn keeps(&mut self, offer: &Offer, entry: &Map<String, Value>) -> bool {
        let Self {
            exchange, prospects, ..
        } = self;
        if let (Offer::Tool(name), Some(pins)) = (offer, &exchange.shared.pins) {
            let standing = pins.listed(&exchange.path, name, entry);
            match standing {
                Standing::Accepted => {}
                Standing::Flagged => drop(exchange.flagged.insert(name.clone())),
                Standing::New | Standing::Changed => drop(exchange.held_back.insert(name.clone())),
            }
            if !standing.passes() && !prospects.observes() {
                return false;
            }
        }
        let stays = prospects.possible(offer);
        exchange.left_out = exchange.left_out.saturating_add(u64::from(!stays));
        stays
    }

    fn passes(&mut self, method: &str, params: Option<&Value>, id: Option<&Value>) -> bool {
        let Self {
            exchange,
            prospects,
            plan,
        } = self;
        let passes = match requests::operation(method, params, plan.as_ref()) {
            Ok(operation) => prospects.permits(operation),
            Err(too_much) => {
                let reason = format!("What the server asks ({method:.40?}) is not judged: {too_much}.");
                prospects.refuse(&Refusal::new(RefusalKind::NotUnderstood, reason, ""));
                false
            }
        };
        if passes {
            if let Some(id) = id {
                exchange
                    .shared
                    .clients
                    .server_asked(&exchange.session, id, method);
            }
        } else {
            exchange.not_asked.insert(method.to_owned());
        }
        passes
    }

    fn hears(&mut self, uri: &str) -> bool {
        let hears = self.prospects.possible(&Offer::Resource(uri.to_owned()));
        let unheard = &mut self.exchange.unheard;
        *unheard = unheard.saturating_add(u64::from(!hears));
        hears
    }

    fn edits(&mut self, message: &mut Value) -> bool {
        self.exchange.tasks.rename(message) | self.exchange.offers_tasks(message)
    }
}
