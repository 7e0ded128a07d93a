//! Words of choices: what each says, and what to write in place of another.

use crate::model::{Protocol, RecordingLevel};

use super::http::size;
use super::load::Reader;
use super::raw::Text;
use super::types::{Mode, WhenFull};

impl Reader<'_> {
    /// What a text says, or `default` where there is none; what is wrong is told.
    pub(super) fn taken<T>(
        &mut self,
        text: Option<&Text>,
        read: impl FnOnce(&str) -> Result<T, String>,
        default: T,
    ) -> T {
        text.and_then(|text| self.take(text, read)).unwrap_or(default)
    }
}

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

/// Bytes of a request, and of its answer, that are kept at the level `full`, unless a target says otherwise.
pub(super) const RECORDING_LIMIT: u64 = 1 << 20;

pub(super) fn recording_limit_of(text: &str) -> Result<u64, String> {
    match size(text) {
        Some(bytes) if (1 << 10..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "{text:?} is no size for recording_limit: write one from \"1 KiB\" to \"1 GiB\""
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
