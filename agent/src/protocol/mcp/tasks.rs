//! Tasks of the agent's own (`io.modelcontextprotocol/tasks`, SEP-2663, for revision 2026-07-28): a call that waits for
//! consent is answered with one.
//!
//! A task is the call as it came, and nothing goes on by itself: when the client asks for the task and somebody has
//! consented, that very call is judged and forwarded (once: a consent is used up), and what comes back is kept as the
//! task's. Where the server makes a task of the call, the agent's id stands for the server's from then on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::model::{Digest, Refusal, RefusalKind, Ticket, Timestamp};
use crate::protocol::http::dialect::Words;
use crate::protocol::http::later::{Shelf, Told};
use crate::session::Kept;
use crate::task::Task;

use super::ladder;
use super::refusal;
use super::server::INVALID_PARAMS;

/// The name of the extension among capabilities.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// How ids of the agent's tasks begin; others are the server's.
const PREFIX: &str = "interdict-task-";
/// How long a task is remembered: as long as people can decide, unless configured otherwise.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// How often a client should ask.
const POLL_MS: u64 = 2000;
/// Tasks that are remembered…
const MAX_TASKS: usize = 1024;
/// …and those of one principal at one place. Beyond it clients are told in the next best way.
const MAX_OF_ONE: usize = 128;
/// Largest call that waits as a task, in bytes.
const MAX_CALL: usize = 1024 * 1024;
/// Largest result that is kept, in bytes.
const MAX_RESULT: usize = 8 * 1024 * 1024;
/// Calls and results together, in bytes. Beyond it no task is made, and the results that were there first go.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Nothing is known of a task: it never was, or is too old, or another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl From<Gone> for Refusal {
    fn from(_gone: Gone) -> Self {
        Self::new(
            RefusalKind::NotUnderstood,
            "Failed to retrieve task: Task not found.",
            "Interdict remembers a task for a day and until it is restarted, for whoever it was made for. Once the call \
             is approved, the identical call goes through.",
        )
    }
}

/// A call as it came.
#[derive(Debug)]
pub(super) struct Original {
    body: Vec<u8>,
    /// Its fields of MCP.
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Original {
    /// `None` where it is too large to wait.
    pub(super) fn new(body: &[u8], fields: Vec<(HeaderName, HeaderValue)>) -> Option<Self> {
        let body = body.to_vec();
        (body.len() <= MAX_CALL).then_some(Self { body, fields })
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }
}

/// A call that waits.
#[derive(Debug, Clone)]
struct Waiting {
    ticket: Ticket,
    call: Arc<Original>,
}

#[derive(Debug)]
enum State {
    Waiting(Waiting),
    /// It is looked after, or judged, or the server works on it.
    Running(Ticket, Option<Task<()>>),
    /// The server made a task of it: its id there.
    Theirs(String),
    /// What the server answered: the task as the client is shown it.
    Answered(Kept),
    /// Why there is no answer of the server: an error of JSON-RPC.
    Failed(Value),
    Cancelled,
}

#[derive(Debug)]
struct Entry {
    /// Who it is for, and where.
    bound: Digest,
    created: Timestamp,
    updated: Timestamp,
    message: String,
    state: State,
}

impl Entry {
    fn bytes(&self) -> usize {
        match &self.state {
            State::Waiting(waiting) => waiting.call.body.len(),
            State::Answered(kept) => kept.size(),
            State::Running(..) | State::Theirs(_) | State::Failed(_) | State::Cancelled => 0,
        }
    }

