//! Requests for consent and the grants that answer them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::audit::{ApprovalStep, AuditLog, Event};
use crate::config::ApprovalConfig;
use crate::model::{Fingerprint, Group, OperationId, Principal, Target, Ticket, Timestamp};

use super::ask::{Answer, Ask, Vote, Voter};
use super::consent::{Approver, Consent};
use super::rules::{Rejection, concerns, groups_of, is_granted, may_vote};
use super::store::{Bound, Kept, Request, RequestState, Store};
use super::terms::Grant;

/// How often a waiter looks at the store for decisions that came through another agent.
const LOOK: Duration = Duration::from_millis(200);
/// Open requests of one principal: a process that asks for more would bury those that people should see.
const MAX_OPEN: u32 = 100;
/// How often something is tried again that another agent was quicker at.
const ATTEMPTS: usize = 32;

/// Why the broker could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The store failed.
    #[error("the store of approvals cannot be used: {0}")]
    Store(String),
    /// It could not be recorded, so it did not happen.
    #[error("it could not be recorded, so it was not done: {0}")]
    Audit(#[from] crate::audit::AuditError),
    /// No such ticket.
    #[error("there is no request {0} here (see `interdict approvals list`)")]
    Unknown(Ticket),
    /// The vote does not count.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many of this principal's requests are open.
    #[error("{0} requests of the same principal wait for approval already: decide or deny them first")]
    TooMany(u32),
    /// Other agents kept changing it.
    #[error("other agents kept changing it: try again")]
    Contended,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

impl From<rusqlite::Error> for BrokerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Requests for consent and the grants that answer them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    audit: AuditLog,
    config: ApprovalConfig,
    decided: Notify,
    /// Held while a request is opened: within one agent the same request is then recorded once.
    opening: tokio::sync::Mutex<()>,
}

