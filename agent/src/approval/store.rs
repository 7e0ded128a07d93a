//! Requests and grants in SQLite: they survive a restart, and agents of one host share them.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, ffi, params};
use serde::{Deserialize, Serialize};

use crate::model::{Group, Ticket, Timestamp};

use super::consent::Approver;
use super::terms::Grant;

/// How long one agent waits for another's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// The form of the tables; a store of a later form is not touched.
const FORM: i64 = 1;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestState {
    /// It waits for people.
    Open,
    /// Enough people said yes; not used yet.
    Approved,
    /// Somebody said no.
    Denied,
    /// The consent was used.
    Used,
    /// Nobody decided, or used it, in time.
    Expired,
}

impl RequestState {
    /// The name in the store and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Self::Open,
            Self::Approved,
            Self::Denied,
            Self::Used,
            Self::Expired,
        ]
        .into_iter()
        .find(|s| s.name() == name)
    }
}

/// A request for consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its ticket.
    pub ticket: Ticket,
    /// Where it stands.
    pub state: RequestState,
    /// The operation that asked first.
    pub operation: String,
    /// Whose it is: `issuer/subject`.
    pub principal: String,
    /// The target.
    pub target: String,
    /// What it is bound to.
    pub fingerprint: String,
    /// The action.
    pub action: String,
    /// The statement, masked.
    pub text: String,
    /// The process.
    pub process: String,
    /// The policies that want consent.
    pub policies: Vec<String>,
    /// Their reason.
    pub reason: String,
    /// Somebody of each set must consent.
    pub approvers: Vec<BTreeSet<Group>>,
    /// How many people must consent.
    pub min_approvals: u32,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it can be decided; once approved, until when it can be used.
    pub expires_at: Timestamp,
    /// Who consented so far.
    pub votes: Vec<Approver>,
    /// Who denied it, and why.
    pub denied: Option<(String, String)>,
    /// What is granted so far; once approved, what is left of it.
    pub grant: Option<Grant>,
}

/// A request as it was read: what it is replaced by must be made from this very revision.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) request: Request,
    revision: i64,
}

/// Whose, where and what: what a request and its consent are bound to.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) principal: String,
    pub(super) target: String,
    pub(super) fingerprint: String,
}

/// The part of a request that the store keeps as JSON.
#[derive(Serialize, Deserialize)]
struct Body {
    operation: String,
    action: String,
    text: String,
    process: String,
    policies: Vec<String>,
    reason: String,
    approvers: Vec<Vec<String>>,
    min_approvals: u32,
    votes: Vec<Vote>,
    denied: Option<(String, String)>,
    /// Uses, and nanoseconds.
    #[serde(default)]
    grant: Option<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Vote {
    principal: String,
    groups: Vec<String>,
    at_ns: i64,
}

const FIRST_FORM: &str = "
    CREATE TABLE IF NOT EXISTS requests (
      ticket TEXT PRIMARY KEY, state TEXT NOT NULL, principal TEXT NOT NULL, target TEXT NOT NULL,
      fingerprint TEXT NOT NULL, asked_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, body TEXT NOT NULL,
      revision INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX IF NOT EXISTS requests_bound ON requests (principal, target, fingerprint, state);";

/// Stores from before this index may hold the same request twice: the newest stays.
const ONE_OPEN: &str = "
    UPDATE requests SET state = 'expired' WHERE state = 'open' AND rowid NOT IN
      (SELECT max(rowid) FROM requests WHERE state = 'open' GROUP BY principal, target, fingerprint);
    CREATE UNIQUE INDEX requests_open ON requests (principal, target, fingerprint) WHERE state = 'open';
    CREATE INDEX requests_due ON requests (state, expires_ns);";

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    database: Connection,
}

impl Store {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        // It holds statements, and who may decide them: SQLite gives the files beside it the same mode.
        let private = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
        private.map_err(|error| cannot_open(format!("{}: {error}", path.display())))?;
        Self::prepare(Connection::open(path)?)
    }

