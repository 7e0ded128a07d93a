//! Questions and answers, byte by byte.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, Mandatory, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::answer::Answered;
use super::question::{Asking, Head, Question};
use super::words::Words;
use crate::mask::{Classes, MaskEngine, MaskKey, MaskPlan};
use crate::model::{MaskCounts, OperationId, PolicyId, Refusal, RefusalKind};
use crate::session::{RefusalWords as _, Request as _};

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("name");
    name.set_fqdn(true);
    name
}

/// A question as programs ask it.
fn usual(text: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message.to_vec().expect("bytes")
}

fn with_edns(mut bytes: Vec<u8>, options: &[u8]) -> Vec<u8> {
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0]);
    bytes.extend(u16::try_from(options.len()).expect("short").to_be_bytes());
    bytes.extend(options);
    bytes
}

fn asking(question: &Question) -> (u16, Query, Vec<u8>) {
    let operation = question.operation(false, false, question.text());
    let asking = Asking::new(question, operation).expect("asking");
    let (id, query) = (asking.id, asking.query.clone());
    let mut bytes = bytes::BytesMut::new();
    asking.encode(&mut bytes);
    (id, query, bytes.to_vec())
}

fn plan() -> MaskPlan {
    let engine = MaskEngine::new(
        Classes::shipped().expect("classes"),
        MaskKey::from_bytes(&[7; 32]),
    );
    std::sync::Arc::new(engine).plan(&std::collections::BTreeSet::new())
}

#[test]
fn a_question_goes_on_with_name_and_type_only() {
    // Cookie (RFC 7873), as dig sends it.
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let bytes = with_edns(usual("wWw.eXample.COM", RecordType::AAAA), &cookie);
    let question = Question::read(&bytes).expect("a question");
    assert_eq!(
        (question.name.as_str(), question.kind),
        ("www.example.com", RecordType::AAAA)
    );
    assert_eq!(
        (question.head.id, question.head.payload, question.head.recursion),
        (0x1234, Some(4096), true)
    );
    let (id, _, sent) = asking(&question);
    let again = Question::read(&sent).expect("the agent's own");
    assert_eq!((again.head.id, again.head.payload), (id, Some(1232)));
    let mut expected = with_edns(usual("www.example.com", RecordType::AAAA), &[]);
    expected[..2].copy_from_slice(&id.to_be_bytes());
    expected.truncate(expected.len() - 8);
    assert_eq!(sent.get(..expected.len()), Some(expected.as_slice()));
    assert_eq!(sent.len(), expected.len() + 8);
    for (text, expected) in [(".", ""), ("a", "a"), ("_x-1.B", "_x-1.b")] {
        let bytes = usual(text, RecordType::A);
        assert_eq!(Question::read(&bytes).expect(text).name, expected);
    }
}

#[test]
fn everything_else_is_refused() {
    let base = usual("www.example.com", RecordType::A);
    let change = |at: usize, to: u8| {
        let mut bytes = base.clone();
        bytes[at] = to;
        bytes
    };
    let end = base.len();
    let with = |bytes: &[u8]| [base.as_slice(), bytes].concat();
    let mut two_opts = with_edns(base.clone(), &[]);
    two_opts[11] = 2;
    let mut version = with_edns(base.clone(), &[]);
    version[end + 6] = 1;
    let odd = |label: &[u8]| {
        let mut bytes = base.get(..12).expect("header").to_vec();
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label);
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    };
    let long: Vec<u8> = [
        base.get(..12).expect("header"),
        &[[3, 97, 97, 97]; 64].concat(),
        &[0, 0, 1, 0, 1],
    ]
    .concat();
    use ResponseCode::{BADVERS, FormErr, NotImp, Refused};
    let table: [(&str, Vec<u8>, Option<ResponseCode>); 21] = [
        ("an answer", change(2, 0x81), None),
        ("a notification", change(2, 0x21), Some(NotImp)),
        ("an update", change(2, 0x29), Some(NotImp)),
        ("authoritative", change(2, 0x05), Some(FormErr)),
        ("truncated", change(2, 0x03), Some(FormErr)),
        ("recursion available", change(3, 0x80), Some(FormErr)),
        ("reserved bit", change(3, 0x40), Some(FormErr)),
        ("a code", change(3, 0x01), Some(FormErr)),
        ("no question", change(5, 0), Some(FormErr)),
        ("two questions", change(5, 2), Some(FormErr)),
        ("an answer within", change(7, 1), Some(FormErr)),
        ("an authority within", change(9, 1), Some(FormErr)),
        ("a missing record", change(11, 1), Some(FormErr)),
        ("two records", two_opts, Some(FormErr)),
        ("something behind", with(b"x"), Some(FormErr)),
        ("a pointer", change(12, 0xc0), Some(FormErr)),
        ("EDNS 1", version, Some(BADVERS)),
        ("another class", change(end - 1, 3), Some(Refused)),
        ("a zone", change(end - 3, 252), Some(NotImp)),
        ("a dot in a label", odd(b"a.b"), Some(Refused)),
        ("a long name", long, Some(FormErr)),
    ];
    for (what, bytes, code) in table {
        let malformed = Question::read(&bytes).expect_err(what);
        assert_eq!(malformed.head.is_some().then_some(malformed.code), code, "{what}");
    }
    for label in [&b"\0"[..], b"a b", b"\xff", b"*", b"a/b", b"\xc3\xa4"] {
        assert_eq!(
            Question::read(&odd(label)).expect_err("odd").code,
            Refused,
            "{label:?}"
        );
    }
    let chaos = Question::read(&change(end - 1, 3)).expect_err("a class");
    let asked = chaos
        .head
        .and_then(|head| head.asked)
        .map(|query| u16::from(query.query_class));
    assert_eq!(asked, Some(3), "clients know their question by its class too");
    // AD and CD are of questions too; they stay here.
    for flags in [0x20, 0x10, 0x30] {
        let question = Question::read(&change(3, flags)).expect("a question");
        assert_eq!(asking(&question).2.get(3), Some(&0));
    }
}

