//! Something that an MCP server offers, as its lists name it: what a process could ask for with arguments not known yet.

use super::action::Action;

/// An offer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// A tool by its name.
    Tool(String),
    /// A prompt by its name.
    Prompt(String),
    /// A resource by its URI.
    Resource(String),
    /// Resources whose URIs are not known: a template.
    Resources,
}

impl Offer {
    /// What taking it is.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::Tool(_) => Action::McpToolCall,
            Self::Prompt(_) => Action::McpPromptGet,
            Self::Resource(_) | Self::Resources => Action::McpResourceRead,
        }
    }

    /// The method that takes it.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) | Self::Resources => "resources/read",
        }
    }
}
