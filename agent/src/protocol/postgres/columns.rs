//! Result columns: what the server says of them, and what is masked in them.

use crate::model::DataClass;

use super::catalogue::{Origin, Protected};
use super::frame::{Frame, FrameError};
use super::meaning::Lineage;

/// One column of a `RowDescription`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// The table that it comes from; 0 for an expression.
    pub(super) table: u32,
    /// Its number there.
    pub(super) number: i16,
    /// Its type.
    pub(super) type_oid: u32,
    /// 0 text, 1 binary (as described; a portal may say otherwise).
    pub(super) format: i16,
}

/// Reads a `RowDescription`.
pub(super) fn describe(frame: &Frame) -> Result<Vec<Column>, FrameError> {
    let mut fields = frame.fields();
    let count = fields.count()?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let name = String::from_utf8_lossy(fields.raw_text()?).into_owned();
        let (table, number, type_oid) = (fields.u32()?, fields.i16()?, fields.u32()?);
        fields.take(6)?;
        columns.push(Column {
            name,
            table,
            number,
            type_oid,
            format: fields.i16()?,
        });
    }
    fields.end()?;
    Ok(columns)
}

/// How a type's values are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text in both formats: masked in place.
    Text,
    /// `jsonb`: text with a version byte before it in binary.
    Jsonb,
    /// A number that may be a card: looked at as digits, masked by NULL.
    Int8,
    /// As above.
    Numeric,
    /// Too short or too plain to hold anything: left alone unless declared.
    Plain,
    /// Anything else: looked at as bytes, masked by NULL.
    Other,
}

impl Shape {
    /// By type number (`pg_type.dat`).
    pub(super) const fn of(type_oid: u32) -> Self {
        match type_oid {
            // char name text json xml unknown bpchar varchar cstring
            18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 | 2275 => Self::Text,
            3802 => Self::Jsonb,
            20 => Self::Int8,
            1700 => Self::Numeric,
            // bool int2 int4 oid float4 float8 date time timestamp timestamptz interval timetz uuid void xid xid8 money
            16 | 21 | 23 | 26 | 28 | 700 | 701 | 790 | 1082 | 1083 | 1114 | 1184 | 1186 | 1266 | 2278
            | 2950 | 5069 => Self::Plain,
            _ => Self::Other,
        }
    }
}

/// What is done with one result column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnPlan {
    /// Its declared or inherited class.
    pub(super) class: Option<DataClass>,
    /// How its values are looked at.
    pub(super) shape: Shape,
    /// Whether its values come in binary.
    pub(super) binary: bool,
    /// Its type.
    pub(super) type_oid: u32,
}

/// What a plan is made from, beside the columns.
pub(super) struct Sources<'a> {
    /// Where expressions come from.
    pub(super) lineage: &'a Lineage,
    /// What is protected.
    pub(super) protected: &'a Protected,
    /// Whether the session has changed the schema since that was learnt: then views may be other views by now.
    pub(super) changed: bool,
}

/// The plan for every column: declared classes by the server's numbers, inherited ones by lineage.
pub(super) fn plan(columns: &[Column], formats: Option<&[i16]>, sources: &Sources<'_>) -> Vec<ColumnPlan> {
    let format = |at: usize, described: i16| match formats {
        None => described,
        Some([]) => 0,
        Some([all]) => *all,
        Some(each) => each.get(at).copied().unwrap_or(0),
    };
    columns
        .iter()
        .enumerate()
        .map(|(at, column)| ColumnPlan {
            class: class(at, column, sources).cloned(),
            shape: Shape::of(column.type_oid),
            binary: format(at, column.format) != 0,
            type_oid: column.type_oid,
        })
        .collect()
}

fn class<'a>(at: usize, column: &Column, sources: &Sources<'a>) -> Option<&'a DataClass> {
    let protected = sources.protected;
    if protected.is_empty() {
        return None;
    }
    if column.table != 0 {
        return match protected.origin(column.table, column.number) {
            Origin::Class(class) => Some(class),
            Origin::Clean => None,
            Origin::View if !sources.changed => None,
            Origin::View | Origin::Unknown => protected.any(),
        };
    }
    match sources.lineage.outputs() {
        Some(outputs) => protected
            .class_of_names(outputs.behind(at))
            .or_else(|| outputs.whole_rows.then(|| protected.any()).flatten()),
        // Nothing is known of the expression: the worst is assumed.
        None => protected.any(),
    }
}

/// Whether a column is of a relation that was not there when the protected columns were learnt.
pub(super) fn has_unknown(columns: &[Column], protected: &Protected) -> bool {
    let unknown = |c: &Column| c.table != 0 && protected.origin(c.table, c.number) == Origin::Unknown;
    !protected.is_empty() && columns.iter().any(unknown)
}
