//! Words of choices: what each says, and what to write in place of another.

use crate::model::{Protocol, RecordingLevel};

use super::types::{Mode, WhenFull};

pub(super) fn mode_of(text: &str) -> Result<Mode, String> {
    match text {
        "enforce" => Ok(Mode::Enforce),
        "observe" => Ok(Mode::Observe),
        other => Err(format!("{other:?} is no mode: write \"enforce\" or \"observe\"")),
    }
}

pub(super) fn protocol_of(text: &str) -> Result<Protocol, String> {
    match text {
        "postgres" => Ok(Protocol::Postgres),
        "http" => Ok(Protocol::Http),
        "mcp" => Ok(Protocol::Mcp),
        "llm" => Ok(Protocol::Llm),
        "dns" => Ok(Protocol::Dns),
        "opaque" => Ok(Protocol::Opaque),
        other => Err(format!(
            "{other:?} is no protocol that is known: write \"postgres\", \"http\", \"mcp\", \"llm\", \"dns\" or \"opaque\""
        )),
    }
}

pub(super) fn when_full_of(text: &str) -> Result<WhenFull, String> {
    match text {
        "refuse" => Ok(WhenFull::Refuse),
        "metadata" => Ok(WhenFull::Metadata),
        other => Err(format!(
            "{other:?} is unknown: write when_full = \"refuse\" or \"metadata\""
        )),
    }
}

pub(super) fn recording_of(text: &str) -> Result<RecordingLevel, String> {
    match text {
        "metadata" => Ok(RecordingLevel::Metadata),
        "operations" => Ok(RecordingLevel::Operations),
        "full" => Ok(RecordingLevel::Full),
        other => Err(format!(
            "{other:?} is no recording level: write \"metadata\", \"operations\" or \"full\""
        )),
    }
}
