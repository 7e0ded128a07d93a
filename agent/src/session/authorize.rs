//! Where permits are made: decided, consented to, decided again, recorded. This file has no child modules, so that
//! nothing else can make one.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::approval::{Answer, Ask, BrokerError, Consent};
use crate::audit::{AuditError, Event, JudgedAs, OperationEvent, OutcomeGuard, Receipt};
use crate::config::{Mode, WhenFull};
use crate::mask::MaskPlan;
use crate::model::{
    Digest, Facts, Limits, Obligations, Operation, OperationId, Outcome, OutcomeStatus, PolicyId, Principal,
    PromptDuty, RecordingLevel, Refusal, RefusalKind, Ticket, Timestamp, TraceContext,
};
use crate::policy::{Allowed, ApprovalNeed, Decision, Denial, Engine};

use super::content::Recording;
use super::open::Session;
use super::upstream::InFlight;

/// Something that can be judged.
pub trait Judged {
    /// What it means.
    fn operation(&self) -> &Arc<Operation>;

    /// It is permitted; what `prompt` wants masked is masked in it: it becomes what is recorded and sent. Called once, before
    /// either.
    ///
    /// # Errors
    /// A refusal where it cannot: nothing is sent then.
    fn permitted(&mut self, prompt: &PromptDuty) -> Result<(), Refusal> {
        none_to_mask(prompt)
    }

    /// The distributed trace that the process named with it.
    fn trace(&self) -> Option<TraceContext> {
        None
    }

    /// The target is to be told `trace` in the place of the process's own. Called once, after `permitted`, where the operation has
    /// a span.
    fn continue_trace(&mut self, _trace: TraceContext) {}

    /// What the target gets beside what `operation` shows, for the records of it at the level `full`. `plan` masks every class.
    fn record(&self, _plan: &MaskPlan, _recording: &mut Recording) {}
}

/// For what has no prompt: nothing can be masked in it.
///
/// # Errors
/// A refusal where something must be.
pub fn none_to_mask(prompt: &PromptDuty) -> Result<(), Refusal> {
    if prompt.mask.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::Limit,
        "A policy masks prompts (@mask_prompt), and this is none.",
        "Write @mask_prompt on permits for models only.",
    ))
}

impl<R: Request> Judged for R {
    fn operation(&self) -> &Arc<Operation> {
        Request::operation(self)
    }

    fn permitted(&mut self, prompt: &PromptDuty) -> Result<(), Refusal> {
        Request::permitted(self, prompt)
    }

    fn record(&self, plan: &MaskPlan, recording: &mut Recording) {
        Request::record(self, plan, recording);
    }
}

/// A request of a protocol: frames together with what they mean.
pub trait Request {
    /// What the frames mean.
    fn operation(&self) -> &Arc<Operation>;

    /// Appends exactly the frames that `operation` was read from.
    fn encode(self, out: &mut BytesMut);

    /// As [`Judged::permitted`].
    ///
    /// # Errors
    /// As there.
    fn permitted(&mut self, prompt: &PromptDuty) -> Result<(), Refusal> {
        none_to_mask(prompt)
    }

    /// As [`Judged::record`].
    fn record(&self, _plan: &MaskPlan, _recording: &mut Recording) {}
}

/// The proof that a request may go on. Owns the very request that was judged.
#[derive(Debug)]
#[must_use = "a permit is there to be forwarded"]
pub struct Permit<R> {
    request: R,
    allowed: Allowed,
    receipt: Receipt,
    outcome: OutcomeGuard,
    plan: MaskPlan,
    limits: Limits,
    recording: Option<Box<Recording>>,
}

impl<R> Permit<R> {
    /// The operation's reference.
    pub const fn id(&self) -> OperationId {
        self.outcome.operation()
    }

    /// Bounds that a policy sets; a protocol that cannot keep one withdraws the permit.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Gives the permit back unused: the request is not forwarded after all.
    pub fn withdraw(self, why: &str) {
        self.outcome.finish(Outcome::bare(OutcomeStatus::Cancelled, why));
    }

    pub(in crate::session) fn into_parts(self) -> (R, InFlight) {
        let Self {
            request,
            allowed,
            receipt,
            outcome,
            plan,
            limits,
            recording,
        } = self;
        tracing::trace!(operation = %outcome.operation(), sequence = receipt.sequence(), bundle = %allowed.bundle(), "forward");
        (
            request,
            InFlight {
                outcome,
                plan,
                limits,
                recording,
            },
        )
    }
}

