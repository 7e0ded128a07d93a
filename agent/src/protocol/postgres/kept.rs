//! Rows as records keep them, at the level `full`: as `COPY` writes them in its text format, whatever format the process
//! asked for, with every class of data masked, whatever a policy reveals.

use bytes::{BufMut, BytesMut};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::MaskCounts;
use crate::session::{Recording, Unkeepable};

use super::columns::{Column, ColumnPlan, Shape};
use super::copied::{Row, escape};
use super::expect::{Expect, Running};
use super::frame::{Fields, Frame, HEADER, MAX_FROM_TARGET, frame_length};
use super::relay::Relay;
use super::response::{Copied, mask_value};

/// A run of `DataRow` frames as they came.
struct Shown<'a> {
    frames: &'a [u8],
    columns: &'a [ColumnPlan],
}

impl Maskable for Shown<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let (mut out, mut scratch) = (BytesMut::with_capacity(self.frames.len()), BytesMut::new());
        let mut rest = self.frames;
        while let Ok(Some(length)) = frame_length(rest, MAX_FROM_TARGET) {
            let Some((row, tail)) = rest.split_at_checked(length) else {
                break;
            };
            rest = tail;
            let mut fields = Fields::over(row.get(HEADER..).unwrap_or_default(), 'D');
            let whole = fields.count().is_ok_and(|count| count == self.columns.len());
            for (at, column) in self.columns.iter().enumerate() {
                if at > 0 {
                    out.put_u8(b'\t');
                }
                // What cannot be read is NULL, as it is to the process.
                let value = fields.value().ok().flatten().filter(|_| whole);
                let Some(value) = value else {
                    out.put_slice(b"\\N");
                    continue;
                };
                scratch.clear();
                match mask_value(column, value, plan, counts, &mut scratch) {
                    CellMask::Unchanged => shown(column, value, &mut out),
                    CellMask::Replaced => shown(column, &scratch, &mut out),
                    CellMask::Null => out.put_slice(b"\\N"),
                }
            }
            out.put_u8(b'\n');
        }
        out
    }
}

/// Rows as they are recorded, for the fuzzer.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn recorded(frames: &[u8], columns: &[ColumnPlan], plan: &MaskPlan) -> BytesMut {
    Shown { frames, columns }.mask(&plan.for_records(), &mut MaskCounts::default())
}

/// A value as text.
fn shown(column: &ColumnPlan, value: &[u8], out: &mut BytesMut) {
    if !column.binary {
        return escape(value, out);
    }
    let number = match (column.type_oid, value) {
        (16, [flag]) => Some(if *flag == 0 {
            "f".to_owned()
        } else {
            "t".to_owned()
        }),
        (21, &[a, b]) => Some(i16::from_be_bytes([a, b]).to_string()),
        (23, &[a, b, c, d]) => Some(i32::from_be_bytes([a, b, c, d]).to_string()),
        (26, &[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d]).to_string()),
        (700, &[a, b, c, d]) => Some(f32::from_be_bytes([a, b, c, d]).to_string()),
        (20, value) => value.try_into().ok().map(|n| i64::from_be_bytes(n).to_string()),
        (701, value) => value.try_into().ok().map(|n| f64::from_be_bytes(n).to_string()),
        _ => None,
    };
    match (number, column.shape) {
        (Some(number), _) => out.put_slice(number.as_bytes()),
        (None, Shape::Text) => escape(value, out),
        // A version byte stands before the text.
        (None, Shape::Jsonb) => escape(value.get(1..).unwrap_or_default(), out),
        (None, Shape::Int8 | Shape::Numeric | Shape::Plain | Shape::Other) => {
            out.put_slice(b"\\\\x");
            out.put_slice(data_encoding::HEXLOWER.encode(value).as_bytes());
        }
    }
}

impl Running {
    /// Records the names of columns.
    pub(super) fn keep_names(&mut self, columns: &[Column]) {
        if let Some(recording) = &mut self.in_flight.recording {
            let plan = &self.in_flight.plan;
            let names = columns.iter().map(|column| plan.shown(&column.name)).collect();
            recording.head("columns".into(), names);
        }
    }

