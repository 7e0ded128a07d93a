//! What can be done: the leaves and the groups of the action tree that policies name.

use std::fmt;

/// An action. Operations carry leaves; policies may name a leaf or any group above it. The tree is the Cedar schema's
/// (`policies/interdict.cedarschema`); a test holds both together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Open an opaque connection.
    Connect,
    /// Log in to a SQL server.
    SqlLogin,
    /// `SELECT` and other statements that only read.
    SqlSelect,
    /// `INSERT`.
    SqlInsert,
    /// `UPDATE` of rows that a condition bounds.
    SqlUpdate,
    /// `UPDATE` without a condition that bounds it.
    SqlUpdateAll,
    /// `DELETE` of rows that a condition bounds.
    SqlDelete,
    /// `DELETE` without a condition that bounds it.
    SqlDeleteAll,
    /// `MERGE`.
    SqlMerge,
    /// `TRUNCATE`.
    SqlTruncate,
    /// `DROP …`, and `ALTER` that drops something.
    SqlDrop,
    /// `CREATE …`, `SELECT INTO`.
    SqlCreate,
    /// `ALTER …`, `COMMENT`, `SECURITY LABEL`.
    SqlAlter,
    /// `GRANT`, `REVOKE`, roles, ownership, server settings.
    SqlAdmin,
    /// Code whose effects cannot be seen from outside: `DO`, `CALL`, volatile or unknown functions.
    SqlExecute,
    /// Programs and files of the server: `COPY … PROGRAM`, `COPY` to and from files, `LOAD`, file functions.
    SqlServerFile,
    /// `COPY … TO STDOUT`: reads.
    SqlCopyOut,
    /// `COPY … FROM STDIN`: writes.
    SqlCopyIn,
    /// `BEGIN`, `COMMIT`, `ROLLBACK`, savepoints, two-phase commit.
    SqlTransaction,
    /// `SET`, `RESET`, `DISCARD`, `LISTEN`, `PREPARE` and other state of the session only.
    SqlSession,
    /// `VACUUM`, `ANALYZE`, `REINDEX`, `CHECKPOINT`, explicit locks.
    SqlMaintenance,
    /// Begin, keep or end a session of MCP; notifications.
    McpSession,
    /// Ask what an MCP server offers: tools, resources, prompts, completions of arguments.
    McpList,
    /// Call a tool of an MCP server.
    McpToolCall,
    /// Read a resource of an MCP server, or ask to be told of its changes.
    McpResourceRead,
    /// Get a prompt of an MCP server.
    McpPromptGet,
    /// Listen for what an MCP server sends by itself.
    McpListen,
    /// Follow or cancel a task of an MCP server.
    McpTask,
    /// Answer what an MCP server asked: sampling, elicitation, roots.
    McpAnswer,
    /// An MCP server asks the client's model.
    McpSampling,
    /// An MCP server asks the client's user.
    McpElicitation,
    /// An MCP server asks for the client's roots.
    McpRoots,
    /// Any other method of an MCP server, or any other question of it.
    McpOther,
    /// Send a prompt to a model.
    LlmPrompt,
    /// Have a model make vectors of texts.
    LlmEmbed,
    /// Read what a provider has: its models, answers that it keeps.
    LlmRead,
    /// Ask a server for a name.
    DnsResolve,
    /// `GET`, `HEAD`, `OPTIONS`.
    HttpRead,
    /// `POST`, `PUT`, `PATCH`.
    HttpWrite,
    /// `DELETE`.
    HttpDelete,
    /// Any other method: those of WebDAV and of a target's own making.
    HttpOther,
    /// Open a WebSocket, or say something in one.
    HttpWebSocket,
    /// See data of a class unmasked.
    Reveal,
}

impl Action {
    /// Every action, in declaration order.
    pub const ALL: [Self; 43] = [
        Self::Connect,
        Self::SqlLogin,
        Self::SqlSelect,
        Self::SqlInsert,
        Self::SqlUpdate,
        Self::SqlUpdateAll,
        Self::SqlDelete,
        Self::SqlDeleteAll,
        Self::SqlMerge,
        Self::SqlTruncate,
        Self::SqlDrop,
        Self::SqlCreate,
        Self::SqlAlter,
        Self::SqlAdmin,
        Self::SqlExecute,
        Self::SqlServerFile,
        Self::SqlCopyOut,
        Self::SqlCopyIn,
        Self::SqlTransaction,
        Self::SqlSession,
        Self::SqlMaintenance,
        Self::McpSession,
        Self::McpList,
        Self::McpToolCall,
        Self::McpResourceRead,
        Self::McpPromptGet,
        Self::McpListen,
        Self::McpTask,
        Self::McpAnswer,
        Self::McpSampling,
        Self::McpElicitation,
        Self::McpRoots,
        Self::McpOther,
        Self::LlmPrompt,
        Self::LlmEmbed,
        Self::LlmRead,
        Self::DnsResolve,
        Self::HttpRead,
        Self::HttpWrite,
        Self::HttpDelete,
        Self::HttpOther,
        Self::HttpWebSocket,
        Self::Reveal,
    ];