/// Why frames of the process need no judgement of their own. Closed: whoever needs another reason names it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeutralReason {
    /// Ends a batch or asks for its answers.
    Synchronisation,
    /// Ends the session.
    Termination,
    /// Lets go of a name.
    Release,
    /// Describes what an operation that was judged has prepared.
    Description,
    /// Data of a copy that was judged.
    CopyData,
    /// Bytes of an opaque connection that was judged.
    OpaqueBytes,
    /// Frames of control of a WebSocket whose handshake was judged.
    WebSocketControl,
}

/// Frames of the process that carry no operation of their own.
pub trait Neutral {
    /// Why they need no judgement.
    fn reason(&self) -> NeutralReason;

    /// Appends the frames.
    fn encode(self, out: &mut BytesMut);
}

/// The proof that frames need no judgement, and that somebody still stands behind the session.
#[derive(Debug)]
#[must_use = "a pass is there to be forwarded"]
pub struct Pass<N> {
    frame: N,
}

impl<N: Neutral> Pass<N> {
    pub(in crate::session) fn into_frame(self) -> N {
        tracing::trace!(reason = ?self.frame.reason(), "pass");
        self.frame
    }
}

/// Says how long an operation waits for consent, once it is asked for: hears what the process would be told now, and how
/// long the policies and the configuration would wait.
pub type Patience<'a> = &'a mut (dyn FnMut(&Refusal, Duration) -> Duration + Send);

/// What an operation is called: in records, and in a distributed trace.
#[derive(Debug, Clone, Copy)]
struct Reference {
    id: OperationId,
    /// The trace that the process named with it.
    trace: Option<TraceContext>,
}

impl Reference {
    /// Of what stands in no trace.
    fn new() -> Self {
        Self {
            id: OperationId::new(),
            trace: None,
        }
    }
}

impl Session {
    /// Judges a request: decides, asks for consent where a policy wants it (and decides again with it), records, and
    /// only then gives the permit. Dropping the future before it is ready forwards nothing.
    ///
    /// # Errors
    /// The refusal to tell the process; it is recorded already.
    pub async fn authorize<R: Judged>(&self, request: R) -> Result<Permit<R>, Refusal> {
        self.authorize_patiently(request, &mut |_pending, usual| usual)
            .await
    }

    /// The same for a process that can be told that its request waits.
    ///
    /// # Errors
    /// The refusal to tell the process; it is recorded already.
    pub async fn authorize_patiently<R: Judged>(
        &self,
        request: R,
        patience: Patience<'_>,
    ) -> Result<Permit<R>, Refusal> {
        let id = Reference {
            id: OperationId::new(),
            trace: request.trace(),
        };
        let now = crate::clock::now();
        let operation = Arc::clone(request.operation());
        let principal = match self.owner(now) {
            Ok(principal) => principal,
            Err(refusal) => return Err(self.refused(id, Some(operation), refusal, None).await),
        };
        let judged = self.judge(id, &operation, &principal, (now, patience)).await;
        let (allowed, ticket) = match judged {
            Ruling::Go(allowed, ticket) => (allowed, ticket),
            Ruling::Refuse(refusal, bundle) => {
                return Err(self.refused(id, Some(operation), refusal, Some(bundle)).await);
            }
        };
        self.permit(id, request, allowed, ticket, now).await
    }

    /// Passes frames that carry no operation of their own, as long as somebody stands behind the session.
    ///
    /// # Errors
    /// A refusal where the identity has ended, or is somebody else's.
    pub fn pass<N: Neutral>(&self, frame: N) -> Result<Pass<N>, Refusal> {
        self.owner(crate::clock::now())?;
        Ok(Pass { frame })
    }

    /// Records bytes that are not understood, and makes the refusal for them.
    pub async fn refuse_unknown(&self, reason: impl Into<String> + Send) -> Refusal {
        let refusal = Refusal::new(
            RefusalKind::NotUnderstood,
            reason,
            "Interdict forwards only what it understands: write the statement in another way, or report it.",
        );
        self.refused(Reference::new(), None, refusal, None).await
    }

    /// Records that the process cancelled an operation that was waiting.
    pub async fn refuse_cancelled(&self) -> Refusal {
        let refusal = Refusal::new(
            RefusalKind::Cancelled,
            "Cancelled while it waited for approval.",
            "",
        );
        self.refused(Reference::new(), None, refusal, None).await
    }

