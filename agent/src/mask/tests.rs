//! What is found, what is not, and what stands in its place.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;

use crate::config::MaskingConfig;
use crate::model::{DataClass, MaskCounts};

use super::*;

fn engine() -> Arc<MaskEngine> {
    let classes = Classes::load(&MaskingConfig::default(), []).expect("the shipped classes are valid");
    Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[7; 32])))
}

fn class(name: &str) -> DataClass {
    name.parse().expect("class")
}

/// The masked text, and how often each class was masked.
fn mask(
    engine: &Arc<MaskEngine>,
    revealed: &[&str],
    declared: Option<&str>,
    text: &str,
) -> (String, MaskCounts) {
    let plan = engine.plan(&revealed.iter().map(|c| class(c)).collect());
    let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
    let declared = declared.map(class);
    let shown = match plan.text(declared.as_ref(), text.as_bytes(), &mut out, &mut counts) {
        CellMask::Unchanged => text.to_owned(),
        CellMask::Replaced => String::from_utf8_lossy(&out).into_owned(),
        CellMask::Null => "NULL".to_owned(),
    };
    (shown, counts)
}

#[test]
fn sensitive_values_are_found_and_keep_their_shape() {
    let engine = engine();
    let github = format!("ghp_{}", "a1B2".repeat(9));
    let slack = ["xoxb", "123456789012", "abcdefGHIJ"].join("-");
    let stripe = ["sk", "live", "51H8a7b6c5d4e3f2g1"].join("_");
    let table: &[(&str, &str)] = &[
        ("alice@example.com", "a***@e***.com"),
        ("mail a.b+c@mail.example.co.uk now", "mail a***@m***.uk now"),
        ("4111 1111 1111 1111", "**** **** **** 1111"),
        ("card 5555-5555-5555-4444.", "card ****-****-****-4444."),
        ("378282246310005", "***********0005"),
        ("GB82 WEST 1234 5698 7654 32", "**** **** **** **** **54 32"),
        ("DE89370400440532013000", "******************3000"),
        ("ssn 078-05-1120", "ssn ***-**-****"),
        ("SSN: 078051120", "SSN: *********"),
        ("+1 415-555-0132", "+* ***-***-****"),
        ("+49 30 901820 44", "+** ** ****20 44"),
        ("(415) 555-0132", "(***) ***-****"),
        ("from 203.0.113.9 on", "from ***.*.***.* on"),
        ("2001:db8::8a2e:370:7334", "****:***::****:***:7334"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret.key]"),
        (&github, "[secret.key]"),
        (&slack, "[secret.key]"),
        (&stripe, "[secret.key]"),
        ("sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT", "[secret.key]"),
        ("key=sk-proj-aB3dE6gH9jK2mN5pQ8sT", "key=[secret.key]"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
            "[secret.token]",
        ),
        (
            "x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- y",
            "x [secret.pem] y",
        ),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[secret.pem]"),
        ("a@b.io, 4111111111111111", "a***@b***.io, ************1111"),
    ];
    for (text, expected) in table {
        let (shown, counts) = mask(&engine, &[], None, text);
        assert_eq!(shown, *expected, "{text}");
        assert!(counts.total() > 0, "{text}");
    }
}

#[test]
fn what_only_looks_sensitive_stays() {
    let engine = engine();
    for text in [
        "",
        "hello",
        "12345",
        "1234567890123456",
        "4111 1111 1111 1112",
        "0000000000000000",
        "2024-10-15 12:34:56.789",
        "550e8400-e29b-41d4-a716-446655440000",
        "078051120",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "127.0.0.1",
        "1.2.3.4.5",
        "GB82 WEST 1234 5698 7654 33",
        "user@localhost",
        "@handle",
        "a@b",
        "12:34:56",
        "std::io::Read",
        "::1",
        "eyJub3QganNvbg.aaaa.bbbb",
        "sk-aaaaaaaaaaaaaaaaaaaaaaaa",
        "order 1234567890",
        "v10.4.2",
        "99999999999",
        "the-quick-brown-fox-jumps-over",
        "some_long_identifier_name_here",
    ] {
        let (shown, counts) = mask(&engine, &[], None, text);
        assert_eq!((shown.as_str(), counts.total()), (text, 0));
    }
}

