//! Fields of HTTP that repeat what the body says (MCP 2026-07-28, "Streamable HTTP"). A gateway may route by them and a
//! server believe them: they must agree with the body that was judged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderMap;
use serde_json::Value;

use super::call::Call;

/// A field disagrees with the body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field {0} does not agree with the message")]
pub(super) struct Disagrees(String);

/// Holds the mirrored fields against the message.
pub(super) fn agree(headers: &HeaderMap, call: &Call) -> Result<(), Disagrees> {
    for (name, value) in headers {
        let name = name.as_str();
        let argument = name.strip_prefix("mcp-param-");
        if argument.is_none() && !matches!(name, "mcp-method" | "mcp-name" | "mcp-protocol-version") {
            continue;
        }
        let wrong = || Disagrees(name.to_owned());
        let value = decoded(value.to_str().map_err(|_not_text| wrong())?).ok_or_else(wrong)?;
        let right = match name {
            "mcp-method" => value == call.method,
            "mcp-name" => value == call.task().unwrap_or(&call.subject),
            "mcp-protocol-version" => call.version.as_ref().is_none_or(|version| *version == value),
            // Which argument a field repeats is up to the tool's schema: some argument must have this value.
            _ => call.input.values().any(|argument| has(argument, &value)),
        };
        if !right {
            return Err(wrong());
        }
    }
    Ok(())
}

/// `=?base64?…?=` stands for what a field cannot hold.
fn decoded(value: &str) -> Option<String> {
    match value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="))
    {
        None => Some(value.to_owned()),
        Some(coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok(),
    }
}

fn has(argument: &Value, wanted: &str) -> bool {
    match argument {
        Value::String(text) => text == wanted,
        Value::Bool(flag) => wanted == if *flag { "true" } else { "false" },
        Value::Number(number) => number.to_string().as_str() == wanted,
        Value::Array(items) => items.iter().any(|item| has(item, wanted)),
        Value::Object(members) => members.values().any(|member| has(member, wanted)),
        Value::Null => false,
    }
}