    /// Records what is refused without asking the policies: `operation`, where it was understood as one.
    pub async fn refuse(&self, operation: Option<Arc<Operation>>, refusal: Refusal) -> Refusal {
        self.refused(Reference::new(), operation, refusal, None).await
    }

    async fn judge(
        &self,
        id: Reference,
        operation: &Arc<Operation>,
        principal: &Principal,
        (now, patience): (Timestamp, Patience<'_>),
    ) -> Ruling {
        let target = &self.target.target;
        let engine = self.rooms.policies.current();
        match engine.decide(operation, principal, target, None, now) {
            Decision::Allow(allowed) => Ruling::Go(allowed, None),
            Decision::Deny(denial) => self.denied(&engine, operation, principal, denial, now),
            Decision::NeedsApproval(need) => {
                let asking = (need, now, patience);
                self.consent(&engine, id, operation, principal, asking).await
            }
        }
    }

    fn denied(
        &self,
        engine: &Engine,
        operation: &Operation,
        principal: &Principal,
        denial: Denial,
        now: Timestamp,
    ) -> Ruling {
        match self.mode() {
            Mode::Enforce => refused_by(denial),
            Mode::Observe => Ruling::Go(
                engine.observe(operation, principal, &self.target.target, denial, now),
                None,
            ),
        }
    }

    async fn consent(
        &self,
        engine: &Engine,
        id: Reference,
        operation: &Arc<Operation>,
        principal: &Principal,
        (need, now, patience): (ApprovalNeed, Timestamp, Patience<'_>),
    ) -> Ruling {
        if self.mode() == Mode::Observe {
            let denial = need.as_denial();
            return Ruling::Go(
                engine.observe(operation, principal, &self.target.target, denial, now),
                None,
            );
        }
        match self.ask(id, operation, principal, &need, (now, patience)).await {
            Ok(Asked::Granted(consent)) => {
                let now = crate::clock::now();
                // A token may have ended, and policies changed, while somebody was asked: those of now count.
                let principal = match self.owner(now) {
                    Ok(principal) => principal,
                    Err(refusal) => return Ruling::Refuse(refusal, need.bundle),
                };
                let engine = self.rooms.policies.current();
                match engine.decide(operation, &principal, &self.target.target, Some(&consent), now) {
                    Decision::Allow(allowed) => Ruling::Go(allowed, Some(consent.ticket().clone())),
                    Decision::Deny(denial) => refused_by(denial),
                    Decision::NeedsApproval(still) => refused_by(still.as_denial()),
                }
            }
            Ok(Asked::Refused(refusal)) => Ruling::Refuse(refusal, need.bundle),
            Err(error) => {
                let refusal = Refusal::new(
                    RefusalKind::NotRecorded,
                    format!("It needs approval, and the request could not be stored: {error}."),
                    "Tell whoever runs the agent: its log says more.",
                );
                Ruling::Refuse(refusal, need.bundle)
            }
        }
    }

    async fn ask(
        &self,
        id: Reference,
        operation: &Arc<Operation>,
        principal: &Principal,
        need: &ApprovalNeed,
        (now, patience): (Timestamp, Patience<'_>),
    ) -> Result<Asked, BrokerError> {
        let target = &self.target.target;
        let broker = &self.rooms.broker;
        if let Some(consent) = broker
            .claim(principal, target, operation.fingerprint, now)
            .await?
        {
            return Ok(Asked::Granted(consent));
        }
        let process = &self.scene.process;
        let ask = Ask {
            operation: id.id,
            principal: principal.clone(),
            target: target.clone(),
            fingerprint: operation.fingerprint,
            action: operation.headline().name().to_owned(),
            text: operation.text.clone(),
            process: format!("{} (pid {}, {})", process.comm, process.tgid, process.exe.path),
            policies: need.policies.clone(),
            reason: need.reason.clone(),
            approvers: need.approvers.clone(),
            min_approvals: need.min_approvals,
        };
        let ticket = broker.open(&ask, now).await?;
        let held = JudgedAs::Held {
            policies: need.policies.clone(),
            reason: need.reason.clone(),
            ticket: ticket.clone(),
        };
        if let Err(refusal) = self.note_opened().await {
            return Ok(Asked::Refused(refusal));
        }
        let event = self.operation_event(
            id,
            Some(Arc::clone(operation)),
            held,
            Some(need.bundle),
            (RecordingLevel::Operations, false),
        );
        if let Err(error) = self.rooms.audit.record(event).await {
            return Ok(Asked::Refused(not_recorded(&error)));
        }
        let patience = if waits_do_harm(operation) {
            Duration::ZERO
        } else {
            let usual = need.hold.unwrap_or(self.rooms.hold);
            let mut told = pending(need, ticket.clone());
            told.operation = Some(id.id);
            patience(&told, usual)
        };
        Ok(match broker.wait(&ticket, patience).await? {
            Answer::Granted(consent) => Asked::Granted(consent),
            Answer::Pending => Asked::Refused(pending(need, ticket)),
            Answer::Denied { by, comment } => {
                Asked::Refused(not_approved(&need.policies, ticket, &by, &comment))
            }
            Answer::Expired => Asked::Refused(expired(&need.policies, ticket)),
        })
    }

    /// How much of a new operation is recorded, and whether that is less than configured, because the disk is nearly full.
    fn room_for(&self, by_policy: RecordingLevel) -> Result<(RecordingLevel, bool), Refusal> {
        let wanted = by_policy.max(self.target.recording);
        let Err(full) = self.rooms.audit.has_room() else {
            return Ok((wanted, false));
        };
        // What a policy wants recorded is an obligation: where it cannot be met, the answer is no.
        let may = self.target.when_full == WhenFull::Metadata && by_policy == RecordingLevel::Metadata;
        if may {
            return Ok((RecordingLevel::Metadata, wanted > RecordingLevel::Metadata));
        }
        Err(Refusal::new(
            RefusalKind::NotRecorded,
            format!("There is no room for the record of it: {full}."),
            "Tell whoever runs the agent: nothing is forwarded unrecorded.",
        ))
    }

    async fn permit<R: Judged>(
        &self,
        id: Reference,
        mut request: R,
        allowed: Allowed,
        ticket: Option<Ticket>,
        now: Timestamp,
    ) -> Result<Permit<R>, Refusal> {
        let Obligations {
            revealed,
            recording,
            limits,
            prompt,
        } = allowed.obligations().clone();
        let masked = request.permitted(&prompt);
        let operation = Arc::clone(request.operation());
        if let Err(refusal) = masked {
            return Err(self
                .refused(id, Some(operation), refusal, Some(allowed.bundle()))
                .await);
        }
        let kept = match self.room_for(recording) {
            Ok(room) => room,
            Err(refusal) => {
                let bundle = Some(allowed.bundle());
                return Err(self.refused(id, Some(operation), refusal, bundle).await);
            }
        };
        self.note_opened().await?;
        let judged = match allowed.observed() {
            Some(denial) => JudgedAs::Observed {
                policies: denial.policies.clone(),
                reason: denial.reason.clone(),
            },
            None => JudgedAs::Allowed {
                policies: allowed.policies().to_vec(),
                ticket,
            },
        };
        let slot = self.rooms.audit.promise().map_err(|error| not_recorded(&error))?;
        let event = self.operation_event(id, Some(operation), judged, Some(allowed.bundle()), kept);
        let receipt = self
            .rooms
            .audit
            .record(event)
            .await
            .map_err(|error| not_recorded(&error))?;
        let outcome = OutcomeGuard::new(slot, Arc::clone(&self.scene), id.id, now);
        let plan = self.rooms.masks.plan(&revealed);
        if let Some(trace) = id
            .trace
            .and_then(|asked| self.rooms.audit.continues(id.id, asked))
        {
            request.continue_trace(trace);
        }
        let content = (kept.0 == RecordingLevel::Full).then(|| self.content_of(&request, id.id, recording));
        let recording = match content {
            None => None,
            Some((sent, answer)) => match sent.settle_durably().await {
                Ok(()) => Some(answer),
                Err(why) => {
                    let what = "its content could not be recorded";
                    outcome.finish(Outcome::bare(OutcomeStatus::Cancelled, what));
                    return Err(why.refusal());
                }
            },
        };
        Ok(Permit {
            request,
            allowed,
            receipt,
            outcome,
            plan,
            limits: limits.and(self.rooms.limits),
            recording,
        })
    }

    fn operation_event(
        &self,
        id: Reference,
        operation: Option<Arc<Operation>>,
        judged: JudgedAs,
        bundle: Option<Digest>,
        (recording, degraded): (RecordingLevel, bool),
    ) -> Event {
        Event::Operation {
            scene: Arc::clone(&self.scene),
            event: OperationEvent {
                id: id.id,
                operation,
                judged,
                bundle,
                recording,
                degraded,
                trace: id.trace,
            },
        }
    }

    /// Records the refusal; a refusal stays one where even that fails.
    async fn refused(
        &self,
        id: Reference,
        operation: Option<Arc<Operation>>,
        mut refusal: Refusal,
        bundle: Option<Digest>,
    ) -> Refusal {
        refusal.operation = Some(id.id);
        let ticket = match &refusal.kind {
            RefusalKind::PendingApproval { ticket, .. } | RefusalKind::ApprovalDenied { ticket } => {
                Some(ticket.clone())
            }
            RefusalKind::Denied
            | RefusalKind::Identity
            | RefusalKind::NotUnderstood
            | RefusalKind::NotRecorded
            | RefusalKind::Limit
            | RefusalKind::TimeLimit
            | RefusalKind::Unreachable
            | RefusalKind::Cancelled => None,
        };
        let judged = JudgedAs::Refused {
            policies: refusal.policies.clone(),
            reason: refusal.reason.clone(),
            kind: refusal.kind.name(),
            ticket,
        };
        // What is kept free is for many of these.
        let kept = match self.rooms.audit.has_room() {
            Ok(()) => (self.target.recording, false),
            Err(_full) => (RecordingLevel::Metadata, true),
        };
        let event = self.operation_event(id, operation, judged, bundle, kept);
        if let Err(error) = self.rooms.audit.record(event).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        refusal
    }
}

enum Ruling {
    Go(Allowed, Option<Ticket>),
    /// With the digest of the policies that decided.
    Refuse(Refusal, Digest),
}

enum Asked {
    Granted(Consent),
    Refused(Refusal),
}

/// Inside an open transaction a wait would keep its locks.
fn waits_do_harm(operation: &Operation) -> bool {
    match &operation.facts {
        Facts::Sql(facts) => facts.in_transaction,
        Facts::Connect(_) | Facts::Http(_) | Facts::Mcp(_) | Facts::Llm(_) | Facts::Dns(_) => false,
    }
}

fn refused_by(denial: Denial) -> Ruling {
    let bundle = denial.bundle;
    Ruling::Refuse(denial_refusal(denial), bundle)
}

pub(in crate::session) fn denial_refusal(denial: Denial) -> Refusal {
    let Denial {
        policies,
        reason,
        cause: _,
        bundle: _,
    } = denial;
    let next_step = if policies.is_empty() {
        "Ask whoever keeps the policies for a permit."
    } else {
        "Ask whoever keeps the policy if this should be possible."
    };
    Refusal {
        policies,
        ..Refusal::new(RefusalKind::Denied, reason, next_step)
    }
}

fn with_policies(kind: RefusalKind, reason: String, next_step: String, policies: &[PolicyId]) -> Refusal {
    Refusal {
        policies: policies.to_vec(),
        ..Refusal::new(kind, reason, next_step)
    }
}

fn pending(need: &ApprovalNeed, ticket: Ticket) -> Refusal {
    let approvers: std::collections::BTreeSet<_> = need.approvers.iter().flatten().cloned().collect();
    let names: Vec<&str> = approvers.iter().map(crate::model::Group::as_str).collect();
    let next = format!(
        "Somebody in {} can run `interdict approvals approve {ticket}`; then send exactly the same again.",
        names.join(" or ")
    );
    let reason = format!("{} It waits for approval: {ticket}.", need.reason);
    with_policies(
        RefusalKind::PendingApproval { ticket, approvers },
        reason,
        next,
        &need.policies,
    )
}

pub(in crate::session) fn not_approved(
    policies: &[PolicyId],
    ticket: Ticket,
    by: &str,
    comment: &str,
) -> Refusal {
    let comment = if comment.is_empty() {
        String::new()
    } else {
        format!(": {comment}")
    };
    let reason = format!("{by} did not approve {ticket}{comment}.");
    with_policies(
        RefusalKind::ApprovalDenied { ticket },
        reason,
        "Talk to the approver.".into(),
        policies,
    )
}

pub(in crate::session) fn expired(policies: &[PolicyId], ticket: Ticket) -> Refusal {
    let reason = format!("Nobody decided {ticket} in time.");
    with_policies(
        RefusalKind::ApprovalDenied { ticket },
        reason,
        "Send it again to ask again.".into(),
        policies,
    )
}

pub(in crate::session) fn not_recorded(error: &AuditError) -> Refusal {
    Refusal::new(
        RefusalKind::NotRecorded,
        format!("The record of it could not be made durable: {error}."),
        "Tell whoever runs the agent: nothing is forwarded unrecorded.",
    )
}
