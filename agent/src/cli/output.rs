//! Printing: colours only on a terminal, a closed pipe is no error, and text that a governed process wrote cannot
//! command the terminal: somebody who decides must see what there is to decide.
//!
//! `say` prints a line, `say_json` a value, `complain` an error with what to do. `table`, `short` and `Style` make text
//! for `say`; what they are given is made plain there, line breaks included.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;

use crate::model::Timestamp;

/// Whether output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

static COLOUR: OnceLock<Colour> = OnceLock::new();

/// Sets what `--color` says, once.
pub(super) fn choose(colour: Colour) {
    COLOUR.get_or_init(|| colour);
}

/// Whether and how standard output is coloured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    coloured: bool,
}

impl Style {
    /// What `--color` says; else colours on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub(super) fn for_stdout() -> Self {
        let coloured = match COLOUR.get().copied().unwrap_or(Colour::Auto) {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        };
        Self { coloured }
    }

    /// Without colours.
    #[cfg(test)]
    pub(super) const fn plain() -> Self {
        Self { coloured: false }
    }

    /// Whether there are colours.
    pub(super) const fn is_coloured(self) -> bool {
        self.coloured
    }

    fn paint(self, code: &str, text: &str) -> String {
        let text = plain(text);
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text
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

/// Prints text and a line break; a reader that went away ends the output quietly.
pub(super) fn say(text: &str) {
    say_bytes(format!("{}\n", safe(text)).as_bytes());
}

/// Prints what was made for a program, such as completions.
pub(super) fn say_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _closed = out.write_all(bytes).and_then(|()| out.flush());
}

/// Prints a value as one line of JSON.
pub(super) fn say_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say(&ascii_controls(&text)),
        Err(error) => complain(&error.to_string(), ""),
    }
}

/// Prints an error, and what to do about it.
pub(super) fn complain(message: &str, hint: &str) {
    let mut out = std::io::stderr().lock();
    let _closed = writeln!(out, "error: {}", safe(message));
    if !hint.is_empty() {
        let _closed = writeln!(out, "hint: {}", safe(hint));
    }
}

/// A table with columns as wide as needed; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
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
    let line = plain(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= width {
        return line;
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Text of several lines, each behind a margin: what is in it cannot pass for what stands around it.
pub(super) fn block(text: &str, margin: &str) -> String {
    let lines: Vec<String> = text.replace('\t', "    ").split('\n').map(plain).collect();
    lines.join(&format!("\n{margin}"))
}

/// A point in time as people think of it: `3 min ago`, `in 2 h`.
pub(super) fn relative(ns: i64, now: Timestamp) -> String {
    let at = Timestamp::from_nanos(ns);
    match (now.since(at), at.since(now)) {
        (Duration::ZERO, Duration::ZERO) => "now".into(),
        (Duration::ZERO, ahead) => format!("in {}", rough(ahead)),
        (past, _) => format!("{} ago", rough(past)),
    }
}

fn rough(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Characters that move the cursor, colour, hide or reorder what is shown.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

const fn is_layout(c: char) -> bool {
    matches!(c, '\n' | '\t')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) && !keep(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Text that holds nothing but itself, on one line.
pub(super) fn plain(text: &str) -> String {
    escaped(text, |_| false)
}

/// The last look at what is printed: line breaks, tabs and our own colours pass, nothing else that commands a terminal.
fn safe(text: &str) -> String {
    const OURS: [&str; 6] = ["0m", "1m", "2m", "31m", "32m", "33m"];
    let mut pieces = text.split("\x1b[");
    let mut out = escaped(pieces.next().unwrap_or_default(), is_layout);
    for piece in pieces {
        let ours = OURS.iter().any(|code| piece.starts_with(code));
        out.push_str(if ours { "\x1b[" } else { "\\u{1b}[" });
        out.push_str(&escaped(piece, is_layout));
    }
    out
}

/// JSON leaves characters above 0x7e as they are; those that command a terminal stand only inside its strings.
fn ascii_controls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if commands(c) {
            let mut units = [0; 2];
            out.extend(
                c.encode_utf16(&mut units)
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}")),
            );
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOSTILE: &str = "SELECT 1;\x1b[2K\x1b[1A\u{9b}2J\u{202e}DROP\u{200b}\u{e0041}\r\x07 -- ok";

    #[test]
    fn a_statement_cannot_command_the_terminal() {
        let check = |made: String| {
            assert!(!made.chars().any(|c| commands(c) && !is_layout(c)), "{made:?}");
            assert!(made.contains("\\u{1b}[2K") && made.contains("DROP"), "{made:?}");
        };
        check(plain(HOSTILE));
        check(safe(HOSTILE));
        check(block(HOSTILE, "| "));
        check(short(HOSTILE, 200));
        check(table(&["A"], &[vec![HOSTILE.into()]]));
        let coloured = Style { coloured: true };
        assert_eq!(safe(&coloured.good("yes")), "\x1b[32myes\x1b[0m");
        assert_eq!(coloured.bad("\x1b[0m"), "\x1b[31m\\u{1b}[0m\x1b[0m");
        assert_eq!(block("a\n\tb", "  | "), "a\n  |     b");
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = serde_json::to_string(HOSTILE).expect("json");
        let made = ascii_controls(&text);
        assert!(!made.chars().any(commands), "{made:?}");
        assert_eq!(serde_json::from_str::<String>(&made).expect("json"), HOSTILE);
    }

    #[test]
    fn relative_times() {
        let check = |seconds: i64, expected: &str| {
            let now = Timestamp::from_seconds(1_000_000);
            assert_eq!(
                relative(Timestamp::from_seconds(1_000_000 + seconds).as_nanos(), now),
                expected
            );
        };
        check(0, "now");
        check(-5, "5 s ago");
        check(180, "in 3 min");
        check(-7_200, "2 h ago");
        check(400_000, "in 4 d");
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_safe(text in "[\\PC\\x00-\\x1f\\x7f-\\x9f\u{202e}]{0,60}") {
            let shown = safe(&text);
            let left = ["0m", "1m", "2m", "31m", "32m", "33m"]
                .iter()
                .fold(shown, |text, code| text.replace(&format!("\x1b[{code}"), ""));
            prop_assert!(!left.chars().any(|c| commands(c) && !is_layout(c)), "{left:?}");
            prop_assert!(!plain(&text).chars().any(commands));
        }
    }
}
