//! Verifying tokens (OpenID Connect Core 1.0, section 3.1.3.7; RFC 8725).

use std::collections::BTreeSet;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use crate::config::IssuerConfig;
use crate::model::{Group, IssuerName, Principal, PrincipalKind, Timestamp};

use super::keys::Keys;
use super::pod::{self, PodName};

/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token is not accepted. Never holds any part of it but public claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is no token.
    #[error("this is no signed token (three parts with dots between them)")]
    Malformed,
    /// Its issuer is not configured.
    #[error(
        "the token's issuer {0:?} is not configured: add an [[issuer]] for it, or use a token of a configured one"
    )]
    UnknownIssuer(String),
    /// Its algorithm is not on the issuer's list.
    #[error("the token is signed with {algorithm}, which {issuer} is not configured for")]
    Algorithm {
        /// The token's.
        algorithm: String,
        /// The issuer.
        issuer: IssuerName,
    },
    /// The issuer's keys cannot be had.
    #[error("the keys of {issuer} cannot be had: {reason}")]
    Keys {
        /// The issuer.
        issuer: IssuerName,
        /// Why.
        reason: String,
    },
    /// No key of the issuer fits.
    #[error("no key of {issuer} signed this token")]
    Key {
        /// The issuer.
        issuer: IssuerName,
    },
    /// It has ended.
    #[error("the token of {issuer} has ended: get a new one")]
    Expired {
        /// The issuer.
        issuer: IssuerName,
    },
    /// It is not valid yet.
    #[error("the token of {issuer} is not valid yet: is a clock wrong?")]
    NotYet {
        /// The issuer.
        issuer: IssuerName,
    },
    /// It is meant for somebody else.
    #[error("the token of {issuer} is meant for another audience: ask for one of {audiences}")]
    Audience {
        /// The issuer.
        issuer: IssuerName,
        /// What is accepted.
        audiences: String,
    },
    /// It is bound to no pod of Kubernetes.
    #[error(
        "the token of {issuer} is bound to no pod: project it into the pod (a serviceAccountToken source)"
    )]
    NoPod {
        /// The issuer.
        issuer: IssuerName,
    },
    /// It is another pod's.
    #[error("the token of {issuer} is that of pod {claimed}, and this is pod {pod}")]
    OtherPod {
        /// The issuer.
        issuer: IssuerName,
        /// Whose it says it is.
        claimed: String,
        /// Whose it should be.
        pod: String,
    },
    /// A claim is missing or has the wrong form.
    #[error("the token of {issuer} has no usable claim {claim}")]
    Claim {
        /// The issuer.
        issuer: IssuerName,
        /// The claim.
        claim: String,
    },
}

/// The configured issuers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Issuers {
    issuers: Arc<Vec<(IssuerConfig, Keys)>>,
}

impl Issuers {
    /// Takes the configured issuers; nothing is fetched yet.
    #[must_use]
    pub fn new(configured: &[IssuerConfig]) -> Self {
        let issuers = configured
            .iter()
            .cloned()
            .map(|config| (config, Keys::default()))
            .collect();
        Self {
            issuers: Arc::new(issuers),
        }
    }

    /// Verifies a token: the issuer by its exact name, the algorithm by the issuer's list, the signature by the issuer's
    /// keys, audience and times.
    ///
    /// # Errors
    /// Why it is not accepted, and what to do.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, IdentityError> {
        self.claims(token, now)
            .await
            .map(|(principal, _claims)| principal)
    }

    /// The same for the token of `pod`: it must be bound to that very pod.
    ///
    /// # Errors
    /// As `verify`, and where it is another pod's or none's.
    pub async fn verify_pod(
        &self,
        token: &str,
        pod: &PodName,
        now: Timestamp,
    ) -> Result<Principal, IdentityError> {
        let (principal, claims) = self.claims(token, now).await?;
        pod::of_pod(principal, &claims, pod)
    }

    /// Whoever a token vouches for, and all of its claims.
    async fn claims(&self, token: &str, now: Timestamp) -> Result<(Principal, Value), IdentityError> {
        let token = token.trim();
        if token.len() > MAX_TOKEN {
            return Err(IdentityError::Malformed);
        }
        let header = decode_header(token).map_err(|_damaged| IdentityError::Malformed)?;
        let claimed = unverified_issuer(token).ok_or(IdentityError::Malformed)?;
        let known = self.issuers.iter().find(|(config, _)| config.issuer == claimed);
        let (config, keys) = known.ok_or(IdentityError::UnknownIssuer(claimed))?;
        let issuer = || config.name.clone();
        let algorithm = format!("{:?}", header.alg);
        if !config.algorithms.contains(&algorithm) || is_symmetric(header.alg) {
            return Err(IdentityError::Algorithm {
                algorithm,
                issuer: issuer(),
            });
        }
        let set = keys.with(header.kid.as_deref(), config).await;
        let set = set.map_err(|reason| IdentityError::Keys {
            issuer: issuer(),
            reason,
        })?;
        let candidates = candidates(&set, header.kid.as_deref(), header.alg);
        let mut claims = None;
        for key in candidates {
            let Ok(key) = DecodingKey::from_jwk(key) else {
                continue;
            };
            match decode::<Value>(token, &key, &signature_only(header.alg)) {
                Ok(data) => {
                    claims = Some(data.claims);
                    break;
                }
                Err(_wrong_key) => {}
            }
        }
        let claims = claims.ok_or_else(|| IdentityError::Key { issuer: issuer() })?;
        Ok((accept(config, &claims, now)?, claims))
    }
}

