//! A target that is the API of models, as the HTTP relay asks about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};

use crate::json::parse;
use crate::mask::MaskPlan;
use crate::model::{Facts, MaskCounts, Operation, PromptDuty, PromptMask, Refusal, RefusalKind};
use crate::protocol::http::conversation::Conversation;
use crate::protocol::http::dialect::{Asked, Changed, Conceals, Cut, Dialect, Obliged, Speaks, Words};
use crate::session::{Ledger, Spender, Spending};

use super::answer::Answers;
use super::endpoint::Api;
use super::masking::Masking;
use super::prompt;
use super::refusal;
use super::restore::Restorer;
use super::talk::{Settings, Talk};
use super::vault::{Vault, Vaults};

/// Tokens of a stream that are counted at once, as long as they are estimated.
const STEP: u64 = 64;

/// The API of models. One value for one target: what its prompts were masked with is remembered here.
#[derive(Debug, Clone, Default)]
pub struct ModelApi {
    vaults: Arc<Vaults>,
    /// Where it is counted what prompts take, and the target's name there.
    ledger: Option<(Arc<Ledger>, String)>,
}

impl ModelApi {
    /// One that counts what prompts take.
    #[must_use]
    pub fn counting(ledger: Arc<Ledger>, target: String) -> Self {
        Self {
            vaults: Arc::default(),
            ledger: Some((ledger, target)),
        }
    }
}

impl Speaks for ModelApi {
    fn exchange(&self) -> Box<dyn Dialect> {
        Box::new(Exchange::new(self.clone()))
    }
}

/// One prompt and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    of: ModelApi,
    principal: String,
    /// `None`: not a prompt.
    api: Option<Api>,
    /// Whose words refusals are in.
    anthropic: bool,
    /// Until it is asked for.
    prompt: Option<Box<Prompt>>,
    permitted: Arc<Shared>,
    /// Whether the provider did not do it.
    failed: bool,
    cut: Cut,
    answers: Answers,
}

/// What became of a prompt once it was permitted.
#[derive(Debug, Default)]
struct Shared {
    masked: OnceLock<Masked>,
    /// Whether the provider was asked to count, which the process had not asked.
    asked_to_count: OnceLock<()>,
    spending: Mutex<Option<Spending>>,
    /// Tokens of the prompt, roughly.
    estimate: AtomicU64,
}

/// What was masked in a prompt.
#[derive(Debug)]
struct Masked {
    mask: PromptMask,
    counts: MaskCounts,
    vault: Arc<Vault>,
}

/// A prompt that waits for its permit.
#[derive(Debug)]
struct Prompt {
    api: Api,
    path: String,
    body: Bytes,
    plan: MaskPlan,
    vault: Option<Arc<Vault>>,
    spender: Option<(Arc<Ledger>, Spender)>,
    permitted: Arc<Shared>,
}

impl Obliged for Prompt {
    fn permitted(&mut self, duty: &PromptDuty) -> Result<Option<Changed>, Refusal> {
        // It was read as JSON before, so it is text.
        let body = String::from_utf8_lossy(&self.body).into_owned();
        let (masked, text) = self.masked(&body, &duty.mask)?;
        let mut changed = masked.is_some();
        let mut body = masked.unwrap_or(body);
        if self.api == Api::Chat
            && duty.counted
            && let Some(asking) = asking_to_count(&body)
        {
            // Nobody else sets it: a prompt is permitted once.
            let _first = self.permitted.asked_to_count.set(());
            body = asking;
            changed = true;
        }
        if let Some((ledger, spender)) = &self.spender {
            let tokens = prompt::estimate(&body);
            self.permitted.estimate.store(tokens, Ordering::Relaxed);
            let spending = ledger.spend(spender.clone(), crate::clock::now(), tokens);
            *self.permitted.spending() = Some(spending);
        }
        Ok(changed.then(|| Changed {
            body: body.into(),
            text,
        }))
    }
}