#[test]
fn declared_columns_are_masked_whatever_they_hold() {
    let engine = engine();
    assert_eq!(
        mask(&engine, &[], Some("pii.name"), "Ada Lovelace").0,
        "[pii.name]"
    );
    assert_eq!(mask(&engine, &[], Some("pci.card"), "short").0, "*****");
    assert_eq!(
        mask(&engine, &[], Some("not.described"), "x").0,
        "[not.described]"
    );
    assert_eq!(mask(&engine, &[], Some("pii.email"), "é@x.org").0, "***@x***.org");
}

#[test]
fn revealed_classes_stay_and_others_do_not() {
    let engine = engine();
    let text = "alice@example.com 4111111111111111";
    assert_eq!(
        mask(&engine, &["pci.card"], None, text).0,
        "a***@e***.com 4111111111111111"
    );
    assert_eq!(
        mask(&engine, &["pii.name"], Some("pii.name"), "Ada <ada@x.org>").0,
        "Ada <a***@x***.org>"
    );
}

#[test]
fn tokens_join_within_a_class_and_a_key() {
    let mut config = MaskingConfig::default();
    config.overrides.insert(class("pii.email"), "token".into());
    config.overrides.insert(class("pii.name"), "token".into());
    config.overrides.insert(class("pci.card"), "null".into());
    let make = |key: u8| {
        let classes = Classes::load(&config, []).expect("valid");
        Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[key; 32])))
    };
    let (one, other) = (make(1), make(2));
    let token = mask(&one, &[], None, "a@example.org").0;
    assert!(token.starts_with("pii.email:") && token.len() == 26, "{token}");
    assert_eq!(mask(&one, &[], None, "a@example.org").0, token);
    assert_ne!(mask(&other, &[], None, "a@example.org").0, token);
    assert_ne!(
        mask(&one, &[], Some("pii.name"), "a@example.org")
            .0
            .split(':')
            .next_back(),
        token.split(':').next_back()
    );
    assert_eq!(mask(&one, &[], Some("pci.card"), "4111111111111111").0, "NULL");
    assert_eq!(
        mask(&one, &[], None, "card 4111111111111111").0,
        "card [pci.card]"
    );
}

#[test]
fn classes_that_are_wrong_say_where() {
    let table = [
        (
            "[[class]]\nname = \"PII\"\ndescription = \"\"\ndetectors = []\nstrategy = \"null\"\n",
            ":2:",
        ),
        (
            "[[class]]\nname = \"a\"\ndescription = \"\"\ndetectors = [\"mail\"]\nstrategy = \"null\"\n",
            "email",
        ),
        (
            "[[class]]\nname = \"a\"\ndescription = \"\"\ndetectors = []\nstrategy = \"hide\"\n",
            "redact",
        ),
        (
            "[[class]]\nname = \"a\"\ndetectors = []\nstrategy = \"null\"\n",
            "description",
        ),
    ];
    for (text, expected) in table {
        let error = Classes::parse(text, Path::new("classes.toml"))
            .expect_err(text)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_key_is_made_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("mask.key");
    let one = MaskKey::load_or_create(&path).expect("made").sign(&[b"x"]);
    let two = MaskKey::load_or_create(&path).expect("loaded").sign(&[b"x"]);
    assert_eq!(one.as_ref(), two.as_ref());
    std::fs::write(&path, "short").expect("written");
    assert!(matches!(
        MaskKey::load_or_create(&path),
        Err(KeyError::Length { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let plan = engine().plan(&[].into());
        let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
        let _ = plan.text(None, &bytes, &mut out, &mut counts);
    }

    #[test]
    fn a_value_is_found_wherever_it_stands(before in "[a-z ,;]{0,40} ", after in " [a-z ,;]{0,40}") {
        let text = format!("{before}4111111111111111{after}");
        let (shown, _) = mask(&engine(), &[], None, &text);
        prop_assert_eq!(shown, format!("{before}************1111{after}"));
    }
}
