//! A JSON value as facts that policies can read with types: `context.input.text.getTag("filter/name")`.

use serde_json::Value;

use crate::model::Document;

/// Most values in one document.
const MAX_VALUES: usize = 2048;
/// Longest path, in bytes.
const MAX_PATH: usize = 512;

/// A document has more values, or longer names, than policies are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the document has more than {MAX_VALUES} values, or names longer than {MAX_PATH} bytes")]
pub struct TooMuch;

/// The facts of a value.
///
/// # Errors
/// Where there are too many.
pub fn facts(value: &Value) -> Result<Document, TooMuch> {
    let mut collecting = Collecting {
        document: Document::default(),
        left: MAX_VALUES,
    };
    collecting.add(value, "", None)?;
    Ok(collecting.document)
}

/// A name as readers that ignore case see it.
#[must_use]
pub fn fold(name: &str) -> String {
    let one = |c: char| match c {
        // What Unicode's simple folding puts into ASCII: the long s and the Kelvin sign.
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other,
    };
    name.chars().map(one).flat_map(char::to_lowercase).collect()
}

struct Collecting {
    document: Document,
    left: usize,
}

impl Collecting {
    fn add(&mut self, value: &Value, path: &str, general: Option<&str>) -> Result<(), TooMuch> {
        self.left = self.left.checked_sub(1).ok_or(TooMuch)?;
        if path.len() > MAX_PATH {
            return Err(TooMuch);
        }
        if !path.is_empty() {
            self.document.names.insert(path.to_owned());
        }
        match value {
            Value::Null => {}
            Value::Bool(flag) => {
                self.document.flags.insert(path.to_owned(), *flag);
                self.text(path, general, flag.to_string());
            }
            Value::Number(number) => {
                if let Some(whole) = whole(number) {
                    self.document.numbers.insert(path.to_owned(), whole);
                }
                self.text(path, general, number.to_string());
            }
            Value::String(text) => {
                let plain = text.trim();
                if let Ok(whole) = plain.parse() {
                    self.document.numbers.insert(path.to_owned(), whole);
                }
                if let Ok(flag) = plain.to_ascii_lowercase().parse() {
                    self.document.flags.insert(path.to_owned(), flag);
                }
                self.text(path, general, text.clone());
            }
            Value::Array(items) => {
                let pattern = below(general.unwrap_or(path), "*");
                for (position, item) in items.iter().enumerate() {
                    self.add(item, &below(path, &position.to_string()), Some(&pattern))?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let name = fold(name).replace('~', "~0").replace('/', "~1");
                    let general = general.map(|general| below(general, &name));
                    self.add(member, &below(path, &name), general.as_deref())?;
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, path: &str, general: Option<&str>, text: String) {
        if let Some(general) = general {
            let list = self.document.lists.entry(general.to_owned()).or_default();
            list.insert(text.clone());
        }
        self.document.texts.insert(path.to_owned(), text);
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

fn whole(number: &serde_json::Number) -> Option<i64> {
    if let Some(whole) = number.as_i64() {
        return Some(whole);
    }
    if number.is_u64() {
        return Some(i64::MAX);
    }
    // What lies outside is at least beyond every limit that a policy can name.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which is meant"
    )]
    number.as_f64().map(|float| float.floor() as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_by_type_and_path() {
        let value = json!({
            "SQL": "DROP TABLE x", "limit": 10, "half": 2.9, "dry_run": true, "count": " 7 ", "force": "True",
            "items": [{"sku": "a", "n": [1, 2]}, {"sku": "b", "n": []}], "a/b": {"c~d": null},
        });
        let d = facts(&value).expect("small");
        let text = |path: &str| d.texts.get(path).map(String::as_str);
        assert_eq!(text("sql"), Some("DROP TABLE x"));
        assert_eq!(text("items/1/sku"), Some("b"));
        assert_eq!(
            (d.numbers["limit"], d.numbers["half"], d.numbers["count"]),
            (10, 2, 7)
        );
        assert!(d.flags["dry_run"] && d.flags["force"]);
        assert_eq!(d.lists["items/*/sku"], ["a", "b"].map(str::to_owned).into());
        assert_eq!(d.lists["items/*/n/*"], ["1", "2"].map(str::to_owned).into());
        assert!(d.names.contains("a~1b/c~0d") && d.names.contains("items/1/n"));
        assert!(!d.texts.contains_key("a~1b/c~0d"));
    }

    #[test]
    fn numbers_do_not_wrap() {
        let value = json!([u64::MAX, 1e300, -1e300, i64::MIN, 1e3]);
        let d = facts(&value).expect("small");
        let all: Vec<i64> = d.numbers.values().copied().collect();
        assert_eq!(all, [i64::MAX, i64::MAX, i64::MIN, i64::MIN, 1000]);
    }

    #[test]
    fn there_is_an_end() {
        let many: Vec<u64> = (0..3000).collect();
        assert_eq!(facts(&json!(many)), Err(TooMuch));
        assert_eq!(facts(&json!({"x".repeat(600): 1})), Err(TooMuch));
    }
}
