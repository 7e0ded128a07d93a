//! One thing that a process asks a target to do.

use std::collections::BTreeSet;
use std::fmt;

use super::action::Action;
use super::document::Document;
use super::id::Fingerprint;
use super::time::Timestamp;

/// One operation: the unit that is decided, consented to and recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Everything that it does; each action is decided, and the strictest answer holds. Never empty.
    pub actions: BTreeSet<Action>,
    /// What policies read about it.
    pub facts: Facts,
    /// The statement or call as text, with the values of literals masked by content. For people and records.
    pub text: String,
    /// What an approval is bound to.
    pub fingerprint: Fingerprint,
    /// Parameters given apart from the text, masked.
    pub parameters: Vec<ParameterShown>,
}

impl Operation {
    /// The action that names the operation to people: the first that changes something, else the first.
    #[must_use]
    pub fn headline(&self) -> Action {
        let first = || self.actions.first().copied().unwrap_or(Action::SqlExecute);
        self.actions
            .iter()
            .copied()
            .find(|action| action.changes())
            .unwrap_or_else(first)
    }

    /// Whether anything in it may change something.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.actions.is_empty() || self.actions.iter().any(|action| action.changes())
    }
}

/// A parameter as the record shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterShown {
    /// SQL NULL.
    Null,
    /// Text, masked by content.
    Text(String),
    /// A binary value: its length in bytes only.
    Binary(u64),
}

/// What policies may read about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// SQL.
    Sql(SqlFacts),
    /// An opaque connection.
    Connect(ConnectFacts),
    /// An HTTP request.
    Http(HttpFacts),
    /// A message of MCP.
    Mcp(McpFacts),
    /// A prompt.
    Llm(LlmFacts),
    /// A question for a name.
    Dns(DnsFacts),
}

/// Facts of a message to an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct McpFacts {
    /// The method (`tools/call`); empty for an answer to the server and for what is no message.
    pub method: String,
    /// The tool that is called; empty for anything else.
    pub tool: String,
    /// The resource that is read; empty for anything else.
    pub uri: String,
    /// The prompt that is got; empty for anything else.
    pub prompt: String,
    /// The arguments; for what has none, all parameters.
    pub input: Document,
}

/// What was asked of a target's models in an hour, by one principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Tokens, in and out.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
    /// Tokens of the model that is asked now.
    pub model_tokens: u64,
    /// Requests to that model.
    pub model_requests: u64,
}

impl Spent {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: &Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
            model_tokens: self.model_tokens.saturating_add(other.model_tokens),
            model_requests: self.model_requests.saturating_add(other.model_requests),
        }
    }
}

/// What was asked within the last hour, and what will be left of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Within the last hour.
    pub hour: Spent,
    /// From when on what counts, if nothing is asked until then; at most sixty.
    pub later: Vec<(Timestamp, Spent)>,
}

/// Facts of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LlmFacts {
    /// Whose words it is in: `openai` or `anthropic`.
    pub api: String,
    /// What is asked for: `chat.completions`, `completions`, `responses`, `messages`, `embeddings`, `moderations`,
    /// `count_tokens`, `models`, `stored`.
    pub endpoint: String,
    /// The model that is asked for, as written.
    pub model: String,
    /// Names of the tools that the model may call.
    pub tools: BTreeSet<String>,
    /// Classes of sensitive data that were found in the prompt.
    pub findings: BTreeSet<String>,
    /// Length of all its texts, in bytes.
    pub bytes: u64,
    /// Whether it holds what is no text: pictures, sound, files.
    pub attachments: bool,
    /// Whether the provider is told to keep it.
    pub stored: bool,
    /// What the principal asked before, where that is known.
    pub usage: Option<Usage>,
}

/// Facts of a question for a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsFacts {
    /// The name in lower case, without the last dot; the root is empty.
    pub name: String,
    /// The type of record: `A`, `AAAA`, `TXT`.
    pub kind: String,
    /// Whether it is the name of a configured target, as it is or with a search domain of the host behind it.
    pub target: bool,
    /// Whether it came over `tcp`, and not over `udp`.
    pub tcp: bool,
}

impl DnsFacts {
    /// The name and every domain that it lies in, down to the last part.
    pub fn within(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(self.name.as_str()).filter(|name| !name.is_empty());
        std::iter::from_fn(move || {
            let now = rest?;
            rest = now.split_once('.').map(|(_, domain)| domain);
            Some(now)
        })
    }

    /// How many parts the name has.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.within().count()
    }
}

/// Whether the body of an HTTP request was read before it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpBody {
    /// All of it.
    #[default]
    Read,
    /// Nobody looks into it; the head says how long it is.
    Declared,
    /// Nobody looks into it, and how long it is shows at its end.
    Unknown,
}

/// Facts of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFacts {
    /// The method, as sent.
    pub method: String,
    /// The host that it names, lower case, without the port.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the process's own connection is TLS.
    pub tls: bool,
    /// The path, percent-decoded but for what would change its parts (`%2F`).
    pub path: String,
    /// Names in the query, percent-decoded.
    pub query: BTreeSet<String>,
    /// Names of header fields, lower case.
    pub headers: BTreeSet<String>,
    /// The media type of the body, lower case, without parameters; empty where there is none.
    pub content_type: String,
    /// Length of the body; of one whose length is not known, the most that it may have.
    pub body_bytes: u64,
    /// Whether it was read.
    pub body: HttpBody,
    /// The body's values, where it is JSON that every reader understands alike, or a form, and not too large.
    pub input: Option<Document>,
}

/// Facts of an opaque connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFacts {
    /// The address that the process meant, without the port.
    pub address: std::net::IpAddr,
    /// The port.
    pub port: u16,
}

/// Facts of one or more SQL statements that are sent together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SqlFacts {
    /// The statements in order.
    pub statements: Vec<StatementFacts>,
    /// The database that the session is logged in to.
    pub database: String,
    /// Whether a transaction is open when it arrives.
    pub in_transaction: bool,
}

impl SqlFacts {
    /// Every table of every statement.
    #[must_use]
    pub fn tables(&self) -> BTreeSet<&TableName> {
        self.statements
            .iter()
            .flat_map(|s| s.reads.iter().chain(&s.writes))
            .collect()
    }

    /// Whether every write is bounded by a condition.
    #[must_use]
    pub fn bounded(&self) -> bool {
        self.statements.iter().all(|s| s.bounded)
    }
}

/// Facts of one SQL statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementFacts {
    /// What it is.
    pub kind: StatementKind,
    /// Everything that it does, writes hidden in common table expressions and the like included.
    pub actions: BTreeSet<Action>,
    /// Tables that it reads, as written (lower case unless quoted).
    pub reads: BTreeSet<TableName>,
    /// Tables that it writes, creates, alters or drops.
    pub writes: BTreeSet<TableName>,
    /// Columns that it names, without their table; `*` for all.
    pub columns: BTreeSet<String>,
    /// Functions that it calls, as written.
    pub functions: BTreeSet<String>,
    /// False for an `UPDATE` or `DELETE` that no condition bounds.
    pub bounded: bool,
}

/// A table as a statement names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema; `None` when the statement leaves it to `search_path`.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The kind of a statement, named as its SQL command.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKind(pub &'static str);

impl fmt::Display for StatementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
