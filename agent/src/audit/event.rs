//! What can be recorded, in the words of the model; the stored form is this room's own.

use std::sync::{Arc, OnceLock};

use crate::model::{
    ConnectionId, Content, Digest, Group, Operation, OperationId, OriginalDst, Outcome, PolicyId, Principal,
    Process, RecordingLevel, RunId, SessionId, Target, Ticket, TraceContext,
};

/// Who, from which process, to which target: the part that every record of a session shares.
#[derive(Debug)]
pub struct Scene {
    /// The run or workload.
    pub run: RunId,
    /// The connection.
    pub connection: ConnectionId,
    /// The session.
    pub session: SessionId,
    /// The person or service.
    pub principal: Arc<Principal>,
    /// The process.
    pub process: Arc<Process>,
    /// The target.
    pub target: Arc<Target>,
    /// Where the process meant to connect to.
    pub original: OriginalDst,
    /// Its stored form, made with the first record of it.
    pub stored: Stored,
}

/// The stored form of what does not change.
#[derive(Debug, Default)]
pub struct Stored(pub(super) OnceLock<Vec<u8>>);

/// How an operation was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JudgedAs {
    /// It goes on to the target.
    Allowed {
        /// The policies that permit it.
        policies: Vec<PolicyId>,
        /// The consent that it needed.
        ticket: Option<Ticket>,
    },
    /// Observe mode: it goes on, and would have been refused.
    Observed {
        /// The policies that would have refused it.
        policies: Vec<PolicyId>,
        /// Their reason.
        reason: String,
    },
    /// It waits for consent; another record follows.
    Held {
        /// The policies that want consent.
        policies: Vec<PolicyId>,
        /// Their reason.
        reason: String,
        /// The request.
        ticket: Ticket,
    },
    /// It does not go on.
    Refused {
        /// The policies that forbid it.
        policies: Vec<PolicyId>,
        /// Their reason, or what was not understood.
        reason: String,
        /// The name of the `RefusalKind`.
        kind: &'static str,
        /// The request, where there is one.
        ticket: Option<Ticket>,
    },
}

/// One judged operation.
#[derive(Debug, Clone)]
pub struct OperationEvent {
    /// The reference.
    pub id: OperationId,
    /// The operation; `None` where the bytes could not be understood as one.
    pub operation: Option<Arc<Operation>>,
    /// How it was judged.
    pub judged: JudgedAs,
    /// The digest of the policies that decided; `None` where no policy was asked.
    pub bundle: Option<Digest>,
    /// How much is kept.
    pub recording: RecordingLevel,
    /// Whether that is less than was wanted, because the disk is nearly full.
    pub degraded: bool,
    /// The trace that the process named; no part of the record.
    pub trace: Option<TraceContext>,
}

/// A step of an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalStep {
    /// Somebody needs to decide.
    Requested {
        /// Who may.
        approvers: Vec<Group>,
    },
    /// Somebody looked at it.
    Viewed,
    /// Somebody said yes.
    Approved {
        /// How often and how long it can be used, and the approver's words.
        terms: String,
    },
    /// Somebody said no.
    Denied {
        /// Why, in the approver's words.
        comment: String,
    },
    /// Somebody tried to decide and may not.
    Rejected {
        /// Why not.
        reason: String,
    },
    /// Nobody decided in time.
    Expired,
    /// Who asked does not want it any more.
    Withdrawn,
    /// The consent was used.
    Used,
}

