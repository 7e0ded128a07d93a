//! Lists of what a server offers, without what no policy could permit, and not kept by caches that others share.
//!
//! A list shows what some arguments could be allowed. That is a courtesy to the model, which tries what it sees; what
//! it then asks for is decided as ever. Lists are found by their shape, because a stream that is resumed carries
//! answers to requests of other connections.

use serde_json::{Map, Value};

use crate::model::Offer;

use super::refusal;
use super::requests::asked;

/// What came of looking at a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sifted {
    /// It has no list, or nothing is left out: show the message as it came.
    AsIs,
    /// Show this in its place.
    Changed(Value),
    /// Show nothing: it asks the client for something that it may not.
    Withheld,
    /// It is JSON for nobody.
    Unreadable,
}

/// What an entry of a list offers; `None` where it has no name.
type Named = fn(&Map<String, Value>) -> Option<Offer>;

/// The members of results that are lists, with what makes an offer of an entry.
const LISTS: [(&str, Named); 4] = [
    ("tools", |tool| named(tool, "name").map(Offer::Tool)),
    ("prompts", |prompt| named(prompt, "name").map(Offer::Prompt)),
    ("resources", |resource| {
        named(resource, "uri").map(Offer::Resource)
    }),
    ("resourceTemplates", |_template| Some(Offer::Resources)),
];

fn named(entry: &Map<String, Value>, member: &str) -> Option<String> {
    entry.get(member)?.as_str().map(str::to_owned)
}

/// Whether answers to a method are looked at: those that have lists, or say who may keep them.
pub(super) fn has_offers(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "server/discover"
    )
}

/// Who looks at a message.
pub(super) trait Looks {
    /// Whether an entry of a list stays.
    fn keeps(&mut self, offer: &Offer, entry: &Map<String, Value>) -> bool;

    /// Whether the client may be asked that; `id` is that of a request of its own.
    fn passes(&mut self, method: &str, params: Option<&Value>, id: Option<&Value>) -> bool;

    /// Whether the client hears of the resource `uri`.
    fn hears(&mut self, uri: &str) -> bool;

    /// Changes what else is not for the client as it came; whether it did.
    fn edits(&mut self, message: &mut Value) -> bool;
}

/// Looks at one message of the server. `lists`: whether it may have some.
pub(super) fn sift(text: &[u8], lists: bool, looks: &mut impl Looks) -> Sifted {
    // Strictly read it is the same for everybody, and can be shown as it came; else what was read here is shown.
    let (mut message, mut changed) = match crate::json::parse(text) {
        Ok(message) => (message, false),
        Err(_ambiguous) => match serde_json::from_slice(text) {
            Ok(message) => (message, true),
            Err(_no_json) => return Sifted::Unreadable,
        },
    };
    let several = match &mut message {
        Value::Array(several) => several.as_mut_slice(),
        one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            std::slice::from_mut(one)
        }
    };
    let mut withheld = false;
    for one in several {
        let own = one.get("method").is_some().then(|| one.get("id")).flatten();
        let passes = asked(one)
            .into_iter()
            .all(|(method, params)| looks.passes(method, params, own));
        let notification = one.get("method").is_some() && own.is_none();
        if !passes && (own.is_some() || notification) {
            withheld = true;
        } else if notification {
            match told(one, looks) {
                Some(other) => changed |= other,
                None => withheld = true,
            }
        } else if !passes {
            *one = refusal::not_asked(one.get("id"));
            changed = true;
        } else if lists {
            changed |= result(one, looks);
            changed |= looks.edits(one);
        }
    }
    if withheld {
        return Sifted::Withheld;
    }
    if changed {
        Sifted::Changed(message)
    } else {
        Sifted::AsIs
    }
}

/// A notification without resources that the client does not hear of; whether it is another then. `None`: it is about
/// one alone.
fn told(notification: &mut Value, looks: &mut impl Looks) -> Option<bool> {
    let method = notification
        .get("method")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match method {
        "notifications/resources/updated" => {
            let uri = notification.pointer("/params/uri").and_then(Value::as_str)?;
            looks.hears(uri).then_some(false)
        }
        "notifications/subscriptions/acknowledged" => {
            let Some(Value::Array(uris)) =
                notification.pointer_mut("/params/notifications/resourceSubscriptions")
            else {
                return Some(false);
            };
            let before = uris.len();
            uris.retain(|uri| uri.as_str().is_some_and(|uri| looks.hears(uri)));
            Some(uris.len() != before)
        }
        _ => Some(false),
    }
}

