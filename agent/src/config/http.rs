//! What a target that is spoken to in HTTP is bounded by, and how the agent proves itself to a target.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Spanned;

use crate::model::Protocol;

use super::raw::{RawHttp, Text};
use super::types::{HttpSettings, Pinned, Unreadable, Uploads};

const KIB: u64 = 1024;
/// A body is held as a whole, beside those of other requests (256 MiB for a target).
const MAX_BODY: RangeInclusive<u64> = KIB..=128 * KIB * KIB;
const MAX_HEADER: RangeInclusive<u64> = 4 * KIB..=64 * KIB;
const MAX_STREAMS: RangeInclusive<u32> = 1..=1000;

/// What is wrong, and at which place.
type Wrong = (std::ops::Range<usize>, String);

/// Reads `[target.http]`; what is wrong is told, and the default stands in its place. `resolved`: a file beside the
/// configuration.
pub(super) fn settings(
    raw: Option<Spanned<RawHttp>>,
    protocol: Protocol,
    resolved: &dyn Fn(PathBuf) -> PathBuf,
    wrong: &mut Vec<Wrong>,
) -> HttpSettings {
    let mut settings = HttpSettings::default();
    let Some(raw) = raw else { return settings };
    if !protocol.is_http() {
        wrong.push((
            raw.span(),
            "[target.http] belongs to protocol = \"http\", \"mcp\" or \"llm\": remove it".into(),
        ));
    }
    let RawHttp {
        max_body,
        max_answer,
        max_header,
        max_streams,
        uploads,
        max_upload,
        pinned,
        unreadable,
        descriptor_set,
    } = raw.into_inner();
    let mut read = |text: Option<Text>, range: RangeInclusive<u64>, name: &str| {
        let text = text?;
        match size(text.get_ref()) {
            Some(size) if range.contains(&size) => Some(size),
            _ => {
                let (least, most) = (shown(*range.start()), shown(*range.end()));
                wrong.push((
                    text.span(),
                    format!(
                        "{:?} is no size for {name}: write one from \"{least}\" to \"{most}\"",
                        text.get_ref()
                    ),
                ));
                None
            }
        }
    };
    let in_memory = |size: u64| usize::try_from(size).ok();
    if let Some(size) = read(max_body, MAX_BODY, "max_body").and_then(in_memory) {
        settings.max_body = size;
    }
    settings.max_answer = read(max_answer, KIB..=KIB.pow(5), "max_answer");
    let max_upload_at = max_upload.as_ref().map(Spanned::span);
    if let Some(size) = read(max_upload, KIB..=KIB.pow(5), "max_upload") {
        settings.max_upload = size;
    }
    if let Some(size) = read(max_header, MAX_HEADER, "max_header").and_then(in_memory) {
        settings.max_header = size;
    }
    if let Some(streams) = max_streams {
        settings.max_streams = *streams.get_ref();
        if !MAX_STREAMS.contains(streams.get_ref()) {
            wrong.push((streams.span(), "max_streams is from 1 to 1000".into()));
        }
    }
    match uploads.as_ref().map(|word| (word.get_ref().as_str(), word)) {
        None | Some(("collect", _)) => {
            wrong.extend(max_upload_at.map(|at| {
                let what =
                    "max_upload is of bodies that are not read: write uploads = \"stream\", or remove it";
                (at, what.to_owned())
            }));
        }
        Some(("stream", _)) if protocol == Protocol::Http => settings.uploads = Uploads::Stream,
        Some(("stream", word)) => wrong.push((
            word.span(),
            "uploads = \"stream\" belongs to protocol = \"http\": elsewhere bodies are what is judged".into(),
        )),
        Some((other, word)) => wrong.push((
            word.span(),
            format!("{other:?} is unknown: write uploads = \"collect\" or \"stream\""),
        )),
    }
    settings.descriptor_set = described(descriptor_set, protocol, wrong).map(resolved);
    match pinned.as_ref().map(|word| (word.get_ref().as_str(), word)) {
        None | Some(("block", _)) => {}
        Some(("pass", _)) => settings.pinned = Pinned::Pass,
        Some((other, word)) => wrong.push((
            word.span(),
            format!("{other:?} is unknown: write pinned = \"block\" or \"pass\""),
        )),
    }
    match unreadable.as_ref().map(|word| (word.get_ref().as_str(), word)) {
        None | Some(("pass", _)) => {}
        Some(("refuse", _)) => settings.unreadable = Unreadable::Refuse,
        Some((other, word)) => wrong.push((
            word.span(),
            format!("{other:?} is unknown: write unreadable = \"pass\" or \"refuse\""),
        )),
    }
    settings
}

/// The file that says what messages of gRPC mean.
fn described(file: Option<Spanned<PathBuf>>, protocol: Protocol, wrong: &mut Vec<Wrong>) -> Option<PathBuf> {
    let file = file?;
    if protocol != Protocol::Http {
        let what = "descriptor_set belongs to protocol = \"http\", where gRPC is: remove it";
        wrong.push((file.span(), what.into()));
        return None;
    }
    Some(file.into_inner())
}

/// `"64 MiB"`, `"512 KiB"`, `"1 GiB"`, `"4096"`.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => KIB.pow(2),
        "GiB" => KIB.pow(3),
        "TiB" => KIB.pow(4),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn shown(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut left = bytes;
    let mut unit = 0;
    while left >= KIB && left.is_multiple_of(KIB) && unit + 1 < units.len() {
        left /= KIB;
        unit += 1;
    }
    format!("{left} {}", units.get(unit).copied().unwrap_or_default())
}

/// Reads `tls_min_version`.
pub(super) fn only_tls13(version: &str) -> Result<bool, String> {
    match version {
        "1.2" => Ok(false),
        "1.3" => Ok(true),
        other => Err(format!(
            "{other:?} is no version that is known: write tls_min_version = \"1.2\" or \"1.3\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for (text, expected) in [
            ("64 MiB", Some(64 << 20)),
            ("512KiB", Some(512 << 10)),
            ("4096", Some(4096)),
            ("1 MB", None),
            ("", None),
            ("99999999999 TiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
        assert_eq!(shown(128 << 20), "128 MiB");
        assert_eq!(shown(1500), "1500 B");
    }
}
