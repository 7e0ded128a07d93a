//! Harness words for the suites: a world with a real PostgreSQL, a real issuer of tokens, and the agent around a command.

pub mod agent;
pub mod cgroup;
pub mod container;
pub mod escape;
pub mod http;
pub mod models;
pub mod oidc;
pub mod oracle;
pub mod postgres;
pub mod psql;
pub mod relay;
pub mod service;
pub mod system_copy;
pub mod tools;
pub mod wire;
pub mod world;

pub use agent::{Agent, Ended};
pub use http::{HttpRelay, HttpSetting, HttpTarget};
pub use oidc::Oidc;
pub use oracle::Oracle;
pub use postgres::Postgres;
pub use relay::{Relay, Setting};
pub use tools::{can_govern, can_relay, can_serve_http, can_speak_mcp, can_speak_mcp_v2, python, tool};
pub use wire::Wire;
