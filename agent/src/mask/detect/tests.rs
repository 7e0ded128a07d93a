//! What each detector finds, and what only looks like it.

use super::super::scan::{Event, Scanner};
use super::super::view::View;
use super::{Detector, Enabled};

/// `name:value` of everything found in a text.
fn find(text: &str) -> Vec<String> {
    let all = Detector::ALL
        .iter()
        .fold(Enabled::default(), |set, d| set.with(*d));
    let view = View::new(text.as_bytes(), true);
    let mut found = Vec::new();
    let end = Scanner::new(all).run(&view, 0, &mut |event| match event {
        Event::Hit(hit) => {
            let value = text.get(hit.start..hit.end).expect("values are whole characters");
            found.push(format!("{}:{value}", hit.detector.name()));
        }
        Event::Gone(_) => {}
    });
    assert_eq!(end, text.len(), "{text}");
    found
}

/// Each text holds exactly the value behind the bar (all of it where there is none), found by `detector`.
fn check(detector: &str, texts: &[&str], none: &[&str]) {
    for text in texts {
        let (text, value) = text.split_once('|').unwrap_or((text, text));
        assert_eq!(find(text), [format!("{detector}:{value}")], "{text}");
    }
    for text in none {
        assert_eq!(find(text), [""; 0], "{text}");
    }
}

#[test]
fn email() {
    check(
        "email",
        &[
            "alice@example.com",
            "a.b+tag@mail.example.co.uk",
            "o'brien@example.ie",
            "<alice@example.com>|alice@example.com",
            "'alice@example.com'|alice@example.com",
            "mail alice@example.com. Then|alice@example.com",
            "{\"mail\":\"alice@example.com\"}|alice@example.com",
            "mailto:alice@example.com?subject=x|alice@example.com",
            "postgres://user:secret@db.example.com/x|secret@db.example.com",
            "line\\nalice@example.com\\nnext|alice@example.com",
            "q=%20alice@example.com|alice@example.com",
            "jörg.müller@exämple.de",
            "почта@пример.рф",
            "x..alice@example.com|alice@example.com",
            "alice@example.com-old|alice@example.com-old",
            "4111111111111111@example.com",
            "john.4111111111111111@example.com",
            "UPPER@EXAMPLE.COM",
            "x@xn--bcher-kva.example",
            "git@github.com:org/repo.git|git@github.com",
        ],
        &[
            "root@localhost",
            "@handle",
            "a@b",
            "foo@1.2",
            "react@18.2.0-beta.1",
            "alice.@example.com",
            "a @ b.com",
            "user@-example.com",
            "@example.com",
            "x@y.z",
        ],
    );
    // Of a local part that is too long, the last 64 bytes count.
    let long = format!("{}@example.com", "a".repeat(100));
    assert_eq!(find(&long), [format!("email:{}@example.com", "a".repeat(64))]);
}

#[test]
fn cards() {
    check(
        "card",
        &[
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4111111111111111",
            "4012888888881881",
            "5555555555554444",
            "5105105105105100",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "371449635398431",
            "30569309025904",
            "3056 930902 5904",
            "38520000023237",
            "6011111111111117",
            "6011 0009 9013 9424",
            "3530111333300000",
            "6200000000000005",
            "6759 6498 2643 8453",
            "card 4222222222222|4222222222222",
            "paymentCard=4222222222222|4222222222222",
            "ref:4111111111111111,|4111111111111111",
            "user-4111111111111111|4111111111111111",
            "card_4111111111111111_x|4111111111111111",
            "**4111111111111111**|4111111111111111",
            "\\n4111111111111111\\t|4111111111111111",
            "%204111111111111111|4111111111111111",
            "\\u00204111111111111111|4111111111111111",
            "卡号4111111111111111|4111111111111111",
            "4111 1111 1111 1111 123|4111 1111 1111 1111",
            "12 4111 1111 1111 1111|4111 1111 1111 1111",
            "4111 1111 1111 1111 2028|4111 1111 1111 1111",
            "42,4111111111111111,2027|4111111111111111",
            "42\t4111111111111111\t2027|4111111111111111",
        ],
        &[
            "4111 1111 1111 1112",
            "4111111111111112",
            "1234567890123456",
            "0000000000000000",
            "4444444444444444000",
            "1700000000000",
            "1700000000000000",
            "4222222222222",
            "0.4111111111111111",
            "a4111111111111111",
            "4111111111111111a",
            "41111111111111110000",
            "550e8400-e29b-41d4-a716-446655440000",
            "41111111-1111-4111-8111-111111111111",
            "9007199254740993",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "20241015123456789",
            "4111 1111-1111 1111",
        ],
    );
}

