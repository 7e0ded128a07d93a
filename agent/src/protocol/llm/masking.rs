//! A prompt with aliases in the places of values, every other byte as it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::json::{Kind, Scalar, parse, replaced};
use crate::mask::{LONGEST_ALIAS, MaskPlan};
use crate::model::{Alias, DataClass, MaskCounts, PromptMask};
use crate::protocol::http::coded::Carried;
use crate::protocol::http::dialect::{masked_plain, plain};

use super::restore::{Restorer, Restoring};
use super::vault::Vault;

/// JSON in strings in JSON: deeper than that it is a text.
const DEPTH: u8 = 8;
/// What aliases begin with, lower case.
const BEGIN: &str = "masked";

/// One prompt on its way.
pub(super) struct Masking<'a> {
    /// Reveals nothing: finds what there is.
    plan: &'a MaskPlan,
    mask: &'a PromptMask,
    own: Restorer,
    /// What already looks like aliases.
    words: BTreeSet<String>,
    /// What was masked.
    pub(super) counts: MaskCounts,
}

impl<'a> Masking<'a> {
    pub(super) fn new(plan: &'a MaskPlan, mask: &'a PromptMask, vault: Arc<Vault>, body: &str) -> Self {
        let runs = body.split(|c: char| !c.is_ascii_alphabetic());
        let like = |run: &str| {
            let lower = run.to_ascii_lowercase();
            // From each place where one could begin.
            let places: Vec<usize> = lower.match_indices(BEGIN).map(|(at, _)| at).collect();
            let words = places
                .into_iter()
                .filter_map(move |at| lower.get(at..).map(str::to_owned));
            words.collect::<Vec<_>>()
        };
        Self {
            plan,
            mask,
            own: Restorer {
                vault,
                classes: mask.reversible(),
            },
            words: runs
                .filter(|run| run.len() > BEGIN.len())
                .flat_map(like)
                .collect(),
            counts: MaskCounts::default(),
        }
    }

    /// The text of a body that `parse` takes; `None` where nothing in it is masked.
    pub(super) fn body(&mut self, text: &str) -> Option<String> {
        self.json(text, 0)
    }

    fn json(&mut self, text: &str, depth: u8) -> Option<String> {
        replaced(text, &mut |one| self.scalar(one, depth))
    }

    fn scalar(&mut self, one: &Scalar<'_>, depth: u8) -> Option<String> {
        let Scalar { kind, before, text } = *one;
        if kind == Kind::Number {
            // A number cannot be masked in part.
            let whole = [before, text].concat();
            let mut spans = self.plan.spans(whole.as_bytes()).into_iter();
            let span = spans.find(|span| span.end > before.len() && self.mask.0.contains_key(&span.class))?;
            return Some(self.word(&span.class, text));
        }
        if depth < DEPTH && text.trim_start().starts_with(['{', '[']) && parse(text.as_bytes()).is_ok() {
            return self.json(text, depth + 1);
        }
        if let Some(carried) = Carried::by(text)
            && let Some(masked) = self.content(&carried.content, depth)
        {
            return Some(carried.with(&masked));
        }
        let masked = self.text(before.as_bytes(), text.as_bytes())?;
        Some(String::from_utf8_lossy(&masked).into_owned())
    }

    /// A text that stands in a string as base64.
    fn content(&mut self, content: &[u8], depth: u8) -> Option<Vec<u8>> {
        let json =
            content.trim_ascii_start().starts_with(b"{") || content.trim_ascii_start().starts_with(b"[");
        if depth < DEPTH
            && json
            && parse(content).is_ok()
            && let Ok(text) = std::str::from_utf8(content)
        {
            return self.json(text, depth + 1).map(String::into_bytes);
        }
        self.text(b"", content)
    }

    /// A plain text; values that escapes hide are found when those are undone.
    fn text(&mut self, before: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let masked = self.spans(before, text);
        let shown = masked.as_deref().unwrap_or(text);
        let mut left = MaskCounts::default();
        masked_plain(shown, self.plan, &mut left);
        if left.0.keys().any(|class| self.mask.0.contains_key(class)) {
            let undone = plain(shown, self.plan);
            return self.spans(before, &undone).or(masked);
        }
        masked
    }

    fn spans(&mut self, before: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let whole = [before, text].concat();
        let mut out = Vec::new();
        let mut copied = before.len();
        for span in self.plan.spans(&whole) {
            if span.end <= before.len() || !self.mask.0.contains_key(&span.class) {
                continue;
            }
            let start = span.start.max(before.len());
            out.extend_from_slice(whole.get(copied..start).unwrap_or_default());
            let value = String::from_utf8_lossy(whole.get(start..span.end).unwrap_or_default());
            out.extend_from_slice(self.word(&span.class, &value).as_bytes());
            copied = span.end;
        }
        if copied == before.len() {
            return None;
        }
        out.extend_from_slice(whole.get(copied..).unwrap_or_default());
        Some(out)
    }

    fn word(&mut self, class: &DataClass, value: &str) -> String {
        self.counts.add(class, 1);
        let keep = self.mask.0.get(class) == Some(&Alias::Reversible);
        // An alias that something stands right beside may look like a value again: what is meant is the whole.
        let value = Restoring::default().push(Some(&self.own), value, true);
        self.own.vault.alias(class, &value, keep, &self.words)
    }
}

/// Aliases are no longer than what may be held back of a text.
const _: () = assert!(LONGEST_ALIAS < 128);
