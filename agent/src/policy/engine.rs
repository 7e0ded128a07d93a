//! One loaded set of policies, and the handle through which a reload replaces it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use cedar_policy::{
    ActionConstraint, Authorizer, Decision as Cedar, Entities, EntityUid, PolicyId as CedarId, PolicySet,
    RestrictedExpression as Value,
};

use crate::approval::Consent;
use crate::model::{
    Action, DataClass, Digest, DnsFacts, Facts, HttpFacts, Limits, Obligations, Operation, PolicyId,
    Principal, PromptDuty, PromptMask, RecordingLevel, Target, Timestamp,
};

use super::annotations::Annotations;
use super::decision::{Allowed, ApprovalNeed, Decision, Denial, DenialCause};
use super::load::{Loaded, PolicyErrors, PolicyMistake, PolicySource, joined, load};
use super::question::{Unsayable, Word, context, entities, request, reveal_context, spoken_of, uid};

/// Verdicts and entities that are kept; beyond it the memory starts anew.
const MAX_KEPT: usize = 8192;

/// Parts that most keys have room for.
const PARTS: usize = 32;

/// One loaded, validated set of policies.
pub struct Engine {
    loaded: Loaded,
    classes: BTreeSet<DataClass>,
    authorizer: Authorizer,
    kept: Mutex<Kept>,
}

/// What was worked out already. Everything that a decision reads is in the key.
#[derive(Default)]
struct Kept {
    verdicts: HashMap<Digest, Decision>,
    scenes: HashMap<Digest, Scene>,
}

/// What is the same for every operation of a principal on a target.
#[derive(Clone)]
pub(super) struct Scene {
    entities: Arc<Entities>,
    pub(super) revealed: Arc<BTreeSet<DataClass>>,
}

impl Scene {
    pub(super) fn entities(&self) -> &Entities {
        &self.entities
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("bundle", &self.loaded.bundle)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads policies. `classes` are the data classes that there are.
    ///
    /// # Errors
    /// Every mistake, with file, line and what to write instead.
    pub fn load(sources: &[PolicySource], classes: &BTreeSet<DataClass>) -> Result<Self, PolicyErrors> {
        let loaded = load(sources)?;
        known_classes(&loaded, classes)?;
        Ok(Self {
            loaded,
            classes: classes.clone(),
            authorizer: Authorizer::new(),
            kept: Mutex::default(),
        })
    }

    /// The digest of all policies, the schema included.
    #[must_use]
    pub const fn bundle(&self) -> Digest {
        self.loaded.bundle
    }

    pub(super) const fn all(&self) -> &PolicySet {
        &self.loaded.policies
    }

    /// Whether some policy reads what prompts take.
    pub(super) const fn reads_usage(&self) -> bool {
        self.loaded.reads_usage
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.loaded.policies.policies().count()
    }

    /// Whether there is none: then everything is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a policy stands: `FILE:LINE`.
    #[must_use]
    pub fn place(&self, policy: &PolicyId) -> Option<String> {
        let (file, line) = self.loaded.places.get(&CedarId::new(policy.as_str()))?;
        Some(format!("{file}:{line}"))
    }

    /// Every policy.
    pub fn policies(&self) -> impl Iterator<Item = PolicyId> + '_ {
        self.loaded.places.keys().map(name)
    }

    /// Whether a policy is about nothing but seeing data: it then is no part of any operation's own answer.
    #[must_use]
    pub fn only_reveals(&self, policy: &PolicyId) -> bool {
        let reveals = |uid: &EntityUid| uid.id().unescaped() == Action::Reveal.name();
        let policy = self.loaded.policies.policy(&CedarId::new(policy.as_str()));
        policy.is_some_and(|policy| match policy.action_constraint() {
            ActionConstraint::Any => false,
            ActionConstraint::Eq(action) => reveals(&action),
            ActionConstraint::In(actions) => actions.iter().all(reveals),
        })
    }

