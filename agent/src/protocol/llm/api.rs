//! A target that is the API of models, as the HTTP relay asks about it.

use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};

use crate::mask::MaskPlan;
use crate::model::{MaskCounts, Operation, Refusal, RefusalKind};
use crate::protocol::http::dialect::{Asked, Cut, Dialect, Speaks, Words};

use super::answer::Answers;
use super::prompt::{self, Api};
use super::refusal;

/// The API of models.
#[derive(Debug, Default)]
pub struct ModelApi;

impl Speaks for ModelApi {
    fn exchange(&self) -> Box<dyn Dialect> {
        Box::new(Exchange {
            api: None,
            cut: Cut::Http,
            answers: Answers::default(),
        })
    }
}

#[derive(Debug)]
struct Exchange {
    /// `None`: not a prompt.
    api: Option<Api>,
    cut: Cut,
    answers: Answers,
}

impl Dialect for Exchange {
    fn request(
        &mut self,
        asked: &Asked<'_>,
        body: &[u8],
        plan: &MaskPlan,
    ) -> Result<Vec<Operation>, Refusal> {
        self.api = Api::at(asked.path).filter(|_| *asked.method == Method::POST);
        let Some(api) = self.api else {
            return Ok(Vec::new());
        };
        let wrong = |why: &str| {
            Refusal::new(
                RefusalKind::NotUnderstood,
                format!("Interdict does not carry this prompt: {why}."),
                "Send one JSON object as the provider's API has it, uncompressed.",
            )
        };
        if asked.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(wrong("its body is compressed"));
        }
        prompt::operation(api, asked, body, plan)
            .map(|operation| vec![operation])
            .map_err(|error| wrong(&error.to_string()))
    }

    fn response(&mut self, _status: StatusCode, headers: &HeaderMap) -> Cut {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.unwrap_or_default().trim_start().to_ascii_lowercase();
        self.cut = if kind.starts_with("text/event-stream") {
            Cut::Events
        } else if self.api.is_some() && kind.starts_with("application/json") {
            Cut::Whole
        } else {
            Cut::Http
        };
        self.cut
    }

    fn response_event(&mut self, event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        match self.cut {
            Cut::Whole => self.answers.whole(event, plan, counts),
            Cut::Events | Cut::Http => self.answers.event(event, plan, counts),
        }
    }

    fn response_end(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        self.answers.end(plan, counts)
    }

    fn refusal(&self, refusal: &Refusal) -> Option<Words> {
        self.api.map(|api| refusal::words(api, refusal))
    }

    fn note(&self) -> String {
        self.answers.note()
    }
}