    pub(super) fn in_memory() -> rusqlite::Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut database: Connection) -> rusqlite::Result<Self> {
        database.busy_timeout(BUSY)?;
        // A decision that was told must survive a power cut.
        database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let form: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match form {
            0 => {
                change.execute_batch(FIRST_FORM)?;
                let revised = "SELECT count(*) FROM pragma_table_info('requests') WHERE name = 'revision'";
                let revised: i64 = change.query_row(revised, [], |row| row.get(0))?;
                if revised == 0 {
                    change.execute_batch(
                        "ALTER TABLE requests ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
                    )?;
                }
                change.execute_batch(ONE_OPEN)?;
                change.pragma_update(None, "user_version", FORM)?;
            }
            FORM => {}
            later => {
                let what = format!("it is of form {later}, made by a later version of interdict");
                return Err(cannot_open(what));
            }
        }
        change.commit()?;
        Ok(Self { database })
    }

    /// Keeps a new request; `false` where its ticket is taken, or another for the same is open.
    pub(super) fn insert(&self, request: &Request) -> rusqlite::Result<bool> {
        let statement = "INSERT INTO requests (ticket, state, principal, target, fingerprint, asked_ns, expires_ns, body) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
        let count = self.database.execute(
            statement,
            params![
                request.ticket.as_str(),
                request.state.name(),
                request.principal,
                request.target,
                request.fingerprint,
                request.asked_at.as_nanos(),
                request.expires_at.as_nanos(),
                body(request)?,
            ],
        )?;
        Ok(count == 1)
    }

    /// Replaces `old` by `new`; `false` where somebody else changed it since it was read.
    pub(super) fn replace(&self, old: &Kept, new: &Request) -> rusqlite::Result<bool> {
        let statement = "UPDATE requests SET state = ?2, expires_ns = ?3, body = ?4, revision = revision + 1 \
                         WHERE ticket = ?1 AND state = ?5 AND revision = ?6";
        let count = self.database.execute(
            statement,
            params![
                old.request.ticket.as_str(),
                new.state.name(),
                new.expires_at.as_nanos(),
                body(new)?,
                old.request.state.name(),
                old.revision
            ],
        )?;
        Ok(count == 1)
    }

    pub(super) fn get(&self, ticket: &Ticket) -> rusqlite::Result<Option<Kept>> {
        let statement = "SELECT * FROM requests WHERE ticket = ?1";
        self.database
            .query_row(statement, [ticket.as_str()], read)
            .optional()
    }

    /// The newest request for exactly this in the given state.
    pub(super) fn find(&self, bound: &Bound, state: RequestState) -> rusqlite::Result<Option<Kept>> {
        let statement = "SELECT * FROM requests WHERE principal = ?1 AND target = ?2 AND fingerprint = ?3 AND state = ?4 \
                         ORDER BY asked_ns DESC LIMIT 1";
        self.database
            .query_row(
                statement,
                params![bound.principal, bound.target, bound.fingerprint, state.name()],
                read,
            )
            .optional()
    }

    /// How many open requests a principal has.
    pub(super) fn count_open(&self, principal: &str) -> rusqlite::Result<u32> {
        let statement = "SELECT count(*) FROM requests WHERE principal = ?1 AND state = 'open'";
        self.database.query_row(statement, [principal], |row| row.get(0))
    }

    /// Requests and grants whose time is over, and that nobody has marked so.
    pub(super) fn overdue(&self, now: Timestamp) -> rusqlite::Result<Vec<Kept>> {
        let statement = "SELECT * FROM requests WHERE state IN ('open', 'approved') AND expires_ns <= ?1 ORDER BY asked_ns LIMIT 1000";
        let mut prepared = self.database.prepare(statement)?;
        let rows = prepared.query_map([now.as_nanos()], read)?;
        rows.collect()
    }

    /// The newest requests; only those that wait or can be used unless `all`.
    pub(super) fn list(&self, all: bool) -> rusqlite::Result<Vec<Request>> {
        let statement = "SELECT * FROM requests WHERE ?1 OR state IN ('open', 'approved') ORDER BY asked_ns DESC LIMIT 200";
        let mut prepared = self.database.prepare(statement)?;
        let rows = prepared.query_map([all], |row| read(row).map(|kept| kept.request))?;
        rows.collect()
    }
}

fn body(request: &Request) -> rusqlite::Result<String> {
    let votes = request.votes.iter().map(|vote| Vote {
        principal: vote.principal.clone(),
        groups: vote.groups.iter().map(ToString::to_string).collect(),
        at_ns: vote.at.as_nanos(),
    });
    let body = Body {
        operation: request.operation.clone(),
        action: request.action.clone(),
        text: request.text.clone(),
        process: request.process.clone(),
        policies: request.policies.clone(),
        reason: request.reason.clone(),
        approvers: request
            .approvers
            .iter()
            .map(|set| set.iter().map(ToString::to_string).collect())
            .collect(),
        min_approvals: request.min_approvals,
        votes: votes.collect(),
        denied: request.denied.clone(),
        grant: request.grant.map(|grant| {
            (
                grant.uses,
                u64::try_from(grant.window.as_nanos()).unwrap_or(u64::MAX),
            )
        }),
    };
    serde_json::to_string(&body).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn cannot_open(what: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(what))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Kept> {
    let wrong =
        |what: &str| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, what.into());
    let text = |name: &str| row.get::<_, String>(name);
    let body: Body = serde_json::from_str(&text("body")?).map_err(|error| wrong(&error.to_string()))?;
    let votes = body.votes.into_iter().map(|vote| Approver {
        principal: vote.principal,
        groups: vote.groups.into_iter().map(Group::new).collect(),
        at: Timestamp::from_nanos(vote.at_ns),
    });
    let request = Request {
        ticket: text("ticket")?.parse().map_err(|_invalid| wrong("ticket"))?,
        state: RequestState::from_name(&text("state")?).ok_or_else(|| wrong("state"))?,
        operation: body.operation,
        principal: text("principal")?,
        target: text("target")?,
        fingerprint: text("fingerprint")?,
        action: body.action,
        text: body.text,
        process: body.process,
        policies: body.policies,
        reason: body.reason,
        approvers: body
            .approvers
            .into_iter()
            .map(|set| set.into_iter().map(Group::new).collect())
            .collect(),
        min_approvals: body.min_approvals,
        asked_at: Timestamp::from_nanos(row.get("asked_ns")?),
        expires_at: Timestamp::from_nanos(row.get("expires_ns")?),
        votes: votes.collect(),
        denied: body.denied,
        grant: body.grant.map(|(uses, window)| Grant {
            uses,
            window: Duration::from_nanos(window),
        }),
    };
    Ok(Kept {
        request,
        revision: row.get("revision")?,
    })
}