    const fn status(&self) -> &'static str {
        match &self.state {
            State::Waiting(_) | State::Running(..) | State::Theirs(_) => "working",
            State::Answered(_) => "completed",
            State::Failed(_) => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// The task, but for what comes with its status.
    fn shown(&self, id: &str, status: &str) -> Map<String, Value> {
        let mut task = Map::new();
        task.insert("taskId".into(), json!(id));
        task.insert("status".into(), json!(status));
        if !self.message.is_empty() {
            task.insert("statusMessage".into(), json!(self.message));
        }
        task.insert("createdAt".into(), json!(self.created.to_string()));
        task.insert("lastUpdatedAt".into(), json!(self.updated.to_string()));
        let ttl = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
        task.insert("ttlMs".into(), json!(ttl));
        task.insert("pollIntervalMs".into(), json!(POLL_MS));
        task
    }
}

/// What becomes of a question about a task.
#[derive(Debug)]
pub(super) enum Step {
    /// Whoever asked may go on with the call, if nobody has to decide about it any more.
    Turn(Arc<Turn>, Ticket, Arc<Original>),
    /// The server knows it, by this id.
    Theirs(String),
    /// The agent answers.
    Told,
}

/// Tasks of one server; shared by all its connections.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    entries: Mutex<HashMap<String, Entry>>,
}

/// Whether an id is one of the agent's.
pub(super) fn is_ours(id: &str) -> bool {
    id.starts_with(PREFIX)
}

impl Tasks {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a task of a call that waits; the task as a result tells it. `None` where there is no room, or the refusal is
    /// another.
    pub(super) fn open(&self, bound: Digest, call: &Arc<Original>, pending: &Refusal) -> Option<Value> {
        let RefusalKind::PendingApproval { ticket, .. } = &pending.kind else {
            return None;
        };
        let mut bits = [0; 16];
        aws_lc_rs::rand::fill(&mut bits).ok()?;
        let id = format!("{PREFIX}{}", data_encoding::HEXLOWER.encode(&bits));
        let now = crate::clock::now();
        let mut entries = self.entries();
        // What is let go of may have work to end: outside of the lock.
        let _overdue = overdue(&mut entries, now);
        let of_one = entries.values().filter(|entry| entry.bound == bound).count();
        let bytes: usize = entries.values().map(Entry::bytes).sum();
        let fits = bytes.saturating_add(call.body.len()) <= MAX_BYTES;
        if entries.len() >= MAX_TASKS || of_one >= MAX_OF_ONE || !fits {
            return None;
        }
        let waiting = Waiting {
            ticket: ticket.clone(),
            call: Arc::clone(call),
        };
        let entry = Entry {
            bound,
            created: now,
            updated: now,
            message: ladder::message(pending),
            state: State::Waiting(waiting),
        };
        let mut task = entry.shown(&id, entry.status());
        task.insert("resultType".into(), json!("task"));
        entries.insert(id, entry);
        Some(Value::Object(task))
    }

    /// Somebody asks how a task stands.
    pub(super) fn asked(self: &Arc<Self>, id: &str, bound: &Digest, rpc: &Value) -> Result<Step, Gone> {
        let mut entries = self.entries();
        let entry = known(&mut entries, id, bound)?;
        let waiting = match &entry.state {
            State::Waiting(waiting) => waiting.clone(),
            State::Theirs(theirs) => return Ok(Step::Theirs(theirs.clone())),
            State::Running(..) | State::Answered(_) | State::Failed(_) | State::Cancelled => {
                return Ok(Step::Told);
            }
        };
        entry.state = State::Running(waiting.ticket.clone(), None);
        let Waiting { ticket, call } = waiting.clone();
        let turn = Turn {
            tasks: Arc::clone(self),
            id: id.to_owned(),
            rpc: rpc.clone(),
            waited: waiting,
            begun: AtomicBool::new(false),
        };
        Ok(Step::Turn(Arc::new(turn), ticket, call))
    }

    /// The id that the server knows a task by, where it made one of it.
    pub(super) fn theirs(&self, id: &str, bound: &Digest) -> Result<Option<String>, Gone> {
        match &known(&mut self.entries(), id, bound)?.state {
            State::Theirs(theirs) => Ok(Some(theirs.clone())),
            State::Waiting(_)
            | State::Running(..)
            | State::Answered(_)
            | State::Failed(_)
            | State::Cancelled => Ok(None),
        }
    }

