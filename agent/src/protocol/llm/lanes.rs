//! Whose answer an event in a WebSocket is. Within a stream (`stream_id`; all messages without one are another) responses come
//! one after another, in the order of the messages that asked for them; each begins with an event that has its id. A message
//! that steers a response is answered by that response's successor, which nobody asks for by itself.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::model::OutcomeStatus;
use crate::protocol::http::conversation::Turn;

use super::talk::Settings;

/// How many responses of a WebSocket are remembered.
const MADE: usize = 512;

/// What an event says of the answer that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// How the answer ends with it.
    pub(super) ends: Option<(OutcomeStatus, String)>,
    /// Whether the provider did not work on it.
    pub(super) refused: bool,
}

impl Said {
    pub(super) fn of(event: &Value) -> Self {
        let kind = text(event, "/type").unwrap_or_default();
        let status = event.pointer("/status").and_then(Value::as_u64);
        let ends = match kind {
            "response.completed" => Some((OutcomeStatus::Completed, "completed".to_owned())),
            "response.incomplete" => Some((OutcomeStatus::Completed, "incomplete".to_owned())),
            "response.failed" => Some((OutcomeStatus::Failed, "failed".to_owned())),
            "response.cancelled" => Some((OutcomeStatus::Cancelled, "cancelled".to_owned())),
            "response.steer.failed" => Some((OutcomeStatus::Failed, "not steered".to_owned())),
            "error" => {
                let detail = status.map_or_else(|| "error".to_owned(), |status| format!("error {status}"));
                Some((OutcomeStatus::Failed, detail))
            }
            _ => None,
        };
        Self {
            refused: kind == "response.steer.failed"
                || kind == "error" && status.is_some_and(|status| (400..500).contains(&status)),
            ends,
        }
    }
}

fn text<'v>(event: &'v Value, at: &str) -> Option<&'v str> {
    event.pointer(at).and_then(Value::as_str)
}

/// A message that was sent and is not over.
#[derive(Debug)]
struct Open {
    stream: Option<String>,
    /// The response that it goes on with.
    previous: Option<String>,
    steers: bool,
    /// What the provider calls it where it steers.
    steer: Option<String>,
    /// Whether its answer has begun.
    begun: bool,
    /// The id of its response.
    response: Option<String>,
    settings: Settings,
}

/// A response that was made here.
#[derive(Debug)]
struct Made {
    /// `None`: it is complete, or nobody asked for it.
    turn: Option<Turn>,
    /// `None`: nobody asked for it.
    settings: Option<Settings>,
}

/// The order of one WebSocket.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// In the order in which they were sent.
    open: BTreeMap<Turn, Open>,
    made: BTreeMap<String, Made>,
    /// The ids of `made`, the oldest first.
    order: VecDeque<String>,
    /// What was taken up into the answer of another message.
    along: Vec<Turn>,
}

impl Lanes {
    /// A prompt is sent.
    pub(super) fn asks(
        &mut self,
        turn: Turn,
        stream: Option<String>,
        previous: Option<String>,
        settings: Settings,
    ) {
        let open = Open {
            stream,
            previous,
            steers: false,
            steer: None,
            begun: false,
            response: None,
            settings,
        };
        self.open.insert(turn, open);
    }

    /// A message that steers the response `of` is sent.
    pub(super) fn steers(&mut self, turn: Turn, of: String, settings: Settings) {
        self.asks(turn, None, Some(of), settings);
        if let Some(open) = self.open.get_mut(&turn) {
            open.steers = true;
        }
    }

    /// With what a response is worked on; `None`: it was not made here.
    pub(super) fn made(&self, response: &str) -> Option<Settings> {
        self.made.get(response).and_then(|made| made.settings.clone())
    }