#[test]
fn cut_anywhere_it_is_no_question() {
    let whole = with_edns(usual("www.example.com", RecordType::A), &[0, 12, 0, 2, 0, 0]);
    assert!(Question::read(&whole).is_ok());
    for end in 0..whole.len() {
        let cut = whole.get(..end).unwrap_or_default();
        assert!(Question::read(cut).is_err(), "{end}");
    }
}

/// An answer with an alias, addresses, HTTPS with ECH, a text and what the agent cannot carry.
fn answer(id: u16, query: &Query) -> Message {
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.add_query(query.clone());
    let alias = name("real.example.net");
    let record = |owner: &Name, ttl, data| Record::from_rdata(owner.clone(), ttl, data);
    let params = vec![
        (
            SvcParamKey::Mandatory,
            SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::EchConfigList])),
        ),
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3, 4])),
        ),
    ];
    message.add_answers([
        record(&query.name, 300, RData::CNAME(CNAME(alias.clone()))),
        record(&alias, 120, RData::A(A::new(10, 0, 0, 7))),
        record(
            &alias,
            900,
            RData::AAAA(AAAA("2001:db8::7".parse().expect("address"))),
        ),
        record(&name("other.example.net"), 1, RData::A(A::new(10, 0, 0, 8))),
        record(&alias, 60, RData::HTTPS(HTTPS(SVCB::new(1, name("."), params)))),
        record(
            &alias,
            60,
            RData::TXT(TXT::new(vec!["write to ada@exa".into(), "mple.com now".into()])),
        ),
    ]);
    message
}

fn shown(answered: Answered, head: &Head, tcp: bool) -> (Message, MaskCounts) {
    let mut counts = MaskCounts::default();
    let masked = plan().apply(answered.to(head.clone(), tcp), &mut counts);
    let message = Message::from_vec(&masked.into_content()).expect("a message");
    (message, counts)
}

#[test]
fn an_answer_is_what_was_asked_without_ech_and_masked() {
    let bytes = with_edns(usual("Shop.Example", RecordType::A), &[]);
    let question = Question::read(&bytes).expect("a question");
    let (id, query, _) = asking(&question);
    let from_server = answer(id, &query).to_vec().expect("bytes");
    let answered = Answered::read(&from_server, id, &query).expect("the answer");
    let (addresses, keep) = answered.addresses(&query.name);
    let expected: [IpAddr; 2] = ["10.0.0.7", "2001:db8::7"].map(|ip| ip.parse().expect("address"));
    assert_eq!(
        (addresses.as_slice(), keep),
        (&expected[..], Duration::from_secs(120))
    );
    let (message, counts) = shown(answered, &question.head, false);
    assert_eq!(message.metadata.id, 0x1234);
    assert_eq!(
        message.queries[0].name.to_ascii(),
        "Shop.Example.",
        "as it was asked"
    );
    assert_eq!(message.answers.len(), 6);
    assert_eq!(message.answers[0].name.to_ascii(), "Shop.Example.");
    let text = format!("{:?}", message.answers);
    assert!(
        !text.contains("Ech") && text.contains("h2") && !text.contains("Mandatory"),
        "{text}"
    );
    let RData::TXT(text) = &message.answers[5].data else {
        panic!("a text")
    };
    let text = String::from_utf8_lossy(&text.txt_data.concat()).into_owned();
    assert!(
        text.starts_with("write to a***@") && !text.contains("ada@"),
        "{text}"
    );
    assert_eq!(counts.total(), 1, "{counts:?}");
}