    /// Its client does not want it any more. The ticket that nobody needs to decide about.
    pub(super) fn cancelled(&self, id: &str, bound: &Digest) -> Result<Option<Ticket>, Gone> {
        let before = {
            let mut entries = self.entries();
            let entry = known(&mut entries, id, bound)?;
            if matches!(entry.state, State::Waiting(_) | State::Running(..)) {
                entry.updated = crate::clock::now();
                entry.message = "Cancelled.".to_owned();
                Some(std::mem::replace(&mut entry.state, State::Cancelled))
            } else {
                None
            }
        };
        match before {
            Some(State::Waiting(waiting)) => Ok(Some(waiting.ticket)),
            // What runs is let go of here, and ends with it.
            Some(State::Running(ticket, _work)) => Ok(Some(ticket)),
            Some(State::Theirs(_) | State::Answered(_) | State::Failed(_) | State::Cancelled) | None => {
                Ok(None)
            }
        }
    }

    /// The answer to `tasks/get`, to the request `rpc`.
    pub(super) fn told(&self, id: &str, rpc: &Value) -> Told {
        let entries = self.entries();
        let Some(entry) = entries.get(id) else {
            return Told {
                before: refusal::malformed(Some(rpc), INVALID_PARAMS, &Gone.into()).body,
                kept: None,
                behind: Vec::new(),
            };
        };
        let before = format!("{{\"jsonrpc\":\"2.0\",\"id\":{rpc},\"result\":");
        if let State::Answered(kept) = &entry.state {
            return Told {
                before: before.into_bytes(),
                kept: Some(kept.clone()),
                behind: b"}".to_vec(),
            };
        }
        let mut task = entry.shown(id, entry.status());
        task.insert("resultType".into(), json!("complete"));
        if let State::Failed(error) = &entry.state {
            task.insert("error".into(), error.clone());
        }
        Told {
            before: format!("{before}{}}}", Value::Object(task)).into_bytes(),
            kept: None,
            behind: Vec::new(),
        }
    }

    /// Nothing came of a turn.
    fn back(&self, id: &str, waited: &Waiting) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(id)
            && matches!(entry.state, State::Running(_, None))
        {
            entry.state = State::Waiting(waited.clone());
        }
    }

    /// Changes a task that runs.
    fn settle(&self, id: &str, message: String, state: State) {
        let before = {
            let mut entries = self.entries();
            let room = entries.values().map(Entry::bytes).sum::<usize>();
            let Some(entry) = entries.get_mut(id) else { return };
            if !matches!(entry.state, State::Running(..)) {
                return;
            }
            entry.updated = crate::clock::now();
            entry.message = message;
            let before = std::mem::replace(&mut entry.state, state);
            let over = room.saturating_add(entry.bytes()).saturating_sub(MAX_BYTES);
            forget_results(&mut entries, id, over);
            before
        };
        // The work that did this; it ends anyway.
        drop(before);
    }
}

/// Takes out what is too old.
fn overdue(entries: &mut HashMap<String, Entry>, now: Timestamp) -> Vec<Entry> {
    let old = |entry: &Entry| now >= entry.created.plus(TTL);
    let ids: Vec<String> = entries
        .iter()
        .filter(|(_id, entry)| old(entry))
        .map(|(id, _entry)| id.clone())
        .collect();
    ids.iter().filter_map(|id| entries.remove(id)).collect()
}

/// Results that were there first go until `over` bytes are free.
fn forget_results(entries: &mut HashMap<String, Entry>, but: &str, over: usize) {
    let mut left = over;
    while left > 0 {
        let answered = entries
            .iter()
            .filter(|(id, entry)| id.as_str() != but && matches!(entry.state, State::Answered(_)));
        let Some((oldest, size)) = answered
            .min_by_key(|(_id, entry)| entry.updated)
            .map(|(id, entry)| (id.clone(), entry.bytes()))
        else {
            return;
        };
        entries.remove(&oldest);
        left = left.saturating_sub(size);
    }
}

