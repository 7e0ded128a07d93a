//! Spans of what is recorded: none too many, none that waits, nothing that a record would not say.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{
    Action, BootId, Digest, Facts, Fingerprint, LlmFacts, McpFacts, Operation, Outcome, OutcomeStatus,
    TraceContext,
};

use super::index_tests::{closed, config, judged, scene};
use super::*;

fn text(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|(known, _)| known == name);
    found.and_then(|(_, value)| match value {
        SpanValue::Text(text) => Some(text.clone()),
        SpanValue::Number(_) | SpanValue::Texts(_) => None,
    })
}

fn log(dir: &std::path::Path) -> AuditLog {
    AuditLog::open(&config(dir, 1 << 20), "here", BootId::new()).expect("opened")
}

/// The operation of an event that is one, changed.
fn changed(event: Event, change: impl FnOnce(&mut OperationEvent)) -> Event {
    let Event::Operation { scene, mut event } = event else {
        unreachable!("{event:?}")
    };
    change(&mut event);
    Event::Operation { scene, event }
}

/// Nobody takes them: what has no room is dropped and counted, and every record is made.
#[tokio::test]
async fn spans_that_nobody_takes_hold_up_no_record() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = log(dir.path());
    let mut spans = log.trace(100);
    let scene = scene("a", "shop");
    let all = (0..5000).map(|_| log.record(judged(&scene, 1)));
    let recorded = futures_util::future::join_all(all).await;
    assert!(recorded.iter().all(Result::is_ok));
    let counts = log.measures().counts;
    let dropped = counts[&Counted::Spans][&(String::new(), "dropped".to_owned())];
    assert_eq!(dropped, 5000 - 4096);
    log.untrace();
    let mut taken = 0;
    while spans.recv().await.is_some() {
        taken += 1;
    }
    assert_eq!(taken, 4096, "what waited comes out, and then an end");
    log.close().await;
}

/// An operation that was held, went on and ended is one span, which began when it was first judged.
#[tokio::test]
async fn one_operation_is_one_span() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = log(dir.path())
        .about(&crate::model::WorkloadName::new("mcp"))
        .expect("named");
    let mut spans = log.trace(100);
    let scene = scene("a", "shop");
    let held = judged(&scene, 2);
    let mut id = crate::model::OperationId::new();
    let held = changed(held, |event| id = event.id);
    for event in [held, changed(judged(&scene, 0), |event| event.id = id)] {
        let _receipt = log.record(event).await.expect("recorded");
    }
    assert!(spans.try_recv().is_err(), "not before its end");
    log.post(Event::OperationEnded {
        scene: Arc::clone(&scene),
        id,
        outcome: Outcome::bare(OutcomeStatus::Failed, "42P01"),
    })
    .await
    .expect("posted");
    log.post(closed(&scene)).await.expect("posted");
    let span = spans.try_recv().expect("a span");
    assert_eq!((span.id, span.trace, span.parent), (id.span(), id.trace(), None));
    assert!(span.held.is_some() && span.start <= span.held.expect("held"));
    assert_eq!(span.error.as_deref(), Some("42P01"));
    assert_eq!(text(&span, "interdict.verdict").as_deref(), Some("allowed"));
    assert_eq!(text(&span, "interdict.workload").as_deref(), Some("mcp"));
    let session = spans.try_recv().expect("the session's");
    assert_eq!(span.session, Some((session.trace, session.id)));
    assert!(!session.is_call);
    log.close().await;
}

/// Whoever began a trace decides whether it is kept; what begins here is kept by chance.
#[tokio::test]
async fn the_beginner_of_a_trace_decides() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = log(dir.path());
    let context = |flags| {
        TraceContext::parse(&format!(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"
        ))
    };
    let id = crate::model::OperationId::new();
    let sampled = context("01").expect("valid");
    assert_eq!(log.continues(id, sampled), None, "nobody keeps traces here yet");
    let mut spans = log.trace(0);
    assert_eq!(log.continues(id, sampled), Some(sampled.through(id.span())));
    assert_eq!(log.continues(id, context("00").expect("valid")), None);
    let scene = scene("a", "shop");
    for trace in [context("00"), context("01"), None] {
        let event = changed(judged(&scene, 1), |event| event.trace = trace);
        let _receipt = log.record(event).await.expect("recorded");
    }
    let span = spans.try_recv().expect("one");
    assert_eq!(span.parent, Some(sampled));
    assert!(spans.try_recv().is_err(), "and only one");
    log.close().await;
}

/// Names that a process chose are said only where the masked text says them.
#[tokio::test]
async fn names_are_said_only_as_the_masked_text_says_them() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = log(dir.path());
    let mut spans = log.trace(100);
    let scene = scene("a", "tools");
    let mcp = |tool: &str| {
        Facts::Mcp(McpFacts {
            method: "tools/call".into(),
            tool: tool.into(),
            ..McpFacts::default()
        })
    };
    let llm = |findings: BTreeSet<String>| {
        Facts::Llm(LlmFacts {
            endpoint: "messages".into(),
            model: "ada@example.com".into(),
            findings,
            ..LlmFacts::default()
        })
    };
    let table = [
        (mcp("query"), "tools/call query {}", "tools/call query"),
        (
            mcp("ada@example.com"),
            "tools/call a***@e***.com {}",
            "tools/call",
        ),
        (llm(["pii.email".to_owned()].into()), "/v1/messages {…", "chat"),
    ];
    for (facts, shown, name) in table {
        let operation = Operation {
            actions: [Action::McpToolCall].into(),
            facts,
            text: shown.into(),
            fingerprint: Fingerprint(Digest::of(b"x")),
            parameters: Vec::new(),
        };
        let event = changed(judged(&scene, 1), |event| {
            event.operation = Some(Arc::new(operation))
        });
        let _receipt = log.record(event).await.expect("recorded");
        let span = spans.try_recv().expect("a span");
        assert_eq!(span.name, name);
        assert!(!format!("{span:?}").contains("ada@"), "{span:?}");
    }
    log.close().await;
}
