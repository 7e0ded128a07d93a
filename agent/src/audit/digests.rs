//! A digest of a record that this program and ClickHouse compute alike: over every column, each text preceded by its length.

use serde_json::{Map, Value};

use crate::model::Digest;

use super::columns::{COLUMNS, Kind};

/// The digest of a stored record, as it is in a server of today or (`legacy`) of before 20.
pub(super) fn of_record(record: &Map<String, Value>, legacy: bool) -> Digest {
    let mut whole = String::new();
    for column in COLUMNS {
        let field = record.get(column.name);
        let text = if legacy {
            legacy_text(column.kind, field)
        } else {
            text(column.kind, field)
        };
        measured(&text, &mut whole);
    }
    Digest::of(whole.as_bytes())
}

/// The digest of many, in their order: over their hexadecimal forms as ClickHouse writes them.
pub(super) fn of_all<'a>(digests: impl Iterator<Item = &'a Digest>) -> Digest {
    let whole: String = digests.map(|d| d.to_string().to_uppercase()).collect();
    Digest::of(whole.as_bytes())
}

/// The expression that is the digest of a row of `records`, hexadecimal.
pub(super) fn sql_of_row(legacy: bool) -> String {
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|column| {
            let text = sql_text(column.kind, column.name, legacy);
            format!("toString(length({text})), ':', {text}")
        })
        .collect();
    format!("hex(SHA256(concat({})))", columns.join(", "))
}

fn measured(text: &str, out: &mut String) {
    out.push_str(&text.len().to_string());
    out.push(':');
    out.push_str(text);
}

fn text(kind: Kind, field: Option<&Value>) -> String {
    match (kind, field) {
        (Kind::Number | Kind::SmallNumber | Kind::Time, None) => "0".into(),
        (Kind::Texts | Kind::Words, Some(Value::Array(all))) => {
            let mut out = String::new();
            for one in all {
                measured(one.as_str().unwrap_or_default(), &mut out);
            }
            out
        }
        (Kind::Counts, Some(Value::Object(all))) => {
            let mut out = String::new();
            for (name, count) in all {
                measured(name, &mut out);
                measured(&count.to_string(), &mut out);
            }
            out
        }
        (_, Some(Value::String(text))) => text.clone(),
        (_, Some(other)) => other.to_string(),
        (_, None) => String::new(),
    }
}

/// Counts are their JSON there, flags numbers.
fn legacy_text(kind: Kind, field: Option<&Value>) -> String {
    match (kind, field) {
        (Kind::Counts, Some(counts)) => counts.to_string(),
        (Kind::Flag, Some(Value::Bool(flag))) => u8::from(*flag).to_string(),
        (kind, field) => text(kind, field),
    }
}

fn sql_text(kind: Kind, name: &str, legacy: bool) -> String {
    let measured = |value: &str| format!("toString(length({value})), ':', {value}");
    match kind {
        Kind::Number | Kind::SmallNumber | Kind::Time => format!("toString({name})"),
        Kind::OptionalNumber | Kind::Flag => format!("ifNull(toString({name}), '')"),
        Kind::Text | Kind::Word => format!("toString({name})"),
        Kind::Texts | Kind::Words => {
            let one = measured("toString(x)");
            format!("arrayStringConcat(arrayMap(x -> concat({one}), {name}))")
        }
        Kind::Counts if legacy => name.to_owned(),
        Kind::Counts => {
            let (key, count) = (measured("toString(k)"), measured("toString(n)"));
            format!(
                "arrayStringConcat(arrayMap((k, n) -> concat({key}, {count}), mapKeys({name}), mapValues({name})))"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(json: &str) -> Digest {
        of_record(&serde_json::from_str(json).expect("an object"), false)
    }

    #[test]
    fn every_column_counts_and_nothing_moves_unseen() {
        let base = digest(r#"{"seq":1,"text":"ab","reason":"c","groups":["a","b"],"masked":{"x":1}}"#);
        for other in [
            r#"{"seq":2,"text":"ab","reason":"c","groups":["a","b"],"masked":{"x":1}}"#,
            r#"{"seq":1,"text":"a","reason":"bc","groups":["a","b"],"masked":{"x":1}}"#,
            r#"{"seq":1,"text":"ab","reason":"c","groups":["ab"],"masked":{"x":1}}"#,
            r#"{"seq":1,"text":"ab","reason":"c","groups":["a","b"],"masked":{"x":11}}"#,
            r#"{"seq":1,"text":"ab","reason":"c","groups":["a","b"]}"#,
            r#"{"seq":1,"text":"ab","reason":"c","groups":["a","b"],"masked":{"x":1},"uid":0}"#,
        ] {
            assert_ne!(digest(other), base, "{other}");
        }
        assert_eq!(
            digest(r#"{"masked":{"x":1},"groups":["a","b"],"text":"ab","reason":"c","seq":1,"rows":0}"#),
            base,
            "the order of fields, and a zero that is written, change nothing"
        );
    }
}