fn known<'a>(
    entries: &'a mut HashMap<String, Entry>,
    id: &str,
    bound: &Digest,
) -> Result<&'a mut Entry, Gone> {
    let now = crate::clock::now();
    entries
        .get_mut(id)
        .filter(|entry| entry.bound == *bound && now < entry.created.plus(TTL))
        .ok_or(Gone)
}

/// The right to go on with a task: nobody else has it as long as this is there.
#[derive(Debug)]
pub(super) struct Turn {
    tasks: Arc<Tasks>,
    id: String,
    /// The id of the request that asks.
    rpc: Value,
    /// What the task goes back to where nothing begins.
    waited: Waiting,
    begun: AtomicBool,
}

impl Turn {
    /// The server's answer as the client of the task is shown it: a task with the result in it. `answer` is the whole
    /// message.
    pub(super) fn answered(&self, answer: &Value) -> Value {
        let result = answer.get("result");
        let kind = result
            .and_then(|result| result.get("resultType"))
            .and_then(Value::as_str);
        let error = match (result, kind, answer.get("error")) {
            (Some(result), Some("task"), _) => match result.get("taskId").and_then(Value::as_str) {
                Some(theirs) => {
                    let state = State::Theirs(theirs.to_owned());
                    self.tasks
                        .settle(&self.id, "The server works on it.".into(), state);
                    return Value::Null;
                }
                None => no_answer("The server made a task without an id of it."),
            },
            (Some(_), Some("input_required"), _) => no_answer(
                "The server asks for something before it goes on with the call, which cannot be passed on in a task. \
                 Call it without the extension for tasks.",
            ),
            (Some(result), _, _) => return self.task("completed", "result", result.clone()),
            (None, _, Some(error)) => error.clone(),
            (None, _, None) => no_answer("The server's answer is no message of MCP."),
        };
        self.task("failed", "error", error)
    }

    fn task(&self, status: &str, member: &str, content: Value) -> Value {
        let entries = self.tasks.entries();
        let Some(entry) = entries.get(&self.id) else {
            return Value::Null;
        };
        let mut task = entry.shown(&self.id, status);
        task.remove("statusMessage");
        if let Some(message) = content.get("message").filter(|_| member == "error") {
            task.insert("statusMessage".into(), message.clone());
        }
        task.insert("lastUpdatedAt".into(), json!(crate::clock::now().to_string()));
        task.insert("resultType".into(), json!("complete"));
        task.insert(member.to_owned(), content);
        Value::Object(task)
    }

    fn failed(&self, error: Value) {
        let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
        self.tasks
            .settle(&self.id, message.to_owned(), State::Failed(error));
    }

    /// A refusal before anything has begun, as the answer to who asks.
    pub(super) fn refusal_words(&self, refusal: &Refusal) -> Words {
        self.refused(refusal);
        let Told { before, .. } = self.told();
        refusal::in_json(before)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.begun.load(Ordering::Acquire) {
            let why = "It was cut off before the server had answered; the records say whether the call was forwarded.";
            self.failed(no_answer(why));
        } else {
            // The client did not wait for the answer to its question: nothing has changed.
            self.tasks.back(&self.id, &self.waited);
        }
    }
}

/// An error where the server gave no answer that can be passed on.
fn no_answer(why: &str) -> Value {
    json!({"code": 5020, "message": format!("REFUSED: {why}")})
}

impl Shelf for Turn {
    fn most(&self) -> usize {
        MAX_RESULT
    }

    fn begun(&self, work: Task<()>) {
        self.begun.store(true, Ordering::Release);
        let mut entries = self.tasks.entries();
        if let Some(entry) = entries.get_mut(&self.id)
            && let State::Running(_, none @ None) = &mut entry.state
        {
            "It was approved, and the server works on it.".clone_into(&mut entry.message);
            *none = Some(work);
        }
        // Else it was cancelled meanwhile, or is done: the work is let go of.
    }

