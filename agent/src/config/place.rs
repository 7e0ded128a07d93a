//! Where a target expects its credential: what the protocol has room for.

use crate::model::Protocol;

use super::raw::Text;
use super::types::CredentialPlace;

/// What is wrong, and at which value (`None`: the credential as a whole).
type Wrong<'t> = (Option<&'t Text>, String);

/// Reads `as`, `name` and `user` of a credential.
pub(super) fn credential_place<'t>(
    protocol: Protocol,
    place: Option<&'t Text>,
    name: Option<&'t Text>,
    user: Option<&'t Text>,
) -> Result<CredentialPlace, Wrong<'t>> {
    match (protocol, place) {
        (Protocol::Http | Protocol::Mcp | Protocol::Llm, Some(word)) => http(word, name, user),
        (Protocol::Http | Protocol::Mcp | Protocol::Llm, None) => Err((
            None,
            "say where the target expects it: as = \"bearer\", \"basic\", \"header\" or \"query\"".into(),
        )),
        (Protocol::Postgres | Protocol::Opaque, Some(word)) => Err((
            Some(word),
            "`as` belongs to protocol = \"http\": remove it".into(),
        )),
        (Protocol::Postgres | Protocol::Opaque, None) => match (user, name) {
            (None, _) => Err((None, "the user is missing: write user = \"…\"".into())),
            (_, Some(name)) => Err((
                Some(name),
                "`name` belongs to protocol = \"http\": remove it".into(),
            )),
            (Some(_), None) => Ok(CredentialPlace::LogIn),
        },
    }
}

fn http<'t>(
    word: &'t Text,
    name: Option<&'t Text>,
    user: Option<&'t Text>,
) -> Result<CredentialPlace, Wrong<'t>> {
    match (word.get_ref().as_str(), name, user) {
        ("bearer", None, None) => Ok(CredentialPlace::Bearer),
        ("basic", None, Some(user)) if user.get_ref().contains(':') => {
            Err((Some(user), "the user of HTTP Basic cannot hold a colon".into()))
        }
        ("basic", None, Some(_)) => Ok(CredentialPlace::Basic),
        ("basic", None, None) => Err((
            Some(word),
            "as = \"basic\" needs a user: write user = \"…\"".into(),
        )),
        ("header", Some(name), None) => header_name(name).map(CredentialPlace::Header),
        ("query", Some(name), None) if !name.get_ref().is_empty() => {
            Ok(CredentialPlace::Query(name.get_ref().clone()))
        }
        ("header" | "query", None, _) => Err((
            Some(word),
            format!("as = {:?} needs a name: write name = \"…\"", word.get_ref()),
        )),
        ("header" | "query" | "bearer", _, Some(user)) => {
            Err((Some(user), "only as = \"basic\" has a user: remove it".into()))
        }
        ("bearer" | "basic", Some(name), _) => Err((
            Some(name),
            "`name` belongs to as = \"header\" and as = \"query\": remove it".into(),
        )),
        _ => Err((
            Some(word),
            format!(
                "{:?} is unknown: write as = \"bearer\", \"basic\", \"header\" or \"query\"",
                word.get_ref()
            ),
        )),
    }
}

/// A field name (RFC 9110, 5.1) that says nothing about the message's own shape.
fn header_name(name: &Text) -> Result<String, Wrong<'_>> {
    const SHAPE: [&str; 6] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
    ];
    let lower = name.get_ref().to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if lower.is_empty() || !lower.bytes().all(token) || SHAPE.contains(&lower.as_str()) {
        let what = format!(
            "{:?} cannot be the header of a credential: write one such as \"x-api-key\"",
            name.get_ref()
        );
        return Err((Some(name), what));
    }
    Ok(lower)
}
