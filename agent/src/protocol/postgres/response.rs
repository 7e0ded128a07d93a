//! Masking what the target answers: rows and copied data.

use bytes::{BufMut, BytesMut};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::columns::{ColumnPlan, Shape};
use super::frame::{Fields, Frame, HEADER, write};

/// Longest value that is looked at, in bytes; a longer one becomes NULL.
const MAX_VALUE: usize = 16 * 1024 * 1024;

/// A run of `DataRow` frames.
pub(super) struct Rows<'a> {
    /// Whole frames, one after another.
    pub(super) frames: &'a [u8],
    /// What is done with each column.
    pub(super) columns: &'a [ColumnPlan],
}

impl Maskable for Rows<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.frames.len() + 64);
        let mut rest = self.frames;
        let mut scratch = BytesMut::new();
        while let Ok(Some(length)) = super::frame::frame_length(rest, super::frame::MAX_FROM_TARGET) {
            let Some((row, tail)) = rest.split_at_checked(length) else {
                break;
            };
            rest = tail;
            mask_row(row, self.columns, plan, counts, &mut scratch, &mut out);
        }
        out
    }
}

/// One row. Values that stay are copied as they are; a damaged row becomes NULLs.
fn mask_row(
    row: &[u8],
    columns: &[ColumnPlan],
    plan: &MaskPlan,
    counts: &mut MaskCounts,
    scratch: &mut BytesMut,
    out: &mut BytesMut,
) {
    let start = out.len();
    let body = row.get(HEADER..).unwrap_or_default();
    let mut fields = Fields::over(body, 'D');
    let whole = fields.count().is_ok_and(|count| count == columns.len());
    if !whole {
        return nulls(columns.len(), out);
    }
    // Everything up to here is in the output already as it was.
    let mut changed = false;
    for column in columns {
        let before = body.len() - fields.rest().len();
        let Ok(value) = fields.value() else {
            out.truncate(start);
            return nulls(columns.len(), out);
        };
        let after = body.len() - fields.rest().len();
        scratch.clear();
        let mask = value.map_or(CellMask::Unchanged, |v| {
            mask_value(column, v, plan, counts, scratch)
        });
        if mask == CellMask::Unchanged {
            if changed {
                out.extend_from_slice(body.get(before..after).unwrap_or_default());
            }
            continue;
        }
        if !changed {
            changed = true;
            out.extend_from_slice(row.get(..HEADER + before).unwrap_or_default());
        }
        if mask == CellMask::Replaced {
            out.put_i32(i32::try_from(scratch.len()).unwrap_or(0));
            out.extend_from_slice(scratch);
        } else {
            out.put_i32(-1);
        }
    }
    if changed {
        let length = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX);
        if let Some(field) = out.get_mut(start + 1..start + HEADER) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    } else {
        out.extend_from_slice(row);
    }
}

fn nulls(count: usize, out: &mut BytesMut) {
    write(out, b'D', |out| {
        out.put_i16(i16::try_from(count).unwrap_or(0));
        for _ in 0..count {
            out.put_i32(-1);
        }
    });
}

pub(super) fn mask_value(
    column: &ColumnPlan,
    value: &[u8],
    plan: &MaskPlan,
    counts: &mut MaskCounts,
    out: &mut BytesMut,
) -> CellMask {
    let class = column.class.as_ref();
    if value.len() > MAX_VALUE {
        return CellMask::Null;
    }
    let null_instead = |mask: CellMask| {
        if mask == CellMask::Unchanged {
            mask
        } else {
            CellMask::Null
        }
    };
    match (column.shape, column.binary) {
        (Shape::Plain, _) if class.is_none() => CellMask::Unchanged,
        (Shape::Text, _) | (Shape::Jsonb, false) => plan.text(class, value, out, counts),
        (Shape::Jsonb, true) => {
            let Some((version, text)) = value.split_first() else {
                return CellMask::Unchanged;
            };
            let mut masked = BytesMut::new();
            let mask = plan.text(class, text, &mut masked, counts);
            if mask == CellMask::Replaced {
                out.put_u8(*version);
                out.extend_from_slice(&masked);
            }
            mask
        }
        (Shape::Int8, true) => match value.try_into().map(i64::from_be_bytes) {
            Ok(number) => null_instead(plan.text(class, number.to_string().as_bytes(), out, counts)),
            Err(_length) => CellMask::Null,
        },
        (Shape::Numeric, true) => match numeric_text(value) {
            Some(text) => null_instead(plan.text(class, text.as_bytes(), out, counts)),
            None => CellMask::Null,
        },
        (Shape::Int8 | Shape::Numeric | Shape::Plain | Shape::Other, _) => {
            null_instead(plan.text(class, value, out, counts))
        }
    }
}

/// The whole digits of a binary `numeric` (`numeric_send`): groups of four decimal digits.
fn numeric_text(value: &[u8]) -> Option<String> {
    let mut fields = Fields::over(value, 'n');
    let groups = fields.count().ok()?;
    let weight = fields.i16().ok()?;
    let _sign = fields.i16().ok()?;
    let _scale = fields.i16().ok()?;
    let mut text = String::new();
    for at in 0..groups {
        let digits = fields.i16().ok()?;
        if i16::try_from(at).ok()? > weight {
            break;
        }
        text.push_str(&if text.is_empty() {
            digits.to_string()
        } else {
            format!("{digits:04}")
        });
    }
    let missing = usize::try_from(weight)
        .ok()
        .map_or(0, |w| (w + 1).saturating_sub(groups));
    for _ in 0..missing.min(64) {
        text.push_str("0000");
    }
    Some(text)
}

/// The payload of `CopyData` in text or CSV format: content only (`copied` has the columns of databases with declared ones).
pub(super) struct Copied<'a>(pub(super) &'a Frame);

impl Maskable for Copied<'_> {
    type Output = BytesMut;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> BytesMut {
        let mut out = BytesMut::new();
        let mut masked = BytesMut::new();
        match plan.text(None, self.0.body(), &mut masked, counts) {
            CellMask::Unchanged => out.extend_from_slice(self.0.bytes()),
            CellMask::Replaced => write(&mut out, b'd', |out| out.extend_from_slice(&masked)),
            // An empty row, as far as a row can be empty.
            CellMask::Null => write(&mut out, b'd', |out| out.put_u8(b'\n')),
        }
        out
    }
}