/// Who did something with one of the agent's commands: what the kernel says of the process that ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Its user.
    pub uid: u32,
    /// The user that logged in, whatever became of it since (`sudo`); `None` for what no log-in began.
    pub login: Option<u32>,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.login {
            Some(login) => write!(f, "uid {} (login {login})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// Everything that can be recorded.
#[derive(Debug, Clone)]
pub enum Event {
    /// The agent started.
    AgentStarted {
        /// Its version.
        version: String,
        /// Digest of the configuration.
        config: Digest,
        /// Digest of the policies.
        bundle: Digest,
        /// Kernel hooks that are attached.
        hooks: Vec<String>,
    },
    /// The agent stopped in good order.
    AgentStopped {
        /// Why.
        reason: String,
    },
    /// Policies or configuration changed while running.
    Reloaded {
        /// What: `policies`, `classes`, `keys of ISSUER`.
        what: String,
        /// Digest of the old content.
        from: Digest,
        /// Digest of the new content.
        to: Digest,
    },
    /// A change of policies or configuration was wrong: what was there before stays.
    ReloadRefused {
        /// What, as above.
        what: String,
        /// Digest of the content that stays.
        kept: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A workload started.
    RunStarted {
        /// The run.
        run: RunId,
        /// Whoever stands behind it.
        principal: Arc<Principal>,
        /// The command, without its arguments' values.
        command: String,
        /// The user that it runs as.
        uid: u32,
    },
    /// A workload ended.
    RunEnded {
        /// The run.
        run: RunId,
        /// Its status as shells show it (128 + signal).
        status: i32,
    },
    /// A cgroup of a workload is governed from now on.
    WorkloadGoverned {
        /// The workload's.
        run: RunId,
        /// Its path below the cgroup2 mount.
        cgroup: String,
        /// Processes that were in it already.
        processes: usize,
        /// Their connections that were older than the guard and were closed.
        closed: usize,
    },
    /// A cgroup of a workload is governed no longer.
    WorkloadReleased {
        /// The workload's.
        run: RunId,
        /// Its path below the cgroup2 mount.
        cgroup: String,
        /// Why.
        reason: String,
    },
    /// An identity was bound to a run.
    IdentityBound {
        /// The run.
        run: RunId,
        /// The identity.
        principal: Arc<Principal>,
    },
    /// An identity ended, or a token was refused.
    IdentityEnded {
        /// The run.
        run: RunId,
        /// The identity, where there was one.
        principal: Option<Arc<Principal>>,
        /// Why.
        reason: String,
    },
    /// A session opened.
    SessionOpened {
        /// Who and where.
        scene: Arc<Scene>,
    },
    /// A session closed.
    SessionClosed {
        /// Who and where.
        scene: Arc<Scene>,
        /// Why, and how long it lasted.
        outcome: Outcome,
    },
    /// A connection was closed before it became a session.
    ConnectionRefused {
        /// The run.
        run: RunId,
        /// The process, where the kernel named it.
        process: Option<Arc<Process>>,
        /// Where it meant to connect to, where the kernel named it.
        original: Option<OriginalDst>,
        /// Why.
        reason: String,
    },
    /// The kernel denied something.
    KernelDenied {
        /// The run.
        run: RunId,
        /// The process.
        process: Arc<Process>,
        /// Which hook.
        hook: &'static str,
        /// Where it meant to go, where there is such a thing.
        original: Option<OriginalDst>,
        /// Why.
        reason: String,
        /// How many of the same were denied since the last such record, this one included.
        times: u64,
    },
    /// An operation was judged.
    Operation {
        /// Who and where.
        scene: Arc<Scene>,
        /// What and how.
        event: OperationEvent,
    },
    /// A piece of a request or an answer, as it goes or is shown.
    Content {
        /// Who and where.
        scene: Arc<Scene>,
        /// The operation's reference.
        id: OperationId,
        /// The piece, masked.
        content: Content,
    },
    /// An operation ended.
    OperationEnded {
        /// Who and where.
        scene: Arc<Scene>,
        /// The reference.
        id: OperationId,
        /// How.
        outcome: Outcome,
    },
    /// Somebody accepted what a tool of an MCP server says of itself.
    ToolAccepted {
        /// The target.
        target: String,
        /// The server's path there.
        server: String,
        /// The tool.
        tool: String,
        /// Digest of what was accepted before; `None` for a new tool.
        before: Option<Digest>,
        /// Digest of what is accepted now.
        after: Digest,
        /// Who.
        actor: Actor,
    },
    /// Somebody takes away what agents left on the host: hooks, pins, cgroups, drop-ins.
    Uninstalled {
        /// What goes, each as `KIND PATH`.
        taken: Vec<String>,
        /// Whether somebody alive was ended or let go for it.
        forced: bool,
        /// Who.
        actor: Actor,
    },
    /// An approval moved on.
    Approval {
        /// The request.
        ticket: Ticket,
        /// The operation that asked.
        operation: OperationId,
        /// Whose operation it is.
        principal: String,
        /// The target.
        target: String,
        /// Who did this step: an approver (`issuer/subject`), or empty for the agent itself.
        actor: String,
        /// Groups that the actor's token carried.
        actor_groups: Vec<Group>,
        /// The local user that sent it over the control socket.
        actor_uid: Option<u32>,
        /// The step.
        step: ApprovalStep,
    },
}
