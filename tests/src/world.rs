//! Everything that an end-to-end test of the first slice needs.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::path::PathBuf;

use serde_json::Value;

use crate::{Agent, Oidc, Postgres, can_govern};

/// Everything that a test of the slice needs.
pub struct World {
    // In the order of dropping: the server before its directory.
    /// The database.
    pub database: Postgres,
    /// The issuer.
    pub issuer: Oidc,
    /// The agent.
    pub agent: Agent,
    /// The token of alice (analyst, dba).
    pub alice: PathBuf,
    /// The token of dora (dba).
    pub dora: PathBuf,
    _dir: tempfile::TempDir,
}

/// A database, an issuer, an agent whose configuration ends with `more`, and two people. `None` where nothing can be
/// governed here; that was said aloud.
///
/// # Panics
/// Where a part of it does not start.
#[must_use]
pub fn world(test: &str, more: &str) -> Option<World> {
    if !can_govern(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let database = Postgres::start(dir.path()).expect("PostgreSQL");
    let issuer = Oidc::start().expect("issuer");
    let agent = Agent::new(dir.path(), &database, &issuer, more).expect("agent");
    let alice = agent
        .token("alice", &issuer.token("alice", &["analyst", "dba"], 600))
        .expect("token");
    let dora = agent
        .token("dora", &issuer.token("dora", &["dba"], 600))
        .expect("token");
    Some(World {
        database,
        issuer,
        agent,
        alice,
        dora,
        _dir: dir,
    })
}

/// The records of a kind.
pub fn kinds<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |r| r["kind"] == kind)
}
