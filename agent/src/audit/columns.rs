//! The columns of a record: the one list from which the ClickHouse table and the index are made, and which the stored form is held against.

use Kind::{Counts, Flag, Number, OptionalNumber, SmallNumber, Text, Texts, Time, Word, Words};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that is 0 where there is none.
    Number,
    /// A small number that is 0 where there is none.
    SmallNumber,
    /// A number that may be missing.
    OptionalNumber,
    /// Nanoseconds since the Unix epoch.
    Time,
    /// Text of many values.
    Text,
    /// Text of few values.
    Word,
    /// Texts of many values.
    Texts,
    /// Texts of few values.
    Words,
    /// True, false, or not said.
    Flag,
    /// Numbers by name.
    Counts,
}

/// A column.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name: the same in a stored record, in ClickHouse and in the index.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// How ClickHouse packs it, where that is not its default.
    pub(super) codec: &'static str,
    /// Whether the index has it: what sessions are listed and searched by.
    pub(super) indexed: bool,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        codec: "",
        indexed: false,
    }
}

const fn indexed(name: &'static str, kind: Kind) -> Column {
    Column {
        indexed: true,
        ..column(name, kind)
    }
}

const fn packed(column: Column, codec: &'static str) -> Column {
    Column { codec, ..column }
}

/// Every column, in the order of the stored form.
pub(super) const COLUMNS: &[Column] = &[
    packed(indexed("seq", Number), "Delta, ZSTD(1)"),
    column("v", SmallNumber),
    packed(indexed("ts_ns", Time), "Delta, ZSTD(1)"),
    indexed("kind", Word),
    column("host", Word),
    indexed("boot", Text),
    indexed("run", Text),
    indexed("workload", Word),
    column("connection", Text),
    indexed("session", Text),
    indexed("operation", Text),
    indexed("principal", Word),
    indexed("principal_name", Word),
    column("groups", Words),
    indexed("pid", Number),
    column("process_start_ns", Number),
    column("uid", OptionalNumber),
    column("gid", OptionalNumber),
    column("exe", Word),
    column("exe_device", Number),
    column("exe_inode", Number),
    indexed("comm", Word),
    column("cgroup", Number),
    column("netns", Number),
    indexed("target", Word),
    indexed("environment", Word),
    column("protocol", Word),
    indexed("original", Word),
    indexed("actions", Words),
    column("tables", Texts),
    column("bounded", Flag),
    packed(column("text", Text), "ZSTD(1)"),
    column("parameters", Texts),
    column("fingerprint", Text),
    indexed("verdict", Word),
    indexed("refusal", Word),
    column("policies", Words),
    packed(column("reason", Text), "ZSTD(1)"),
    indexed("ticket", Text),
    column("bundle", Word),
    indexed("status", Word),
    packed(column("detail", Text), "ZSTD(1)"),
    column("rows", Number),
    column("bytes_up", Number),
    column("bytes_down", Number),
    column("took_ns", Number),
    column("masked", Counts),
    column("actor", Word),
    column("actor_groups", Words),
    column("actor_uid", OptionalNumber),
    column("times", Number),
    column("part", Word),
    column("at_byte", Number),
    column("encoding", Word),
];