impl Prompt {
    /// The body as it goes where something in it is masked, and what records show of it.
    fn masked(&self, body: &str, mask: &PromptMask) -> Result<(Option<String>, Option<String>), Refusal> {
        if mask.is_empty() {
            return Ok((None, None));
        }
        let cannot = |reason: String, next_step: &str| Refusal::new(RefusalKind::Denied, reason, next_step);
        let Some(vault) = self.vault.clone() else {
            let reason = "The prompt cannot be masked: the system gives no random bytes.".into();
            return Err(cannot(reason, "Tell whoever runs the agent."));
        };
        let mut masking = Masking::new(&self.plan, mask, Arc::clone(&vault), body);
        let masked = masking.body(body);
        let counts = std::mem::take(&mut masking.counts);
        let (text, left) = prompt::masked(&self.path, masked.as_deref().unwrap_or(body), &self.plan);
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
        let _first = self.permitted.masked.set(Masked {
            mask: mask.clone(),
            counts,
            vault,
        });
        Ok((masked, Some(text)))
    }
}

impl Shared {
    fn spending(&self) -> MutexGuard<'_, Option<Spending>> {
        self.spending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A prompt that is not read.
fn wrong(why: &str) -> Refusal {
    Refusal::new(
        RefusalKind::NotUnderstood,
        format!("Interdict does not carry this prompt: {why}."),
        "Send one JSON object as the provider's API has it.",
    )
}

/// A streamed chat whose last event says what it took; `None` where nobody has to be asked, or the process said no.
fn asking_to_count(body: &str) -> Option<String> {
    let value = parse(body.as_bytes()).ok()?;
    let streams = value.get("stream").and_then(Value::as_bool) == Some(true);
    if !streams || value.get("stream_options").is_some() {
        return None;
    }
    let (before, rest) = body.split_at_checked(body.find('{')?.checked_add(1)?)?;
    Some(format!(
        "{before}\"stream_options\":{{\"include_usage\":true}},{rest}"
    ))
}

impl Exchange {
    pub(super) fn new(of: ModelApi) -> Self {
        Self {
            of,
            principal: String::new(),
            api: None,
            anthropic: false,
            prompt: None,
            permitted: Arc::default(),
            failed: false,
            cut: Cut::Http,
            answers: Answers::default(),
        }
    }

