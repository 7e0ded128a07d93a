//! What holds, key by key, and where it comes from.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::load::{line_of, resolved};
use super::schema::{Kind, Need, keys_of};

/// One value that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key, such as `target[0].tls`.
    pub key: String,
    /// The value, as TOML writes it; paths are whole.
    pub value: String,
    /// The line of the file; `None`: nobody wrote it, it is the default.
    pub line: Option<usize>,
}

/// Every value of a valid file, defaults included, in the order of the list of keys. A placeholder is not shown.
#[must_use]
pub fn settings(text: &str, file: &Path) -> Vec<Setting> {
    let (document, _errors) = DeTable::parse_recoverable(text);
    let mut shown = Shown {
        text,
        dir: file.parent().unwrap_or(Path::new("")),
        settings: Vec::new(),
    };
    shown.table(document.get_ref(), "", "");
    shown.settings
}

struct Shown<'a> {
    text: &'a str,
    dir: &'a Path,
    settings: Vec<Setting>,
}

impl Shown<'_> {
    fn table(&mut self, values: &DeTable<'_>, table: &str, prefix: &str) {
        // Opaque targets have no TLS unless it is written.
        let opaque = values
            .get("protocol")
            .is_some_and(|v| v.get_ref().as_str() == Some("opaque"));
        for key in keys_of(table) {
            let name = format!("{prefix}{}", key.name);
            match (values.get(key.name), key.kind, key.need) {
                (Some(value), Kind::Table, _) => {
                    if let DeValue::Table(inner) = value.get_ref() {
                        self.table(inner, &key.opened(), &format!("{name}."));
                    }
                }
                (None, Kind::Table, _) if has_defaults(&key.opened()) => {
                    self.table(&DeTable::new(), &key.opened(), &format!("{name}."));
                }
                (Some(value), Kind::Tables, _) => {
                    let tables = value
                        .get_ref()
                        .as_array()
                        .into_iter()
                        .flat_map(|list| list.iter());
                    for (at, one) in tables.enumerate() {
                        if let DeValue::Table(inner) = one.get_ref() {
                            self.table(inner, &key.opened(), &format!("{name}[{at}]."));
                        }
                    }
                }
                (Some(value), kind, _) => self.written(name, kind, value),
                (None, _, Need::Default(_)) if key.name == "tls" && opaque => {
                    self.push(name, "\"disabled\"".into(), None);
                }
                (None, _, Need::Default(value)) => self.push(name, value.to_owned(), None),
                (None, ..) => {}
            }
        }
    }

    fn written(&mut self, name: String, kind: Kind, value: &Spanned<DeValue<'_>>) {
        let line = Some(line_of(self.text, value.span().start));
        let shown = match (kind, value.get_ref()) {
            (Kind::Path, DeValue::String(path)) => {
                quoted(&resolved(self.dir, Path::new(path.as_ref())).display().to_string())
            }
            (_, DeValue::String(_)) if name.ends_with(".placeholder") => quoted("***"),
            (_, value) => written(value),
        };
        self.push(name, shown, line);
    }

    fn push(&mut self, key: String, value: String, line: Option<usize>) {
        self.settings.push(Setting { key, value, line });
    }
}

/// Whether a table that nobody wrote has values all the same.
fn has_defaults(table: &str) -> bool {
    keys_of(table).all(|key| key.need != Need::Required)
        && keys_of(table).any(|key| matches!(key.need, Need::Default(_)))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// As TOML on one line.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(list) => {
            let all: Vec<String> = list.iter().map(|v| written(v.get_ref())).collect();
            format!("[{}]", all.join(", "))
        }
        DeValue::Table(values) => {
            let all: Vec<String> = values
                .iter()
                .map(|(key, v)| format!("{} = {}", quoted(key.get_ref()), written(v.get_ref())))
                .collect();
            format!("{{ {} }}", all.join(", "))
        }
    }
}
