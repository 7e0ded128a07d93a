//! The stored form of an event: one flat record, the same columns for every kind. Empty fields are left out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    BootId, Content, ContentForm, Facts, Group, Operation, Outcome, ParameterShown, PolicyId, Principal,
    Process, RecordingLevel, Target,
};

use super::AuditError;
use super::event::{Actor, ApprovalStep, Event, JudgedAs, OperationEvent, Scene};
use super::fields::Fields;

/// Version of the stored form.
pub(super) const VERSION: u32 = 1;

/// One record. Times are nanoseconds since the Unix epoch, sizes bytes, durations nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Number within the boot, from 1; given by the writer.
    #[serde(skip_serializing)]
    pub seq: u64,
    /// Version of the stored form.
    #[serde(skip_serializing_if = "no_version")]
    pub v: u32,
    /// When.
    #[serde(skip_serializing_if = "never")]
    pub ts_ns: i64,
    /// What kind: `session.opened`, `operation`, `outcome`, `approval.requested`, …
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Cow<'static, str>,
    /// The agent's host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The life of the agent process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// The workload of a serving agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub connection: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// The reference that refusals show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// `issuer/subject` or `workload/name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub process_start_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub exe: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub exe_device: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub exe_inode: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comm: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub cgroup: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub netns: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Where the process meant to connect to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub original: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// False where a write has no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
    /// The statement or call, masked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// `allowed`, `observed`, `held`, `refused`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verdict: String,
    /// Why it was refused: the name of the refusal's kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub refusal: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ticket: String,
    /// Digest of the policies that decided.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bundle: String,
    /// `completed`, `failed`, `refused`, `cancelled`, `abandoned`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Command tag, error code, exit status, hook, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub rows: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_up: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_down: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub took_ns: u64,
    /// Values masked, by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub masked: BTreeMap<String, u64>,
    /// Who did a step of an approval, or of the agent's own life.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actor_groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor_uid: Option<u32>,
    /// How many of the same this record stands for, where that is not one.
    #[serde(skip_serializing_if = "is_zero")]
    pub times: u64,
    /// Of content: which part of the operation (`request`, `answer.head`, `answer`, `answer.message`).
    #[serde(skip_serializing_if = "str::is_empty")]
    pub part: Cow<'static, str>,
    /// Of content: how many bytes of the part came before it.
    #[serde(skip_serializing_if = "is_zero")]
    pub at_byte: u64,
    /// How `text` stands for bytes: empty for text, `base64`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub encoding: Cow<'static, str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
