//! Lists of what a server offers, without what no policy could permit, and not kept by caches that others share.
//!
//! A list shows what some arguments could be allowed. That is a courtesy to the model, which tries what it sees; what
//! it then asks for is decided as ever. Lists are found by their shape, because a stream that is resumed carries
//! answers to requests of other connections.

use serde_json::{Map, Value};

use crate::model::Offer;

/// What came of looking at a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sifted {
    /// It has no list, or nothing is left out: show the message as it came.
    AsIs,
    /// Show this in its place.
    Changed(Value),
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

/// Whether an entry of a list stays.
type Keep<'a> = dyn FnMut(&Offer, &Map<String, Value>) -> bool + 'a;

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

/// Looks at one message of the server. `keep` says whether an entry stays, and may change it.
pub(super) fn sift(text: &[u8], keep: &mut Keep<'_>) -> Sifted {
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
    for one in several {
        changed |= result(one, keep);
    }
    if changed {
        Sifted::Changed(message)
    } else {
        Sifted::AsIs
    }
}

/// Whether anything in the result of `message` is other than it came.
fn result(message: &mut Value, keep: &mut Keep<'_>) -> bool {
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
            offer(entry).is_some_and(|offer| keep(&offer, entry))
        });
        changed |= entries.len() != before;
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn through(message: &Value) -> (Sifted, u64) {
        let mut left = 0;
        let sifted = sift(message.to_string().as_bytes(), &mut |offer, _entry| {
            let stays = !matches!(offer, Offer::Tool(name) | Offer::Resource(name) if name.contains("bad"));
            left += u64::from(!stays);
            stays
        });
        (sifted, left)
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
    fn what_nothing_is_left_out_of_is_shown_as_it_came() {
        for message in [
            json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "a"}], "cacheScope": "private"}}),
            json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}}),
            json!([{"jsonrpc": "2.0", "id": 1, "result": {}}]),
        ] {
            assert_eq!(through(&message), (Sifted::AsIs, 0), "{message}");
        }
        assert_eq!(sift(b"{", &mut |_, _| true), Sifted::Unreadable);
    }

    #[test]
    fn what_two_readers_see_differently_is_shown_as_it_was_read() {
        let twice = br#"{"id":1,"result":{"tools":[{"name":"bad","name":"good"}],"tools":[{"name":"a","x":1,"X":2}]}}"#;
        let Sifted::Changed(shown) = sift(twice, &mut |_, _| true) else {
            panic!("as it came");
        };
        assert_eq!(
            shown,
            json!({"id": 1, "result": {"tools": [{"name": "a", "x": 1, "X": 2}]}})
        );
    }
}
