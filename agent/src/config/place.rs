//! Where a target expects its credential: what the protocol has room for.

use std::path::PathBuf;

use crate::model::Protocol;

use super::raw::Text;
use super::types::CredentialPlace;

/// What is wrong, and at which value (`None`: the credential as a whole).
type Wrong<'t> = (Option<&'t Text>, String);

/// What a signature of AWS is bound to.
pub(super) struct Scope<'t> {
    pub(super) region: Option<&'t Text>,
    pub(super) service: Option<&'t Text>,
    pub(super) session_token: Option<PathBuf>,
}

/// Reads `as`, `name` and `user` of a credential, and what belongs to `as = "sigv4"` alone.
pub(super) fn credential_place<'t>(
    protocol: Protocol,
    place: Option<&'t Text>,
    (name, user): (Option<&'t Text>, Option<&'t Text>),
    scope: Scope<'t>,
) -> Result<CredentialPlace, Wrong<'t>> {
    if let Some(word) = place
        && protocol.is_http()
        && word.get_ref() == "sigv4"
    {
        return sigv4(word, (name, user), scope);
    }
    if let Some(text) = scope.region.or(scope.service) {
        let what = "`region` and `service` belong to as = \"sigv4\" of protocol = \"http\": remove them";
        return Err((Some(text), what.into()));
    }
    if scope.session_token.is_some() {
        return Err((
            place,
            "`session_token_file` belongs to as = \"sigv4\" of protocol = \"http\": remove it".into(),
        ));
    }
    match (protocol, place) {
        (Protocol::Http | Protocol::Mcp | Protocol::Llm, Some(word)) => http(word, name, user),
        (Protocol::Http | Protocol::Mcp | Protocol::Llm, None) => Err((
            None,
            "say where the target expects it: as = \"bearer\", \"basic\", \"header\", \"query\" or \"sigv4\""
                .into(),
        )),
        (Protocol::Postgres | Protocol::Dns | Protocol::Opaque, Some(word)) => Err((
            Some(word),
            "`as` belongs to protocol = \"http\": remove it".into(),
        )),
        (Protocol::Postgres | Protocol::Dns | Protocol::Opaque, None) => match (user, name) {
            (None, _) => Err((None, "the user is missing: write user = \"…\"".into())),
            (_, Some(name)) => Err((
                Some(name),
                "`name` belongs to protocol = \"http\": remove it".into(),
            )),
            (Some(_), None) => Ok(CredentialPlace::LogIn),
        },
    }
}

fn sigv4<'t>(
    word: &'t Text,
    (name, user): (Option<&'t Text>, Option<&'t Text>),
    scope: Scope<'t>,
) -> Result<CredentialPlace, Wrong<'t>> {
    let plain = |text: &&Text| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !text.get_ref().is_empty() && text.get_ref().bytes().all(fits)
    };
    match (name, user, scope.region.filter(plain), scope.service.filter(plain)) {
        (None, Some(user), Some(region), Some(service)) if plain(&user) => Ok(CredentialPlace::SigV4 {
            region: region.get_ref().clone(),
            service: service.get_ref().clone(),
            session_token: scope.session_token,
        }),
        (Some(name), ..) => Err((
            Some(name),
            "`name` belongs to as = \"header\" and as = \"query\": remove it".into(),
        )),
        _ => Err((
            Some(word),
            "as = \"sigv4\" needs access_key_id, secret_file, region and service, such as region = \"eu-central-1\" and \
             service = \"s3\""
                .into(),
        )),
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
                "{:?} is unknown: write as = \"bearer\", \"basic\", \"header\", \"query\" or \"sigv4\"",
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
