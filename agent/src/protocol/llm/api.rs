//! A target that is the API of models, as the HTTP relay asks about it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};

use crate::mask::MaskPlan;
use crate::model::{MaskCounts, Operation, PromptMask, Refusal, RefusalKind};
use crate::protocol::http::dialect::{Asked, Changed, Cut, Dialect, Obliged, Speaks, Words};

use super::answer::Answers;
use super::masking::Masking;
use super::prompt::{self, Api};
use super::refusal;
use super::restore::Restorer;
use super::vault::{Vault, Vaults};

/// The API of models. One value for one target: what its prompts were masked with is remembered here.
#[derive(Debug, Default)]
pub struct ModelApi {
    vaults: Arc<Vaults>,
}

impl Speaks for ModelApi {
    fn exchange(&self) -> Box<dyn Dialect> {
        Box::new(Exchange {
            vaults: Arc::clone(&self.vaults),
            principal: String::new(),
            api: None,
            prompt: None,
            permitted: Arc::default(),
            cut: Cut::Http,
            answers: Answers::default(),
        })
    }
}

#[derive(Debug)]
struct Exchange {
    vaults: Arc<Vaults>,
    principal: String,
    /// `None`: not a prompt.
    api: Option<Api>,
    /// Until it is asked for.
    prompt: Option<Box<Prompt>>,
    permitted: Arc<OnceLock<Masked>>,
    cut: Cut,
    answers: Answers,
}

/// What became of a prompt that was to be masked.
#[derive(Debug)]
struct Masked {
    mask: PromptMask,
    counts: MaskCounts,
    vault: Arc<Vault>,
}

/// A prompt that waits for its permit.
#[derive(Debug)]
struct Prompt {
    path: String,
    body: Bytes,
    plan: MaskPlan,
    vault: Option<Arc<Vault>>,
    permitted: Arc<OnceLock<Masked>>,
}

impl Obliged for Prompt {
    fn permitted(&mut self, mask: &PromptMask) -> Result<Option<Changed>, Refusal> {
        if mask.is_empty() {
            return Ok(None);
        }
        let cannot = |reason: String, next_step: &str| Refusal::new(RefusalKind::Limit, reason, next_step);
        let Some(vault) = self.vault.clone() else {
            let reason = "The prompt cannot be masked: the system gives no random bytes.".into();
            return Err(cannot(reason, "Tell whoever runs the agent."));
        };
        // It was read as JSON before, so it is text.
        let body = String::from_utf8_lossy(&self.body).into_owned();
        let mut masking = Masking::new(&self.plan, mask, Arc::clone(&vault), &body);
        let masked = masking.body(&body);
        let counts = std::mem::take(&mut masking.counts);
        let (text, left) = prompt::masked(&self.path, masked.as_deref().unwrap_or(&body), &self.plan);
        let left: Vec<String> = left
            .into_iter()
            .filter(|left| mask.0.keys().any(|class| class.as_str() == left))
            .collect();
        if !left.is_empty() {
            let reason = format!("The prompt holds {} where it cannot be masked.", left.join(", "));
            let next = "Take it out, or write it into a text of its own.";
            return Err(cannot(reason, next));
        }
        // Nobody else sets it: a prompt is permitted once.
        let _first = self.permitted.set(Masked {
            mask: mask.clone(),
            counts,
            vault,
        });
        Ok(masked.map(|masked| Changed {
            body: masked.into(),
            text: Some(text),
        }))
    }
}

impl Dialect for Exchange {
    fn asks(&mut self, principal: &str) {
        principal.clone_into(&mut self.principal);
    }

    fn obliged(&mut self) -> Option<Box<dyn Obliged>> {
        self.prompt.take().map(|prompt| prompt as Box<dyn Obliged>)
    }

    fn request(
        &mut self,
        asked: &Asked<'_>,
        body: &[u8],
        plan: &MaskPlan,
    ) -> Result<Vec<Operation>, Refusal> {
        self.api = Api::at(asked.path).filter(|_| *asked.method == Method::POST);
        let Some(api) = self.api else {
            return Ok(Vec::new());
        };
        let wrong = |why: &str| {
            Refusal::new(
                RefusalKind::NotUnderstood,
                format!("Interdict does not carry this prompt: {why}."),
                "Send one JSON object as the provider's API has it, uncompressed.",
            )
        };
        if asked.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(wrong("its body is compressed"));
        }
        let operation =
            prompt::operation(api, asked, body, plan).map_err(|error| wrong(&error.to_string()))?;
        self.prompt = Some(Box::new(Prompt {
            path: asked.path.to_owned(),
            body: Bytes::copy_from_slice(body),
            plan: plan.clone(),
            vault: self.vaults.of(&self.principal),
            permitted: Arc::clone(&self.permitted),
        }));
        Ok(vec![operation])
    }

    fn response(&mut self, _status: StatusCode, headers: &HeaderMap) -> Cut {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.unwrap_or_default().trim_start().to_ascii_lowercase();
        self.cut = if kind.starts_with("text/event-stream") {
            Cut::Events
        } else if self.api.is_some() && kind.starts_with("application/json") {
            Cut::Whole
        } else {
            Cut::Http
        };
        let restorer = self.permitted.get().map(|masked| Restorer {
            vault: Arc::clone(&masked.vault),
            classes: masked.mask.reversible(),
        });
        self.answers.restoring(restorer.filter(|r| !r.classes.is_empty()));
        self.cut
    }

    fn response_event(&mut self, event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        match self.cut {
            Cut::Whole => self.answers.whole(event, plan, counts),
            Cut::Events | Cut::Http => self.answers.event(event, plan, counts),
        }
    }

    fn response_end(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        self.answers.end(plan, counts)
    }

    fn refusal(&self, refusal: &Refusal) -> Option<Words> {
        self.api.map(|api| refusal::words(api, refusal))
    }

    fn note(&self) -> String {
        let mut notes = vec![self.answers.note()];
        notes.extend(self.permitted.get().map(|masked| masked_in(&masked.counts)));
        notes.retain(|note| !note.is_empty());
        notes.join("; ")
    }
}

/// What was masked in a prompt, in a word.
fn masked_in(counts: &MaskCounts) -> String {
    let each: Vec<String> = counts.0.iter().map(|(class, n)| format!("{n} {class}")).collect();
    if each.is_empty() {
        return String::new();
    }
    format!("masked in the prompt: {}", each.join(", "))
}
