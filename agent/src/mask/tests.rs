//! What stands in the place of values, and that streams and cells agree.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;

use crate::config::{ColumnClass, MaskingConfig};
use crate::model::{DataClass, MaskCounts};

use super::{CellMask, Classes, ClassesError, KeyError, MaskEngine, MaskKey, MaskPlan};

fn engine_with(overrides: &[(&str, &str)], key: u8) -> Arc<MaskEngine> {
    let mut config = MaskingConfig::default();
    for (name, strategy) in overrides {
        config.overrides.insert(class(name), (*strategy).to_owned());
    }
    let classes = Classes::load(&config, []).expect("valid classes");
    Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[key; 32])))
}

fn engine() -> Arc<MaskEngine> {
    engine_with(&[], 7)
}

fn class(name: &str) -> DataClass {
    name.parse().expect("class")
}

fn set(names: &[&str]) -> BTreeSet<DataClass> {
    names.iter().map(|name| class(name)).collect()
}

/// The masked text, and how much was masked.
fn mask_bytes(plan: &MaskPlan, declared: Option<&str>, text: &[u8]) -> (Vec<u8>, MaskCounts) {
    let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
    let declared = declared.map(class);
    let shown = match plan.text(declared.as_ref(), text, &mut out, &mut counts) {
        CellMask::Replaced => return (out.to_vec(), counts),
        CellMask::Unchanged => text.to_vec(),
        CellMask::Null => b"NULL".to_vec(),
    };
    assert!(out.is_empty(), "nothing is written unless replaced");
    (shown, counts)
}

fn mask(
    engine: &Arc<MaskEngine>,
    revealed: &[&str],
    declared: Option<&str>,
    text: &str,
) -> (String, MaskCounts) {
    let (shown, counts) = mask_bytes(&engine.plan(&set(revealed)), declared, text.as_bytes());
    (String::from_utf8_lossy(&shown).into_owned(), counts)
}

/// What a stream makes of a text that is cut at `cuts`.
fn stream(plan: &MaskPlan, text: &[u8], cuts: &[usize]) -> (Vec<u8>, MaskCounts) {
    let mut stream = plan.stream();
    let mut out = BytesMut::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([text.len()]) {
        let cut = cut.clamp(from, text.len());
        stream.push(&text[from..cut], &mut out);
        from = cut;
    }
    let counts = stream.finish(&mut out);
    (out.to_vec(), counts)
}

#[test]
fn values_keep_their_shape() {
    let engine = engine();
    let stripe = ["sk", "live", "51H8a7b6c5d4e3f2g1"].join("_");
    let table: &[(&str, &str)] = &[
        ("alice@example.com", "a***@e***.com"),
        ("a@b.io", "***@***.io"),
        ("mail a.b+c@mail.example.co.uk now", "mail a***@m***.uk now"),
        ("почта@пример.рф", "***@***"),
        ("4111 1111 1111 1111", "**** **** **** 1111"),
        ("card 5555-5555-5555-4444.", "card ****-****-****-4444."),
        ("378282246310005", "***********0005"),
        ("GB82 WEST 1234 5698 7654 32", "**** **** **** **** **54 32"),
        ("ssn 078-05-1120", "ssn ***-**-****"),
        ("+1 415-555-0132", "+* ***-***-****"),
        ("+49 30 901820 44", "+** ** ****20 44"),
        ("from 203.0.113.9 on", "from ***.*.***.* on"),
        ("2001:db8::8a2e:370:7334", "****:***::****:***:****"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret.key]"),
        (&stripe, "[secret.key]"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
            "[secret.token]",
        ),
        (
            "x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- a@b.io",
            "x [secret.pem] ***@***.io",
        ),
        (
            "ada@example.com-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
            "a***@e***.com[secret.pem]",
        ),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[secret.pem]"),
        ("ab@cd.io, 4111111111111111", "a***@c***.io, ************1111"),
        ("{\"m\":\"\\nal@ex.io\"}", "{\"m\":\"\\na***@e***.io\"}"),
    ];
    for (text, expected) in table {
        let (shown, counts) = mask(&engine, &[], None, text);
        assert_eq!(shown, *expected, "{text}");
        assert!(counts.total() > 0, "{text}");
    }
}