const fn no_version(version: &u32) -> bool {
    *version == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
const fn never(time: &i64) -> bool {
    *time == 0
}

/// The agent and its boot, in their stored form.
#[derive(Debug)]
pub(super) struct Origin {
    host: String,
    boot: BootId,
    workload: String,
    stored: Vec<u8>,
}

impl Origin {
    pub(super) fn new(host: &str, boot: BootId) -> Result<Self, AuditError> {
        Self::of(host, boot, "")
    }

    /// The same agent, speaking of one of its workloads.
    pub(super) fn about(&self, workload: &str) -> Result<Self, AuditError> {
        Self::of(&self.host, self.boot, workload)
    }

    fn of(host: &str, boot: BootId, workload: &str) -> Result<Self, AuditError> {
        let mut stored = Vec::new();
        let mut fields = Fields::new(&mut stored);
        fields.text("host", host);
        fields.shown("boot", boot);
        fields.text("workload", workload);
        fields.done()?;
        Ok(Self {
            host: host.to_owned(),
            boot,
            workload: workload.to_owned(),
            stored,
        })
    }

    /// Host and boot.
    pub(super) fn names(&self) -> (String, String) {
        (self.host.clone(), self.boot.to_string())
    }

    /// The workload that is spoken of; empty for a run.
    pub(super) fn workload(&self) -> &str {
        &self.workload
    }
}

/// Writes the stored form of `event` to `json`, as one object. What does not change within a session is encoded once for it.
///
/// # Errors
/// Where it cannot be encoded.
pub(super) fn encode(event: &Event, origin: &Origin, json: &mut Vec<u8>) -> Result<(), AuditError> {
    let scene = match scene_of(event) {
        Some(scene) => stored(scene)?,
        None => &[],
    };
    json.clear();
    json.push(b'{');
    let mut fields = Fields::new(json);
    fields.value("v", VERSION);
    fields.value("ts_ns", crate::clock::now().as_nanos());
    write(event, &mut fields);
    fields.stored(scene);
    fields.stored(&origin.stored);
    fields.done()?;
    // The comma behind the last one.
    json.pop();
    json.push(b'}');
    Ok(())
}

fn stored(scene: &Scene) -> Result<&[u8], AuditError> {
    if let Some(stored) = scene.stored.0.get() {
        return Ok(stored);
    }
    let mut written = Vec::new();
    let mut fields = Fields::new(&mut written);
    write_scene(scene, &mut fields);
    fields.done()?;
    Ok(scene.stored.0.get_or_init(|| written))
}

fn scene_of(event: &Event) -> Option<&Scene> {
    match event {
        Event::SessionOpened { scene }
        | Event::SessionClosed { scene, .. }
        | Event::Content { scene, .. }
        | Event::Operation { scene, .. }
        | Event::OperationEnded { scene, .. } => Some(scene),
        Event::AgentStarted { .. }
        | Event::AgentStopped { .. }
        | Event::Reloaded { .. }
        | Event::ReloadRefused { .. }
        | Event::RunStarted { .. }
        | Event::RunEnded { .. }
        | Event::WorkloadGoverned { .. }
        | Event::WorkloadReleased { .. }
        | Event::IdentityBound { .. }
        | Event::IdentityEnded { .. }
        | Event::ConnectionRefused { .. }
        | Event::KernelDenied { .. }
        | Event::ToolAccepted { .. }
        | Event::Uninstalled { .. }
        | Event::Approval { .. } => None,
    }
}

#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn write(event: &Event, fields: &mut Fields<'_>) {
    match event {
        Event::AgentStarted {
            version,
            config,
            bundle,
            hooks,
        } => {
            fields.text("kind", "agent.started");
            fields.text(
                "detail",
                &format!("version {version}; config {config}; hooks {}", hooks.join(" ")),
            );
            fields.shown("bundle", bundle);
        }
        Event::AgentStopped { reason } => {
            fields.text("kind", "agent.stopped");
            fields.text("reason", reason);
        }
        Event::Reloaded { what, from, to } => {
            fields.text("kind", "agent.reloaded");
            fields.text("detail", &format!("{what}: from {from} to {to}"));
            fields.shown("bundle", to);
        }
        Event::ReloadRefused { what, kept, reason } => {
            fields.text("kind", "agent.reload_refused");
            fields.text("detail", &format!("{what}: {kept} stays"));
            fields.shown("bundle", kept);
            fields.text("reason", reason);
        }
        Event::RunStarted {
            run,
            principal,
            command,
            uid,
        } => {
            fields.text("kind", "run.started");
            fields.shown("run", run);
            write_principal(principal, fields);
            fields.text("text", command);
            fields.value("uid", uid);
        }
        Event::RunEnded { run, status } => {
            fields.text("kind", "run.ended");
            fields.shown("run", run);
            fields.text("detail", &format!("exit status {status}"));
        }
        Event::WorkloadGoverned {
            run,
            cgroup,
            processes,
            closed,
        } => {
            fields.text("kind", "workload.governed");
            fields.shown("run", run);
            fields.text("text", cgroup);
            fields.text(
                "detail",
                &format!("{processes} processes were there; {closed} older connections were closed"),
            );
        }
        Event::WorkloadReleased { run, cgroup, reason } => {
            fields.text("kind", "workload.released");
            fields.shown("run", run);
            fields.text("text", cgroup);
            fields.text("reason", reason);
        }
        Event::IdentityBound { run, principal } => {
            fields.text("kind", "identity.bound");
            fields.shown("run", run);
            write_principal(principal, fields);
        }
        Event::IdentityEnded {
            run,
            principal,
            reason,
        } => {
            fields.text("kind", "identity.ended");
            fields.shown("run", run);
            if let Some(principal) = principal {
                write_principal(principal, fields);
            }
            fields.text("reason", reason);
        }
        Event::SessionOpened { scene: _ } => fields.text("kind", "session.opened"),
        Event::SessionClosed { scene: _, outcome } => {
            fields.text("kind", "session.closed");
            write_outcome(outcome, fields);
        }
        Event::ConnectionRefused {
            run,
            process,
            original,
            reason,
        } => {
            fields.text("kind", "connection.refused");
            fields.shown("run", run);
            if let Some(process) = process {
                write_process(process, fields);
            }
            if let Some(original) = original {
                fields.text("original", &original.to_string());
            }
            fields.text("reason", reason);
        }
        Event::KernelDenied {
            run,
            process,
            hook,
            original,
            reason,
            times,
        } => {
            fields.text("kind", "kernel.denied");
            fields.shown("run", run);
            write_process(process, fields);
            fields.text("detail", hook);
            if let Some(original) = original {
                fields.text("original", &original.to_string());
            }
            fields.text("reason", reason);
            fields.number("times", *times);
        }
        Event::Operation { scene: _, event } => {
            fields.text("kind", "operation");
            write_operation(event, fields);
        }
        Event::Content {
            scene: _,
            id,
            content,
        } => {
            fields.text("kind", "content");
            fields.shown("operation", id);
            write_content(content, fields);
        }
        Event::OperationEnded {
            scene: _,
            id,
            outcome,
        } => {
            fields.text("kind", "outcome");
            fields.shown("operation", id);
            write_outcome(outcome, fields);
        }
        Event::ToolAccepted {
            target,
            server,
            tool,
            before,
            after,
            actor,
        } => {
            fields.text("kind", "tool.accepted");
            fields.text("target", target);
            fields.text("text", tool);
            let before = before.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
            fields.text("detail", &format!("server {server}: from {before} to {after}"));
            write_actor(actor, fields);
        }
        Event::Uninstalled { taken, forced, actor } => {
            fields.text("kind", "host.uninstalled");
            fields.text("text", &taken.join("\n"));
            fields.text("detail", if *forced { "while something was alive" } else { "" });
            write_actor(actor, fields);
        }
        Event::Approval {
            ticket,
            operation,
            principal,
            target,
            actor,
            actor_groups,
            actor_uid,
            step,
        } => {
            fields.shown("ticket", ticket);
            fields.shown("operation", operation);
            fields.text("principal", principal);
            fields.text("target", target);
            fields.text("actor", actor);
            fields.texts("actor_groups", actor_groups.iter().map(Group::as_str));
            if let Some(uid) = actor_uid {
                fields.value("actor_uid", uid);
            }
            write_step(step, fields);
        }
    }
}

