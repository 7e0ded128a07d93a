//! Tools as they were accepted: which stay in a list, and which may be called.

use serde_json::{Map, Value};

use crate::config::ToolRules;
use crate::inventory::{Inventory, Standing};
use crate::json::canonical;
use crate::model::{Digest, Refusal, RefusalKind};

/// The inventory as it is about one target.
#[derive(Debug, Clone)]
pub struct Pins {
    inventory: Inventory,
    target: String,
    rules: ToolRules,
}

/// What a model reads of a tool, and what decides how it is called.
const SAID: [&str; 6] = [
    "name",
    "title",
    "description",
    "inputSchema",
    "outputSchema",
    "annotations",
];

impl Pins {
    /// The tools of `target`.
    #[must_use]
    pub const fn new(inventory: Inventory, target: String, rules: ToolRules) -> Self {
        Self {
            inventory,
            target,
            rules,
        }
    }

    /// How a tool stands that the server at `path` lists.
    pub(super) fn listed(&self, path: &str, name: &str, tool: &Map<String, Value>) -> Standing {
        let said = |member: &&str| Some(((*member).to_owned(), tool.get(*member)?.clone()));
        let text = canonical(&Value::Object(SAID.iter().filter_map(said).collect()));
        let place = (self.target.as_str(), path);
        match self
            .inventory
            .saw(place, name, &text, self.rules, crate::clock::now())
        {
            Ok(standing) => standing,
            Err(error) => {
                tracing::error!(%error, target = self.target, "a tool is not shown");
                Standing::New
            }
        }
    }

    /// The digest of what a tool says that is to be called; `None` where it was never listed.
    ///
    /// # Errors
    /// The refusal where it is not what was accepted.
    pub(super) fn called(&self, path: &str, name: &str) -> Result<Option<Digest>, Refusal> {
        let no = |reason: String, next: String| Refusal::new(RefusalKind::Denied, reason, next);
        let next = format!(
            "Somebody with root can look (`interdict mcp tools diff {name}`) and accept it \
             (`interdict mcp tools accept {name}`)."
        );
        match self.inventory.called((&self.target, path), name, self.rules) {
            Ok((standing, digest)) if standing.passes() => Ok(digest),
            Ok((Standing::Changed, _)) => Err(no(
                format!("The tool {name:?} says something else of itself than what was accepted."),
                next,
            )),
            Ok(_) => Err(no(
                format!("The tool {name:?} is new, and nobody has accepted it."),
                next,
            )),
            Err(error) => {
                tracing::error!(%error, target = self.target, "a tool is not called");
                Err(no(
                    format!("Whether the tool {name:?} is as it was accepted cannot be known: {error}."),
                    "Tell whoever runs the agent.".into(),
                ))
            }
        }
    }
}