#[test]
fn declared_columns_are_masked_whatever_they_hold() {
    let engine = engine();
    let table: &[(&str, &str, &str)] = &[
        ("pii.name", "Ada Lovelace", "[pii.name]"),
        ("pii.name", "", "[pii.name]"),
        ("pci.card", "short", "*****"),
        ("pci.card", "4111 1111 1111 1111", "**** **** **** 1111"),
        ("pii.email", "é@x.org", "***@***.org"),
        ("pii.email", "not an address", "*** ** ***ress"),
        ("pii.email", "two@x.org, more@y.org", "*****.***, ******.***"),
        ("pii.ip", "203.0.113.250", "***.*.***.***"),
        ("not.described", "x", "[not.described]"),
    ];
    for (declared, text, expected) in table {
        let (shown, counts) = mask(&engine, &[], Some(declared), text);
        assert_eq!(shown, *expected, "{text}");
        assert_eq!(counts.0.get(&class(declared)), Some(&1), "{text}");
    }
}

#[test]
fn what_is_revealed_stays_and_all_else_does_not() {
    let engine = engine();
    let text = "alice@example.com 4111111111111111";
    let table: &[(&[&str], Option<&str>, &str, &str)] = &[
        (&["pci.card"], None, text, "a***@e***.com 4111111111111111"),
        (&["pii.email", "pci.card"], None, text, text),
        (
            &["pii.name"],
            Some("pii.name"),
            "Ada <ada@xx.org>",
            "Ada <a***@x***.org>",
        ),
        (
            &["pii.name"],
            Some("pii.email"),
            "Ada <ada@xx.org>",
            "*** *******.****",
        ),
        // What a revealed value contains is that value's.
        (
            &["pii.email"],
            None,
            "4111111111111111@example.com",
            "4111111111111111@example.com",
        ),
        (
            &["fin.iban"],
            None,
            "DE89 3704 0044 0532 0130 00",
            "DE89 3704 0044 0532 0130 00",
        ),
        (
            &["secret.pem"],
            None,
            "-----BEGIN PRIVATE KEY-----\nal@ex.io",
            "-----BEGIN PRIVATE KEY-----\na***@e***.io",
        ),
    ];
    for (revealed, declared, text, expected) in table {
        let (shown, _) = mask(&engine, revealed, *declared, text);
        assert_eq!(shown, *expected);
    }
    let plan = engine.plan(&set(&["pci.card"]));
    assert!(plan.reveals(&class("pci.card")) && !plan.reveals(&class("pii.email")));
}

#[test]
fn counts_are_by_class() {
    let (_, counts) = mask(
        &engine(),
        &["pii.phone"],
        None,
        "a@b.io c@d.io +14155550132 4111111111111111",
    );
    let expected = MaskCounts([(class("pii.email"), 2), (class("pci.card"), 1)].into());
    assert_eq!(counts, expected);
}

#[test]
fn tokens_join_within_a_class_and_a_key() {
    let overrides = [("pii.email", "token"), ("pii.name", "token")];
    let (one, other) = (engine_with(&overrides, 1), engine_with(&overrides, 2));
    let token = mask(&one, &[], None, "a@example.org").0;
    assert!(
        token.starts_with("pii.email:") && token.len() == "pii.email:".len() + 16,
        "{token}"
    );
    assert_eq!(
        mask(&one, &[], None, "to a@example.org.").0,
        format!("to {token}.")
    );
    assert_eq!(mask(&one, &[], Some("pii.email"), "a@example.org").0, token);
    assert_ne!(mask(&one, &[], None, "b@example.org").0, token);
    assert_ne!(mask(&other, &[], None, "a@example.org").0, token);
    let name = mask(&one, &[], Some("pii.name"), "a@example.org").0;
    assert_ne!(name.rsplit(':').next(), token.rsplit(':').next());
}