#[test]
fn account_numbers() {
    check(
        "iban",
        &[
            "GB82 WEST 1234 5698 7654 32",
            "GB82WEST12345698765432",
            "gb82west12345698765432",
            "GB82-WEST-1234-5698-7654-32",
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "IBAN: CH9300762011623852957.|CH9300762011623852957",
            "pay DE89 3704 0044 0532 0130 00 now|DE89 3704 0044 0532 0130 00",
        ],
        &[
            "GB82 WEST 1234 5698 7654 33",
            "DE89370400440532013001",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "ZZ89370400440532013000",
            "XDE89370400440532013000",
            "GB82 WEST",
        ],
    );
}

#[test]
fn social_security_numbers() {
    check(
        "us_ssn",
        &[
            "078-05-1120",
            "id 123-45-6789.|123-45-6789",
            "SSN: 078051120|078051120",
            "{\"ssn\":\"078051120\"}|078051120",
            "user_ssn=078051120|078051120",
            "customerSSN 078051120|078051120",
            "ssn 078 05 1120|078 05 1120",
            "Social Security Number 078051120|078051120",
        ],
        &[
            "078051120",
            "078 05 1120",
            "className 078051120",
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "123-45-67890",
            "1123-45-6789",
            "123-45-6789-1",
            "2024-123-45-6789",
            "order 123456789",
        ],
    );
}

#[test]
fn phones() {
    check(
        "phone",
        &[
            "+1 415-555-0132",
            "+14155550132",
            "+1 (415) 555-0132",
            "+49 30 901820 44",
            "+44 20 7946 0958",
            "+33 1 42 68 53 00",
            "+354 555 0132",
            "tel:+49-30-90182044|+49-30-90182044",
            "(415) 555-0132",
            "(415)555-0132",
            "415-555-0132",
            "415.555.0132",
            "1-415-555-0132",
            "phone: 415 555 0132|415 555 0132",
            "Tel. 030 901820|030 901820",
            "userPhone 4155550132|4155550132",
            "mobile_no=07700900123|07700900123",
            "fax 0049 30 901820|0049 30 901820",
            "call (415) 555-0132 now|(415) 555-0132",
        ],
        &[
            "order 1234567890",
            "1234567890",
            "415 555 0132",
            "115-555-0132",
            "415-155-0132",
            "hotel 4155550132",
            "+0 123 456 789",
            "+1 115 555 0132",
            "2024-10-15T12:34:56+02:00",
            "2024-10-15 12:34:56.789",
            "1e+12345678",
            "1+12345678901",
            "+1234",
            "12345.67",
            "v415.555.0132",
            "415-555-0132-7",
            "10.1000/182.4155",
            "2024.10.15",
        ],
    );
}

#[test]
fn addresses() {
    check(
        "ipv4",
        &[
            "203.0.113.9",
            "from 203.0.113.9:443|203.0.113.9",
            "10.0.0.1/24|10.0.0.1",
            "server 10.0.0.1|10.0.0.1",
            "user@10.0.0.1|10.0.0.1",
            "1.2.3.4",
            "ip-address: 192.168.1.20.|192.168.1.20",
        ],
        &[
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.0",
            "1.2.3",
            "1.2.3.4.5",
            "v1.2.3.4",
            "version 1.2.3.4",
            "\"version\": \"1.2.3.4\"",
            "tool-1.2.3.4",
            "1.2.3.4-beta",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.4.tar.gz",
            "1.3.6.1.4.1.311",
        ],
    );
    check(
        "ipv6",
        &[
            "2001:db8::8a2e:370:7334",
            "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
            "fe80::1ff:fe23:4567:890a",
            "::ffff:203.0.113.9",
            "at 2001:db8::1: no|2001:db8::1",
            "[2001:db8::1]:443|2001:db8::1",
        ],
        &[
            "::1",
            "::",
            "12:34:56",
            "std::io::Read",
            "face::added",
            "face::add",
            "aa:bb:cc:dd:ee:ff",
            "00:11:22:33:44:55:66:77",
            "2b:ad:1c:9f:2b:ad:1c:9f:2b:ad:1c:9f:2b:ad:1c:9f:2b:ad:1c:9f",
            "x2001:db8::1",
            "2001:db8::g1",
        ],
    );
}

const HS256: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";