    /// Records a run of rows that is about to be shown.
    pub(super) fn keep_rows(&mut self, frames: &[u8]) {
        if let Some(recording) = &mut self.in_flight.recording {
            let columns = self.columns.as_deref().unwrap_or_default();
            let plan = self.in_flight.plan.for_records();
            let text = plan.apply(Shown { frames, columns }, &mut MaskCounts::default());
            recording.push(&text);
        }
    }

    /// Records a row of a copy that is about to be shown. `names`: it is the one with the names of columns, or nothing is known of them.
    pub(super) fn keep_copied(&mut self, frame: &Frame, names: bool) {
        let Some(recording) = &mut self.in_flight.recording else {
            return;
        };
        let plan = self.in_flight.plan.for_records();
        let mut counts = MaskCounts::default();
        let masked = match &self.copies_out {
            Some(copy) if !names => {
                let row = Row {
                    frame,
                    format: copy.format,
                    classes: &copy.classes,
                };
                plan.apply(row, &mut counts)
            }
            Some(_) | None => plan.apply(Copied(frame), &mut counts),
        };
        recording.push_range(&masked, HEADER.min(masked.size())..masked.size());
    }
}

impl Relay<'_> {
    /// Puts what is about to be shown into the log's queue; what ended gets its outcome behind it.
    ///
    /// # Errors
    /// Where it cannot be recorded: nothing more may be shown.
    pub(super) async fn settle(&mut self) -> Result<(), Unkeepable> {
        while let Some(ended) = self.ended.front_mut() {
            ended.settle().await?;
            if let Some(ended) = self.ended.pop_front() {
                ended.finish();
            }
        }
        if let Some(Expect::Query(running) | Expect::Execute(running)) = self.expected.front_mut()
            && let Some(recording) = &mut running.in_flight.recording
        {
            recording.settle().await?;
        }
        Ok(())
    }

    /// Whether [`Relay::settle`] has anything to do.
    pub(super) fn unsettled(&self) -> bool {
        let waits = |recording: &Recording| recording.waits();
        !self.ended.is_empty()
            || match self.expected.front() {
                Some(Expect::Query(running) | Expect::Execute(running)) => {
                    running.in_flight.recording.as_deref().is_some_and(waits)
                }
                Some(
                    Expect::Step(..)
                    | Expect::OwnDescribe(_)
                    | Expect::Sync
                    | Expect::Refused(_)
                    | Expect::RefusedQuery(_)
                    | Expect::Catalogue(_),
                )
                | None => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::frame::write;
    use super::*;
    use crate::mask::MaskEngine;

    #[test]
    fn rows_are_text_and_nothing_is_revealed_in_them() {
        let column = |type_oid, binary, class: Option<&str>| ColumnPlan {
            class: class.map(|name| name.parse().expect("a class")),
            shape: Shape::of(type_oid),
            binary,
            type_oid,
        };
        let columns = [
            column(25, false, None),
            column(25, true, Some("pii.name")),
            column(23, true, None),
            column(17, true, None),
            column(3802, true, None),
        ];
        let values: [Option<&[u8]>; 5] = [
            Some(b"a\tada@example.com"),
            Some(b"Ada"),
            Some(&[0, 0, 0, 7]),
            Some(&[1, 255]),
            Some(b"\x01{\"a\":1}"),
        ];
        let mut frames = BytesMut::new();
        for values in [values, [None; 5]] {
            write(&mut frames, b'D', |out| {
                out.put_i16(5);
                for value in values {
                    out.put_i32(value.map_or(-1, |v| i32::try_from(v.len()).expect("short")));
                    out.put_slice(value.unwrap_or_default());
                }
            });
        }
        let engine = Arc::new(MaskEngine::default());
        let revealing = engine.plan(
            &[
                "pii.email".parse().expect("a class"),
                "pii.name".parse().expect("a class"),
            ]
            .into(),
        );
        let shown = Shown {
            frames: &frames,
            columns: &columns,
        };
        let text = shown.mask(&revealing.for_records(), &mut MaskCounts::default());
        assert_eq!(
            String::from_utf8_lossy(&text),
            "a\\ta***@e***.com\t[pii.name]\t7\t\\\\x01ff\t{\"a\":1}\n\\N\t\\N\t\\N\t\\N\t\\N\n"
        );
    }
}