    /// Reads a prompt. `members`: what the model gets of `body`, which is what goes. `goes_on`: with what the provider works
    /// on it where that was said before.
    ///
    /// # Errors
    /// The refusal for what is not understood.
    pub(super) fn prompt(
        &mut self,
        (api, asked): (Api, &Asked<'_>),
        members: Map<String, Value>,
        body: Bytes,
        plan: &MaskPlan,
        goes_on: Option<&Settings>,
    ) -> Result<Operation, Refusal> {
        self.api = Some(api);
        self.answers.api = Some(api);
        let operation = prompt::asking(api, asked, members, plan);
        let mut operation = operation.map_err(|error| wrong(&error.to_string()))?;
        if let (Some(settings), Facts::Llm(facts)) = (goes_on, &mut operation.facts) {
            settings.clone().into_facts(facts);
        }
        let spender = self.spender(&mut operation.facts);
        self.prompt = Some(Box::new(Prompt {
            api,
            spender: spender.filter(|_| api.takes_tokens()),
            path: asked.path.to_owned(),
            body,
            plan: plan.clone(),
            vault: self.of.vaults.of(&self.principal),
            permitted: Arc::clone(&self.permitted),
        }));
        Ok(operation)
    }

    /// One message of an answer in a WebSocket.
    pub(super) fn message(&mut self, value: Value, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>> {
        self.begins();
        let out = self.answers.message(value, plan, counts);
        self.settle(false);
        out
    }

    /// What is held back where nothing follows.
    pub(super) fn left(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>> {
        self.answers.left(plan, counts)
    }

    /// The provider refused it, if it has said nothing of an answer yet.
    pub(super) const fn fails(&mut self) {
        self.failed = self.answers.is_silent();
    }

    /// An answer begins: what it may give back is known now.
    fn begins(&mut self) {
        self.answers.strips = self.permitted.asked_to_count.get().is_some();
        let restorer = self.permitted.masked.get().map(|masked| Restorer {
            vault: Arc::clone(&masked.vault),
            classes: masked.mask.reversible(),
        });
        self.answers.restoring(restorer.filter(|r| !r.classes.is_empty()));
    }

    /// Counts what the answer took so far; a little more of it waits for its end.
    fn settle(&self, over: bool) {
        let mut spending = self.permitted.spending();
        let Some(spending) = spending.as_mut() else { return };
        let (tokens, final_word) = self
            .answers
            .tokens(self.permitted.estimate.load(Ordering::Relaxed));
        if final_word {
            spending.exactly(tokens);
        } else if self.failed {
            // What the provider refuses it does not work on.
            spending.exactly(0);
        } else if over || tokens > spending.counted().saturating_add(STEP) {
            spending.at_least(tokens);
        }
    }

    /// Who asks, with what was asked before among the facts.
    fn spender(&self, facts: &mut Facts) -> Option<(Arc<Ledger>, Spender)> {
        let (ledger, target) = self.of.ledger.as_ref()?;
        let Facts::Llm(facts) = facts else { return None };
        let spender = Spender {
            principal: self.principal.clone(),
            target: target.clone(),
            model: facts.model.clone(),
        };
        facts.usage = ledger.usage(&spender, crate::clock::now());
        Some((Arc::clone(ledger), spender))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.settle(true);
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
        self.api = Api::at(asked.method, asked.path);
        self.anthropic = match self.api {
            Some(api) => api.provider(asked.headers) == "anthropic",
            None => asked.headers.contains_key("anthropic-version"),
        };
        let Some(api) = self.api else {
            return Ok(Vec::new());
        };
        if api.reads() {
            let reading = prompt::reading(api, asked, body);
            self.answers.api = Some(api);
            return Ok(vec![reading.map_err(|error| wrong(&error.to_string()))?]);
        }
        let members = prompt::members(body).map_err(|error| wrong(&error.to_string()))?;
        let body = Bytes::copy_from_slice(body);
        Ok(vec![self.prompt((api, asked), members, body, plan, None)?])
    }

    fn converses(&mut self, asked: &Asked<'_>) -> Option<Box<dyn Conversation>> {
        // What is said in it is what requests of this path hold.
        let api = Api::at(&Method::POST, asked.path)?;
        (api == Api::Responses)
            .then(|| Box::new(Talk::new(self.of.clone(), &self.principal, asked)) as Box<dyn Conversation>)
    }

    fn response(&mut self, status: StatusCode, headers: &HeaderMap) -> Cut {
        self.failed = status.is_client_error();
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.unwrap_or_default().trim_start().to_ascii_lowercase();
        self.cut = if kind.starts_with("text/event-stream") {
            Cut::Events
        } else if self.api.is_some() && kind.starts_with("application/json") {
            Cut::Whole
        } else {
            Cut::Http
        };
        self.begins();
        self.cut
    }

    fn response_event(&mut self, event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        let out = match self.cut {
            Cut::Whole => self.answers.whole(event, plan, counts),
            Cut::Events | Cut::Http => self.answers.event(event, plan, counts),
        };
        self.settle(false);
        out
    }

    fn response_end(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        self.answers.end(plan, counts)
    }

    fn response_stopped(&mut self, why: &str) -> Vec<u8> {
        self.answers.stop(&format!("Interdict ended this answer: {why}."))
    }

    fn refusal(&self, refusal: &Refusal) -> Option<Words> {
        Some(refusal::words(self.anthropic, refusal))
    }

    fn conceals(&self) -> Option<Conceals> {
        let masked = self.permitted.masked.get()?;
        let vault = Arc::clone(&masked.vault);
        (!masked.mask.reversible().is_empty()).then(|| {
            let conceals = move |piece: &[u8]| vault.concealed(piece);
            Arc::new(conceals) as Conceals
        })
    }

    fn splits(&self) -> bool {
        true
    }

    fn note(&self) -> String {
        let mut notes = vec![self.answers.note()];
        notes.extend(
            self.permitted
                .masked
                .get()
                .map(|masked| masked_in(&masked.counts)),
        );
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