#[test]
fn tokens() {
    let bearer = format!("Authorization: Bearer {HS256}|{HS256}");
    let sentence = format!("It is {HS256}. Or|{HS256}");
    let cut = HS256.split_at(60).0;
    check(
        "jwt",
        &[
            HS256,
            &bearer,
            &sentence,
            cut,
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
            "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..aaaa.bbbb.cccc",
        ],
        &[
            "eyJub3QganNvbg.aaaa.bbbb",
            "eyJhIjoxfQ.aaaa.bbbb",
            "eyJhbGciOiJIUzI1NiJ9",
            "eyJhbGciOiJIUzI1NiJ9.x",
        ],
    );
    // Longer than any real token: all of it goes.
    let mut gone = 0;
    let text = format!("{HS256}{}.tail and", "a".repeat(20_000));
    let view = View::new(text.as_bytes(), true);
    Scanner::new(Enabled::default().with(Detector::Jwt)).run(&view, 0, &mut |event| {
        if let Event::Gone(end) = event {
            gone = end;
        }
    });
    assert_eq!(gone, text.len() - " and".len());
}

#[test]
fn keys() {
    // Put together here, so that scanners of source text do not take them for real ones.
    let github = format!("ghp_{}", "a1B2c3".repeat(6));
    let fine = format!("github_pat_{}_{}", "11ABCDEFG0a1B2c3D4e5F6", "a1B2c3".repeat(9));
    check(
        "github_key",
        &[&github, &fine],
        &["ghp_short", &"ghp_".repeat(12)],
    );
    let slack = ["xoxb", "123456789012", "abcdefGHIJ"].join("-");
    check("slack_key", &[&slack], &["xoxb-a-b-c-d-e-f-1"]);
    let stripe = ["sk", "live", "51H8a7b6c5d4e3f2g1"].join("_");
    let restricted = format!("key={0}|{0}", ["rk", "test", "51H8a7b6c5d4e3f2g1"].join("_"));
    check(
        "stripe_key",
        &[&stripe, &restricted],
        &["sk_live_short1", "sk_live_aaaaaaaaaaaaaaaaaaaa"],
    );
    check(
        "aws_key",
        &[
            "AKIAIOSFODNN7EXAMPLE",
            "id=AKIAIOSFODNN7EXAMPLE;|AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY|wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ],
        &[
            "AKIAIOSFODNN7EXAMPLEX",
            "AKIAIOSFODNNEXAMPLES",
            "xAKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        ],
    );
    check(
        "anthropic_key",
        &[
            "sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT",
            "\"sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT\"|sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT",
        ],
        &["sk-ant-colony-of-many-small-words-1"],
    );
    check(
        "openai_key",
        &[
            "sk-proj-aB3dE6gH9jK2mN5pQ8sT",
            "key=sk-aB3dE6gH9jK2mN5pQ8sT|sk-aB3dE6gH9jK2mN5pQ8sT",
        ],
        &[
            "sk-aaaaaaaaaaaaaaaaaaaaaaaa",
            "sk-learn-a-lot-of-words-in-2024-please",
            "the-quick-brown-fox-jumps-over",
            "task-aB3dE6gH9jK2mN5pQ8sT",
        ],
    );
}

#[test]
fn private_keys() {
    check(
        "pem_key",
        &[
            "-----BEGIN PRIVATE KEY-----\nMIIE|-----BEGIN PRIVATE KEY-----",
            "key:-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----|-----BEGIN RSA PRIVATE KEY-----",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n|-----BEGIN PGP PRIVATE KEY BLOCK-----",
        ],
        &[
            "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PRIVATE KEY----",
            "BEGIN PRIVATE KEY",
        ],
    );
}

#[test]
fn the_longest_wins_and_then_the_more_specific() {
    assert_eq!(find("phone 078-05-1120"), ["us_ssn:078-05-1120"]);
    assert_eq!(
        find("sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT"),
        ["anthropic_key:sk-ant-api03-aB3dE6gH9jK2mN5pQ8sT"]
    );
    assert_eq!(
        find("a@b.io,4111111111111111 203.0.113.9;+14155550132"),
        [
            "email:a@b.io",
            "card:4111111111111111",
            "ipv4:203.0.113.9",
            "phone:+14155550132"
        ]
    );
    assert_eq!(
        find("4111111111111111.5555555555554444"),
        ["card:4111111111111111", "card:5555555555554444"]
    );
}

#[test]
fn plain_texts_hold_nothing() {
    check(
        "",
        &[],
        &[
            "",
            "hello",
            "12345",
            "SELECT id, total FROM orders WHERE created_at > '2024-10-15 12:34:56' LIMIT 100",
            "some_long_identifier_name_here",
            "https://example.com/a/b?c=d&e=12345",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "3.14159265358979",
            "-122.419416,37.774929",
            "1,234,567.89",
            "ISBN 978-3-16-148410-0",
            "\u{1F600}\u{1F600}",
        ],
    );
}
