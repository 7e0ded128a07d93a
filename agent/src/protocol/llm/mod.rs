//! APIs of models: OpenAI's chat completions and responses, Anthropic's messages; whole answers and streams.
//!
//! `endpoint` tells what a path asks for, `prompt` reads it, `refusal` answers in the provider's own body, `answer` masks what comes back: `event`
//! takes a stream's event apart, `deltas` joins the pieces of one text so that a value over several of them is found.
//! `api` is the dialect that the HTTP relay asks, `talk` reads what is said in a WebSocket of the responses API, each prompt in it as one over HTTP. Requests to other paths are judged as HTTP. Where a permit masks
//! prompts, `masking` puts aliases in the places of values, `vault` remembers them, and `restore` gives back to the
//! process what it sent itself.

mod answer;
mod api;
mod deltas;
mod endpoint;
pub(in crate::protocol) mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod lanes;
mod masking;
#[cfg(test)]
mod masking_tests;
mod prompt;
mod refusal;
mod restore;
mod talk;
#[cfg(test)]
mod talk_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod usage_tests;
mod vault;

pub use api::ModelApi;