impl Broker {
    /// Opens the store of this host.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn open_store(path: &Path, audit: AuditLog, config: ApprovalConfig) -> Result<Self, BrokerError> {
        Ok(Self::with(Store::open(path)?, audit, config))
    }

    /// A broker that forgets, for tests of other rooms.
    ///
    /// # Errors
    /// Where SQLite cannot be used at all.
    pub fn in_memory(audit: AuditLog, config: ApprovalConfig) -> Result<Self, BrokerError> {
        Ok(Self::with(Store::in_memory()?, audit, config))
    }

    fn with(store: Store, audit: AuditLog, config: ApprovalConfig) -> Self {
        let inner = Inner {
            store: Mutex::new(store),
            audit,
            config,
            decided: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Uses up a grant for exactly this principal, target and fingerprint, where there is one.
    ///
    /// # Errors
    /// Where the store fails or the use cannot be recorded: then there is no consent.
    pub async fn claim(
        &self,
        principal: &Principal,
        target: &Target,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<Consent>, BrokerError> {
        let bound = bound(principal, target, fingerprint);
        for _attempt in 0..ATTEMPTS {
            match self.find(&bound, RequestState::Approved).await? {
                None => return Ok(None),
                Some(kept) if now < kept.request.expires_at => {
                    if let Some(consent) = self.take(kept).await? {
                        return Ok(Some(consent));
                    }
                }
                Some(kept) => self.expire(kept).await?,
            }
        }
        Err(BrokerError::Contended)
    }

    /// Opens a request, or finds the open one for the same principal, target and fingerprint (a client that repeats
    /// itself does not make a second). Recorded before it returns.
    ///
    /// # Errors
    /// Where the store or the log fails.
    pub async fn open(&self, ask: &Ask, now: Timestamp) -> Result<Ticket, BrokerError> {
        let bound = bound(&ask.principal, &ask.target, ask.fingerprint);
        let _one_at_a_time = self.inner.opening.lock().await;
        for _attempt in 0..ATTEMPTS {
            match self.find(&bound, RequestState::Open).await? {
                Some(kept) if now < kept.request.expires_at => return Ok(kept.request.ticket),
                Some(kept) => self.expire(kept).await?,
                None => {}
            }
            let principal = bound.principal.clone();
            let open = self.stored(move |store| store.count_open(&principal)).await?;
            if open >= MAX_OPEN {
                return Err(BrokerError::TooMany(open));
            }
            let request = self.request(ask, now, self.free_ticket().await?);
            let approvers: BTreeSet<Group> = ask.approvers.iter().flatten().cloned().collect();
            let step = ApprovalStep::Requested {
                approvers: approvers.into_iter().collect(),
            };
            self.note(&request, None, step).await?;
            let kept = request.clone();
            if self.stored(move |store| store.insert(&kept)).await? {
                return Ok(request.ticket);
            }
            // Another agent asked the same since we looked: its ticket is the one, and this one ends here.
            self.note(&request, None, ApprovalStep::Expired).await?;
        }
        Err(BrokerError::Contended)
    }

    /// Waits for an answer, at most `patience`; `Duration::ZERO` looks once.
    ///
    /// # Errors
    /// Where the store fails: then there is no consent.
    pub async fn wait(&self, ticket: &Ticket, patience: Duration) -> Result<Answer, BrokerError> {
        let deadline = Instant::now() + patience;
        loop {
            let decided = self.inner.decided.notified();
            let kept = self.get(ticket).await?;
            let now = crate::clock::now();
            match kept.request.state {
                RequestState::Approved if now < kept.request.expires_at => {
                    if let Some(consent) = self.take(kept).await? {
                        return Ok(Answer::Granted(consent));
                    }
                    continue;
                }
                RequestState::Open if now < kept.request.expires_at => {}
                RequestState::Open | RequestState::Approved => {
                    // Where somebody decided it in this moment, the next look says how.
                    self.expire(kept).await?;
                    continue;
                }
                RequestState::Denied => {
                    let (by, comment) = kept.request.denied.unwrap_or_default();
                    return Ok(Answer::Denied { by, comment });
                }
                // The same operation was sent twice, and the other one used it.
                RequestState::Used | RequestState::Expired => return Ok(Answer::Expired),
            }
            if Instant::now() >= deadline {
                return Ok(Answer::Pending);
            }
            let look = deadline.min(Instant::now() + LOOK);
            tokio::select! {
                () = decided => {}
                () = tokio::time::sleep_until(look) => {}
            }
        }
    }

    /// A request as it stands, for who asked.
    ///
    /// # Errors
    /// Where there is none, or the store or the log fails.
    pub async fn standing(&self, ticket: &Ticket, now: Timestamp) -> Result<Request, BrokerError> {
        Ok(self.fresh(ticket, now).await?.request)
    }

    /// Ends a request that nobody has decided yet: who asked does not want it any more. What was decided stays.
    ///
    /// # Errors
    /// Where there is none, or the store or the log fails.
    pub async fn withdraw(&self, ticket: &Ticket, now: Timestamp) -> Result<(), BrokerError> {
        for _attempt in 0..ATTEMPTS {
            let kept = self.fresh(ticket, now).await?;
            if kept.request.state != RequestState::Open {
                return Ok(());
            }
            if self.ended(kept, ApprovalStep::Withdrawn).await? {
                self.inner.decided.notify_waiters();
                return Ok(());
            }
        }
        Err(BrokerError::Contended)
    }

    /// The newest requests; only those that wait or can be used unless `all`.
    ///
    /// # Errors
    /// Where the store or the log fails.
    pub async fn list(&self, all: bool, now: Timestamp) -> Result<Vec<Request>, BrokerError> {
        for kept in self.stored(move |store| store.overdue(now)).await? {
            self.expire(kept).await?;
        }
        self.stored(move |store| store.list(all)).await
    }

    /// One request, for somebody to look at; recorded. Unless `all`, only what concerns the viewer: for others it is not
    /// there, and that they tried is recorded.
    ///
    /// # Errors
    /// Where there is none, or the store or the log fails.
    pub async fn view(
        &self,
        ticket: &Ticket,
        viewer: &Voter,
        all: bool,
        now: Timestamp,
    ) -> Result<Request, BrokerError> {
        let request = self.fresh(ticket, now).await?.request;
        if !all && !concerns(&request, &viewer.principal) {
            let reason = "it was to be shown to somebody whom it does not concern".to_owned();
            let step = ApprovalStep::Rejected { reason };
            self.note(&request, Some(viewer), step).await?;
            return Err(BrokerError::Unknown(ticket.clone()));
        }
        self.note(&request, Some(viewer), ApprovalStep::Viewed).await?;
        Ok(request)
    }

    /// Counts a vote. Recorded before it takes effect, also when it is rejected.
    ///
    /// # Errors
    /// Why it does not count.
    pub async fn vote(
        &self,
        ticket: &Ticket,
        voter: &Voter,
        vote: Vote,
        now: Timestamp,
    ) -> Result<Request, BrokerError> {
        let mut recorded = false;
        for _attempt in 0..ATTEMPTS {
            let kept = self.fresh(ticket, now).await?;
            if let Err(rejection) = may_vote(&kept.request, &voter.principal, &vote, now) {
                let step = ApprovalStep::Rejected {
                    reason: rejection.to_string(),
                };
                self.note(&kept.request, Some(voter), step).await?;
                return Err(rejection.into());
            }
            let (request, step) = self.counted(kept.request.clone(), voter, &vote, now);
            if !recorded {
                self.note(&request, Some(voter), step).await?;
                recorded = true;
            }
            let stored = request.clone();
            if self.stored(move |store| store.replace(&kept, &stored)).await? {
                self.inner.decided.notify_waiters();
                return Ok(request);
            }
            // Somebody else voted since we looked: the rules are asked again with that vote in.
        }
        Err(BrokerError::Contended)
    }

    /// The request with a vote in it that the rules let through, and the step to record.
    fn counted(
        &self,
        mut request: Request,
        voter: &Voter,
        vote: &Vote,
        now: Timestamp,
    ) -> (Request, ApprovalStep) {
        match vote {
            Vote::Approve { terms, comment } => {
                let unless_said = self.inner.config.grant_ttl;
                let grant = Grant::with(request.grant, *terms, unless_said);
                request.grant = Some(grant);
                request.votes.push(Approver {
                    principal: voter.principal.key(),
                    groups: groups_of(&voter.principal),
                    at: now,
                });
                if is_granted(&request) {
                    request.state = RequestState::Approved;
                    request.expires_at = now.plus(grant.window);
                }
                let terms = match comment.as_str() {
                    "" => terms.to_string(),
                    comment => format!("{terms}: {comment}"),
                };
                (request, ApprovalStep::Approved { terms })
            }
            Vote::Deny { comment } => {
                request.state = RequestState::Denied;
                request.denied = Some((voter.principal.key(), comment.clone()));
                let comment = comment.clone();
                (request, ApprovalStep::Denied { comment })
            }
        }
    }

    /// Uses an approved request once; `None` where somebody else was quicker.
    async fn take(&self, kept: Kept) -> Result<Option<Consent>, BrokerError> {
        let mut request = kept.request.clone();
        match &mut request.grant {
            Some(grant) if grant.uses > 1 => grant.uses -= 1,
            Some(_) | None => {
                request.grant = None;
                request.state = RequestState::Used;
            }
        }
        let stored = request.clone();
        if !self.stored(move |store| store.replace(&kept, &stored)).await? {
            return Ok(None);
        }
        self.note(&request, None, ApprovalStep::Used).await?;
        Ok(Some(Consent {
            ticket: request.ticket,
            approvers: request.votes,
        }))
    }

    /// Marks a request whose time is over, unless somebody changed it in the meantime.
    async fn expire(&self, kept: Kept) -> Result<(), BrokerError> {
        self.ended(kept, ApprovalStep::Expired).await.map(drop)
    }

    /// Marks a request that nobody can decide or use any more; `false` where somebody changed it in the meantime.
    async fn ended(&self, kept: Kept, how: ApprovalStep) -> Result<bool, BrokerError> {
        let mut request = kept.request.clone();
        request.state = RequestState::Expired;
        let stored = request.clone();
        let done = self.stored(move |store| store.replace(&kept, &stored)).await?;
        if done {
            self.note(&request, None, how).await?;
        }
        Ok(done)
    }

    async fn get(&self, ticket: &Ticket) -> Result<Kept, BrokerError> {
        let wanted = ticket.clone();
        let found = self.stored(move |store| store.get(&wanted)).await?;
        found.ok_or_else(|| BrokerError::Unknown(ticket.clone()))
    }

    /// As it is at `now`: what is overdue is marked first.
    async fn fresh(&self, ticket: &Ticket, now: Timestamp) -> Result<Kept, BrokerError> {
        let kept = self.get(ticket).await?;
        let waits = matches!(kept.request.state, RequestState::Open | RequestState::Approved);
        if waits && now >= kept.request.expires_at {
            self.expire(kept).await?;
            return self.get(ticket).await;
        }
        Ok(kept)
    }

    async fn find(&self, bound: &Bound, state: RequestState) -> Result<Option<Kept>, BrokerError> {
        let bound = bound.clone();
        self.stored(move |store| store.find(&bound, state)).await
    }

    /// A ticket that no request has, also no old one: people may still have it in a message.
    async fn free_ticket(&self) -> Result<Ticket, BrokerError> {
        for _attempt in 0..ATTEMPTS {
            let mut bits = [0; 4];
            aws_lc_rs::rand::fill(&mut bits).map_err(|_unspecified| BrokerError::Random)?;
            let ticket = Ticket::from_random(u32::from_ne_bytes(bits));
            let wanted = ticket.clone();
            if self.stored(move |store| store.get(&wanted)).await?.is_none() {
                return Ok(ticket);
            }
        }
        Err(BrokerError::Random)
    }

    fn request(&self, ask: &Ask, now: Timestamp, ticket: Ticket) -> Request {
        Request {
            ticket,
            state: RequestState::Open,
            operation: ask.operation.to_string(),
            principal: ask.principal.key(),
            target: ask.target.name.to_string(),
            fingerprint: ask.fingerprint.to_string(),
            action: ask.action.clone(),
            text: ask.text.clone(),
            process: ask.process.clone(),
            policies: ask.policies.iter().map(ToString::to_string).collect(),
            reason: ask.reason.clone(),
            approvers: ask.approvers.clone(),
            min_approvals: ask.min_approvals,
            asked_at: now,
            expires_at: now.plus(self.inner.config.request_ttl),
            votes: Vec::new(),
            denied: None,
            grant: None,
        }
    }

    async fn note(
        &self,
        request: &Request,
        who: Option<&Voter>,
        step: ApprovalStep,
    ) -> Result<(), BrokerError> {
        let event = Event::Approval {
            ticket: request.ticket.clone(),
            operation: request
                .operation
                .parse()
                .unwrap_or_else(|_damaged| OperationId::new()),
            principal: request.principal.clone(),
            target: request.target.clone(),
            actor: who.map(|w| w.principal.key()).unwrap_or_default(),
            actor_groups: who
                .map(|w| w.principal.groups.iter().cloned().collect())
                .unwrap_or_default(),
            actor_uid: who.and_then(|w| w.uid),
            step,
        };
        let _receipt = self.inner.audit.record(event).await?;
        Ok(())
    }

    /// Runs something on the store, off the async workers.
    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let store = inner.store.lock().unwrap_or_else(PoisonError::into_inner);
            work(&store)
        });
        Ok(done
            .await
            .map_err(|error| BrokerError::Store(error.to_string()))??)
    }
}

fn bound(principal: &Principal, target: &Target, fingerprint: Fingerprint) -> Bound {
    Bound {
        principal: principal.key(),
        target: target.name.to_string(),
        fingerprint: fingerprint.to_string(),
    }
}
