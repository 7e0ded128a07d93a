//! Requests that are too large to be read before they are judged, on targets with `uploads = "stream"`: what may become one,
//! and what is said of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use crate::config::{CredentialPlace, Uploads};
use crate::model::{Action, HttpBody, OperationId, Refusal, RefusalKind};
use crate::session::{Stopped, Upload};

use super::exchange::No;
use super::refusal::Tongue;
use super::serve::Legs;

/// What was read of a body.
pub(super) enum Collected {
    Whole(Bytes),
    /// The beginning of one that is larger than is held.
    Begun(Bytes),
}

/// Whether a request of this kind may be sent on unread.
pub(super) fn may_stream(legs: &Legs, tongue: &Tongue, websocket: bool) -> bool {
    let signs_bodies = legs
        .credential()
        .is_some_and(|credential| match credential.place() {
            // Where TLS covers it, S3 takes a body that the signature does not.
            CredentialPlace::SigV4 { service, .. } => service != "s3" || !legs.is_tls(),
            CredentialPlace::LogIn
            | CredentialPlace::Bearer
            | CredentialPlace::Basic
            | CredentialPlace::Header(_)
            | CredentialPlace::Query(_) => false,
        });
    let streams = legs.settings().uploads == Uploads::Stream;
    streams && !signs_bodies && !websocket && matches!(tongue, Tongue::Plain)
}

/// Whether more is announced than the target may be sent.
pub(super) fn is_too_long(body: &Incoming, legs: &Legs) -> bool {
    body.size_hint().lower() > legs.settings().max_upload
}

pub(super) fn too_long(legs: &Legs) -> Refusal {
    Refusal::new(
        RefusalKind::Limit,
        format!("The upload is larger than {} bytes.", legs.settings().max_upload),
        "Send it in smaller parts, or ask whoever runs the agent for a larger `max_upload` of the target.",
    )
}

/// What is told of an upload that did not go on.
pub(super) fn stopped(why: Stopped, id: OperationId, legs: &Legs) -> No {
    let mut refusal = match why {
        Stopped::TooLarge => too_long(legs),
        Stopped::BrokeOff => Refusal::new(
            RefusalKind::NotUnderstood,
            "The body broke off, or came too slowly.",
            "Send it again.",
        ),
    };
    refusal.operation = Some(id);
    No(refusal, None)
}

/// What policies read of it.
pub(super) fn facts(upload: &Upload) -> (HttpBody, u64) {
    match upload.declared() {
        Some(declared) => (HttpBody::Declared, declared),
        None => (HttpBody::Unknown, upload.most()),
    }
}

/// What stands in a request's text in the place of its body.
pub(super) fn shown(upload: &Upload) -> String {
    match upload.declared() {
        Some(declared) => format!("({declared} bytes, sent unread)"),
        None => "(of unknown length, sent unread)".to_owned(),
    }
}

/// What a method in it would do, if there is one: forms and JSON are where frameworks look for it, and a POST whose
/// type is not said may be either.
pub(super) fn overriding(method: &str, content_type: &str) -> BTreeSet<Action> {
    let form =
        matches!(content_type, "application/x-www-form-urlencoded") || content_type.starts_with("multipart/");
    let json = content_type.ends_with("json");
    if form || json || (content_type.is_empty() && method == "POST") {
        BTreeSet::from([Action::HttpOther, Action::HttpDelete])
    } else {
        BTreeSet::new()
    }
}