#[test]
fn null_is_for_whole_values() {
    for strategy in ["null", "deny"] {
        let engine = engine_with(&[("pci.card", strategy)], 1);
        assert_eq!(mask(&engine, &[], Some("pci.card"), "anything").0, "NULL");
        assert_eq!(mask(&engine, &[], None, "4111111111111111").0, "NULL");
        assert_eq!(
            mask(&engine, &[], None, "card 4111111111111111").0,
            "card [pci.card]"
        );
    }
    let kept = engine_with(&[("pci.card", "keep")], 1);
    assert_eq!(
        mask(&kept, &[], Some("pci.card"), "4111111111111111").0,
        "4111111111111111"
    );
}

#[test]
fn records_show_nothing_whatever_a_plan_reveals() {
    let plan = engine().plan(&set(&["pii.email", "pci.card"]));
    let statement = "UPDATE t SET card = '4111111111111111' WHERE mail = 'alice@example.com'";
    assert_eq!(
        plan.shown(statement),
        "UPDATE t SET card = '************1111' WHERE mail = 'a***@e***.com'"
    );
    assert_eq!(plan.shown("SELECT 1"), "SELECT 1");
    let nulls = engine_with(&[("pci.card", "null")], 1).plan(&BTreeSet::new());
    assert_eq!(nulls.shown("4111111111111111"), "[masked]");
}

#[test]
fn classes_that_are_wrong_say_where_and_what_to_write() {
    let entry = |rest: &str| format!("[[class]]\nname = \"a\"\ndescription = \"x\"\n{rest}\n");
    let table = [
        (
            "[[class]]\nname = \"PII\"\ndescription = \"x\"\ndetectors = []\nstrategy = \"null\"\n"
                .to_owned(),
            ":2: ",
            "lower-case",
        ),
        (
            entry("detectors = [\"mail\"]\nstrategy = \"null\""),
            ":4: ",
            "email",
        ),
        (entry("detectors = []\nstrategy = \"hide\""), ":5: ", "redact"),
        (
            entry("detectors = []\nstrategy = \"null\"\ncolour = 1"),
            ":6: ",
            "colour",
        ),
        (entry("detectors = []"), ":1: ", "strategy"),
        (
            entry("detectors = []\nstrategy = \"null\"\nkeep_last = 2"),
            ":6: ",
            "partial",
        ),
        (
            entry("detectors = []\nstrategy = \"partial\"\nkeep_last = 20"),
            ":6: ",
            "0 to 8",
        ),
        (
            entry("detectors = [\"email\", \"email\"]\nstrategy = \"null\""),
            ":4: ",
            "one class only",
        ),
        (
            entry("detectors = []\nstrategy = \"null\"").repeat(2),
            ":7: ",
            "second time",
        ),
        ("class = 1\n".to_owned(), ":1: ", ""),
        ("rules = []\n".to_owned(), ":1: ", "rules"),
    ];
    for (text, place, advice) in table {
        let error = Classes::parse(&text, Path::new("classes.toml"))
            .expect_err(&text)
            .to_string();
        assert!(error.contains(place) && error.contains(advice), "{text}\n{error}");
    }
    let missing = Classes::from_file(Path::new("/nonexistent/classes.toml"));
    assert!(matches!(missing, Err(ClassesError::File { .. })));
}

#[test]
fn overrides_name_classes_and_strategies() {
    let load = |class_name: &str, strategy: &str, columns: &[&str]| {
        let mut config = MaskingConfig::default();
        config.overrides.insert(class(class_name), strategy.to_owned());
        let columns = columns.iter().map(|name| ColumnClass {
            schema: "public".into(),
            table: "t".into(),
            column: "c".into(),
            class: class(name),
        });
        Classes::load(&config, columns)
    };
    assert!(load("pii.email", "null", &[]).is_ok());
    assert!(load("my.own", "null", &["my.own"]).is_ok());
    let unknown = load("pii.emial", "null", &[])
        .expect_err("no such class")
        .to_string();
    assert!(unknown.contains("pii.email"), "{unknown}");
    let strategy = load("pii.email", "hide", &[])
        .expect_err("no such strategy")
        .to_string();
    assert!(strategy.contains("redact"), "{strategy}");
}

