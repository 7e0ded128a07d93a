//! What a path is in the API of a provider.

use hyper::Method;
use hyper::header::HeaderMap;

use crate::model::Action;

/// A part of an API, by what its requests look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's completions, from before there were chats.
    Completions,
    /// OpenAI's responses.
    Responses,
    /// The counting and compacting of what responses are made from.
    ResponsesInput,
    /// OpenAI's embeddings.
    Embeddings,
    /// OpenAI's moderations: a model says whether a text is harmful.
    Moderations,
    /// Anthropic's messages.
    Messages,
    /// The counting of their tokens.
    MessagesCount,
    /// Which models there are.
    Models,
    /// Answers that the provider keeps.
    Stored,
}

impl Api {
    /// What is asked for at a path; providers and gateways put different things before its end. `None`: nothing that is
    /// read here.
    pub(super) fn at(method: &Method, path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/').to_ascii_lowercase();
        let ends = |end: &str| path.ends_with(end);
        if *method == Method::GET || *method == Method::HEAD {
            let below = |name: &str| ends(name) || path.contains(&format!("{name}/"));
            return if below("/models") {
                Some(Self::Models)
            } else if below("/responses") || below("/chat/completions") {
                Some(Self::Stored)
            } else {
                None
            };
        }
        if *method != Method::POST {
            return None;
        }
        let table = [
            ("/chat/completions", Self::Chat),
            ("/completions", Self::Completions),
            ("/responses", Self::Responses),
            ("/responses/input_tokens", Self::ResponsesInput),
            ("/responses/compact", Self::ResponsesInput),
            ("/embeddings", Self::Embeddings),
            ("/moderations", Self::Moderations),
            ("/messages", Self::Messages),
            ("/messages/count_tokens", Self::MessagesCount),
        ];
        table.into_iter().find(|(end, _)| ends(end)).map(|(_, api)| api)
    }

    /// Whose words it is in.
    pub(super) fn provider(self, headers: &HeaderMap) -> &'static str {
        match self {
            Self::Messages | Self::MessagesCount => "anthropic",
            Self::Models | Self::Stored if headers.contains_key("anthropic-version") => "anthropic",
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::ResponsesInput
            | Self::Embeddings
            | Self::Moderations
            | Self::Models
            | Self::Stored => "openai",
        }
    }

    /// Its name in policies.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat.completions",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::ResponsesInput | Self::MessagesCount => "count_tokens",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::Messages => "messages",
            Self::Models => "models",
            Self::Stored => "stored",
        }
    }

    /// What it is.
    pub(super) const fn action(self) -> Action {
        match self {
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::ResponsesInput
            | Self::Moderations
            | Self::Messages
            | Self::MessagesCount => Action::LlmPrompt,
            Self::Embeddings => Action::LlmEmbed,
            Self::Models | Self::Stored => Action::LlmRead,
        }
    }

    /// Whether it is asked with nothing but its path.
    pub(super) const fn reads(self) -> bool {
        matches!(self, Self::Models | Self::Stored)
    }

    /// Whether a model works on it, which takes tokens; what is only counted takes none.
    pub(super) const fn takes_tokens(self) -> bool {
        match self {
            Self::Chat | Self::Completions | Self::Responses | Self::Embeddings | Self::Messages => true,
            Self::ResponsesInput | Self::Moderations | Self::MessagesCount | Self::Models | Self::Stored => {
                false
            }
        }
    }

    /// The model that a path names: in Azure's `/openai/deployments/NAME/…`, and where one model is read.
    pub(super) fn model_at(self, path: &str) -> String {
        let mut parts = path.split('/').skip_while(|part| {
            let marks: &[&str] = if self == Self::Models {
                &["models"]
            } else {
                &["deployments"]
            };
            !marks.iter().any(|mark| part.eq_ignore_ascii_case(mark))
        });
        parts.next();
        match self {
            Self::Models => parts.collect::<Vec<_>>().join("/"),
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::ResponsesInput
            | Self::Embeddings
            | Self::Moderations
            | Self::Messages
            | Self::MessagesCount
            | Self::Stored => parts.next().unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_providers_and_gateways_are_known_by_their_end() {
        let post = |path: &str| Api::at(&Method::POST, path);
        for (path, api, model) in [
            ("/v1/chat/completions", Api::Chat, ""),
            ("/openai/deployments/gpt-5/chat/completions", Api::Chat, "gpt-5"),
            ("/openai/deployments/ada/embeddings", Api::Embeddings, "ada"),
            ("/openai/v1/responses", Api::Responses, ""),
            ("/v1/completions/", Api::Completions, ""),
            ("/proxy/V1/Messages", Api::Messages, ""),
            ("/v1/messages/count_tokens", Api::MessagesCount, ""),
            ("/v1/responses/input_tokens", Api::ResponsesInput, ""),
            ("/v1/moderations", Api::Moderations, ""),
        ] {
            assert_eq!(post(path), Some(api), "{path}");
            assert_eq!(api.model_at(path), model, "{path}");
        }
        for path in [
            "/v1/files",
            "/v1/batches",
            "/v1/messages/batches",
            "/v1/images/generations",
            "/",
        ] {
            assert_eq!(post(path), None, "{path}");
        }
        let get = |path: &str| Api::at(&Method::GET, path);
        assert_eq!(get("/v1/models"), Some(Api::Models));
        assert_eq!(Api::Models.model_at("/v1/models/org/m"), "org/m");
        assert_eq!(get("/v1/responses/resp_1/input_items"), Some(Api::Stored));
        assert_eq!(get("/v1/files"), None);
        assert_eq!(Api::at(&Method::DELETE, "/v1/models/m"), None);
    }
}
