//! `[target.mcp]`: what happens to tools that nobody has accepted, or that changed since.

use serde::Deserialize;
use toml::Spanned;

use crate::model::Protocol;

use super::load::Reader;
use super::raw::Text;

/// What happens to tools of an MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToolRules {
    /// To one that was never seen.
    pub new: NewTools,
    /// To one that says something else of itself than what was accepted.
    pub changed: ChangedTools,
}

/// What happens to a tool that was never seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewTools {
    /// What it says when it is first seen is accepted.
    #[default]
    Accept,
    /// It is neither listed nor called until somebody accepts it.
    Hold,
    /// It is neither listed nor called, whoever accepts it.
    Block,
}

/// What happens to a tool that says something else of itself than what was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangedTools {
    /// The record says so.
    Flag,
    /// It is neither listed nor called until somebody accepts it, or it says the same as before.
    #[default]
    Hold,
    /// It is neither listed nor called until it says the same as before, whoever accepts it.
    Block,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTools {
    pub new_tools: Option<Text>,
    pub changed_tools: Option<Text>,
}

impl Reader<'_> {
    pub(super) fn tools(&mut self, raw: Option<Spanned<RawTools>>, protocol: Protocol) -> ToolRules {
        let Some(raw) = raw else {
            return ToolRules::default();
        };
        if protocol != Protocol::Mcp {
            self.wrong(
                raw.span(),
                "[target.mcp] belongs to protocol = \"mcp\": remove it",
            );
        }
        let RawTools {
            new_tools,
            changed_tools,
        } = raw.into_inner();
        ToolRules {
            new: new_tools.and_then(|t| self.take(&t, new_of)).unwrap_or_default(),
            changed: changed_tools
                .and_then(|t| self.take(&t, changed_of))
                .unwrap_or_default(),
        }
    }
}

fn new_of(text: &str) -> Result<NewTools, String> {
    match text {
        "accept" => Ok(NewTools::Accept),
        "hold" => Ok(NewTools::Hold),
        "block" => Ok(NewTools::Block),
        other => Err(format!(
            "{other:?} is unknown: write new_tools = \"accept\", \"hold\" or \"block\""
        )),
    }
}

fn changed_of(text: &str) -> Result<ChangedTools, String> {
    match text {
        "flag" => Ok(ChangedTools::Flag),
        "hold" => Ok(ChangedTools::Hold),
        "block" => Ok(ChangedTools::Block),
        other => Err(format!(
            "{other:?} is unknown: write changed_tools = \"flag\", \"hold\" or \"block\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    #[test]
    fn tools_are_read_with_their_target() {
        let with = |protocol: &str, more: &str| {
            let text = format!(
                "[[target]]\nname = \"t\"\nprotocol = \"{protocol}\"\naddresses = [\"t.internal\"]\n{more}"
            );
            parse(&text, Path::new("c.toml"))
        };
        let read = |more: &str| with("mcp", more).expect("valid").targets[0].tools;
        assert_eq!(
            read(""),
            ToolRules {
                new: NewTools::Accept,
                changed: ChangedTools::Hold
            }
        );
        let both = "[target.mcp]\nnew_tools = \"block\"\nchanged_tools = \"flag\"\n";
        assert_eq!(
            read(both),
            ToolRules {
                new: NewTools::Block,
                changed: ChangedTools::Flag
            }
        );
        for (protocol, more, told) in [
            ("http", both, "belongs to protocol"),
            (
                "mcp",
                "[target.mcp]\nnew_tools = \"no\"\n",
                "\"accept\", \"hold\" or \"block\"",
            ),
            ("mcp", "[target.mcp]\nold_tools = \"hold\"\n", "old_tools"),
        ] {
            let wrong = with(protocol, more).expect_err(more).to_string();
            assert!(wrong.contains(told), "{wrong}");
        }
    }
}
