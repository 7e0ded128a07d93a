//! `interdict sessions replay`: a session as it was, operation by operation: what was asked, the verdict in the margin, what
//! the process was shown (recorded at the level `full`), and how it ended.

use crate::audit::Record;

use super::output::{Style, block, say, time};
use super::sessions::{margin, outcome};

/// What stands before what went to the target, and before what came back.
const UP: &str = "    > ";
const DOWN: &str = "    < ";

/// One operation with everything that is recorded of it.
#[derive(Debug)]
struct Act<'a> {
    id: &'a str,
    records: Vec<&'a Record>,
}

/// Prints records of one session, in the order of the log. `only`: the operation whose reference begins like this.
pub(super) fn print(records: &[Record], only: Option<&str>, style: Style) {
    let mut acts: Vec<Act<'_>> = Vec::new();
    for record in records {
        let id = record.operation.as_str();
        let known = acts.iter_mut().rev().find(|act| !id.is_empty() && act.id == id);
        match known {
            Some(act) => act.records.push(record),
            None => acts.push(Act {
                id,
                records: vec![record],
            }),
        }
    }
    for act in acts {
        if only.is_none_or(|only| !act.id.is_empty() && act.id.starts_with(only)) {
            for line in lines(&act, style) {
                say(&line);
            }
        }
    }
}

fn lines(act: &Act<'_>, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut kept = Kept::default();
    for record in &act.records {
        if record.kind == "content" {
            kept.push(record, &mut lines);
            continue;
        }
        kept.flush(&mut lines);
        lines.extend(line(
            record,
            act.records.iter().any(|r| r.part == "request"),
            style,
        ));
    }
    kept.flush(&mut lines);
    lines
}

/// `kept`: what was sent is among the content, so the beginning of it is not shown twice.
fn line(record: &Record, kept: bool, style: Style) -> Vec<String> {
    let at = time(record.ts_ns);
    match &*record.kind {
        "operation" => {
            let policies = match record.policies.as_slice() {
                [] => String::new(),
                some => format!(" [{}]", some.join(", ")),
            };
            let reason = format!("{policies} {}", record.reason);
            let (text, operation) = (record.text.as_str(), record.operation.as_str());
            let text = match text.split_once("\n\n") {
                Some((head, _)) if kept => head,
                Some(_) | None => text,
            };
            let mut all = vec![format!(
                "{at}  {}  {} {operation}{}",
                margin(record, style),
                record.actions.join(" "),
                block(reason.trim_end(), "")
            )];
            all.push(format!("{UP}{}", block(text, UP)));
            let fields = record.parameters.iter().filter(|field| !field.is_empty());
            all.extend(fields.map(|field| format!("{UP}{}", block(field, UP))));
            all
        }
        "outcome" => vec![format!(
            "{at}  {}  {}",
            style.dim(&record.status),
            block(&outcome(record), "")
        )],
        "session.opened" => vec![format!(
            "{at}  {}  {} {}[{}] to {} ({})",
            style.dim("opened"),
            block(&record.principal, ""),
            block(&record.comm, ""),
            record.pid,
            block(&record.target, ""),
            record.original
        )],
        "session.closed" => vec![format!(
            "{at}  {}  {}",
            style.dim("closed"),
            block(&outcome(record), "")
        )],
        kind => vec![format!(
            "{at}  {}  {} {}",
            style.wait(kind),
            block(&record.ticket, ""),
            block(&record.reason, "")
        )],
    }
}

/// Pieces of one part, joined until something else comes.
#[derive(Default)]
struct Kept<'a> {
    part: &'a str,
    text: String,
}

impl<'a> Kept<'a> {
    fn push(&mut self, record: &'a Record, lines: &mut Vec<String>) {
        // Each message is one, or several where it came in fragments.
        if self.part != record.part || record.part == "answer.message" || !record.reason.is_empty() {
            self.flush(lines);
        }
        self.part = &record.part;
        let margin = self.margin();
        if !record.reason.is_empty() {
            let why = format!("({}: {})", record.reason, record.detail);
            lines.push(format!("{margin}{}", block(&why, margin)));
        } else if record.encoding.is_empty() {
            self.text.push_str(&record.text);
        } else {
            self.flush(lines);
            lines.push(format!(
                "{margin}({} {})",
                record.encoding,
                block(&record.text, margin)
            ));
        }
        if record.part == "answer.head" {
            self.flush(lines);
            lines.extend(
                record
                    .parameters
                    .iter()
                    .map(|field| format!("{margin}{}", block(field, margin))),
            );
        }
    }

    fn margin(&self) -> &'static str {
        if self.part == "request" { UP } else { DOWN }
    }

    fn flush(&mut self, lines: &mut Vec<String>) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() {
            let margin = self.margin();
            lines.push(format!("{margin}{}", block(text.trim_end_matches('\n'), margin)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_operations_that_ran_at_the_same_time_are_put_together() {
        let record = |kind: &'static str, operation: &str| Record {
            kind: kind.into(),
            operation: operation.into(),
            ..Record::default()
        };
        let content = |operation: &str, part: &'static str, text: &str| Record {
            part: part.into(),
            text: text.into(),
            ..record("content", operation)
        };
        let all = [
            record("session.opened", ""),
            Record {
                verdict: "allowed".into(),
                text: "POST http://h/\n\nab".into(),
                actions: vec!["http.write".into()],
                ..record("operation", "one")
            },
            content("one", "request", "ab\n"),
            record("operation", "two"),
            content("one", "answer.head", "200"),
            content("two", "answer", "other"),
            content("one", "answer", "first\x1b[2J"),
            content("one", "answer", " second\nline"),
            Record {
                reason: "longer than recording_limit".into(),
                detail: "99 bytes in all".into(),
                ..content("one", "answer", "")
            },
        ];
        let acts = Act {
            id: "one",
            records: all.iter().filter(|record| record.operation == "one").collect(),
        };
        let shown = lines(&acts, Style::plain()).join("\n");
        let expected = "  ALLOW  http.write one\n    > POST http://h/\n    > ab\n    < 200\n    < first";
        assert!(shown.contains(expected), "{shown}");
        assert!(
            shown.ends_with(" second\n    < line\n    < (longer than recording_limit: 99 bytes in all)"),
            "{shown}"
        );
        assert!(!shown.contains('\x1b'), "{shown}");
    }
}
