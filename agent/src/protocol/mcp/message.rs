//! JSON-RPC 2.0 as MCP uses it: one message a body.

use serde_json::{Map, Value};

use crate::json::{JsonError, fold, parse};

/// Names of the envelope. Any other spelling of them is refused: a reader that ignores case would take it.
const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// Why a body is not a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("a batch of messages is not carried (MCP has none since 2025-06-18)")]
    Batch,
    #[error("it is not a JSON-RPC 2.0 message: {0}")]
    Shape(&'static str),
}

/// Who a message is from and what it is for. The id keeps its JSON type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// Asks for an answer.
    Request {
        id: Value,
        method: String,
        params: Map<String, Value>,
    },
    /// Asks for none.
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// The client's answer to what the server asked (sampling, elicitation, roots).
    Answer { id: Value, content: Value },
}

impl Message {
    pub(super) fn parse(body: &[u8]) -> Result<Self, MessageError> {
        let mut members = match parse(body)? {
            Value::Object(members) => members,
            Value::Array(_) => return Err(MessageError::Batch),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(MessageError::Shape("it is no object"));
            }
        };
        for name in members.keys() {
            if !ENVELOPE.contains(&name.as_str()) && ENVELOPE.contains(&fold(name).as_str()) {
                return Err(MessageError::Shape(
                    "a name of the envelope is written in another case",
                ));
            }
        }
        if members.remove("jsonrpc") != Some(Value::String("2.0".into())) {
            return Err(MessageError::Shape("\"jsonrpc\" is not \"2.0\""));
        }
        let id = members.remove("id");
        let answer = members.remove("result").or_else(|| members.remove("error"));
        let Some(method) = members.remove("method") else {
            return match (id, answer) {
                (Some(id), Some(content)) => Ok(Self::Answer { id, content }),
                _ => Err(MessageError::Shape("it has neither a method nor an answer")),
            };
        };
        if answer.is_some() {
            return Err(MessageError::Shape("it has both a method and an answer"));
        }
        let Value::String(method) = method else {
            return Err(MessageError::Shape("the method is no string"));
        };
        let params = match members.remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(MessageError::Shape("\"params\" is no object")),
        };
        match id {
            None => Ok(Self::Notification { method, params }),
            Some(id @ (Value::String(_) | Value::Number(_))) => Ok(Self::Request { id, method, params }),
            Some(_) => Err(MessageError::Shape("the id is neither a string nor a number")),
        }
    }
}
