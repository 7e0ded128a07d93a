//! Fields of an answer, before and behind its body, masked one by one.

use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::super::escapes::{Format, masked_text, may_be_escaped};
use super::grpc;

/// Status and fields of an answer.
pub(super) struct Head(pub(super) StatusCode, pub(super) HeaderMap);

impl Maskable for Head {
    type Output = (StatusCode, HeaderMap);

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Self::Output {
        (self.0, Fields(self.1).mask(plan, counts))
    }
}

/// Fields before or after a body.
pub(super) struct Fields(pub(super) HeaderMap);

impl Maskable for Fields {
    type Output = HeaderMap;

    fn mask(mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> HeaderMap {
        for (name, value) in &mut self.0 {
            let shown = if name.as_str().ends_with("-bin") {
                binary(value, plan, counts)
            } else {
                field(name, value, plan, counts)
            };
            if let Some(shown) = shown {
                *value = shown;
            }
        }
        self.0
    }
}

/// What is shown in the place of a field's value; `None`: the value.
fn field(
    name: &HeaderName,
    value: &HeaderValue,
    plan: &MaskPlan,
    counts: &mut MaskCounts,
) -> Option<HeaderValue> {
    if !plan.is_usable() {
        return Some(HeaderValue::from_static("[masked]"));
    }
    let format = match *name {
        header::LOCATION | header::CONTENT_LOCATION | header::LINK | header::REFRESH => Format::Form,
        _ => Format::Text,
    };
    let mut found = MaskCounts::default();
    if !may_be_escaped(value.as_bytes(), format)
        && plan.text(None, value.as_bytes(), &mut BytesMut::new(), &mut found) == CellMask::Unchanged
    {
        return None;
    }
    found = MaskCounts::default();
    let masked = masked_text(value.as_bytes(), format, plan, &mut found);
    if found.total() == 0 {
        return None;
    }
    counts.merge(&found);
    let shown = HeaderValue::from_maybe_shared(masked.freeze());
    Some(shown.unwrap_or_else(|_bytes| HeaderValue::from_static("[masked]")))
}

/// `[masked]`.
const MASKED_IN_BASE64: &str = "W21hc2tlZF0";

/// A field of gRPC that holds bytes in base64, such as the details of an error.
fn binary(value: &HeaderValue, plan: &MaskPlan, counts: &mut MaskCounts) -> Option<HeaderValue> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    if !plan.is_usable() {
        return Some(HeaderValue::from_static(MASKED_IN_BASE64));
    }
    let text = value.as_bytes();
    let decoded = STANDARD
        .decode(text)
        .or_else(|_padding| STANDARD_NO_PAD.decode(text));
    let Ok(message) = decoded else {
        return field(&HeaderName::from_static("x-bin"), value, plan, counts);
    };
    let mut found = MaskCounts::default();
    let (masked, _seen) = grpc::whole(&message, plan, &mut found);
    if found.total() == 0 {
        return None;
    }
    counts.merge(&found);
    let shown = HeaderValue::try_from(STANDARD_NO_PAD.encode(masked));
    Some(shown.unwrap_or_else(|_text| HeaderValue::from_static(MASKED_IN_BASE64)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::MaskEngine;

    fn shown(engine: MaskEngine, name: &'static str, value: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        let plan = Arc::new(engine).plan(&[].into());
        let masked = Fields(headers).mask(&plan, &mut MaskCounts::default());
        let value = masked.get(name).expect("it stays").to_str();
        value.expect("text").to_owned()
    }

    #[test]
    fn values_are_masked_and_without_classes_every_value_is() {
        for (name, value, masked) in [
            ("x-owner", "ada@example.com", "a***@e***.com"),
            ("x-request", "12", "12"),
            ("location", "/u?m=ada%40example.com", "/u?m=a***@e***.com"),
            // A message of one field: the mail.
            ("x-details-bin", "Cg9hZGFAZXhhbXBsZS5jb20", "Cg1hKioqQGUqKiouY29t"),
            (
                "x-details-bin",
                "not base64: ada@example.com",
                "not base64: a***@e***.com",
            ),
        ] {
            assert_eq!(shown(MaskEngine::default(), name, value), masked, "{name}");
            let nothing = if name.ends_with("-bin") {
                MASKED_IN_BASE64
            } else {
                "[masked]"
            };
            assert_eq!(shown(MaskEngine::unusable(), name, value), nothing, "{name}");
        }
    }

    #[test]
    fn messages_have_no_fields_without_classes() {
        let plan = Arc::new(MaskEngine::unusable()).plan(&[].into());
        for message in [b"\x0a\x0fada@example.com".as_slice(), b"\x0a\x02\xff\xfe", b"ada"] {
            let (masked, _seen) = grpc::whole(message, &plan, &mut MaskCounts::default());
            assert!(masked.is_empty(), "{masked:?}");
        }
    }
}