fn write_actor(actor: &Actor, fields: &mut Fields<'_>) {
    fields.text("actor", &actor.to_string());
    fields.value("actor_uid", actor.uid);
}

fn write_step(step: &ApprovalStep, fields: &mut Fields<'_>) {
    let (kind, text) = match step {
        ApprovalStep::Requested { approvers } => {
            let names: Vec<&str> = approvers.iter().map(Group::as_str).collect();
            ("approval.requested", format!("approvers: {}", names.join(", ")))
        }
        ApprovalStep::Viewed => ("approval.viewed", String::new()),
        ApprovalStep::Approved { terms } => ("approval.approved", terms.clone()),
        ApprovalStep::Denied { comment } => ("approval.denied", comment.clone()),
        ApprovalStep::Rejected { reason } => ("approval.rejected", reason.clone()),
        ApprovalStep::Expired => ("approval.expired", String::new()),
        ApprovalStep::Withdrawn => ("approval.withdrawn", String::new()),
        ApprovalStep::Used => ("approval.used", String::new()),
    };
    fields.text("kind", kind);
    fields.text("reason", &text);
}

fn write_scene(scene: &Scene, fields: &mut Fields<'_>) {
    fields.shown("run", scene.run);
    fields.shown("connection", scene.connection);
    fields.shown("session", scene.session);
    write_principal(&scene.principal, fields);
    write_process(&scene.process, fields);
    let Target {
        name,
        environment,
        labels: _,
        protocol,
        configured: _,
    } = &*scene.target;
    fields.text("target", &name.0);
    fields.text("environment", &environment.0);
    fields.text("protocol", protocol.name());
    fields.text("original", &scene.original.to_string());
}

fn write_principal(principal: &Principal, fields: &mut Fields<'_>) {
    fields.text("principal", &principal.key());
    fields.text("principal_name", &principal.display);
    fields.texts("groups", principal.groups.iter().map(Group::as_str));
}

