//! Questions and answers of DNS for the fuzzer.

use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};

use crate::fuzz::plan;
use crate::model::MaskCounts;

use super::answer::Answered;
use super::question::{Asking, Question};

/// A question that is understood goes on as one that is understood alike, and carries nothing else; an answer that is
/// understood is one that any reader understands.
pub(crate) fn messages(data: &[u8]) {
    question(data);
    answer(data);
}

fn question(data: &[u8]) {
    let Ok(question) = Question::read(data) else {
        return;
    };
    let operation = question.operation(false, false, question.text());
    let Some(asking) = Asking::new(&question, operation) else {
        return;
    };
    let mut bytes = bytes::BytesMut::new();
    crate::session::Request::encode(asking, &mut bytes);
    let again = Question::read(&bytes);
    assert!(
        again.is_ok(),
        "the agent does not understand its own question {question:?}"
    );
    let Ok(again) = again else { return };
    assert_eq!((&again.name, again.kind), (&question.name, question.kind));
    assert_eq!(again.head.recursion, question.head.recursion);
    // Id and flags, the counts, the question, the OPT record.
    let wire = if question.name.is_empty() {
        1
    } else {
        question.name.len() + 2
    };
    assert_eq!(bytes.len(), 12 + wire + 4 + 11);
}

fn answer(data: &[u8]) {
    let Some((id, _)) = data.split_first_chunk::<2>() else {
        return;
    };
    let id = u16::from_be_bytes(*id);
    let Ok(name) = Name::from_ascii("db.example.") else {
        return;
    };
    let query = Query::query(name, RecordType::HTTPS);
    let Ok(answered) = Answered::read(data, id, &query) else {
        return;
    };
    let (_addresses, _keep) = answered.addresses(&query.name);
    let head = super::question::Head {
        id,
        opcode: 0,
        recursion: true,
        asked: Some(query.clone()),
        payload: Some(1232),
    };
    for tcp in [false, true] {
        let shown = answered.clone().to(head.clone(), tcp);
        let masked = plan().apply(shown, &mut MaskCounts::default());
        let bytes = masked.into_content();
        if bytes.is_empty() {
            continue;
        }
        assert!(tcp || bytes.len() <= 1232);
        assert!(Answered::read(&bytes, id, &query).is_ok(), "{answered:?}");
    }
}
