//! Printing: colours only on a terminal, a closed pipe is no error.

use std::io::{IsTerminal, Write};

use crate::model::Timestamp;

/// Whether and how standard output is coloured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    coloured: bool,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub(super) fn for_stdout() -> Self {
        Self {
            coloured: std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn wait(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// Prints a line; a reader that went away ends the output quietly.
pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// Prints a value as one line of JSON.
pub(super) fn say_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say(&text),
        Err(error) => complain(&error.to_string(), ""),
    }
}

/// Prints an error, and what to do about it.
pub(super) fn complain(message: &str, hint: &str) {
    let mut out = std::io::stderr().lock();
    let _closed = writeln!(out, "error: {message}");
    if !hint.is_empty() {
        let _closed = writeln!(out, "hint: {hint}");
    }
}

/// A table with columns as wide as needed; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| {
            let pad = width.saturating_sub(cell.chars().count());
            format!("{cell}{}", " ".repeat(pad))
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}

/// The time of day in UTC, to the millisecond.
pub(super) fn time(ns: i64) -> String {
    let shown = Timestamp::from_nanos(ns).to_string();
    let whole = shown.get(..19).unwrap_or(&shown);
    format!(
        "{}.{:03}Z",
        whole.replace('T', " "),
        ns.div_euclid(1_000_000).rem_euclid(1000)
    )
}

/// One line of at most `width` characters.
pub(super) fn short(text: &str, width: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= width {
        return line;
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}