    /// Decides `operation`. Pure, synchronous, total: reads nothing but its arguments.
    #[must_use]
    pub fn decide(
        &self,
        operation: &Operation,
        principal: &Principal,
        target: &Target,
        consent: Option<&Consent>,
        now: Timestamp,
    ) -> Decision {
        let keeps = consent.is_none() && !self.loaded.reads_time;
        let scene_key = scene_key(principal, target);
        let key = keeps.then(|| verdict_key(scene_key, operation)).flatten();
        if let Some(kept) = key.and_then(|key| self.kept().verdicts.get(&key).cloned()) {
            return kept;
        }
        let decision = self
            .scene(scene_key, principal, target, now)
            .and_then(|scene| {
                self.evaluate(
                    &scene,
                    operation,
                    principal,
                    target,
                    consent.map(Word::Given),
                    now,
                )
            })
            .unwrap_or_else(|unsayable| Decision::Deny(self.failed(Vec::new(), &unsayable)));
        let decision = match decision {
            Decision::Deny(denial) => Decision::Deny(self.until(denial, operation, principal, target, now)),
            other @ (Decision::Allow(_) | Decision::NeedsApproval(_)) => other,
        };
        if let Some(key) = key {
            let mut kept = self.kept();
            if kept.verdicts.len() >= MAX_KEPT {
                kept.verdicts.clear();
            }
            kept.verdicts.insert(key, decision.clone());
        }
        decision
    }

