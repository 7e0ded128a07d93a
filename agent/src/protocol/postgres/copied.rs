//! Rows of `COPY … TO STDOUT` from a database with declared columns (PostgreSQL manual, "COPY", "File Formats"): taken
//! apart into fields, so that each is masked as its column is, and put together again.
//!
//! The server sends one row a message. A row that is not as expected is left out.

use bytes::{BufMut, BytesMut};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::{DataClass, MaskCounts};

use super::frame::{Frame, write};
use super::sql::CopyFormat;

/// One row with what is done with each of its fields.
pub(super) struct Row<'a> {
    pub(super) frame: &'a Frame,
    pub(super) format: CopyFormat,
    /// The declared or inherited class of each column.
    pub(super) classes: &'a [Option<DataClass>],
}

impl Maskable for Row<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let mut out = BytesMut::new();
        let masked = match self.format {
            CopyFormat::Text => text_row(self.frame.body(), self.classes, plan, counts),
            CopyFormat::Csv => csv_row(self.frame.body(), self.classes, plan, counts),
            CopyFormat::Other => None,
        };
        if let Some(row) = masked {
            write(&mut out, b'd', |out| out.extend_from_slice(&row));
        }
        out
    }
}

fn text_row(
    row: &[u8],
    classes: &[Option<DataClass>],
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> Option<BytesMut> {
    let fields: Vec<&[u8]> = row.strip_suffix(b"\n")?.split(|byte| *byte == b'\t').collect();
    if fields.len() != classes.len() {
        return None;
    }
    let (mut out, mut masked) = (BytesMut::with_capacity(row.len()), BytesMut::new());
    for (at, (field, class)) in fields.into_iter().zip(classes).enumerate() {
        if at > 0 {
            out.put_u8(b'\t');
        }
        if field == b"\\N" {
            out.put_slice(field);
            continue;
        }
        masked.clear();
        match plan.text(class.as_ref(), &unescaped(field), &mut masked, counts) {
            CellMask::Unchanged => out.put_slice(field),
            CellMask::Replaced => escape(&masked, &mut out),
            CellMask::Null => out.put_slice(b"\\N"),
        }
    }
    out.put_u8(b'\n');
    Some(out)
}

/// The escapes that the server writes, and those that it reads as one byte.
const ESCAPES: [(u8, u8); 7] = [
    (b'b', 0x08),
    (b'f', 0x0c),
    (b'n', b'\n'),
    (b'r', b'\r'),
    (b't', b'\t'),
    (b'v', 0x0b),
    (b'\\', b'\\'),
];

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let letter = bytes.next().unwrap_or(b'\\');
        let meant = ESCAPES.iter().find(|(escape, _)| *escape == letter);
        out.push(meant.map_or(letter, |(_, byte)| *byte));
    }
    out
}

pub(super) fn escape(value: &[u8], out: &mut BytesMut) {
    for byte in value {
        if let Some((letter, _)) = ESCAPES.iter().find(|(_, meant)| meant == byte) {
            out.put_slice(&[b'\\', *letter]);
        } else {
            out.put_u8(*byte);
        }
    }
}

fn csv_row(
    row: &[u8],
    classes: &[Option<DataClass>],
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> Option<BytesMut> {
    let fields = csv_fields(row.strip_suffix(b"\n")?)?;
    if fields.len() != classes.len() {
        return None;
    }
    let (mut out, mut masked) = (BytesMut::with_capacity(row.len()), BytesMut::new());
    for (at, (field, class)) in fields.into_iter().zip(classes).enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        // An empty field without quotes is NULL.
        let Some(Quoted { raw, value }) = field else {
            continue;
        };
        masked.clear();
        match plan.text(class.as_ref(), &value, &mut masked, counts) {
            CellMask::Unchanged => out.put_slice(raw),
            CellMask::Replaced => quote(&masked, &mut out),
            CellMask::Null => {}
        }
    }
    out.put_u8(b'\n');
    Some(out)
}

/// A field as it stands, and what it means.
struct Quoted<'a> {
    raw: &'a [u8],
    value: Vec<u8>,
}

fn csv_fields(mut row: &[u8]) -> Option<Vec<Option<Quoted<'_>>>> {
    let mut all = Vec::new();
    loop {
        let (raw, value, rest) = csv_field(row)?;
        all.push((!raw.is_empty()).then_some(Quoted { raw, value }));
        match rest.split_first() {
            None => return Some(all),
            Some((b',', rest)) => row = rest,
            // Something between the closing quote and the delimiter: not what the server writes.
            Some(_) => return None,
        }
    }
}

