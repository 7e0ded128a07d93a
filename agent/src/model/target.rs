//! What is connected to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Arc<str>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A configured target's name, or `address:port` of a destination that no configuration names.
    TargetName
);
name!(
    /// An environment (`prod`, `staging`, …); `unknown` for a destination that no configuration names.
    Environment
);

/// The protocol that the agent speaks with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// PostgreSQL frontend/backend protocol 3.
    Postgres,
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// The Model Context Protocol over HTTP.
    Mcp,
    /// APIs of models: OpenAI's and Anthropic's.
    Llm,
    /// Questions for names.
    Dns,
    /// Bytes that the agent does not understand: forwarded only where a policy names the destination.
    Opaque,
}

impl Protocol {
    /// Whether it is HTTP on the wire.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Mcp | Self::Llm)
    }

    /// The name in configuration, policies and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::Llm => "llm",
            Self::Dns => "dns",
            Self::Opaque => "opaque",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operation is done to: the Cedar resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: TargetName,
    /// Its environment.
    pub environment: Environment,
    /// Labels from the configuration.
    pub labels: BTreeMap<String, String>,
    /// How the agent speaks with it.
    pub protocol: Protocol,
    /// Whether the configuration names it.
    pub configured: bool,
}