#[test]
fn a_file_takes_the_place_of_the_shipped_classes() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("classes.toml");
    let text = "[[class]]\nname = \"my.mail\"\ndescription = \"x\"\ndetectors = [\"email\"]\nstrategy = \"partial\"\nkeep_last = 0\n";
    std::fs::write(&path, text).expect("written");
    let config = MaskingConfig {
        classes: Some(path),
        ..MaskingConfig::default()
    };
    let classes = Classes::load(&config, []).expect("valid");
    let engine = Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[1; 32])));
    assert_eq!(engine.classes(), &set(&["my.mail"]));
    assert_eq!(
        mask(&engine, &[], None, "al@ex.io 4111111111111111").0,
        "a***@e***.io 4111111111111111"
    );
}

#[test]
fn the_digest_follows_what_is_masked_and_how() {
    let shipped = engine().digest();
    assert_eq!(
        shipped,
        MaskEngine::default().digest(),
        "the key is no part of it"
    );
    assert_ne!(shipped, engine_with(&[("pii.email", "null")], 7).digest());
}

#[test]
fn plans_are_made_once() {
    let engine = engine();
    let nothing = BTreeSet::new();
    let some = set(&["pii.email"]);
    for wanted in [&nothing, &some] {
        let (one, two) = (engine.plan(wanted), engine.plan(wanted));
        assert!(one.shares_sight_with(&two));
    }
    assert!(!engine.plan(&some).shares_sight_with(&engine.plan(&nothing)));
}

#[test]
fn a_key_is_made_once_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("mask.key");
    let sign = |path: &Path| {
        MaskKey::load_or_create(path)
            .expect("key")
            .sign(&[b"x"])
            .as_ref()
            .to_vec()
    };
    assert_eq!(sign(&path), sign(&path));
    assert_ne!(sign(&path), sign(&dir.path().join("other.key")));
    let names: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
    assert_eq!(names.len(), 2, "no draft stays behind");
    let mode = |bits| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).expect("mode");
    assert_eq!(
        std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777,
        0o600
    );
    mode(0o640);
    assert!(matches!(
        MaskKey::load_or_create(&path),
        Err(KeyError::Open { mode: 0o640, .. })
    ));
    mode(0o600);
    for wrong in [b"short".to_vec(), vec![0; 33]] {
        std::fs::write(&path, wrong).expect("written");
        assert!(matches!(
            MaskKey::load_or_create(&path),
            Err(KeyError::Length { .. })
        ));
    }
    assert_eq!(format!("{:?}", MaskKey::from_bytes(&[65; 32])), "MaskKey");
}

#[test]
fn keys_made_at_once_are_one_key() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("mask.key");
    let made: BTreeSet<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    MaskKey::load_or_create(&path)
                        .expect("key")
                        .sign(&[b"x"])
                        .as_ref()
                        .to_vec()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("joined")).collect()
    });
    assert_eq!(made.len(), 1);
}

#[test]
fn a_stream_holds_back_only_what_may_become_a_value() {
    let plan = engine().plan(&BTreeSet::new());
    let table: &[(&str, usize)] = &[
        ("Hello, ", 0),
        ("Hello", 5),
        ("mail alice@example.com ", 0),
        ("mail alice@exam", 10),
        ("x 4111 1111 ", 10),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC", 8),
    ];
    for (text, held) in table {
        let mut stream = plan.stream();
        let mut out = BytesMut::new();
        stream.push(text.as_bytes(), &mut out);
        assert_eq!(stream.held_back(), *held, "{text}");
        assert!(!format!("{stream:?}").contains("4111"));
    }
    // A word without end is not held without end.
    let mut stream = plan.stream();
    let mut out = BytesMut::new();
    for _ in 0..200 {
        stream.push(&[b'a'; 100], &mut out);
        assert!(stream.held_back() <= 64);
    }
}