/// Whether anything in the result of `message` is other than it came.
fn result(message: &mut Value, looks: &mut impl Looks) -> bool {
    let Some(Value::Object(result)) = message.get_mut("result") else {
        return false;
    };
    let mut changed = false;
    if result.get("cacheScope").is_some_and(|scope| scope != "private") {
        // What one principal may see is not for a cache that others share (MCP 2026-07-28, "Caching").
        result.insert("cacheScope".into(), Value::from("private"));
        changed = true;
    }
    for (member, offer) in LISTS {
        let Some(Value::Array(entries)) = result.get_mut(member) else {
            continue;
        };
        let before = entries.len();
        entries.retain(|entry| {
            // What has no name cannot be asked for, and may hold what a reader takes for one.
            let Value::Object(entry) = entry else { return false };
            offer(entry).is_some_and(|offer| looks.keeps(&offer, entry))
        });
        changed |= entries.len() != before;
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Keeps what is not called bad, and lets nobody be asked for samples.
    #[derive(Default)]
    struct Strict(u64);

    impl Looks for Strict {
        fn keeps(&mut self, offer: &Offer, _entry: &Map<String, Value>) -> bool {
            let stays = !matches!(offer, Offer::Tool(name) | Offer::Resource(name) if name.contains("bad"));
            self.0 += u64::from(!stays);
            stays
        }

        fn passes(&mut self, method: &str, _params: Option<&Value>, _id: Option<&Value>) -> bool {
            method != "sampling/createMessage"
        }

        fn hears(&mut self, uri: &str) -> bool {
            !uri.contains("bad")
        }

        fn edits(&mut self, _message: &mut Value) -> bool {
            false
        }
    }

    fn through(message: &Value) -> (Sifted, u64) {
        let mut looks = Strict::default();
        let sifted = sift(message.to_string().as_bytes(), true, &mut looks);
        (sifted, looks.0)
    }

    #[test]
    fn what_the_client_may_not_be_asked_is_not_passed_on() {
        let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}});
        assert_eq!(through(&ask), (Sifted::Withheld, 0));
        let roots = json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list"});
        assert_eq!(through(&roots), (Sifted::AsIs, 0));
        let inside = json!({"jsonrpc": "2.0", "id": 5, "result": {"resultType": "input_required", "inputRequests": {
            "a": {"method": "roots/list"}, "b": {"method": "sampling/createMessage"},
        }}});
        let (Sifted::Changed(shown), 0) = through(&inside) else {
            panic!("passed on");
        };
        assert_eq!((&shown["id"], &shown["error"]["code"]), (&json!(5), &json!(4030)));
        assert!(shown.get("result").is_none());
    }

    #[test]
    fn what_is_not_kept_is_left_out_of_every_list() {
        let message = json!({"jsonrpc": "2.0", "id": 1, "result": {
            "tools": [{"name": "good", "inputSchema": {"type": "object"}}, {"name": "bad"}, {"title": "nameless"}, 7],
            "resources": [{"uri": "note://bad"}, {"uri": "note://a"}],
            "nextCursor": "x", "cacheScope": "public", "ttlMs": 5,
        }});
        let (Sifted::Changed(shown), left) = through(&message) else {
            panic!("unchanged");
        };
        assert_eq!(left, 2);
        let wanted = json!({"jsonrpc": "2.0", "id": 1, "result": {
            "tools": [{"name": "good", "inputSchema": {"type": "object"}}],
            "resources": [{"uri": "note://a"}],
            "nextCursor": "x", "cacheScope": "private", "ttlMs": 5,
        }});
        assert_eq!(shown, wanted);
    }

    #[test]
    fn notifications_about_what_is_not_offered_are_left_out() {
        let updated = |uri: Value| json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}});
        assert_eq!(through(&updated(json!("note://a"))), (Sifted::AsIs, 0));
        for uri in [json!("note://bad"), json!(7)] {
            assert_eq!(through(&updated(uri)), (Sifted::Withheld, 0));
        }
        let agreed = |uris: Value| {
            json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                   "params": {"notifications": {"toolsListChanged": true, "resourceSubscriptions": uris}}})
        };
        let shown = Sifted::Changed(agreed(json!(["note://a"])));
        assert_eq!(through(&agreed(json!(["note://bad", "note://a"]))), (shown, 0));
        let task = |method: &str| {
            json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": {
                "taskId": "7", "status": "input_required", "inputRequests": {"a": {"method": method}},
            }})
        };
        assert_eq!(through(&task("elicitation/create")), (Sifted::AsIs, 0));
        assert_eq!(through(&task("sampling/createMessage")), (Sifted::Withheld, 0));
    }

    #[test]
    fn what_nothing_is_left_out_of_is_shown_as_it_came() {
        for message in [
            json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "a"}], "cacheScope": "private"}}),
            json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}}),
            json!([{"jsonrpc": "2.0", "id": 1, "result": {}}]),
        ] {
            assert_eq!(through(&message), (Sifted::AsIs, 0), "{message}");
        }
        assert_eq!(sift(b"{", true, &mut Strict::default()), Sifted::Unreadable);
    }

    #[test]
    fn what_two_readers_see_differently_is_shown_as_it_was_read() {
        let twice = br#"{"id":1,"result":{"tools":[{"name":"worse"}],"tools":[{"name":"a","x":1,"X":2}]}}"#;
        let Sifted::Changed(shown) = sift(twice, true, &mut Strict::default()) else {
            panic!("as it came");
        };
        assert_eq!(
            shown,
            json!({"id": 1, "result": {"tools": [{"name": "a", "x": 1, "X": 2}]}})
        );
    }
}
