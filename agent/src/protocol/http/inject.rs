//! The real credential, put where the target expects it, in the place of whatever the process sent there.

use http::uri::PathAndQuery;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::config::CredentialPlace;
use crate::credential::{Credential, Secret};

use super::answer::Spellings;
use super::path::{encode, form_text, pairs};
use super::sigv4::{self, Signing};

/// A credential ready to be put into a request.
pub(super) enum Injected {
    Header(HeaderName, HeaderValue),
    Query(String, Secret),
    Signature(Box<Signing>),
}

impl std::fmt::Debug for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Injected")
    }
}

/// Reads the credential: for every request, so that a rotated one is used at once. Beside it, what it would look like
/// if the target sent it back.
///
/// # Errors
/// A sentence without any part of the secret.
pub(super) fn read(credential: &Credential) -> Result<(Injected, Option<Spellings>), String> {
    let secret = credential.password().map_err(|error| format!("{error}."))?;
    let header = |name: HeaderName, text: &[u8]| -> Result<Injected, String> {
        let mut value = HeaderValue::from_bytes(text).map_err(|_control| {
            "The real credential holds bytes that no HTTP header can carry.".to_owned()
        })?;
        value.set_sensitive(true);
        Ok(Injected::Header(name, value))
    };
    let mut spellings = Spellings::new(secret.expose(), None);
    let injected = match credential.place() {
        CredentialPlace::LogIn => Err("The credential has no place in HTTP: write `as` for it.".into()),
        CredentialPlace::Bearer => {
            let text = Zeroizing::new([b"Bearer ", secret.expose()].concat());
            header(header::AUTHORIZATION, &text)
        }
        CredentialPlace::Basic => {
            let pair = Zeroizing::new([credential.user().as_bytes(), b":", secret.expose()].concat());
            let encoded = Zeroizing::new(data_encoding::BASE64.encode(&pair));
            spellings = Spellings::new(secret.expose(), Some(encoded.as_bytes()));
            let text = Zeroizing::new(format!("Basic {}", *encoded));
            header(header::AUTHORIZATION, text.as_bytes())
        }
        CredentialPlace::Header(name) => {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_no_name| format!("{name:?} is no header name."))?;
            header(name, secret.expose())
        }
        CredentialPlace::Query(name) => Ok(Injected::Query(name.clone(), secret)),
        CredentialPlace::SigV4 {
            region,
            service,
            session_token: _,
        } => {
            let token = credential.session_token().transpose();
            let session_token = token.map_err(|error| format!("{error}."))?;
            let shown = session_token.as_ref().map(Secret::expose);
            spellings = Spellings::new(secret.expose(), shown);
            Ok(Injected::Signature(Box::new(Signing {
                access_key: credential.user().to_owned(),
                secret,
                session_token,
                region: region.clone(),
                service: service.clone(),
            })))
        }
    }?;
    Ok((injected, spellings))
}

impl Injected {
    /// Whether the process's own field of this name is replaced.
    pub(super) fn replaces(&self, field: &HeaderName) -> bool {
        match self {
            Self::Header(name, _) => name == field,
            Self::Query(..) => false,
            // The SDKs number their attempts.
            Self::Signature(_) => sigv4::replaces(field) || field.as_str().starts_with("amz-sdk-"),
        }
    }

    /// Whether it signs what it is put into.
    pub(super) const fn signs(&self) -> bool {
        matches!(self, Self::Signature(_))
    }

    /// Puts it into a request's head, last: what signs covers all that is there. `body`: `None` where it is not read.
    pub(super) fn into_head(
        self,
        line: (&Method, &str),
        target: &mut PathAndQuery,
        headers: &mut HeaderMap,
        body: Option<&[u8]>,
    ) {
        match self {
            Self::Signature(signing) => {
                let now = crate::clock::now().as_seconds();
                if let Ok(now) = OffsetDateTime::from_unix_timestamp(now) {
                    signing.sign(line, target, headers, body, now);
                }
            }
            Self::Header(name, value) => {
                headers.insert(name, value);
            }
            Self::Query(name, secret) => {
                let mut text = Zeroizing::new(format!("{}?", target.path()));
                for (other, value) in pairs(target.query().unwrap_or_default()) {
                    if form_text(other) != name {
                        text.push_str(other);
                        if let Some(value) = value {
                            text.push('=');
                            text.push_str(value);
                        }
                        text.push('&');
                    }
                }
                text.push_str(&encode(name.as_bytes()));
                text.push('=');
                text.push_str(&encode(secret.expose()));
                if let Ok(with) = PathAndQuery::try_from(text.as_str()) {
                    *target = with;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CredentialConfig, SecretSourceConfig};

    fn injected(
        place: CredentialPlace,
        target: &str,
        sent: &[(&'static str, &'static str)],
    ) -> (String, HeaderMap) {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), "r/eal\n").expect("written");
        let config = CredentialConfig {
            place,
            user: "me".into(),
            password: SecretSourceConfig::File(file.path().to_owned()),
            placeholder: None,
        };
        let mut target = PathAndQuery::try_from(target).expect("target");
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        read(&Credential::new(config)).expect("read").0.into_head(
            (&Method::GET, "h"),
            &mut target,
            &mut headers,
            Some(b""),
        );
        (target.as_str().to_owned(), headers)
    }

    #[test]
    fn what_the_process_sent_is_replaced() {
        let sent = [
            ("authorization", "Bearer wrong"),
            ("authorization", "Bearer worse"),
            ("x-api-key", "wrong"),
        ];
        let all = |headers: &HeaderMap, name: &str| -> Vec<String> {
            headers
                .get_all(name)
                .iter()
                .map(|v| v.to_str().expect("text").to_owned())
                .collect()
        };
        let (_, headers) = injected(CredentialPlace::Bearer, "/", &sent);
        assert_eq!(all(&headers, "authorization"), ["Bearer r/eal"]);
        let (_, headers) = injected(CredentialPlace::Basic, "/", &sent);
        assert_eq!(all(&headers, "authorization"), ["Basic bWU6ci9lYWw="]);
        let (_, headers) = injected(CredentialPlace::Header("x-api-key".into()), "/", &sent);
        assert_eq!(all(&headers, "x-api-key"), ["r/eal"]);
        let place = CredentialPlace::Query("key".into());
        assert_eq!(
            injected(place.clone(), "/a?x=1&key=wrong&k%65y=worse&y", &[]).0,
            "/a?x=1&y&key=r%2Feal"
        );
        assert_eq!(injected(place, "/a", &[]).0, "/a?key=r%2Feal");
    }
}