#[test]
fn only_the_answer_is_taken() {
    let question = Question::read(&usual("shop.example", RecordType::A)).expect("a question");
    let (id, query, sent) = asking(&question);
    let right = answer(id, &query);
    let read = |message: &Message| Answered::read(&message.to_vec().expect("bytes"), id, &query);
    assert!(read(&right).is_ok());
    let mut other = right.clone();
    other.metadata.id = id.wrapping_add(1);
    assert!(read(&other).is_err(), "another id");
    let mut other = right.clone();
    other.queries[0].name = name("shop.example.org");
    assert!(read(&other).is_err(), "another name");
    let mut other = right.clone();
    other.queries[0].query_type = RecordType::AAAA;
    assert!(read(&other).is_err(), "another type");
    let mut other = right.clone();
    other.queries.clear();
    assert!(read(&other).is_err(), "no question");
    other.metadata.response_code = ResponseCode::FormErr;
    assert_eq!(read(&other).map(|a| a.code), Ok(ResponseCode::FormErr));
    assert!(Answered::read(&sent, id, &query).is_err(), "the question itself");
    let whole = right.to_vec().expect("bytes");
    for end in 0..whole.len() {
        assert!(
            Answered::read(whole.get(..end).unwrap_or_default(), id, &query).is_err(),
            "{end}"
        );
    }
}

#[test]
fn what_does_not_fit_is_asked_for_over_tcp() {
    let mut question = Question::read(&usual("shop.example", RecordType::TXT)).expect("a question");
    let (id, query, _) = asking(&question);
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.add_query(query.clone());
    for number in 0..40u8 {
        let text = format!("{number} {}", "word ".repeat(20));
        message.add_answer(Record::from_rdata(
            query.name.clone(),
            1,
            RData::TXT(TXT::new(vec![text])),
        ));
    }
    let bytes = message.to_vec().expect("bytes");
    let answered = Answered::read(&bytes, id, &query).expect("the answer");
    for payload in [None, Some(512), Some(4096)] {
        question.head.payload = payload;
        let (cut, _) = shown(answered.clone(), &question.head, false);
        assert!(cut.metadata.truncation && cut.answers.is_empty(), "{payload:?}");
    }
    let (whole, _) = shown(answered, &question.head, true);
    assert!(!whole.metadata.truncation && whole.answers.len() == 40);
}

#[test]
fn a_refusal_tells_the_whole_story_where_it_may() {
    let mut refusal = Refusal::new(RefusalKind::Denied, "No policy permits this.", "");
    refusal.policies = vec![PolicyId::new("dns-none")];
    refusal.operation = Some(OperationId::new());
    let told = |bytes: &[u8]| {
        let question = Question::read(bytes).expect("a question");
        let words = Words {
            head: &question.head,
            code: ResponseCode::Refused,
        };
        let mut out = bytes::BytesMut::new();
        words.encode(&refusal, &mut out);
        Message::from_vec(&out).expect("a message")
    };
    let plain = told(&usual("a.b", RecordType::A));
    assert_eq!(
        (plain.metadata.response_code, plain.edns),
        (ResponseCode::Refused, None)
    );
    let whole = told(&with_edns(usual("a.b", RecordType::A), &[]));
    let edns: Edns = whole.edns.expect("EDNS");
    let options = format!("{:?}", edns.options());
    assert!(options.contains("Unknown(15"), "{options}");
    let text: Vec<u8> = edns
        .options()
        .options
        .iter()
        .flat_map(|(_, option)| Vec::<u8>::try_from(option).expect("bytes"))
        .collect();
    assert_eq!(text.get(..2), Some(&[0, 15][..]), "Blocked");
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        text.contains("No policy permits this. [policy dns-none] [reference "),
        "{text}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_a_question_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        at in 0usize..40, to in any::<u8>(),
    ) {
        let _read = Question::read(&bytes);
        let mut near = with_edns(usual("www.example.com", RecordType::A), &[]);
        let at = at % near.len();
        near[at] = to;
        if let Ok(question) = Question::read(&near) {
            let (_, _, sent) = asking(&question);
            let again = Question::read(&sent).expect("the agent's own");
            prop_assert_eq!((again.name, again.kind), (question.name, question.kind));
        }
    }

    #[test]
    fn an_answer_with_a_wrong_byte_is_refused_or_read_again(at in 0usize..400, to in any::<u8>()) {
        let question = Question::read(&usual("shop.example", RecordType::A)).expect("a question");
        let (id, query, _) = asking(&question);
        let mut bytes = answer(id, &query).to_vec().expect("bytes");
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(answered) = Answered::read(&bytes, id, &query) {
            let _found = answered.addresses(&query.name);
            let mut counts = MaskCounts::default();
            let masked = plan().apply(answered.to(question.head, true), &mut counts);
            let shown = masked.into_content();
            prop_assert!(shown.is_empty() || Message::from_vec(&shown).is_ok());
        }
    }
}