/// The first field: as it stands, what it means, and what comes after it.
fn csv_field(row: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    if row.first() != Some(&b'"') {
        let end = memchr::memchr(b',', row).unwrap_or(row.len());
        let (raw, rest) = row.split_at_checked(end)?;
        let plain = memchr::memchr(b'"', raw).is_none();
        return plain.then(|| (raw, raw.to_vec(), rest));
    }
    let mut value = Vec::new();
    let mut at = 1;
    loop {
        let quote = at + memchr::memchr(b'"', row.get(at..)?)?;
        value.extend_from_slice(row.get(at..quote)?);
        at = quote + 1;
        if row.get(at) != Some(&b'"') {
            let (raw, rest) = row.split_at_checked(at)?;
            return Some((raw, value, rest));
        }
        value.push(b'"');
        at += 1;
    }
}

fn quote(value: &[u8], out: &mut BytesMut) {
    out.put_u8(b'"');
    for byte in value {
        if *byte == b'"' {
            out.put_u8(b'"');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::mask::MaskEngine;

    fn masked(row: &str, format: CopyFormat, classes: &[Option<&str>]) -> Option<String> {
        let plan = Arc::new(MaskEngine::default()).plan(&BTreeSet::new());
        let classes: Vec<Option<DataClass>> = classes
            .iter()
            .map(|class| class.map(|name| name.parse().expect("a class")))
            .collect();
        let mut counts = MaskCounts::default();
        let mask = match format {
            CopyFormat::Text => text_row,
            CopyFormat::Csv => csv_row,
            CopyFormat::Other => return None,
        };
        let out = mask(row.as_bytes(), &classes, &plan, &mut counts)?;
        Some(String::from_utf8(out.to_vec()).expect("text"))
    }

    #[test]
    fn fields_are_masked_as_their_columns_are() {
        let classes = [None, Some("pii.name"), None, Some("pii.name")];
        let text = "1\tAda\\tLovelace\tada@example.com\\nx\t\\N\n";
        assert_eq!(
            masked(text, CopyFormat::Text, &classes).as_deref(),
            Some("1\t[pii.name]\ta***@e***.com\\nx\t\\N\n")
        );
        let csv = "1,\"Lovelace, \"\"Ada\"\"\",\"ada@example.com\nx\",\n";
        assert_eq!(
            masked(csv, CopyFormat::Csv, &classes).as_deref(),
            Some("1,\"[pii.name]\",\"a***@e***.com\nx\",\n")
        );
        let unchanged = "1\t\\N\ta\\\\b\t\\N\n";
        assert_eq!(
            masked(unchanged, CopyFormat::Text, &classes).as_deref(),
            Some(unchanged)
        );
        // An empty text is no NULL, and stays what it is.
        assert_eq!(
            masked("\"\",\"\"\n", CopyFormat::Csv, &[None, None]).as_deref(),
            Some("\"\",\"\"\n")
        );
    }

    #[test]
    fn what_is_no_row_is_left_out() {
        for (row, format) in [
            ("1\t2\n", CopyFormat::Text),
            ("1", CopyFormat::Text),
            ("", CopyFormat::Text),
            ("1,2\n", CopyFormat::Csv),
            ("\"1\n", CopyFormat::Csv),
            ("\"1\"x\n", CopyFormat::Csv),
            ("a\"b\n", CopyFormat::Csv),
        ] {
            assert_eq!(masked(row, format, &[None]), None, "{row:?}");
        }
    }

    proptest! {
        #[test]
        fn declared_columns_never_show(values in proptest::collection::vec("[ -~\t\r\n\"\\\\]{1,20}", 1..5)) {
            let classes = vec![Some("pii.name"); values.len()];
            let mut text = BytesMut::new();
            let mut csv = BytesMut::new();
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.put_u8(b'\t');
                    csv.put_u8(b',');
                }
                escape(value.as_bytes(), &mut text);
                quote(value.as_bytes(), &mut csv);
            }
            text.put_u8(b'\n');
            csv.put_u8(b'\n');
            let expected = vec!["[pii.name]"; values.len()];
            let text = masked(std::str::from_utf8(&text).expect("text"), CopyFormat::Text, &classes);
            prop_assert_eq!(text, Some(expected.join("\t") + "\n"));
            let csv = masked(std::str::from_utf8(&csv).expect("text"), CopyFormat::Csv, &classes);
            let quoted: Vec<String> = expected.iter().map(|field| format!("\"{field}\"")).collect();
            prop_assert_eq!(csv, Some(quoted.join(",") + "\n"));
        }

        #[test]
        fn arbitrary_rows_do_no_harm(row in ".{0,60}", count in 0usize..4) {
            let classes = vec![None; count];
            for format in [CopyFormat::Text, CopyFormat::Csv] {
                let _masked = masked(&row, format, &classes);
            }
        }
    }
}
