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
        let record = Record {
            host: host.to_owned(),
            boot: boot.to_string(),
            workload: workload.to_owned(),
            ..Record::default()
        };
        Ok(Self {
            host: host.to_owned(),
            boot,
            workload: workload.to_owned(),
            stored: record.fields()?,
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

/// The stored form of `event` as one JSON object. What does not change within a session is encoded once for it.
///
/// # Errors
/// Where it cannot be encoded.
pub(super) fn encode(event: &Event, origin: &Origin) -> Result<Vec<u8>, AuditError> {
    let mut record = Record {
        v: VERSION,
        ts_ns: crate::clock::now().as_nanos(),
        ..Record::default()
    };
    record.fill(event);
    let scene = match scene_of(event) {
        Some(scene) => stored(scene)?,
        None => &[],
    };
    let mut json = Vec::with_capacity(512 + scene.len() + record.text.len() * 2);
    serde_json::to_writer(&mut json, &record).map_err(unstorable)?;
    for part in [origin.stored.as_slice(), scene] {
        if !part.is_empty() {
            json.pop();
            json.push(b',');
            json.extend_from_slice(part);
            json.push(b'}');
        }
    }
    Ok(json)
}

fn stored(scene: &Scene) -> Result<&[u8], AuditError> {
    if let Some(stored) = scene.stored.0.get() {
        return Ok(stored);
    }
    let mut record = Record::default();
    record.scene(scene);
    let fields = record.fields()?;
    Ok(scene.stored.0.get_or_init(|| fields))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn unstorable(error: serde_json::Error) -> AuditError {
    AuditError::Disk(error.to_string())
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

impl Record {
    /// Its fields as JSON, without the braces.
    fn fields(&self) -> Result<Vec<u8>, AuditError> {
        let mut json = serde_json::to_vec(self).map_err(unstorable)?;
        json.pop();
        json.remove(0);
        Ok(json)
    }

    #[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
    fn fill(&mut self, event: &Event) {
        match event {
            Event::AgentStarted {
                version,
                config,
                bundle,
                hooks,
            } => {
                self.kind = "agent.started".into();
                self.detail = format!("version {version}; config {config}; hooks {}", hooks.join(" "));
                self.bundle = bundle.to_string();
            }
            Event::AgentStopped { reason } => {
                self.kind = "agent.stopped".into();
                self.reason.clone_from(reason);
            }
            Event::Reloaded { what, from, to } => {
                self.kind = "agent.reloaded".into();
                self.detail = format!("{what}: from {from} to {to}");
                self.bundle = to.to_string();
            }
            Event::ReloadRefused { what, kept, reason } => {
                self.kind = "agent.reload_refused".into();
                self.detail = format!("{what}: {kept} stays");
                self.bundle = kept.to_string();
                self.reason.clone_from(reason);
            }
            Event::RunStarted {
                run,
                principal,
                command,
                uid,
            } => {
                self.kind = "run.started".into();
                self.run = run.to_string();
                self.principal(principal);
                self.text.clone_from(command);
                self.uid = Some(*uid);
            }
            Event::RunEnded { run, status } => {
                self.kind = "run.ended".into();
                self.run = run.to_string();
                self.detail = format!("exit status {status}");
            }
            Event::WorkloadGoverned {
                run,
                cgroup,
                processes,
                closed,
            } => {
                self.kind = "workload.governed".into();
                self.run = run.to_string();
                self.text.clone_from(cgroup);
                self.detail =
                    format!("{processes} processes were there; {closed} older connections were closed");
            }
            Event::WorkloadReleased { run, cgroup, reason } => {
                self.kind = "workload.released".into();
                self.run = run.to_string();
                self.text.clone_from(cgroup);
                self.reason.clone_from(reason);
            }
            Event::IdentityBound { run, principal } => {
                self.kind = "identity.bound".into();
                self.run = run.to_string();
                self.principal(principal);
            }
            Event::IdentityEnded {
                run,
                principal,
                reason,
            } => {
                self.kind = "identity.ended".into();
                self.run = run.to_string();
                if let Some(principal) = principal {
                    self.principal(principal);
                }
                self.reason.clone_from(reason);
            }
            Event::SessionOpened { scene: _ } => self.kind = "session.opened".into(),
            Event::SessionClosed { scene: _, outcome } => {
                self.kind = "session.closed".into();
                self.outcome(outcome);
            }
            Event::ConnectionRefused {
                run,
                process,
                original,
                reason,
            } => {
                self.kind = "connection.refused".into();
                self.run = run.to_string();
                if let Some(process) = process {
                    self.process(process);
                }
                self.original = original.map(|o| o.to_string()).unwrap_or_default();
                self.reason.clone_from(reason);
            }
            Event::KernelDenied {
                run,
                process,
                hook,
                original,
                reason,
                times,
            } => {
                self.kind = "kernel.denied".into();
                self.run = run.to_string();
                self.process(process);
                (*hook).clone_into(&mut self.detail);
                self.original = original.map(|o| o.to_string()).unwrap_or_default();
                self.reason.clone_from(reason);
                self.times = *times;
            }
            Event::Operation { scene: _, event } => {
                self.kind = "operation".into();
                self.operation(event);
            }
            Event::Content {
                scene: _,
                id,
                content,
            } => {
                self.kind = "content".into();
                self.operation = id.to_string();
                self.content(content);
            }
            Event::OperationEnded {
                scene: _,
                id,
                outcome,
            } => {
                self.kind = "outcome".into();
                self.operation = id.to_string();
                self.outcome(outcome);
            }
            Event::ToolAccepted {
                target,
                server,
                tool,
                before,
                after,
                actor,
            } => {
                self.kind = "tool.accepted".into();
                self.target.clone_from(target);
                self.text.clone_from(tool);
                let before = before.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
                self.detail = format!("server {server}: from {before} to {after}");
                self.actor(actor);
            }
            Event::Uninstalled { taken, forced, actor } => {
                self.kind = "host.uninstalled".into();
                self.text = taken.join("\n");
                self.detail = if *forced { "while something was alive" } else { "" }.into();
                self.actor(actor);
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
                self.ticket = ticket.to_string();
                self.operation = operation.to_string();
                self.principal.clone_from(principal);
                self.target.clone_from(target);
                self.actor.clone_from(actor);
                self.actor_groups = texts(actor_groups.iter().map(Group::as_str));
                self.actor_uid = *actor_uid;
                self.step(step);
            }
        }
    }

    fn actor(&mut self, actor: &Actor) {
        self.actor = actor.to_string();
        self.actor_uid = Some(actor.uid);
    }

    fn step(&mut self, step: &ApprovalStep) {
        let (kind, text) = match step {
            ApprovalStep::Requested { approvers } => {
                let names = texts(approvers.iter().map(Group::as_str));
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
        self.kind = kind.into();
        self.reason = text;
    }

    fn scene(&mut self, scene: &Scene) {
        self.run = scene.run.to_string();
        self.connection = scene.connection.to_string();
        self.session = scene.session.to_string();
        self.principal(&scene.principal);
        self.process(&scene.process);
        let Target {
            name,
            environment,
            labels: _,
            protocol,
            configured: _,
        } = &*scene.target;
        self.target = name.to_string();
        self.environment = environment.to_string();
        self.protocol = protocol.name().into();
        self.original = scene.original.to_string();
    }

    fn principal(&mut self, principal: &Principal) {
        self.principal = principal.key();
        self.principal_name.clone_from(&principal.display);
        self.groups = texts(principal.groups.iter().map(Group::as_str));
    }

    fn process(&mut self, process: &Process) {
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
        self.pid = (*tgid).into();
        self.process_start_ns = *start_ns;
        self.uid = Some(*uid);
        self.gid = Some(*gid);
        self.exe.clone_from(&exe.path);
        self.exe_device = exe.device;
        self.exe_inode = exe.inode;
        self.comm.clone_from(comm);
        self.cgroup = *cgroup;
        self.netns = netns.0;
    }

    fn operation(&mut self, event: &OperationEvent) {
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
            self.detail = "metadata only: the disk is nearly full".into();
        }
        self.operation = id.to_string();
        self.bundle = bundle.map(|b| b.to_string()).unwrap_or_default();
        if let Some(operation) = operation {
            self.request(operation, *recording);
        }
        let (verdict, policies, reason): (_, &[PolicyId], &str) = match judged {
            JudgedAs::Allowed { policies, .. } => ("allowed", policies, ""),
            JudgedAs::Observed { policies, reason } => ("observed", policies, reason),
            JudgedAs::Held { policies, reason, .. } => ("held", policies, reason),
            JudgedAs::Refused { policies, reason, .. } => ("refused", policies, reason),
        };
        self.verdict = verdict.into();
        self.policies = texts(policies.iter().map(PolicyId::as_str));
        reason.clone_into(&mut self.reason);
        let ticket = match judged {
            JudgedAs::Allowed { ticket, .. } | JudgedAs::Refused { ticket, .. } => ticket.as_ref(),
            JudgedAs::Held { ticket, .. } => Some(ticket),
            JudgedAs::Observed { .. } => None,
        };
        self.ticket = ticket.map(ToString::to_string).unwrap_or_default();
        if let JudgedAs::Refused { kind, .. } = judged {
            (*kind).clone_into(&mut self.refusal);
        }
    }

    fn request(&mut self, operation: &Operation, recording: RecordingLevel) {
        let Operation {
            actions,
            facts,
            text,
            fingerprint,
            parameters,
        } = operation;
        self.actions = texts(actions.iter().map(|a| a.name()));
        self.fingerprint = fingerprint.to_string();
        if let Facts::Sql(facts) = facts {
            self.tables = facts.tables().into_iter().map(ToString::to_string).collect();
            self.bounded = (!facts.bounded()).then_some(false);
        }
        if recording > RecordingLevel::Metadata {
            self.text.clone_from(text);
            let shown = |p: &ParameterShown| match p {
                ParameterShown::Null => "NULL".to_owned(),
                ParameterShown::Text(text) => text.clone(),
                ParameterShown::Binary(length) => format!("({length} bytes)"),
            };
            self.parameters = parameters.iter().map(shown).collect();
        }
    }

    fn content(&mut self, content: &Content) {
        let Content { part, at, form } = content;
        self.part = part.name().into();
        self.at_byte = *at;
        match form {
            ContentForm::Text(text) => self.text.clone_from(text),
            ContentForm::Bytes(bytes) => {
                self.text = data_encoding::BASE64.encode(bytes);
                self.encoding = "base64".into();
            }
            ContentForm::Fields(first, fields) => {
                self.text.clone_from(first);
                self.parameters.clone_from(fields);
            }
            ContentForm::Rest { why, whole, digest } => {
                self.detail = match digest {
                    Some(digest) => format!("{whole} bytes in all; sha256 of the rest {digest}"),
                    None => format!("{whole} bytes in all"),
                };
                self.reason = why.reason().into();
                if part.goes_up() {
                    self.bytes_up = *whole;
                } else {
                    self.bytes_down = *whole;
                }
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let Outcome {
            status,
            detail,
            rows,
            bytes_up,
            bytes_down,
            took,
            masked,
        } = outcome;
        self.status = status.name().into();
        self.detail.clone_from(detail);
        self.rows = *rows;
        self.bytes_up = *bytes_up;
        self.bytes_down = *bytes_down;
        self.took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.masked = masked
            .0
            .iter()
            .map(|(class, n)| (class.to_string(), *n))
            .collect();
    }
}

fn texts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}