    /// Messages that ended because another one's answer is theirs.
    pub(super) fn along(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.along)
    }

    /// A message's answer is complete.
    pub(super) fn over(&mut self, turn: Turn) {
        let Some(open) = self.open.remove(&turn) else {
            return;
        };
        if let Some(made) = open.response.and_then(|id| self.made.get_mut(&id)) {
            made.turn = None;
        }
    }

    /// Whose answer an event is.
    pub(super) fn whose(&mut self, event: &Value) -> Option<Turn> {
        let kind = text(event, "/type").unwrap_or_default();
        if kind.starts_with("response.steer.") {
            return self.steered(event).or_else(|| self.only());
        }
        let stream = text(event, "/stream_id");
        let Some(id) = text(event, "/response/id") else {
            // It belongs to what goes on in its stream.
            let turn = self
                .current(stream)
                .or_else(|| self.next(stream))
                .or_else(|| self.only());
            return self.begins(turn);
        };
        if let Some(made) = self.made.get(id) {
            return made.turn;
        }
        let previous = text(event, "/response/previous_response_id");
        let turn = self.asked_for(stream, previous);
        self.bind(id, turn);
        turn
    }

    /// Which of the messages that steer an event is about: the provider numbers what it accepts, in the order in which it came.
    fn steered(&mut self, event: &Value) -> Option<Turn> {
        let number = text(event, "/steer/id");
        let mut open = self.open.iter();
        let known = open.find(|(_, open)| open.steer.is_some() && open.steer.as_deref() == number);
        if let Some((turn, _)) = known {
            return Some(*turn);
        }
        let of = text(event, "/steer/previous_response_id");
        let new = |open: &Open| open.steers && open.steer.is_none() && open.previous.as_deref() == of;
        let mut open = self.open.iter_mut();
        let (turn, open) = open.find(|(_, open)| new(open))?;
        open.steer = number.map(str::to_owned);
        Some(*turn)
    }

    /// Who asked for a response that begins.
    fn asked_for(&mut self, stream: Option<&str>, previous: Option<&str>) -> Option<Turn> {
        let unnamed = |open: &Open| open.response.is_none();
        let begun = self
            .current(stream)
            .filter(|turn| self.open.get(turn).is_some_and(unnamed));
        let next = begun.or_else(|| self.next(stream));
        let steering = previous.and_then(|of| self.steering(Some(of)));
        let goes_on = next
            .and_then(|turn| self.open.get(&turn))
            .is_some_and(|open| open.previous.as_deref() == previous);
        let turn = match (steering, next) {
            // A prompt takes up what waits for its response; without one, the first of what waits has the answer.
            (Some(_), Some(next)) if goes_on => Some(next),
            (Some(steering), _) => Some(steering),
            (None, next) => next.or_else(|| {
                self.only()
                    .filter(|turn| self.open.get(turn).is_some_and(unnamed))
            }),
        };
        if let (Some(of), Some(turn)) = (previous, turn) {
            let taken: Vec<Turn> = self
                .open
                .iter()
                .filter(|(other, open)| {
                    open.steers && **other != turn && open.previous.as_deref() == Some(of)
                })
                .map(|(other, _)| *other)
                .collect();
            for other in taken {
                self.open.remove(&other);
                self.along.push(other);
            }
            if let Some(open) = self.open.get_mut(&turn)
                && open.steers
            {
                open.stream = stream.map(str::to_owned);
            }
        }
        self.begins(turn)
    }

    fn begins(&mut self, turn: Option<Turn>) -> Option<Turn> {
        if let Some(open) = turn.and_then(|turn| self.open.get_mut(&turn)) {
            open.begun = true;
        }
        turn
    }

    fn bind(&mut self, id: &str, turn: Option<Turn>) {
        let open = turn.and_then(|turn| self.open.get_mut(&turn));
        let settings = open.map(|open| {
            open.response = Some(id.to_owned());
            open.settings.clone()
        });
        self.made.insert(id.to_owned(), Made { turn, settings });
        self.order.push_back(id.to_owned());
        while self.order.len() > MADE
            && let Some(oldest) = self.order.pop_front()
        {
            self.made.remove(&oldest);
        }
    }

    /// What is answered in a stream.
    fn current(&self, stream: Option<&str>) -> Option<Turn> {
        self.in_stream(stream, |open| open.begun)
    }

    /// The first that is not answered in a stream.
    fn next(&self, stream: Option<&str>) -> Option<Turn> {
        self.in_stream(stream, |open| !open.begun && !open.steers)
    }

    fn in_stream(&self, stream: Option<&str>, which: impl Fn(&Open) -> bool) -> Option<Turn> {
        let mut open = self.open.iter();
        let found = open.find(|(_, open)| open.stream.as_deref() == stream && which(open));
        found.map(|(turn, _)| *turn)
    }

    /// The first that steers a response and is not answered.
    fn steering(&self, of: Option<&str>) -> Option<Turn> {
        let mut open = self.open.iter();
        let found = open.find(|(_, open)| open.steers && !open.begun && open.previous.as_deref() == of);
        found.map(|(turn, _)| *turn)
    }

    /// The only one that is open: providers that have no streams name none.
    fn only(&self) -> Option<Turn> {
        let mut open = self.open.keys();
        open.next().copied().filter(|_| open.next().is_none())
    }
}
