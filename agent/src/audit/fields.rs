//! Writes the fields of a stored record one after another, as JSON. What is empty is left out.

use std::fmt::Display;
use std::io::Write;

use super::AuditError;

/// Fields so far, each with a comma behind it.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    failed: Option<String>,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, failed: None }
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.name(name);
            self.quoted(text);
            self.out.push(b',');
        }
    }

    /// What has no quotation mark, backslash or control character when it is shown: numbers of things, digests, addresses.
    pub(super) fn shown(&mut self, name: &str, value: impl Display) {
        self.name(name);
        self.out.push(b'"');
        self.write(format_args!("{value}"));
        self.out.extend_from_slice(b"\",");
    }

    /// A number, where it is not zero.
    pub(super) fn number(&mut self, name: &str, number: u64) {
        if number != 0 {
            self.value(name, number);
        }
    }

    /// A number, a flag.
    pub(super) fn value(&mut self, name: &str, value: impl Display) {
        self.name(name);
        self.write(format_args!("{value},"));
    }

    /// Texts.
    pub(super) fn texts(&mut self, name: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return;
        }
        self.name(name);
        let mut before = b'[';
        for text in texts {
            self.out.push(before);
            self.quoted(text.as_ref());
            before = b',';
        }
        self.out.extend_from_slice(b"],");
    }

    /// Numbers by name.
    pub(super) fn counts<'b>(&mut self, name: &str, counts: impl IntoIterator<Item = (&'b str, u64)>) {
        let mut counts = counts.into_iter().peekable();
        if counts.peek().is_none() {
            return;
        }
        self.name(name);
        let mut before = b'{';
        for (label, count) in counts {
            self.out.push(before);
            self.quoted(label);
            self.write(format_args!(":{count}"));
            before = b',';
        }
        self.out.extend_from_slice(b"},");
    }

    /// Fields that were written before.
    pub(super) fn stored(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// That is all.
    ///
    /// # Errors
    /// Where one of them could not be written.
    pub(super) fn done(self) -> Result<(), AuditError> {
        self.failed.map_or(Ok(()), |why| Err(AuditError::Disk(why)))
    }

    fn name(&mut self, name: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, text: &str) {
        let plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        if text.bytes().fold(true, |all, byte| all & plain(byte)) {
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        } else if let Err(error) = serde_json::to_writer(&mut *self.out, text) {
            self.failed = Some(error.to_string());
        }
    }

    fn write(&mut self, value: std::fmt::Arguments<'_>) {
        if let Err(error) = self.out.write_fmt(value) {
            self.failed = Some(error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_kind_of_field_is_json_and_empty_ones_are_left_out() {
        let mut out = b"{".to_vec();
        let mut fields = Fields::new(&mut out);
        let strange = "a \"b\" \\ \u{1} \n é \u{2028} \u{7f}";
        fields.text("strange", strange);
        fields.text("empty", "");
        fields.shown("shown", 7);
        fields.number("number", u64::MAX);
        fields.number("zero", 0);
        fields.value("less", -1);
        fields.value("flag", false);
        fields.texts("texts", ["a", strange, ""]);
        fields.texts("none", [""; 0]);
        fields.counts("counts", [("a", 0), (strange, 2)]);
        fields.counts("nothing", []);
        fields.stored(b"\"kept\":1,");
        fields.done().expect("written");
        assert_eq!(out.pop(), Some(b','));
        out.push(b'}');
        let seen: Value = serde_json::from_slice(&out).expect("JSON");
        let mut counts = serde_json::Map::new();
        counts.insert("a".into(), json!(0));
        counts.insert(strange.into(), json!(2));
        assert_eq!(
            seen,
            json!({
                "strange": strange, "shown": "7", "number": u64::MAX, "less": -1, "flag": false,
                "texts": ["a", strange, ""], "counts": counts, "kept": 1
            })
        );
    }
}
