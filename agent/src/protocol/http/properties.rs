//! What holds for any bytes: where they are cut makes no difference, nothing comes through that should not, and what the
//! watch lets through reads the same to another reader.

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;

use crate::mask::{MaskEngine, MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::answer::{Masker, Next, Redact, Shape, Spellings};
use super::escapes::Format;
use super::framing::watched;
use super::websocket;

const SECRET: &[u8] = b"s3cr/et-k3y";

fn plan() -> MaskPlan {
    Arc::new(MaskEngine::default()).plan(&[].into())
}

/// Cuts bytes at any places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2)
        .filter_map(|pair| bytes.get(pair[0]..pair[1]))
        .collect()
}

/// Words of formats and values, in any order, and bytes of any kind.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"ada@example.com", b"4111 1111 1111 1111", b"ssn 078-05-1120", b"\\u0040", b"ada\\u0040example.com", b"&#64;", b"%40",
        b"{\"a\":\"", b"\"}", b"\\", b"\"", b"data: ", b"data:", b"\n", b"\r\n", b"\r", b"\n\n", b": c", b"id: ", b" ", b",", b"[1,",
        b"4111111111111111", b"-1.5e3", SECRET, b"s3cr\\/et-k3y", b"s3cr", b"\xff", b"\xc3", b"\0", b"</p>", b"a",
        b"123456", b":123456,", b"2026-11-21T10:00:00Z", b"ssn\":078051120", b"\":", b"--", b"::",
        b"{\"id\":1000,\"state\":\"shipped\",\"total\":50.50,\"note\":\"left at the door\",\"who\":null},",
        b"Words that say nothing, one after another, and longer than what is looked at at once. ",
        b"\n-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----",
    ];
    prop::collection::vec(prop::sample::select(words), 0..24).prop_map(|words| words.concat())
}

fn shape() -> impl Strategy<Value = Shape> {
    let all = [
        Shape::Text(Format::Json),
        Shape::Text(Format::Markup),
        Shape::Text(Format::Form),
        Shape::Text(Format::Text),
        Shape::Events,
    ];
    prop::sample::select(all.to_vec())
}

fn shown(shape: Shape, pieces: &[&[u8]], plan: &MaskPlan) -> Vec<u8> {
    let mut masker = Masker::new(shape, None, plan);
    let mut redact = Spellings::new(SECRET, None).map(Redact::new);
    let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
    for piece in pieces.iter().copied().map(Some).chain([None]) {
        let next = Next(&mut masker, redact.as_mut(), piece).mask(plan, &mut counts);
        out.extend_from_slice(&next.expect("text goes on"));
    }
    out.to_vec()
}

/// Lines of requests, in any order.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static str> = vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "Host: h\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "X: y\r\n",
        "X:y\n",
        " folded\r\n",
        "\r\n",
        "\n",
        "\r",
        "hello",
        "5\r\nhello\r\n",
        "5;x=y\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "fff\r\n",
        "x",
        "\0",
        ": \r\n",
        "X : y\r\n",
    ];
    prop::collection::vec(prop::sample::select(words), 0..16).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn masking_does_not_depend_on_where_bytes_are_cut(
        text in text(), shape in shape(), places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let plan = plan();
        let whole = shown(shape, &[&text], &plan);
        prop_assert_eq!(&shown(shape, &cut(&text, &places), &plan), &whole);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        prop_assert_eq!(&shown(shape, &bytes, &plan), &whole);
        prop_assert!(memchr::memmem::find(&whole, SECRET).is_none());
        prop_assert!(memchr::memmem::find(&whole, b"MIIEvQ").is_none());
    }

    #[test]
    fn what_is_watched_reads_the_same_to_another_reader(
        bytes in requests(), places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = watched(&[&bytes]);
        prop_assert_eq!(&watched(&cut(&bytes, &places)), &whole);
        if let Ok(passed) = whole {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            // Its own reader may still refuse the head, but never see another end.
            if let Ok(httparse::Status::Complete(end)) = request.parse(&passed) {
                prop_assert_eq!(passed.get(..end).map(|head| head.ends_with(b"\r\n\r\n")), Some(true));
            }
        }
    }

    #[test]
    fn any_frames_end_or_go_on_wherever_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..64), texts in prop::collection::vec(text(), 0..4),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut sent = Vec::new();
        for text in &texts {
            let length = u16::try_from(text.len()).expect("short");
            sent.extend([0x81, 126]);
            sent.extend(length.to_be_bytes());
            sent.extend(text);
        }
        sent.extend(bytes);
        let plan = plan();
        let whole = websocket::shown(&[&sent], &plan);
        let parts = websocket::shown(&cut(&sent, &places), &plan);
        prop_assert_eq!(whole.is_ok(), parts.is_ok());
        if let (Ok(whole), Ok(parts)) = (whole, parts) {
            prop_assert_eq!(whole, parts);
        }
    }
}
