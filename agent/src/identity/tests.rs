//! Tokens, right and wrong, with real keys.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::config::{IssuerConfig, KeySource};
use crate::model::{Group, IssuerName, Timestamp};

use super::*;

const NOW: i64 = 1_700_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// Keys of a test's issuer: one ES256, one EdDSA.
struct Signer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("key");
        Self {
            ec,
            ed: Ed25519KeyPair::generate().expect("key"),
        }
    }

    fn jwks(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "alg": "ES256", "x": b64(&point[1..33]), "y": b64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(self.ed.public_key())},
        ]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = if header["alg"] == "EdDSA" {
            self.ed.sign(message.as_bytes()).as_ref().to_vec()
        } else {
            self.ec
                .sign(&SystemRandom::new(), message.as_bytes())
                .expect("signed")
                .as_ref()
                .to_vec()
        };
        format!("{message}.{}", b64(signature))
    }
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": ["interdict", "x"], "sub": "alice", "email": "alice@example.com",
           "exp": NOW + 60, "iat": NOW, "realm": {"roles": ["analyst", "dba"]}})
}

fn config(jwks: &Path) -> IssuerConfig {
    IssuerConfig {
        name: IssuerName::from("corp"),
        issuer: "https://id.example".into(),
        audiences: vec!["interdict".into()],
        keys: KeySource::File(jwks.to_owned()),
        algorithms: vec!["ES256".into(), "EdDSA".into()],
        groups_claim: vec!["realm".into(), "roles".into()],
        subject_claim: "sub".into(),
        skew: Duration::from_secs(5),
        ca_file: None,
    }
}

fn with(change: impl Fn(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

#[tokio::test]
async fn tokens() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (signer, stranger) = (Signer::new(), Signer::new());
    let jwks = dir.path().join("jwks.json");
    std::fs::write(&jwks, signer.jwks().to_string()).expect("written");
    let issuers = Issuers::new(&[config(&jwks)]);
    let now = Timestamp::from_seconds(NOW);
    let ec = json!({"alg": "ES256", "kid": "ec"});

    for header in [
        &ec,
        &json!({"alg": "EdDSA", "kid": "ed"}),
        &json!({"alg": "ES256"}),
    ] {
        let alice = issuers
            .verify(&signer.sign(header, &claims()), now)
            .await
            .expect("accepted");
        assert_eq!(alice.key(), "corp/alice");
        assert_eq!(alice.display, "alice@example.com");
        assert!(alice.groups.contains(&Group::from("dba")));
        assert_eq!(alice.expires_at, Some(Timestamp::from_seconds(NOW + 65)));
    }

    let good = signer.sign(&ec, &claims());
    let mut tampered = good.clone();
    let cut = tampered.find('.').expect("dot") + 5;
    tampered.replace_range(cut..=cut, if good.as_bytes()[cut] == b'A' { "B" } else { "A" });
    let table: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), "no signed token"),
        ("no token", "a.b.c".into(), "no signed token"),
        ("too long", "x".repeat(20_000), "no signed token"),
        ("another's key", stranger.sign(&ec, &claims()), "no key"),
        (
            "unknown key",
            signer.sign(&json!({"alg": "ES256", "kid": "other"}), &claims()),
            "no key",
        ),
        (
            "key of another kind",
            signer.sign(&json!({"alg": "ES256", "kid": "ed"}), &claims()),
            "no key",
        ),
        (
            "none",
            format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(claims().to_string())),
            "no signed token",
        ),
        (
            "shared secret",
            signer.sign(&json!({"alg": "HS256", "kid": "ec"}), &claims()),
            "HS256",
        ),
        (
            "algorithm not listed",
            signer.sign(&json!({"alg": "RS256", "kid": "ec"}), &claims()),
            "RS256",
        ),
        (
            "expired",
            signer.sign(&ec, &with(|c| c["exp"] = json!(NOW - 6))),
            "has ended",
        ),
        (
            "no end",
            signer.sign(
                &ec,
                &with(|c| drop(c.as_object_mut().expect("object").remove("exp"))),
            ),
            "exp",
        ),
        (
            "not yet",
            signer.sign(&ec, &with(|c| c["nbf"] = json!(NOW + 6))),
            "not valid yet",
        ),
        (
            "audience",
            signer.sign(&ec, &with(|c| c["aud"] = json!("other"))),
            "audience",
        ),
        (
            "issuer",
            signer.sign(&ec, &with(|c| c["iss"] = json!("https://evil.example"))),
            "not configured",
        ),
        (
            "no subject",
            signer.sign(&ec, &with(|c| c["sub"] = json!(""))),
            "sub",
        ),
    ];
    for (what, token, expected) in table {
        let error = issuers.verify(&token, now).await.expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    assert!(issuers.verify(&tampered, now).await.is_err());
}

#[tokio::test]
async fn rotated_keys_are_found() {
    let dir = tempfile::tempdir().expect("temp dir");
    let jwks = dir.path().join("jwks.json");
    let (old, new) = (Signer::new(), Signer::new());
    std::fs::write(&jwks, old.jwks().to_string()).expect("written");
    let issuers = Issuers::new(&[config(&jwks)]);
    let now = Timestamp::from_seconds(NOW);
    let header = json!({"alg": "ES256", "kid": "ec"});
    assert!(issuers.verify(&old.sign(&header, &claims()), now).await.is_ok());
    let mut rotated = new.jwks();
    rotated["keys"][0]["kid"] = json!("ec2");
    std::fs::write(&jwks, rotated.to_string()).expect("written");
    let token = new.sign(&json!({"alg": "ES256", "kid": "ec2"}), &claims());
    assert!(issuers.verify(&token, now).await.is_ok());
}

#[tokio::test]
async fn an_identity_ends_with_its_token_and_lives_on_with_a_new_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let signer = Signer::new();
    let (jwks, file) = (dir.path().join("jwks.json"), dir.path().join("token"));
    std::fs::write(&jwks, signer.jwks().to_string()).expect("written");
    let header = json!({"alg": "ES256", "kid": "ec"});
    let real = crate::clock::now().as_seconds();
    let token = |ttl: i64| {
        signer.sign(
            &header,
            &with(|c| {
                c["iat"] = json!(real);
                c["exp"] = json!(real + ttl);
            }),
        )
    };
    std::fs::write(&file, token(600)).expect("written");
    let issuers = Issuers::new(&[config(&jwks)]);
    let source = TokenSource::File(file.clone());
    let binding = Binding::from_token(&source, &issuers, crate::clock::now())
        .await
        .expect("bound");
    let binding = std::sync::Arc::new(binding);
    let later = crate::clock::now().plus(Duration::from_secs(700));
    assert!(binding.current(crate::clock::now()).is_ok());
    let refusal = binding.current(later).expect_err("ended");
    assert!(
        refusal.reason.contains("corp/alice") && refusal.next_step.contains("token"),
        "{refusal}"
    );

    let (changes, mut told) = tokio::sync::mpsc::channel(4);
    let watching = std::sync::Arc::clone(&binding).watch(source, issuers, changes);
    let _task = crate::task::spawn("watch", watching);
    std::fs::write(&file, "half a tok").expect("written");
    assert!(matches!(
        told.recv().await,
        Some(IdentityChange::Ended { principal: None, .. })
    ));
    assert!(
        binding.current(crate::clock::now()).is_ok(),
        "the old one still holds"
    );
    std::fs::write(&file, token(9000)).expect("written");
    assert!(matches!(told.recv().await, Some(IdentityChange::Bound(_))));
    assert!(binding.current(later).is_ok());
}