    /// The name in policies and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::SqlLogin => "sql.login",
            Self::SqlSelect => "sql.select",
            Self::SqlInsert => "sql.insert",
            Self::SqlUpdate => "sql.update",
            Self::SqlUpdateAll => "sql.update_all",
            Self::SqlDelete => "sql.delete",
            Self::SqlDeleteAll => "sql.delete_all",
            Self::SqlMerge => "sql.merge",
            Self::SqlTruncate => "sql.truncate",
            Self::SqlDrop => "sql.drop",
            Self::SqlCreate => "sql.create",
            Self::SqlAlter => "sql.alter",
            Self::SqlAdmin => "sql.admin",
            Self::SqlExecute => "sql.execute",
            Self::SqlServerFile => "sql.server_file",
            Self::SqlCopyOut => "sql.copy_out",
            Self::SqlCopyIn => "sql.copy_in",
            Self::SqlTransaction => "sql.transaction",
            Self::SqlSession => "sql.session",
            Self::SqlMaintenance => "sql.maintenance",
            Self::McpSession => "mcp.session",
            Self::McpList => "mcp.list",
            Self::McpToolCall => "mcp.tool.call",
            Self::McpResourceRead => "mcp.resource.read",
            Self::McpPromptGet => "mcp.prompt.get",
            Self::McpListen => "mcp.listen",
            Self::McpTask => "mcp.task",
            Self::McpAnswer => "mcp.answer",
            Self::McpSampling => "mcp.sampling.create",
            Self::McpElicitation => "mcp.elicitation.create",
            Self::McpRoots => "mcp.roots.list",
            Self::McpOther => "mcp.other",
            Self::LlmPrompt => "llm.prompt",
            Self::LlmEmbed => "llm.embed",
            Self::LlmRead => "llm.read",
            Self::DnsResolve => "dns.resolve",
            Self::HttpRead => "http.read",
            Self::HttpWrite => "http.write",
            Self::HttpDelete => "http.delete",
            Self::HttpOther => "http.other",
            Self::HttpWebSocket => "http.websocket",
            Self::Reveal => "reveal",
        }
    }

    /// The groups directly above it.
    #[must_use]
    pub const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Connect | Self::Reveal | Self::DnsResolve => &[],
            Self::LlmPrompt | Self::LlmEmbed | Self::LlmRead => &["llm"],
            Self::SqlLogin | Self::SqlTransaction | Self::SqlSession => &["sql.control"],
            Self::SqlSelect | Self::SqlCopyOut => &["sql.read"],
            Self::SqlInsert | Self::SqlUpdate | Self::SqlDelete | Self::SqlMerge | Self::SqlCopyIn => {
                &["sql.write"]
            }
            Self::SqlUpdateAll | Self::SqlDeleteAll | Self::SqlTruncate => &["sql.write", "sql.destructive"],
            Self::SqlDrop => &["sql.schema", "sql.destructive"],
            Self::SqlCreate | Self::SqlAlter => &["sql.schema"],
            Self::SqlAdmin | Self::SqlMaintenance => &["sql.administer"],
            Self::SqlExecute | Self::SqlServerFile => &["sql.code"],
            Self::McpSession | Self::McpList | Self::McpListen => &["mcp.control"],
            Self::McpToolCall
            | Self::McpResourceRead
            | Self::McpPromptGet
            | Self::McpTask
            | Self::McpAnswer
            | Self::McpSampling
            | Self::McpElicitation
            | Self::McpRoots
            | Self::McpOther => &["mcp"],
            Self::HttpRead | Self::HttpWrite | Self::HttpDelete | Self::HttpOther | Self::HttpWebSocket => {
                &["http"]
            }
        }
    }

    /// The groups of actions and the group above each (all SQL groups lie in `sql`).
    pub const GROUPS: [(&'static str, Option<&'static str>); 12] = [
        ("sql", None),
        ("sql.control", Some("sql")),
        ("sql.read", Some("sql")),
        ("sql.write", Some("sql")),
        ("sql.destructive", Some("sql")),
        ("sql.schema", Some("sql")),
        ("sql.administer", Some("sql")),
        ("sql.code", Some("sql")),
        ("mcp", None),
        ("mcp.control", Some("mcp")),
        ("llm", None),
        ("http", None),
    ];

    /// Whether it can change anything but the session itself. What is not known to only read counts as a change.
    #[must_use]
    pub const fn changes(self) -> bool {
        match self {
            Self::Connect
            | Self::SqlLogin
            | Self::SqlSelect
            | Self::SqlCopyOut
            | Self::SqlTransaction
            | Self::SqlSession
            | Self::McpSession
            | Self::McpList
            | Self::McpResourceRead
            | Self::McpPromptGet
            | Self::McpListen
            | Self::LlmPrompt
            | Self::LlmEmbed
            | Self::LlmRead
            | Self::DnsResolve
            | Self::HttpRead
            | Self::Reveal => false,
            Self::SqlInsert
            | Self::SqlUpdate
            | Self::SqlUpdateAll
            | Self::SqlDelete
            | Self::SqlDeleteAll
            | Self::SqlMerge
            | Self::SqlTruncate
            | Self::SqlDrop
            | Self::SqlCreate
            | Self::SqlAlter
            | Self::SqlAdmin
            | Self::SqlExecute
            | Self::SqlServerFile
            | Self::SqlCopyIn
            | Self::SqlMaintenance
            | Self::McpToolCall
            | Self::McpTask
            | Self::McpAnswer
            | Self::McpSampling
            | Self::McpElicitation
            | Self::McpRoots
            | Self::McpOther
            | Self::HttpWrite
            | Self::HttpDelete
            | Self::HttpOther
            | Self::HttpWebSocket => true,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
