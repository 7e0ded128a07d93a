//! Reading JSON so that no other reader can see something else (RFC 8259, chapter 9: parsers may accept more).
//!
//! Parsers differ on names that occur twice (the first wins, the last wins, both are kept) and on names that differ in
//! case only (Go's `encoding/json` takes `Method` for `method`, and folds some letters outside of ASCII onto it). Both
//! are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::facts::fold;

/// Why bytes are not taken as JSON.
#[derive(Debug, thiserror::Error)]
#[error("the JSON is not one that every reader understands alike: {0}")]
pub struct JsonError(#[from] serde_json::Error);

/// One JSON value, and nothing after it. Names of an object differ in more than case; depth is at most 127.
///
/// # Errors
/// Where it is not JSON, or not unambiguous.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// One form for all spellings of a value: names in order, no spaces, escapes only where needed.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            for (nth, (name, member)) in sorted.into_iter().enumerate() {
                out.push(if nth == 0 { '{' } else { ',' });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(member, out);
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        Value::Array(items) => {
            for (nth, item) in items.iter().enumerate() {
                out.push(if nth == 0 { '[' } else { ',' });
                write_canonical(item, out);
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is too large"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (mut all, mut folded) = (Map::new(), BTreeSet::new());
        while let Some(name) = members.next_key::<String>()? {
            if !folded.insert(fold(&name)) {
                return Err(A::Error::custom(format!(
                    "the name {name:?} occurs twice in one object (case does not tell names apart)"
                )));
            }
            all.insert(name, members.next_value_seed(Self)?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_readers_see_differently_is_refused() {
        for wrong in [
            r#"{"method":"ping","method":"tools/call"}"#,
            r#"{"method":"ping","Method":"tools/call"}"#,
            r#"{"a":{"b":[{"k":1,"\u212a":2}]}}"#,
            r#"{"s":1,"ſ":2}"#,
            r#"{"a":1} {"a":2}"#,
            r#"{"a":1,}"#,
            "{\"a\":1}\0",
            "\u{feff}{}",
            "[1e999]",
            r#"["\ud800"]"#,
            "{'a':1}",
            "// note\n{}",
            "NaN",
            "01",
            "",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse(&[b'"', 0xff, b'"']).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn plain_json_is_read() {
        let text =
            r#" {"a": [1, -2, 3.5, true, null, "x\u00e9\ud83d\ude00"], "b": {"a": 18446744073709551615}} "#;
        let value = parse(text.as_bytes()).expect("JSON");
        assert_eq!(
            value,
            json!({"a": [1, -2, 3.5, true, null, "xé😀"], "b": {"a": u64::MAX}})
        );
        assert_eq!(
            canonical(&parse(br#"{"b":1,"a":"\u0041"}"#).expect("JSON")),
            r#"{"a":"A","b":1}"#
        );
    }

    /// What the fuzzer found: a number must be the same number again, or the identical call would be another.
    #[test]
    fn numbers_are_the_same_again() {
        for text in ["226902269097902269097666430974300", "1e22", "0.1", "5e-324"] {
            let value = parse(text.as_bytes()).expect("JSON");
            assert_eq!(parse(canonical(&value).as_bytes()).expect("JSON"), value);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(value) = parse(&bytes) {
                prop_assert_eq!(parse(canonical(&value).as_bytes()).expect("canonical"), value);
            }
        }
    }
}