    /// Observe mode: lets pass what `denial` would have refused, with the obligations that the principal has anyway.
    #[must_use]
    pub fn observe(
        &self,
        _operation: &Operation,
        principal: &Principal,
        target: &Target,
        denial: Denial,
        now: Timestamp,
    ) -> Allowed {
        let scene = self.scene(scene_key(principal, target), principal, target, now);
        let revealed = scene.map(|scene| (*scene.revealed).clone()).unwrap_or_default();
        let obligations = Obligations {
            revealed,
            recording: RecordingLevel::Operations,
            limits: Limits::default(),
            prompt: PromptDuty::default(),
        };
        Allowed {
            policies: Vec::new(),
            obligations,
            bundle: self.loaded.bundle,
            observed: Some(denial),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, now: Timestamp) -> Option<Timestamp> {
        self.loaded.reads_time.then_some(now)
    }

    pub(super) fn scene(
        &self,
        key: Digest,
        principal: &Principal,
        target: &Target,
        now: Timestamp,
    ) -> Result<Scene, Unsayable> {
        if !self.loaded.reads_time
            && let Some(scene) = self.kept().scenes.get(&key)
        {
            return Ok(scene.clone());
        }
        let entities = Arc::new(entities(principal, target, &self.classes, &self.loaded.schema)?);
        let revealed = Arc::new(self.revealed(&entities, principal, target, now)?);
        let scene = Scene { entities, revealed };
        let mut kept = self.kept();
        if kept.scenes.len() >= MAX_KEPT {
            kept.scenes.clear();
        }
        kept.scenes.insert(key, scene.clone());
        Ok(scene)
    }

    /// The classes that the principal may see as they are.
    fn revealed(
        &self,
        entities: &Entities,
        principal: &Principal,
        target: &Target,
        now: Timestamp,
    ) -> Result<BTreeSet<DataClass>, Unsayable> {
        let mut revealed = BTreeSet::new();
        for class in &self.classes {
            let context = reveal_context(target, self.time(now))?;
            let request = request(
                principal,
                Action::Reveal.name(),
                uid("DataClass", class.as_str())?,
                context,
            )?;
            let response = self
                .authorizer
                .is_authorized(&request, &self.loaded.policies, entities);
            // A policy that fails to evaluate reveals nothing.
            if response.decision() == Cedar::Allow && response.diagnostics().errors().next().is_none() {
                revealed.insert(class.clone());
            }
        }
        Ok(revealed)
    }

    pub(super) fn evaluate(
        &self,
        scene: &Scene,
        operation: &Operation,
        principal: &Principal,
        target: &Target,
        word: Option<Word<'_>>,
        now: Timestamp,
    ) -> Result<Decision, Unsayable> {
        let mut permits: BTreeSet<CedarId> = BTreeSet::new();
        let mut wants: BTreeSet<CedarId> = BTreeSet::new();
        if operation.actions.is_empty() {
            return Err("the operation has no action".into());
        }
        let spoken_of = spoken_of(&operation.facts)?;
        let entities = if spoken_of.is_empty() {
            Cow::Borrowed(&*scene.entities)
        } else {
            let all = (*scene.entities).clone();
            let all = all.add_entities(spoken_of, Some(&self.loaded.schema));
            Cow::Owned(all.map_err(|error| error.to_string())?)
        };
        let typed = match self.typed(operation, target) {
            Ok(typed) => typed,
            Err(denial) => return Ok(Decision::Deny(denial)),
        };
        for action in &operation.actions {
            let context = context(operation, word, self.time(now))?;
            let context = context.merge(typed.clone()).map_err(|error| error.to_string())?;
            let request = request(principal, action.name(), uid("Target", &target.name.0)?, context)?;
            let response = self
                .authorizer
                .is_authorized(&request, &self.loaded.policies, &entities);
            let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
            let reasons: Vec<CedarId> = response.diagnostics().reason().cloned().collect();
            if !errors.is_empty() {
                // Cedar skips a policy that fails, a forbid too: the answer is no.
                return Ok(Decision::Deny(self.failed(names(&reasons), &errors.join("; "))));
            }
            match response.decision() {
                Cedar::Allow => permits.extend(reasons),
                Cedar::Deny if reasons.is_empty() => {
                    return Ok(Decision::Deny(self.not_permitted(*action, principal, target)));
                }
                Cedar::Deny if reasons.iter().all(|id| self.wants_approval(id)) => wants.extend(reasons),
                Cedar::Deny => return Ok(Decision::Deny(self.forbidden(&reasons))),
            }
        }
        let needs = !wants.is_empty();
        if let Some(denial) = self.unread(operation, (principal, target), &entities, needs, now)? {
            return Ok(Decision::Deny(denial));
        }
        if !needs {
            return Ok(Decision::Allow(self.allowed(&permits, scene)));
        }
        match word {
            // Nobody is asked in vain: with the consent of everybody who is named, would it go?
            None => self.worth_asking(scene, operation, principal, target, &wants, now),
            Some(_) => Ok(self.needs(&wants)),
        }
    }

    /// The arguments of a tool's call with their declared types.
    fn typed(&self, operation: &Operation, target: &Target) -> Result<Option<(String, Value)>, Denial> {
        let Facts::Mcp(facts) = &operation.facts else {
            return Ok(None);
        };
        match self
            .loaded
            .tools
            .arguments(&target.name.0, &facts.tool, &facts.input)
        {
            Ok(typed) => Ok(typed.map(|typed| ("tools".to_owned(), typed))),
            Err(what) => Err(Denial {
                policies: Vec::new(),
                reason: format!(
                    "The arguments of {:?} are not as they are declared: {what}.",
                    facts.tool
                ),
                cause: DenialCause::Forbidden,
                bundle: self.loaded.bundle,
            }),
        }
    }

    /// Whether calls of a tool have typed arguments.
    pub(super) fn has_types(&self, target: &Target, tool: &str) -> bool {
        self.loaded.tools.declares(&target.name.0, tool)
    }

    fn worth_asking(
        &self,
        scene: &Scene,
        operation: &Operation,
        principal: &Principal,
        target: &Target,
        wants: &BTreeSet<CedarId>,
        now: Timestamp,
    ) -> Result<Decision, Unsayable> {
        let groups = wants
            .iter()
            .filter_map(|id| self.annotations(id))
            .flat_map(|a| a.approvers.clone());
        let everybody = groups.collect();
        match self.evaluate(
            scene,
            operation,
            principal,
            target,
            Some(Word::Imagined(&everybody)),
            now,
        )? {
            Decision::Deny(denial) => Ok(Decision::Deny(denial)),
            Decision::Allow(_) | Decision::NeedsApproval(_) => Ok(self.needs(wants)),
        }
    }

    fn annotations(&self, id: &CedarId) -> Option<&Annotations> {
        self.loaded.annotations.get(id)
    }

    fn wants_approval(&self, id: &CedarId) -> bool {
        self.annotations(id).is_some_and(|a| !a.approvers.is_empty())
    }

    fn reasons<'a>(&'a self, ids: impl IntoIterator<Item = &'a CedarId>) -> String {
        let all = ids
            .into_iter()
            .filter_map(|id| self.annotations(id))
            .map(|a| a.reason.clone());
        let text = joined(all);
        if text.is_empty() {
            "A policy forbids it.".into()
        } else {
            text
        }
    }