    fn refused(&self, refusal: &Refusal) {
        let waits = match &refusal.kind {
            RefusalKind::PendingApproval { ticket, .. } => Some(Waiting {
                ticket: ticket.clone(),
                call: Arc::clone(&self.waited.call),
            }),
            RefusalKind::Denied
            | RefusalKind::ApprovalDenied { .. }
            | RefusalKind::Identity
            | RefusalKind::NotUnderstood
            | RefusalKind::NotRecorded
            | RefusalKind::Limit
            | RefusalKind::TimeLimit
            | RefusalKind::Unreachable
            | RefusalKind::Cancelled => None,
        };
        match waits {
            Some(waiting) => {
                let message = ladder::message(refusal);
                self.tasks.settle(&self.id, message, State::Waiting(waiting));
            }
            None => self.failed(refusal::error(refusal)),
        }
    }

    fn keep(&self, kept: Option<Kept>) {
        let why = match kept {
            Some(kept) if !kept.is_blank() => {
                self.tasks.settle(&self.id, String::new(), State::Answered(kept));
                return;
            }
            Some(_blank) => "The server did not answer the call.",
            None => "The server's answer broke off, or is larger than 8 MiB.",
        };
        self.failed(no_answer(why));
    }

    fn told(&self) -> Told {
        self.tasks.told(&self.id, &self.rpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(ticket: &str) -> Refusal {
        let kind = RefusalKind::PendingApproval {
            ticket: ticket.parse().expect("ticket"),
            approvers: ["owners".into()].into(),
        };
        Refusal::new(kind, "An owner must agree.", "")
    }

    fn mine() -> Digest {
        Digest::of(b"mine")
    }

    /// A store with one task that waits.
    fn one() -> (Arc<Tasks>, String) {
        let tasks = Arc::new(Tasks::default());
        let id = another(&tasks).expect("room");
        (tasks, id)
    }

    fn another(tasks: &Tasks) -> Option<String> {
        let call = Arc::new(Original::new(b"{}", Vec::new()).expect("small"));
        let task = tasks.open(mine(), &call, &pending("apr-k3m9xq"))?;
        assert_eq!(
            (&task["resultType"], &task["status"]),
            (&json!("task"), &json!("working"))
        );
        Some(task["taskId"].as_str().expect("an id").to_owned())
    }

    fn turn(tasks: &Arc<Tasks>, id: &str) -> Arc<Turn> {
        match tasks.asked(id, &mine(), &json!(1)).expect("known") {
            Step::Turn(turn, ..) => turn,
            other @ (Step::Theirs(_) | Step::Told) => panic!("{other:?}"),
        }
    }

    fn told(tasks: &Tasks, id: &str) -> Value {
        let Told { before, kept, behind } = tasks.told(id, &json!("a"));
        assert!(kept.is_none());
        let answer: Value = serde_json::from_slice(&[before, behind].concat()).expect("JSON");
        assert_eq!(answer["id"], "a");
        answer
    }

    #[test]
    fn one_at_a_time_goes_on_and_what_came_to_nothing_waits_again() {
        let (tasks, id) = one();
        let first = turn(&tasks, &id);
        let second = tasks.asked(&id, &mine(), &json!(2));
        assert!(matches!(second, Ok(Step::Told)), "{second:?}");
        assert_eq!(told(&tasks, &id)["result"]["status"], "working");
        drop(first);
        // Consent to it was used by another: a new ticket.
        turn(&tasks, &id).refused(&pending("apr-zzzzzz"));
        let Ok(Step::Turn(_turn, ticket, _call)) = tasks.asked(&id, &mine(), &json!(3)) else {
            panic!("it does not wait");
        };
        assert_eq!(ticket.as_str(), "apr-zzzzzz");
    }

    #[test]
    fn a_refusal_is_for_good_and_so_is_a_cut() {
        let (tasks, id) = one();
        let refusal = Refusal::new(RefusalKind::Denied, "Nothing is removed.", "");
        turn(&tasks, &id).refused(&refusal);
        let failed = told(&tasks, &id);
        assert_eq!(failed["result"]["status"], "failed", "{failed}");
        assert_eq!(failed["result"]["error"]["code"], 4030, "{failed}");
        assert!(matches!(tasks.asked(&id, &mine(), &json!(1)), Ok(Step::Told)));
        let (tasks, id) = one();
        let begun = turn(&tasks, &id);
        begun.begun.store(true, Ordering::Release);
        drop(begun);
        assert_eq!(told(&tasks, &id)["result"]["error"]["code"], 5020);
    }

    #[test]
    fn an_answer_becomes_a_task() {
        let answered = |answer: Value| {
            let (tasks, id) = one();
            let shown = turn(&tasks, &id).answered(&answer);
            assert!(shown.is_null() || shown["taskId"] == id.as_str(), "{shown}");
            (shown["status"].clone(), shown)
        };
        let (status, shown) = answered(json!({"id": 1, "result": {"content": [], "isError": true}}));
        assert_eq!(
            (status, &shown["result"]["isError"]),
            (json!("completed"), &json!(true))
        );
        let (status, shown) = answered(json!({"id": 1, "error": {"code": -32603, "message": "no"}}));
        assert_eq!(
            (status, &shown["error"]["code"]),
            (json!("failed"), &json!(-32603))
        );
        assert_eq!(shown["statusMessage"], "no");
        for none in [
            Value::Null,
            json!({"id": 1}),
            json!({"id": 1, "result": {"resultType": "input_required", "inputRequests": {}}}),
            json!({"id": 1, "result": {"resultType": "task"}}),
        ] {
            let (status, shown) = answered(none);
            assert_eq!((status, &shown["error"]["code"]), (json!("failed"), &json!(5020)));
        }
        let (tasks, id) = one();
        let theirs = turn(&tasks, &id).answered(&json!({"result": {"resultType": "task", "taskId": "7"}}));
        assert_eq!(theirs, Value::Null);
        assert_eq!(tasks.theirs(&id, &mine()), Ok(Some("7".into())));
        assert!(matches!(tasks.asked(&id, &mine(), &json!(1)), Ok(Step::Theirs(theirs)) if theirs == "7"));
    }

    #[test]
    fn a_task_is_nobody_elses_and_ends() {
        let (tasks, id) = one();
        let yours = Digest::of(b"yours");
        assert!(tasks.asked(&id, &yours, &json!(1)).is_err());
        assert_eq!(tasks.cancelled(&id, &yours), Err(Gone));
        assert_eq!(tasks.theirs("interdict-task-7", &mine()), Err(Gone));
        let ticket = tasks.cancelled(&id, &mine()).expect("known");
        assert_eq!(ticket.expect("it waited").as_str(), "apr-k3m9xq");
        assert_eq!(tasks.cancelled(&id, &mine()), Ok(None));
        assert_eq!(told(&tasks, &id)["result"]["status"], "cancelled");
        // Cancelled while it runs: what comes of it is nothing.
        let (tasks, id) = one();
        let running = turn(&tasks, &id);
        assert!(tasks.cancelled(&id, &mine()).expect("known").is_some());
        running.refused(&pending("apr-zzzzzz"));
        assert_eq!(told(&tasks, &id)["result"]["status"], "cancelled");
        tasks.entries().get_mut(&id).expect("there").created = Timestamp::from_seconds(1);
        assert_eq!(tasks.cancelled(&id, &mine()), Err(Gone));
        assert_eq!(told(&Tasks::default(), &id)["error"]["code"], -32602);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let (tasks, id) = one();
        for _more in 1..MAX_OF_ONE {
            assert!(another(&tasks).is_some());
        }
        assert_eq!(another(&tasks), None);
        tasks.entries().get_mut(&id).expect("there").created = Timestamp::from_seconds(1);
        assert!(another(&tasks).is_some(), "what is old makes room");
        assert!(Original::new(&vec![b' '; MAX_CALL + 1], Vec::new()).is_none());
        let other = Refusal::new(RefusalKind::Denied, "No.", "");
        let call = Arc::new(Original::new(b"{}", Vec::new()).expect("small"));
        assert_eq!(Tasks::default().open(mine(), &call, &other), None);
    }
}
