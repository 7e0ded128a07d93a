//! A session: who and where, and the rooms that judge what happens in it.

use std::sync::Arc;

use crate::approval::Broker;
use crate::audit::{AuditError, AuditLog, Event, Scene, Stored};
use crate::config::{Mode, TargetConfig};
use crate::identity::Binding;
use crate::mask::MaskEngine;
use crate::model::{
    ConnectionId, Limits, OriginalDst, Outcome, Principal, Process, Refusal, RefusalKind, RunId, SessionId,
    Timestamp,
};
use crate::policy::Policies;

/// The rooms that judge a session. One value, shared by all sessions of a run.
#[derive(Debug)]
pub struct Rooms {
    /// The run.
    pub run: RunId,
    /// Who stands behind it.
    pub binding: Arc<Binding>,
    /// The policies.
    pub policies: Arc<Policies>,
    /// Consent.
    pub broker: Broker,
    /// Records.
    pub audit: AuditLog,
    /// Masking.
    pub masks: Arc<MaskEngine>,
    /// Whether refusals refuse, unless the target says otherwise.
    pub mode: Mode,
    /// Bounds on every operation; policies may set narrower ones.
    pub limits: Limits,
    /// How long an operation waits for consent, unless a policy says otherwise.
    pub hold: std::time::Duration,
}

impl Rooms {
    /// Records a connection that ended before it became a session.
    pub async fn record_unopened(&self, process: Arc<Process>, original: OriginalDst, reason: String) {
        let event = Event::ConnectionRefused {
            run: self.run,
            process: Some(process),
            original: Some(original),
            reason,
        };
        if let Err(error) = self.audit.post(event).await {
            tracing::error!(%error, "a failed opening could not be recorded");
        }
    }
}

/// A connection with its process, its principal and its target.
#[derive(Debug)]
pub struct Session {
    pub(in crate::session) rooms: Arc<Rooms>,
    /// Who stands behind the process.
    pub(in crate::session) binding: Arc<Binding>,
    pub(in crate::session) target: Arc<TargetConfig>,
    pub(in crate::session) scene: Arc<Scene>,
    opened: tokio::sync::OnceCell<()>,
}

/// Whoever stands behind a session at `now`. Its records name one principal, and consent is given to one: a token of somebody
/// else is for new connections.
pub(in crate::session) fn owner(
    binding: &Binding,
    scene: &Scene,
    now: Timestamp,
) -> Result<Arc<Principal>, Refusal> {
    let principal = binding.current(now)?;
    if principal.is_same(&scene.principal) {
        return Ok(principal);
    }
    let opened_for = &scene.principal;
    Err(Refusal::new(
        RefusalKind::Identity,
        format!("This connection was opened for {opened_for}, and the token is {principal}'s now."),
        "Open a new connection.",
    ))
}

impl Session {
    /// Opens a session: the principal must be bound, and the opening recorded.
    ///
    /// # Errors
    /// A refusal where nobody stands behind the run any more, or where the record could not be made durable.
    pub async fn open(
        rooms: Arc<Rooms>,
        connection: ConnectionId,
        process: Arc<Process>,
        original: OriginalDst,
        target: Arc<TargetConfig>,
    ) -> Result<Self, Refusal> {
        let session = Self::unopened(rooms, connection, process, original, target)?;
        session.note_opened().await?;
        Ok(session)
    }

    /// A session whose opening is recorded with the first thing that is permitted or held in it: where all is refused,
    /// a refusal is one record and not three.
    ///
    /// # Errors
    /// A refusal where nobody stands behind the run any more.
    pub fn unopened(
        rooms: Arc<Rooms>,
        connection: ConnectionId,
        process: Arc<Process>,
        original: OriginalDst,
        target: Arc<TargetConfig>,
    ) -> Result<Self, Refusal> {
        let binding = rooms.binding.of(process.cgroup);
        let principal = binding.current(crate::clock::now())?;
        let scene = Arc::new(Scene {
            run: rooms.run,
            connection,
            session: SessionId::new(),
            principal,
            process,
            target: Arc::new(target.target.clone()),
            original,
            stored: Stored::default(),
        });
        Ok(Self {
            rooms,
            binding,
            target,
            scene,
            opened: tokio::sync::OnceCell::new(),
        })
    }

    /// Records the opening, once.
    pub(in crate::session) async fn note_opened(&self) -> Result<(), Refusal> {
        let record = || async {
            let scene = Arc::clone(&self.scene);
            self.rooms.audit.record(Event::SessionOpened { scene }).await
        };
        let noted = self.opened.get_or_try_init(|| async { record().await.map(drop) });
        match noted.await {
            Ok(()) => Ok(()),
            Err(error) => Err(super::authorize::not_recorded(&error)),
        }
    }

    /// Whoever the session was opened for, where a token vouches for them at `now`.
    ///
    /// # Errors
    /// A refusal of kind `Identity` where it has ended, or is somebody else's.
    pub(in crate::session) fn owner(&self, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        owner(&self.binding, &self.scene, now)
    }

    /// Whether somebody else stands behind its process now: what is still asked in it is refused.
    #[must_use]
    pub fn changed_hands(&self) -> bool {
        let principal = self.binding.current(crate::clock::now());
        principal.is_ok_and(|principal| !principal.is_same(&self.scene.principal))
    }

    /// Who and where.
    #[must_use]
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// The target's configuration.
    #[must_use]
    pub fn target(&self) -> &TargetConfig {
        &self.target
    }

    /// Bounds on every operation, whatever policies say.
    #[must_use]
    pub fn common_limits(&self) -> Limits {
        self.rooms.limits
    }

    /// A text as records and approvers see it: everything sensitive masked.
    #[must_use]
    pub fn shown(&self, text: &[u8]) -> String {
        let plan = self.masks_nothing_revealed();
        let mut masked = bytes::BytesMut::new();
        let mut counts = crate::model::MaskCounts::default();
        let shown = match plan.text(None, text, &mut masked, &mut counts) {
            crate::mask::CellMask::Unchanged => text,
            crate::mask::CellMask::Replaced => &masked,
            crate::mask::CellMask::Null => b"[masked]",
        };
        String::from_utf8_lossy(shown).into_owned()
    }

    /// The plan for what belongs to no operation (notices, log-in errors): nothing is revealed.
    #[must_use]
    pub fn masks_nothing_revealed(&self) -> crate::mask::MaskPlan {
        self.rooms.masks.plan(&std::collections::BTreeSet::new())
    }

    /// Records the end, where the opening was recorded.
    ///
    /// # Errors
    /// Where the log is closed.
    pub async fn close(&self, outcome: Outcome) -> Result<(), AuditError> {
        if !self.opened.initialized() {
            return Ok(());
        }
        self.rooms
            .audit
            .post(Event::SessionClosed {
                scene: Arc::clone(&self.scene),
                outcome,
            })
            .await
    }

    pub(in crate::session) fn mode(&self) -> Mode {
        self.target.mode.unwrap_or(self.rooms.mode)
    }
}