/// Pieces that make the walk take every turn.
const PIECES: &[&str] = &[
    "alice@example.com",
    "x.y@sub.example.org",
    "4111111111111111",
    "4111 1111 1111 1111",
    "5555-5555-5555-4444",
    "12 4111",
    "GB82 WEST 1234 5698 7654 32",
    "DE89370400440532013000",
    "078-05-1120",
    "ssn 078051120",
    "+49 30 901820 44",
    "(415) 555-0132",
    "phone 4155550132",
    "203.0.113.9",
    "version 1.2.3.4",
    "2001:db8::8a2e:370:7334",
    "::ffff:1.2.3.4",
    "std::io",
    "AKIAIOSFODNN7EXAMPLE",
    "sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT",
    "aws_secret_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "550e8400-e29b-41d4-a716-446655440000",
    "41111111-1111-4111-8111-111111111111",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "абвгдежзиклмнопрстуфхцчшщъыьэюяабвгдежзиклмнопрстуфхцчшщъыьэюя",
    "\\n",
    "\\u0020",
    "%20",
    " ",
    ",",
    ".",
    "-",
    "@",
    ":",
    "+",
    "(",
    "*",
    "1",
    "A",
    "é",
    "\":",
    "/",
    "--",
    "::",
    "1.1",
    "2026-11-21T10:00:00Z",
    "{\"id\":1000,\"state\":\"shipped\",\"total\":50.50,\"note\":\"left at the door\"},",
    "Words that say nothing, one after another, and longer than what is looked at at once. ",
];

#[test]
fn long_texts_are_walked_once() {
    // Walked again from each word, they would take minutes.
    for joined in [
        "zz:", "a:", "::", "zz/", "a.b", "A.", "(", "@", "--", "zz", "7", "\":", "\"::", "1.1", "x@y.",
    ] {
        let text = joined.repeat((256 << 10) / joined.len());
        let plan = engine().plan(&BTreeSet::new());
        let whole = mask_bytes(&plan, None, text.as_bytes());
        assert_eq!(
            stream(&plan, text.as_bytes(), &[100_000, 200_000]),
            whole,
            "{joined}"
        );
    }
}

fn text_of_pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => proptest::sample::select(PIECES).prop_map(|p| p.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
        1 => "[a-z0-9 .@:-]{0,12}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streams_do_not_depend_on_the_cuts(
        text in text_of_pieces(),
        mut cuts in proptest::collection::vec(0usize..600, 0..12),
        revealed in prop_oneof![Just(&[][..]), Just(&["pii.email"][..]), Just(&["secret.pem", "pci.card"][..])],
    ) {
        let plan = engine_with(&[("fin.iban", "token"), ("pii.ip", "redact")], 3).plan(&set(revealed));
        cuts.sort_unstable();
        let whole = mask_bytes(&plan, None, &text);
        prop_assert_eq!(&stream(&plan, &text, &[]), &whole);
        prop_assert_eq!(&stream(&plan, &text, &cuts), &whole);
        let every: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(&stream(&plan, &text, &every), &whole);
    }

    #[test]
    fn nothing_is_left_to_find(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12)) {
        let plan = engine().plan(&BTreeSet::new());
        let value_of = |piece: &&&str| mask_bytes(&plan, None, piece.as_bytes()).1.total() > 0;
        let text = pieces.join(" ; ");
        let (once, _) = mask_bytes(&plan, None, text.as_bytes());
        for value in pieces.iter().filter(value_of) {
            prop_assert!(memchr::memmem::find(&once, value.as_bytes()).is_none(), "{}", value);
        }
        let (twice, counts) = mask_bytes(&plan, None, &once);
        prop_assert_eq!((twice, counts.total()), (once, 0));
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in bytes(), declared in any::<bool>()) {
        let plan = engine().plan(&BTreeSet::new());
        for name in ["pii.email", "pci.card", "pii.name"] {
            drop(mask_bytes(&plan, declared.then_some(name), &text));
        }
        prop_assert_eq!(stream(&plan, &text, &[text.len() / 2]).0, mask_bytes(&plan, None, &text).0);
    }

    #[test]
    fn a_value_is_found_wherever_it_stands(before in "[a-z ,;]{0,40} ", after in " [a-z ,;]{0,40}") {
        let text = format!("{before}4111111111111111{after}");
        let (shown, _) = mask(&engine(), &[], None, &text);
        prop_assert_eq!(shown, format!("{before}************1111{after}"));
    }
}

