//! What a client can do while a call waits: what it said of itself, at `initialize` or with each request.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::tasks::EXTENSION;

/// Sessions that are remembered; beyond it the memory starts anew, and clients are asked nothing.
const MAX_SESSIONS: usize = 4096;
/// How ids of the agent's own requests to a client begin.
const OWN: &str = "interdict-";

/// What a client can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Abilities {
    /// To fill in a form.
    pub(super) form: bool,
    /// To open a link.
    pub(super) url: bool,
    /// To ask for a task until it is done.
    pub(super) tasks: bool,
}

impl Abilities {
    /// From `capabilities`. An empty `elicitation` means forms (MCP 2025-11-25, "Elicitation").
    pub(super) fn of(capabilities: Option<&Value>) -> Self {
        let extension = capabilities.and_then(|c| c.get("extensions")?.get(EXTENSION));
        let tasks = extension.is_some_and(Value::is_object);
        let Some(Value::Object(elicitation)) = capabilities.and_then(|c| c.get("elicitation")) else {
            return Self {
                tasks,
                ..Self::default()
            };
        };
        let url = elicitation.contains_key("url");
        Self {
            form: elicitation.contains_key("form") || !url,
            url,
            tasks,
        }
    }

    /// What a request without a session says.
    pub(super) fn with_request(meta: Option<&Map<String, Value>>) -> Self {
        Self::of(meta.and_then(|meta| meta.get("io.modelcontextprotocol/clientCapabilities")))
    }
}

/// What is remembered of the clients of one server.
#[derive(Debug, Default)]
pub(super) struct Clients {
    sessions: Mutex<HashMap<String, Abilities>>,
    asked: Mutex<HashMap<String, Arc<Notify>>>,
    /// Methods of what servers asked, by session and id.
    open: Mutex<HashMap<(String, String), String>>,
    /// Where clients of the transport of 2024-11-05 send to: path and query.
    endpoints: Mutex<HashSet<String>>,
}

impl Clients {
    pub(super) fn remember(&self, session: &str, abilities: Abilities) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MAX_SESSIONS {
            sessions.clear();
        }
        sessions.insert(session.to_owned(), abilities);
    }

    pub(super) fn forget(&self, session: &str) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(session);
    }

    pub(super) fn of(&self, session: Option<&str>) -> Abilities {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        session
            .and_then(|session| sessions.get(session).copied())
            .unwrap_or_default()
    }

    /// A server asked the client of a session.
    pub(super) fn server_asked(&self, session: &str, id: &Value, method: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_SESSIONS {
            open.clear();
        }
        open.insert((session.to_owned(), id.to_string()), method.to_owned());
    }

    /// What the client answers with `id`; empty where nothing is known.
    pub(super) fn answers(&self, session: &str, id: &Value) -> String {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&(session.to_owned(), id.to_string()))
            .unwrap_or_default()
    }

    /// A stream of the transport of 2024-11-05 says where its client sends to.
    pub(super) fn sends_to(&self, endpoint: &str) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() >= MAX_SESSIONS {
            endpoints.clear();
        }
        let path = match endpoint.split_once("://") {
            Some((_scheme, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
            None => endpoint,
        };
        endpoints.insert(path.to_owned());
    }

    /// Whether a message that is sent there is answered in another stream.
    pub(super) fn is_endpoint(&self, path: &str, query: Option<&str>) -> bool {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        match query {
            Some(query) => endpoints.contains(&format!("{path}?{query}")),
            None => endpoints.contains(path),
        }
    }

    /// An id that nobody can guess, for a question whose answer `stop` hears if it is no.
    pub(super) fn ask(&self, stop: &Arc<Notify>) -> Option<Question> {
        let mut bits = [0; 16];
        aws_lc_rs::rand::fill(&mut bits).ok()?;
        let id = format!("{OWN}{}", data_encoding::HEXLOWER.encode(&bits));
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(id.clone(), Arc::clone(stop));
        Some(Question(id))
    }

    /// Whether an answer is to a question of the agent. A no ends the wait.
    pub(super) fn answered(&self, id: &Value, content: &Value) -> bool {
        let Some(id) = id.as_str().filter(|id| id.starts_with(OWN)) else {
            return false;
        };
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = asked.get(id).filter(|_| is_no(content)) {
            stop.notify_one();
        }
        true
    }

    pub(super) fn withdraw(&self, question: &Question) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&question.0);
    }
}

/// A question to a client, by its id.
#[derive(Debug)]
pub(super) struct Question(pub(super) String);

/// Whether somebody who was asked does not want to wait. An error (a client that cannot ask after all) is no answer.
pub(super) fn is_no(answer: &Value) -> bool {
    match answer.get("action").and_then(Value::as_str) {
        Some("accept") => answer
            .pointer("/content/choice")
            .is_some_and(|choice| choice == "cancel"),
        Some(_) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_client_can_be_asked() {
        let tasks = |settings: Value| json!({"extensions": {EXTENSION: settings}});
        for (capabilities, form, url, tasks) in [
            (json!({}), false, false, false),
            (json!({"elicitation": {}}), true, false, false),
            (json!({"elicitation": {"form": {}}}), true, false, false),
            (json!({"elicitation": {"url": {}}}), false, true, false),
            (json!({"elicitation": {"url": {}, "form": {}}}), true, true, false),
            (json!({"elicitation": true}), false, false, false),
            (tasks(json!({})), false, false, true),
            (tasks(json!(false)), false, false, false),
        ] {
            assert_eq!(
                Abilities::of(Some(&capabilities)),
                Abilities { form, url, tasks },
                "{capabilities}"
            );
        }
    }

    #[test]
    fn what_was_asked_and_where_answers_go() {
        let clients = Clients::default();
        clients.server_asked("s", &json!(1), "roots/list");
        assert_eq!(clients.answers("t", &json!(1)), "");
        assert_eq!(clients.answers("s", &json!("1")), "");
        assert_eq!(
            (clients.answers("s", &json!(1)), clients.answers("s", &json!(1))),
            ("roots/list".into(), String::new())
        );
        clients.sends_to("/messages?sessionId=7");
        clients.sends_to("https://tools.internal/messages/8");
        assert!(
            clients.is_endpoint("/messages", Some("sessionId=7")) && clients.is_endpoint("/messages/8", None)
        );
        assert!(!clients.is_endpoint("/messages", None) && !clients.is_endpoint("/mcp", None));
    }

    #[test]
    fn only_a_no_to_a_question_of_the_agent_ends_the_wait() {
        let (clients, stop) = (Clients::default(), Arc::new(Notify::new()));
        let question = clients.ask(&stop).expect("id");
        assert!(
            !clients.answered(&json!("7"), &json!({"action": "decline"})),
            "the server's"
        );
        assert!(!clients.answered(&json!(7), &json!({"action": "decline"})));
        assert!(
            clients.answered(&json!("interdict-7"), &json!({"action": "decline"})),
            "an old one"
        );
        let id = json!(question.0);
        for (answer, no) in [
            (json!({"action": "accept", "content": {"choice": "wait"}}), false),
            (json!({"code": -32601, "message": "no such method"}), false),
            (json!({"action": "accept", "content": {"choice": "cancel"}}), true),
            (json!({"action": "decline"}), true),
            (json!({"action": "cancel"}), true),
        ] {
            assert_eq!(is_no(&answer), no, "{answer}");
            assert!(clients.answered(&id, &answer));
        }
        clients.withdraw(&question);
        assert!(clients.answered(&id, &json!({"action": "decline"})));
    }
}