    fn allowed(&self, permits: &BTreeSet<CedarId>, scene: &Scene) -> Allowed {
        let notes = || permits.iter().filter_map(|id| self.annotations(id));
        let recording = notes()
            .filter_map(|a| a.recording)
            .max()
            .unwrap_or(RecordingLevel::Metadata);
        let limits = Limits {
            max_rows: notes().filter_map(|a| a.max_rows).min(),
            max_time: notes().filter_map(|a| a.max_time).min(),
        };
        Allowed {
            policies: permits.iter().map(name).collect(),
            obligations: Obligations {
                revealed: (*scene.revealed).clone(),
                recording,
                limits,
                prompt: PromptDuty {
                    mask: self.prompt_mask(permits),
                    counted: self.loaded.reads_usage,
                },
            },
            bundle: self.loaded.bundle,
            observed: None,
        }
    }

    /// Everything that any of the permits wants masked; what none of them gives back stays masked.
    fn prompt_mask(&self, permits: &BTreeSet<CedarId>) -> PromptMask {
        let mut all = PromptMask::default();
        for one in permits.iter().filter_map(|id| self.annotations(id)) {
            for (class, alias) in one.prompt_mask(&self.classes).0 {
                let known = all.0.entry(class).or_insert(alias);
                *known = alias.max(*known);
            }
        }
        all
    }

    fn needs(&self, wants: &BTreeSet<CedarId>) -> Decision {
        let notes = || wants.iter().filter_map(|id| self.annotations(id));
        Decision::NeedsApproval(ApprovalNeed {
            policies: wants.iter().map(name).collect(),
            reason: self.reasons(wants),
            approvers: notes().map(|a| a.approvers.clone()).collect(),
            hold: notes().filter_map(|a| a.hold).min(),
            min_approvals: notes().filter_map(|a| a.min_approvals).max().unwrap_or(1),
            bundle: self.loaded.bundle,
        })
    }

    fn forbidden(&self, reasons: &[CedarId]) -> Denial {
        // What nobody can lift comes first: an approval would be asked for in vain.
        let hard: Vec<CedarId> = reasons
            .iter()
            .filter(|id| !self.wants_approval(id))
            .cloned()
            .collect();
        Denial {
            policies: names(&hard),
            reason: self.reasons(&hard),
            cause: DenialCause::Forbidden,
            bundle: self.loaded.bundle,
        }
    }

    fn not_permitted(&self, action: Action, principal: &Principal, target: &Target) -> Denial {
        Denial {
            policies: Vec::new(),
            reason: format!("No policy permits {action} on {} for {principal}.", target.name),
            cause: DenialCause::NotPermitted,
            bundle: self.loaded.bundle,
        }
    }

    pub(super) fn failed(&self, policies: Vec<PolicyId>, what: &str) -> Denial {
        Denial {
            policies,
            reason: format!("A policy could not be evaluated, so the answer is no: {what}."),
            cause: DenialCause::EvaluationError,
            bundle: self.loaded.bundle,
        }
    }
}

/// Annotations speak of classes that there are.
fn known_classes(loaded: &Loaded, classes: &BTreeSet<DataClass>) -> Result<(), PolicyErrors> {
    let mut mistakes = Vec::new();
    for (id, notes) in &loaded.annotations {
        if let Some(name) = notes.names_nothing(classes) {
            let (file, line) = loaded.places.get(id).cloned().unwrap_or_default();
            let known: Vec<&str> = classes.iter().map(DataClass::as_str).collect();
            let what = format!(
                "{name:?} is no class of data, and no family of one: known are {}",
                known.join(", ")
            );
            mistakes.push(PolicyMistake {
                file,
                line: Some(line),
                what,
            });
        }
    }
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(PolicyErrors(mistakes))
    }
}

