//! APIs of models: OpenAI's chat completions and responses, Anthropic's messages; whole answers and streams.
//!
//! `prompt` reads what is asked, `refusal` answers in the provider's own body, `answer` masks what comes back: `event`
//! takes a stream's event apart, `deltas` joins the pieces of one text so that a value over several of them is found.
//! `api` is the dialect that the HTTP relay asks. Requests to other paths are judged as HTTP.

mod answer;
mod api;
mod deltas;
pub(in crate::protocol) mod event;
mod prompt;
mod refusal;
#[cfg(test)]
mod tests;

pub use api::ModelApi;
