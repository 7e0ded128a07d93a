//! The list of keys against the parser: neither knows one that the other does not, and the defaults are those that hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::raw::RawConfig;
use super::schema::{KEYS, Key, Kind, Need, keys_of};
use super::{defaults, parse, schema, settings};

/// The least that a table of this name needs, so that only the key under test is wrong.
fn document(table: &str, line: &str) -> String {
    let key = KEYS.iter().find(|key| key.opened() == table);
    match key {
        None => format!("{line}\n"),
        Some(key) => {
            let outer = if key.table.is_empty() {
                String::new()
            } else {
                let many = KEYS
                    .iter()
                    .any(|k| k.opened() == key.table && k.kind == Kind::Tables);
                let (open, close) = if many { ("[[", "]]") } else { ("[", "]") };
                format!("{open}{}{close}\n", key.table)
            };
            let (open, close) = if key.kind == Kind::Tables {
                ("[[", "]]")
            } else {
                ("[", "]")
            };
            format!("{outer}{open}{table}{close}\n{line}\n")
        }
    }
}

/// `unknown field …, expected one of `a`, `b``: the parser's own list.
fn known_to_the_parser(table: &str) -> BTreeSet<String> {
    let text = document(table, "no_such_key = 1");
    let error = toml::from_str::<RawConfig>(&text).expect_err(&text);
    let message = error.message();
    assert!(message.contains("no_such_key"), "{text}{message}");
    message.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_parser_and_the_list_know_the_same_keys() {
    let tables: BTreeSet<String> = KEYS
        .iter()
        .filter(|key| matches!(key.kind, Kind::Table | Kind::Tables))
        .map(Key::opened)
        .chain([String::new()])
        .collect();
    for table in tables {
        let listed: BTreeSet<String> = keys_of(&table).map(|key| key.name.to_owned()).collect();
        assert_eq!(listed, known_to_the_parser(&table), "[{table}]");
    }
}

/// Writing every default changes nothing.
#[test]
fn defaults_are_those_that_hold() {
    let mut text = String::new();
    for key in keys_of("") {
        if let Need::Default(value) = key.need {
            text.push_str(&format!("{} = {value}\n", key.name));
        }
    }
    for table in ["audit", "approval", "masking", "limits", "unix", "dns"] {
        text.push_str(&format!("[{table}]\n"));
        for key in keys_of(table) {
            if let Need::Default(value) = key.need {
                text.push_str(&format!("{} = {value}\n", key.name));
            }
        }
    }
    assert_eq!(parse(&text, Path::new("")).expect(&text), defaults());
    let parts = [
        (
            "issuer",
            "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n",
        ),
        (
            "target",
            "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n",
        ),
        (
            "audit.clickhouse",
            "[audit.clickhouse]\nurl = \"https://c:8443\"\n",
        ),
    ];
    for (table, least) in parts {
        let mut whole = least.to_owned();
        for key in keys_of(table) {
            if let Need::Default(value) = key.need {
                whole.push_str(&format!("{} = {value}\n", key.name));
            }
        }
        let file = Path::new("interdict.toml");
        assert_eq!(
            parse(&whole, file).expect(&whole),
            parse(least, file).expect(least),
            "{table}"
        );
    }
}

#[test]
fn the_words_of_a_choice_are_accepted_and_no_others_are_listed() {
    let mut choices = 0;
    for key in KEYS {
        let Kind::OneOf(words) = key.kind else { continue };
        choices += 1;
        let whole = |word: &str| {
            let line = document(key.table, &format!("{} = \"{word}\"", key.name));
            let protocol = if key.name == "protocol" {
                ""
            } else {
                "protocol = \"http\"\n"
            };
            let least = format!("[[target]]\nname = \"t\"\naddresses = [\"a\"]\n{protocol}");
            line.replacen("[[target]]\n", &least, 1)
        };
        let wrong = parse(&whole("no-such-word"), Path::new("f"))
            .expect_err(key.name)
            .to_string();
        for word in words {
            assert!(
                wrong.contains(&format!("\"{word}\"")),
                "{}: {word} is not in\n{wrong}",
                key.name
            );
            let told = parse(&whole(word), Path::new("f")).err().map(|e| e.to_string());
            assert!(
                !told.unwrap_or_default().contains(&format!("{word:?} is ")),
                "{}",
                key.name
            );
        }
    }
    assert!(choices >= 8);
}

#[test]
fn what_holds_is_shown_with_its_origin() {
    let text = "\n[[target]]\nname = \"t\"\nprotocol = \"opaque\"\naddresses = [\"a:1\"]\n[target.labels]\nteam = \"x\"\n\
                [target.credential]\nuser = \"u\"\npassword_file = \"secret/p\"\nplaceholder = \"hush\"\n\
                [audit.clickhouse]\nurl = \"https://c:8443\"\npassword_file = \"${CREDENTIALS_DIRECTORY}/ch\"\n";
    let all = settings(text, Path::new("/etc/interdict/interdict.toml"));
    let found: BTreeMap<&str, (&str, Option<usize>)> = all
        .iter()
        .map(|s| (s.key.as_str(), (s.value.as_str(), s.line)))
        .collect();
    let expected = [
        ("mode", ("\"enforce\"", None)),
        ("target[0].name", ("\"t\"", Some(3))),
        ("target[0].tls", ("\"disabled\"", None)),
        ("target[0].labels", ("{ \"team\" = \"x\" }", Some(6))),
        (
            "target[0].credential.password_file",
            ("\"/etc/interdict/secret/p\"", Some(10)),
        ),
        ("target[0].credential.placeholder", ("\"***\"", Some(11))),
        ("approval.hold", ("\"30s\"", None)),
        (
            "audit.clickhouse.password_file",
            ("\"/run/credentials/interdict.service/ch\"", Some(14)),
        ),
        ("audit.clickhouse.batch_age", ("\"1s\"", None)),
    ];
    for (key, value) in expected {
        assert_eq!(found.get(key), Some(&value), "{key}");
    }
}

#[test]
fn the_schema_describes_every_key() {
    let made = schema();
    for key in KEYS {
        let mut at = &made;
        for part in key.table.split('.').filter(|part| !part.is_empty()) {
            at = &at["properties"][part];
            at = at.get("items").unwrap_or(at);
        }
        let described = at["properties"][key.name]["description"].as_str();
        assert_eq!(described, Some(key.about), "{}.{}", key.table, key.name);
        assert_eq!(at["additionalProperties"], false);
    }
}