#[test]
fn of_tokens_and_keys_little_is_held_back() {
    let part = |length: usize| "aB3-_x9".chars().cycle().take(length).collect::<String>();
    let coded = |json: &str| data_encoding::BASE64URL_NOPAD.encode(json.as_bytes());
    let long = format!("{{\"alg\":\"RS256\",\"kid\":\"{}\"}}", "k".repeat(300));
    let strange = format!("{{\"note\":\"{}\",\"alg\":\"RS256\"}}", "k".repeat(300));
    let payload = coded("{\"sub\":\"1234567890\"}");
    let texts = [
        format!("a {}.{payload}.{} b", coded(&long), part(600)),
        format!("a {}.{payload}.{}. B", coded(&strange), part(600)),
        format!("a {}.{payload}. b", coded("{\"alg\":\"none\"}")),
        format!(
            "a {}..{}.{}.x b",
            coded("{\"alg\":\"dir\",\"enc\":\"A128GCM\"}"),
            part(300),
            part(300)
        ),
        format!(
            "key sk-ant-api03-{} and ghp_{}.",
            "aB3x9".repeat(80),
            "a1B2c3D4e5".repeat(40)
        ),
        format!("sk-{} is none, nor is eyJ{}", "a".repeat(300), "a".repeat(300)),
    ];
    let plan = Arc::new(MaskEngine::default()).plan(&[].into());
    for text in texts {
        let mut whole = BytesMut::new();
        let mut counts = MaskCounts::default();
        let expected = match plan.text(None, text.as_bytes(), &mut whole, &mut counts) {
            CellMask::Unchanged => text.clone().into_bytes(),
            CellMask::Replaced => whole.to_vec(),
            CellMask::Null => panic!("{text}"),
        };
        let shown = String::from_utf8_lossy(&expected).into_owned();
        assert!(
            !shown.contains(&payload) && !shown.contains("aB3-_x9") && !shown.contains("aB3x9"),
            "{shown}"
        );
        for step in [1, 7, 64, 500] {
            let (mut stream, mut out) = (plan.stream(), BytesMut::new());
            for piece in text.as_bytes().chunks(step) {
                stream.push(piece, &mut out);
                assert!(stream.held_back() <= 128, "{} of {text}", stream.held_back());
            }
            stream.finish(&mut out);
            assert_eq!(out, expected, "{step}: {text}");
        }
        for cut in 0..=text.len() {
            let (one, two) = text.as_bytes().split_at(cut);
            let (mut stream, mut out) = (plan.stream(), BytesMut::new());
            stream.push(one, &mut out);
            stream.push(two, &mut out);
            stream.finish(&mut out);
            assert_eq!(out, expected, "{cut}: {text}");
        }
    }
}

#[test]
fn patterns_of_ones_own_are_found_in_whole_texts() {
    let text = "[[class]]\nname = \"own.codename\"\ndescription = \"x\"\ndetectors = []\nstrategy = \"redact\"\n\
                patterns = ['(?i)project\\s+falcon', 'ZX-[0-9]{4}']\n";
    let classes = Classes::parse(text, Path::new("classes.toml")).expect("valid");
    let plan = Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[7; 32]))).plan(&[].into());
    let spans = plan.spans(b"of Project\n Falcon ZX-1234 ZX-1");
    let places: Vec<_> = spans.iter().map(|s| (s.class.as_str(), s.start, s.end)).collect();
    assert_eq!(places, [("own.codename", 3, 18), ("own.codename", 19, 26)]);
    assert_eq!(plan.patterns_in(b"zx-1234").len(), 0);
    assert_eq!(plan.without_patterns("see ZX-1234".into()), "see [own.codename]");
    for (wrong, expected) in [
        ("'('", "classes.toml:6: the pattern is no"),
        ("'x*'", "finds the empty text"),
    ] {
        let text = text.replace("'ZX-[0-9]{4}'", wrong);
        let error = Classes::parse(&text, Path::new("classes.toml"))
            .expect_err(wrong)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