pub(super) fn name(id: &CedarId) -> PolicyId {
    PolicyId::new(AsRef::<str>::as_ref(id))
}

fn names(ids: &[CedarId]) -> Vec<PolicyId> {
    ids.iter().map(name).collect()
}

/// Everything about principal and target that a policy can read.
pub(super) fn scene_key(principal: &Principal, target: &Target) -> Digest {
    let key = principal.key();
    let configured = [u8::from(target.configured)];
    let mut parts: Vec<&[u8]> = Vec::with_capacity(PARTS);
    parts.extend([
        key.as_bytes(),
        principal.display.as_bytes(),
        target.name.0.as_bytes(),
        target.environment.0.as_bytes(),
        target.protocol.name().as_bytes(),
        &configured,
        b"labels".as_slice(),
    ]);
    for (name, value) in &target.labels {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    parts.push(b"groups");
    parts.extend(principal.groups.iter().map(|group| group.as_str().as_bytes()));
    Digest::of_fields(&parts)
}

/// Everything about the operation that a policy can read: its actions and its facts, not its text or parameters. `None`: not worth
/// keeping.
fn verdict_key(scene: Digest, operation: &Operation) -> Option<Digest> {
    let mut parts: Vec<&[u8]> = Vec::with_capacity(PARTS);
    parts.push(scene.as_bytes());
    parts.extend(operation.actions.iter().map(|action| action.name().as_bytes()));
    let flags;
    let address;
    match &operation.facts {
        Facts::Sql(facts) => {
            flags = [u8::from(facts.in_transaction), u8::from(facts.bounded())];
            parts.extend([b"sql".as_slice(), &flags, facts.database.as_bytes()]);
            for statement in &facts.statements {
                parts.extend([b"statement".as_slice(), statement.kind.0.as_bytes(), b"tables"]);
                for table in statement.reads.iter().chain(&statement.writes) {
                    parts.extend([
                        table.schema.as_deref().unwrap_or_default().as_bytes(),
                        table.name.as_bytes(),
                    ]);
                }
                parts.push(b"columns");
                parts.extend(statement.columns.iter().map(String::as_bytes));
                parts.push(b"functions");
                parts.extend(statement.functions.iter().map(String::as_bytes));
            }
        }
        Facts::Connect(facts) => {
            address = format!("{} {}", facts.address, facts.port);
            parts.extend([b"connect".as_slice(), address.as_bytes()]);
        }
        Facts::Dns(facts) => {
            let DnsFacts {
                name,
                kind,
                target,
                tcp,
            } = facts;
            flags = [u8::from(*target), u8::from(*tcp)];
            parts.extend([b"dns".as_slice(), &flags, name.as_bytes(), kind.as_bytes()]);
        }
        // Their words are the process's own and seldom the same twice.
        Facts::Mcp(_) | Facts::Llm(_) => return None,
        // Bodies are seldom the same twice.
        Facts::Http(facts) if facts.input.is_some() => return None,
        Facts::Http(facts) => {
            let HttpFacts {
                method,
                host,
                port,
                tls,
                path,
                query,
                headers,
                content_type,
                body_bytes,
                body,
                input: _,
            } = facts;
            address = format!("{host} {port} {tls} {body_bytes} {body:?}");
            parts.extend([b"http".as_slice(), method.as_bytes(), address.as_bytes()]);
            parts.extend([path.as_bytes(), content_type.as_bytes(), b"query"]);
            parts.extend(query.iter().map(String::as_bytes));
            parts.push(b"headers");
            parts.extend(headers.iter().map(String::as_bytes));
        }
    }
    Some(Digest::of_fields(&parts))
}

/// The current set of policies; a reload replaces it at once for every decision that starts later.
#[derive(Debug)]
pub struct Policies {
    current: ArcSwap<Engine>,
}

impl Policies {
    /// Starts with `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            current: ArcSwap::from_pointee(engine),
        }
    }

    /// The set to decide with now.
    #[must_use]
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// Replaces the set.
    pub fn replace(&self, engine: Engine) {
        self.current.store(Arc::new(engine));
    }
}
