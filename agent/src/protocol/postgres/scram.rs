//! SCRAM-SHA-256 towards the process (RFC 5802, RFC 7677), with and without channel binding (RFC 5929,
//! `tls-server-end-point`), for clients that insist on it. What is proved is the placeholder, never a real password.
//!
//! `Exchange` is the arithmetic, without input or output; `startup` carries its messages.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Without channel binding.
pub(super) const PLAIN: &str = "SCRAM-SHA-256";
/// With.
pub(super) const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// As the server's own `scram_iterations`.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
const SHA256: usize = 32;

/// Why the process is not let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScramError {
    #[error("the SCRAM exchange is malformed: {0}")]
    Malformed(&'static str),
    #[error("the client asks for a mechanism that was not offered")]
    Mechanism,
    #[error("the channel binding does not fit this TLS connection")]
    Binding,
    #[error("the password is not the placeholder that is configured for this target")]
    Password,
    #[error("no randomness")]
    Random,
}

/// An exchange after the client's first message.
#[derive(Debug)]
pub(super) struct Exchange {
    salted: [u8; SHA256],
    /// What `c=` must carry: the header as sent, and what the channel is bound to.
    bound: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare,server-first-message`.
    told: String,
}

impl Exchange {
    /// Takes the client's choice and first message; the answer to it is `challenge`.
    ///
    /// `end_point` is the hash of the agent's certificate; `None` without TLS, and then binding was not offered.
    pub(super) fn begin(
        placeholder: &str,
        end_point: Option<&[u8]>,
        mechanism: &str,
        first: &[u8],
    ) -> Result<(Self, String), ScramError> {
        let (mut salt, mut nonce) = ([0; 16], [0; 18]);
        rand::fill(&mut salt).map_err(|_unspecified| ScramError::Random)?;
        rand::fill(&mut nonce).map_err(|_unspecified| ScramError::Random)?;
        Self::with(placeholder, end_point, (mechanism, first), (&salt, &nonce))
    }

    fn with(
        placeholder: &str,
        end_point: Option<&[u8]>,
        (mechanism, first): (&str, &[u8]),
        (salt, nonce): (&[u8], &[u8]),
    ) -> Result<(Self, String), ScramError> {
        let malformed = ScramError::Malformed;
        let first = std::str::from_utf8(first).map_err(|_bytes| malformed("it is no text"))?;
        let mut parts = first.splitn(3, ',');
        let (flag, authzid) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let bare = parts.next().ok_or(malformed("the first message is short"))?;
        if !authzid.is_empty() {
            return Err(malformed("it names another identity"));
        }
        let mut bound = format!("{flag},,").into_bytes();
        match (mechanism, flag, end_point) {
            (PLUS, "p=tls-server-end-point", Some(end_point)) => bound.extend_from_slice(end_point),
            (PLUS, _, None) => return Err(ScramError::Mechanism),
            (PLAIN, "n", _) => {}
            // The client can bind and believes that the server cannot: true without TLS only. Otherwise somebody between
            // them took the offer away.
            (PLAIN, "y", None) => {}
            (PLUS | PLAIN, _, _) => return Err(ScramError::Binding),
            _ => return Err(ScramError::Mechanism),
        }
        let mut attributes = bare.split(',');
        // The user name stands in the start-up message; what is here is ignored, as the server does.
        attributes
            .next()
            .filter(|user| user.starts_with("n="))
            .ok_or(malformed("no user"))?;
        let theirs = attributes.next().and_then(|nonce| nonce.strip_prefix("r="));
        let theirs = theirs
            .filter(|nonce| !nonce.is_empty())
            .ok_or(malformed("no nonce"))?;
        let nonce = format!("{theirs}{}", STANDARD.encode(nonce));
        let challenge = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        let mut salted = [0; SHA256];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ITERATIONS,
            salt,
            placeholder.as_bytes(),
            &mut salted,
        );
        let exchange = Self {
            salted,
            bound,
            nonce,
            told: format!("{bare},{challenge}"),
        };
        Ok((exchange, challenge))
    }

    /// Takes the client's proof; the agent's own signature proves that it knows the placeholder too.
    pub(super) fn finish(self, last: &[u8]) -> Result<String, ScramError> {
        let malformed = ScramError::Malformed;
        let last = std::str::from_utf8(last).map_err(|_bytes| malformed("it is no text"))?;
        let (without_proof, proof) = last.rsplit_once(",p=").ok_or(malformed("no proof"))?;
        let proof = STANDARD
            .decode(proof)
            .map_err(|_bytes| malformed("the proof is no base64"))?;
        let mut attributes = without_proof.split(',');
        let bound = attributes.next().and_then(|bound| bound.strip_prefix("c="));
        let bound = bound.and_then(|bound| STANDARD.decode(bound).ok());
        if bound.as_deref() != Some(self.bound.as_slice()) {
            return Err(ScramError::Binding);
        }
        if attributes.next().and_then(|nonce| nonce.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(malformed("another nonce"));
        }
        let told = format!("{},{without_proof}", self.told);
        let client_key = keyed(&self.salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = keyed(stored_key.as_ref(), told.as_bytes());
        let expected: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(key, signature)| key ^ signature)
            .collect();
        constant_time::verify_slices_are_equal(&expected, &proof)
            .map_err(|_unspecified| ScramError::Password)?;
        let server_key = keyed(&self.salted, b"Server Key");
        let signature = keyed(server_key.as_ref(), told.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature.as_ref())))
    }
}

fn keyed(key: &[u8], content: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), content)
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    /// The client is the library that logs in to targets.
    fn try_with(
        password: &[u8],
        binding: ChannelBinding,
        end_point: Option<&[u8]>,
        mechanism: &str,
    ) -> Result<(), ScramError> {
        let mut client = ScramSha256::new(password, binding);
        let (exchange, challenge) = Exchange::begin("placeholder", end_point, mechanism, client.message())?;
        client.update(challenge.as_bytes()).expect("a challenge");
        let signature = exchange.finish(client.message())?;
        client
            .finish(signature.as_bytes())
            .expect("the agent knows it too");
        Ok(())
    }

    fn end_point() -> ChannelBinding {
        ChannelBinding::tls_server_end_point(vec![7; 32])
    }

    #[test]
    fn who_knows_the_placeholder_is_let_in() {
        let (good, here) = (b"placeholder".as_slice(), Some([7u8; 32].as_slice()));
        assert_eq!(try_with(good, ChannelBinding::unsupported(), None, PLAIN), Ok(()));
        assert_eq!(try_with(good, ChannelBinding::unrequested(), None, PLAIN), Ok(()));
        assert_eq!(try_with(good, ChannelBinding::unsupported(), here, PLAIN), Ok(()));
        assert_eq!(try_with(good, end_point(), here, PLUS), Ok(()));
    }

    #[test]
    fn nobody_else_is() {
        let (good, here) = (b"placeholder".as_slice(), Some([7u8; 32].as_slice()));
        let there = Some([8u8; 32].as_slice());
        let unsupported = ChannelBinding::unsupported;
        assert_eq!(
            try_with(b"wrong", unsupported(), None, PLAIN),
            Err(ScramError::Password)
        );
        assert_eq!(
            try_with(b"", unsupported(), here, PLAIN),
            Err(ScramError::Password)
        );
        // Another connection's certificate; an offer that was taken away; a binding that is not there.
        assert_eq!(try_with(good, end_point(), there, PLUS), Err(ScramError::Binding));
        assert_eq!(
            try_with(good, ChannelBinding::unrequested(), here, PLAIN),
            Err(ScramError::Binding)
        );
        assert_eq!(
            try_with(good, end_point(), None, PLUS),
            Err(ScramError::Mechanism)
        );
        assert_eq!(
            try_with(good, unsupported(), here, PLUS),
            Err(ScramError::Binding)
        );
        assert_eq!(try_with(good, end_point(), here, PLAIN), Err(ScramError::Binding));
        assert_eq!(
            try_with(good, unsupported(), here, "SCRAM-SHA-1"),
            Err(ScramError::Mechanism)
        );
    }

    /// RFC 7677, chapter 3; its user and password are "user" and "pencil".
    #[test]
    fn the_standards_own_example() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("salt");
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let nonce = STANDARD
            .decode("hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
            .unwrap_or_default();
        let (mut exchange, _) =
            Exchange::with("pencil", None, (PLAIN, first), (&salt, &nonce)).expect("begun");
        // The example's own nonce is no base64 of bytes, so it is put in its place.
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        exchange.nonce = nonce.into();
        exchange.told = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(
            exchange.finish(last.as_bytes()),
            Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".into())
        );
    }

    proptest! {
        #[test]
        fn arbitrary_messages_do_no_harm(first in proptest::collection::vec(any::<u8>(), 0..80), last in ".{0,80}") {
            prop_assert!(Exchange::begin("placeholder", None, PLAIN, &first).is_err());
            let begun = Exchange::begin("placeholder", None, PLAIN, b"n,,n=,r=abc");
            let (exchange, _) = begun.expect("begun");
            prop_assert!(exchange.finish(last.as_bytes()).is_err());
        }
    }
}