/// The claims of a token whose signature holds.
fn accept(config: &IssuerConfig, claims: &Value, now: Timestamp) -> Result<Principal, IdentityError> {
    let issuer = || config.name.clone();
    let missing = |claim: &str| IdentityError::Claim {
        issuer: issuer(),
        claim: claim.to_owned(),
    };
    if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
        return Err(missing("iss"));
    }
    let seconds = |claim: &str| claims.get(claim).and_then(number);
    let expires = Timestamp::from_seconds(seconds("exp").ok_or_else(|| missing("exp"))?);
    if now >= expires.plus(config.skew) {
        return Err(IdentityError::Expired { issuer: issuer() });
    }
    for claim in ["nbf", "iat"] {
        if seconds(claim).is_some_and(|from| now.plus(config.skew) < Timestamp::from_seconds(from)) {
            return Err(IdentityError::NotYet { issuer: issuer() });
        }
    }
    let audiences = strings(claims.get("aud"));
    if !audiences
        .iter()
        .any(|audience| config.audiences.contains(audience))
    {
        return Err(IdentityError::Audience {
            issuer: issuer(),
            audiences: config.audiences.join(", "),
        });
    }
    let subject = claims
        .get(&config.subject_claim)
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty());
    let subject = subject.ok_or_else(|| missing(&config.subject_claim))?.to_owned();
    let groups = config
        .groups_claim
        .iter()
        .try_fold(claims, |value, name| value.get(name));
    let groups: BTreeSet<Group> = strings(groups).into_iter().map(Group::new).collect();
    let name = ["email", "preferred_username", "name"]
        .iter()
        .find_map(|c| claims.get(c).and_then(Value::as_str));
    Ok(Principal {
        kind: PrincipalKind::User,
        issuer: Some(config.name.clone()),
        display: name.unwrap_or(&subject).to_owned(),
        subject,
        groups,
        expires_at: Some(expires.plus(config.skew)),
    })
}

/// A string, or an array of strings.
fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
    }
}

/// RFC 7519 allows fractions.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let text = value.as_f64()?.trunc().to_string();
        text.parse().ok()
    })
}

/// The issuer that a token claims; believed only once a key of that issuer has verified it.
fn unverified_issuer(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let json = data_encoding::BASE64URL_NOPAD
        .decode(payload.trim_end_matches('=').as_bytes())
        .ok()?;
    let claims: Value = serde_json::from_slice(&json).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

const fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// The key that the token names, or every key that its algorithm fits.
fn candidates<'a>(
    set: &'a JwkSet,
    kid: Option<&'a str>,
    algorithm: Algorithm,
) -> impl Iterator<Item = &'a Jwk> {
    set.keys.iter().filter(move |key| {
        let common = &key.common;
        let named = kid.is_none_or(|kid| common.key_id.as_deref() == Some(kid));
        let for_signatures = !matches!(common.public_key_use, Some(PublicKeyUse::Encryption));
        named && for_signatures && fits(key, algorithm)
    })
}

fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    if let Some(own) = key.common.key_algorithm
        && own.to_string() != format!("{algorithm:?}")
    {
        return false;
    }
    matches!(
        (&key.algorithm, algorithm),
        (
            AlgorithmParameters::EllipticCurve(_),
            Algorithm::ES256 | Algorithm::ES384
        ) | (AlgorithmParameters::OctetKeyPair(_), Algorithm::EdDSA)
            | (
                AlgorithmParameters::RSA(_),
                Algorithm::RS256
                    | Algorithm::RS384
                    | Algorithm::RS512
                    | Algorithm::PS256
                    | Algorithm::PS384
                    | Algorithm::PS512,
            )
    )
}

/// The signature only: claims are judged here, with the configured skew and the caller's clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}
