//! What policies make of what others wrote, for the fuzzer.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cedar_policy::Schema;

use crate::model::{Action, Digest, Facts, Fingerprint, HttpBody, HttpFacts, Operation, Protocol, Timestamp};

use super::decision::Decision;
use super::engine::Engine;
use super::load::{PolicySource, SCHEMA};
use super::nobody::{principal, target};
use super::typed::{PLACE, ToolTypes, tools_schema};

/// Whatever a server calls the schema of a tool: what is made of it is a schema of policies.
pub(crate) fn tools(data: &[u8]) {
    /// What reads the types of tools. The agent's own schema is the same to them, and takes a hundred times as long.
    const READER: &str =
        "entity Any; action read appliesTo { principal: Any, resource: Any, context: { tools?: Tools } };";
    let Ok(schema) = serde_json::from_slice(data) else {
        return;
    };
    let tools = BTreeMap::from([("tool".to_owned(), schema)]);
    let text = tools_schema(&BTreeMap::from([("target".to_owned(), tools)]));
    assert!(ToolTypes::read(&text).is_ok(), "{text}");
    assert!(
        Schema::from_cedarschema_str(&format!("{READER}\n{text}")).is_ok(),
        "{text}"
    );
    // Now and then all of it.
    if data.len().is_multiple_of(64) {
        let own = SCHEMA.replace(PLACE, &text);
        assert!(Schema::from_cedarschema_str(&own).is_ok(), "{text}");
    }
}

const POLICIES: &str = r#"
@id("writes") permit (principal, action in Action::"http", resource) unless { context.http.path == "/a" };
@id("by-body") permit (principal, action in Action::"http", resource)
when { context has input && context.input.flag.hasTag("ok") };
@id("amounts") forbid (principal, action in Action::"http", resource)
when { context.http.path != "/b" && context has input && context.input.number.hasTag("n") && context.input.number.getTag("n") > 10 };
@id("words") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/c" && context has input && context.input.text.hasTag("t") && context.input.text.getTag("t") like "*x*" };
@id("lists") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/d" && context has input && context.input.list.hasTag("l/*") && context.input.list.getTag("l/*").contains("x") };
@id("values") forbid (principal, action in Action::"http", resource) when { context.http.path == "/e" } unless { context has input };
@id("size") forbid (principal, action in Action::"http", resource) when { context.http.path == "/f" && context.http.body_bytes > 100 };
"#;

/// What may be sent unread may be sent read, whatever is in it: the first bytes are where and how much, the rest is JSON.
pub(crate) fn unread(data: &[u8]) {
    static ENGINE: LazyLock<Option<Engine>> = LazyLock::new(|| {
        let source = PolicySource {
            file: "fuzz.cedar".into(),
            text: POLICIES.into(),
        };
        Engine::load(&[source], &[].into()).ok()
    });
    let Some(([place, size], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    assert!(ENGINE.is_some());
    let Some(engine) = ENGINE.as_ref() else { return };
    let input = crate::json::parse(rest)
        .ok()
        .and_then(|value| crate::json::facts(&value).ok());
    let path = format!("/{}", char::from(b'a' + place % 8));
    let permits = |body: HttpBody, body_bytes: u64, input| {
        let facts = HttpFacts {
            method: "PUT".into(),
            host: "h".into(),
            port: 443,
            tls: true,
            path: path.clone(),
            query: [].into(),
            headers: [].into(),
            content_type: String::new(),
            body_bytes,
            body,
            input,
        };
        let operation = Operation {
            actions: [Action::HttpWrite].into(),
            facts: Facts::Http(facts),
            text: String::new(),
            fingerprint: Fingerprint(Digest::of(path.as_bytes())),
            parameters: Vec::new(),
        };
        let decision = engine.decide(
            &operation,
            &principal(),
            &target("store", Protocol::Http),
            None,
            Timestamp::from_seconds(0),
        );
        matches!(decision, Decision::Allow(_))
    };
    let size = u64::from(*size);
    let read = [
        permits(HttpBody::Read, size, None),
        permits(HttpBody::Read, size, input),
    ];
    if permits(HttpBody::Declared, size, None) || permits(HttpBody::Unknown, u64::MAX, None) {
        assert_eq!(read, [true, true], "{path}");
    }
}
