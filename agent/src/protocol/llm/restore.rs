//! Aliases in an answer become again what the process itself sent: whole texts, and texts that come in pieces.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::json::{Kind, parse, replaced};
use crate::mask::LONGEST_ALIAS;
use crate::model::DataClass;

use super::vault::{Look, Vault};

/// What every alias begins with, lower case.
const BEGIN: &str = "masked";
/// JSON in strings in JSON: deeper than that it is a text.
const DEPTH: u8 = 8;

/// What one answer may be given back.
#[derive(Debug)]
pub(super) struct Restorer {
    pub(super) vault: Arc<Vault>,
    pub(super) classes: BTreeSet<DataClass>,
}

impl Restorer {
    /// A JSON text; `None` where nothing in it changes.
    pub(super) fn json(&self, text: &str) -> Option<String> {
        let there = text.to_ascii_lowercase().contains(BEGIN) && parse(text.as_bytes()).is_ok();
        there.then(|| self.inside(text, 0)).flatten()
    }

    fn inside(&self, text: &str, depth: u8) -> Option<String> {
        replaced(text, &mut |one| {
            if one.kind == Kind::Number || is_thinking(one.before) {
                return None;
            }
            let begins = one.text.trim_start().starts_with(['{', '[']);
            if begins && depth < DEPTH && parse(one.text.as_bytes()).is_ok() {
                return self.inside(one.text, depth + 1);
            }
            let back = Restoring::default().push(Some(self), one.text, true);
            (back != one.text).then_some(back)
        })
    }
}

/// Whether a member holds what the provider signed: it must come back to it as it was.
fn is_thinking(before: &str) -> bool {
    let name = before.trim_end().strip_suffix(':').map(str::trim_end);
    name.is_some_and(|name| name.ends_with("\"thinking\""))
}

/// One text that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    /// What may be the beginning of an alias.
    held: String,
    /// Whether the text is JSON: values are escaped then. Decided by its first letter.
    json: Option<bool>,
}

impl Restoring {
    /// Takes a piece; what is decided. `complete`: nothing follows.
    pub(super) fn push(&mut self, restorer: Option<&Restorer>, piece: &str, complete: bool) -> String {
        let Some(restorer) = restorer else {
            return piece.to_owned();
        };
        if self.json.is_none() {
            let first = piece.trim_start().chars().next();
            self.json = first.map(|first| matches!(first, '{' | '['));
        }
        self.held.push_str(piece);
        let text = std::mem::take(&mut self.held);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(['m', 'M']) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let letters = from.bytes().take_while(u8::is_ascii_alphabetic).count();
            let run = from.get(..letters.min(LONGEST_ALIAS + 1)).unwrap_or_default();
            let open = !complete && run.len() == from.len() && run.len() <= LONGEST_ALIAS;
            let look = match begins(run) {
                Begins::No => Look::Nothing,
                Begins::Perhaps if open => Look::Open,
                Begins::Perhaps => Look::Nothing,
                Begins::Yes => restorer.vault.look(run, open, &restorer.classes),
            };
            match look {
                Look::Open => {
                    from.clone_into(&mut self.held);
                    return out;
                }
                Look::Is(length, value) => {
                    self.value(&value, &mut out);
                    rest = from.get(length..).unwrap_or_default();
                }
                Look::Nothing => {
                    let (letter, after) = from.split_at(1);
                    out.push_str(letter);
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn value(&self, value: &str, out: &mut String) {
        if self.json != Some(true) {
            return out.push_str(value);
        }
        let quoted = Value::from(value).to_string();
        out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
    }
}

enum Begins {
    Yes,
    Perhaps,
    No,
}

/// Whether letters begin as aliases do.
fn begins(run: &str) -> Begins {
    let length = run.len().min(BEGIN.len());
    let same = run
        .get(..length)
        .is_some_and(|head| BEGIN.get(..length).is_some_and(|b| head.eq_ignore_ascii_case(b)));
    match (same, length == BEGIN.len()) {
        (false, _) => Begins::No,
        (true, false) => Begins::Perhaps,
        (true, true) => Begins::Yes,
    }
}