fn write_process(process: &Process, fields: &mut Fields<'_>) {
    let Process {
        tgid,
        start_ns,
        uid,
        gid,
        exe,
        cgroup,
        netns,
        comm,
    } = process;
    fields.number("pid", (*tgid).into());
    fields.number("process_start_ns", *start_ns);
    fields.value("uid", uid);
    fields.value("gid", gid);
    fields.text("exe", &exe.path);
    fields.number("exe_device", exe.device);
    fields.number("exe_inode", exe.inode);
    fields.text("comm", comm);
    fields.number("cgroup", *cgroup);
    fields.number("netns", netns.0);
}

fn write_operation(event: &OperationEvent, fields: &mut Fields<'_>) {
    let OperationEvent {
        id,
        operation,
        judged,
        bundle,
        recording,
        degraded,
        trace: _,
    } = event;
    if *degraded {
        fields.text("detail", "metadata only: the disk is nearly full");
    }
    fields.shown("operation", id);
    if let Some(bundle) = bundle {
        fields.shown("bundle", bundle);
    }
    if let Some(operation) = operation {
        write_request(operation, *recording, fields);
    }
    let (verdict, policies, reason): (_, &[PolicyId], &str) = match judged {
        JudgedAs::Allowed { policies, .. } => ("allowed", policies, ""),
        JudgedAs::Observed { policies, reason } => ("observed", policies, reason),
        JudgedAs::Held { policies, reason, .. } => ("held", policies, reason),
        JudgedAs::Refused { policies, reason, .. } => ("refused", policies, reason),
    };
    fields.text("verdict", verdict);
    fields.texts("policies", policies.iter().map(PolicyId::as_str));
    fields.text("reason", reason);
    let ticket = match judged {
        JudgedAs::Allowed { ticket, .. } | JudgedAs::Refused { ticket, .. } => ticket.as_ref(),
        JudgedAs::Held { ticket, .. } => Some(ticket),
        JudgedAs::Observed { .. } => None,
    };
    if let Some(ticket) = ticket {
        fields.text("ticket", &ticket.to_string());
    }
    if let JudgedAs::Refused { kind, .. } = judged {
        fields.text("refusal", kind);
    }
}

fn write_request(operation: &Operation, recording: RecordingLevel, fields: &mut Fields<'_>) {
    let Operation {
        actions,
        facts,
        text,
        fingerprint,
        parameters,
    } = operation;
    fields.texts("actions", actions.iter().map(|a| a.name()));
    fields.shown("fingerprint", fingerprint);
    if let Facts::Sql(facts) = facts {
        fields.texts("tables", facts.tables().into_iter().map(ToString::to_string));
        if !facts.bounded() {
            fields.value("bounded", false);
        }
    }
    if recording > RecordingLevel::Metadata {
        fields.text("text", text);
        fields.texts("parameters", parameters.iter().map(parameter));
    }
}

fn write_content(content: &Content, fields: &mut Fields<'_>) {
    let Content { part, at, form } = content;
    fields.text("part", part.name());
    fields.number("at_byte", *at);
    match form {
        ContentForm::Text(text) => fields.text("text", text),
        ContentForm::Bytes(bytes) => {
            fields.text("text", &data_encoding::BASE64.encode(bytes));
            fields.text("encoding", "base64");
        }
        ContentForm::Fields(first, rest) => {
            fields.text("text", first);
            fields.texts("parameters", rest);
        }
        ContentForm::Rest { why, whole, digest } => {
            let detail = match digest {
                Some(digest) => format!("{whole} bytes in all; sha256 of the rest {digest}"),
                None => format!("{whole} bytes in all"),
            };
            fields.text("detail", &detail);
            fields.text("reason", why.reason());
            let bytes = if part.goes_up() { "bytes_up" } else { "bytes_down" };
            fields.number(bytes, *whole);
        }
    }
}

fn write_outcome(outcome: &Outcome, fields: &mut Fields<'_>) {
    let Outcome {
        status,
        detail,
        rows,
        bytes_up,
        bytes_down,
        took,
        masked,
    } = outcome;
    fields.text("status", status.name());
    fields.text("detail", detail);
    fields.number("rows", *rows);
    fields.number("bytes_up", *bytes_up);
    fields.number("bytes_down", *bytes_down);
    fields.number("took_ns", u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    let by_class = masked.0.iter().map(|(class, n)| (class.as_str(), *n));
    fields.counts("masked", by_class);
}

fn parameter(shown: &ParameterShown) -> Cow<'_, str> {
    match shown {
        ParameterShown::Null => "NULL".into(),
        ParameterShown::Text(text) => text.into(),
        ParameterShown::Binary(length) => format!("({length} bytes)").into(),
    }
}
