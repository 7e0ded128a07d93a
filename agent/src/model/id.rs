//! Identifiers: one type each, so that one cannot be taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new one (UUID version 7: sorts by time of making).
            #[must_use]
            #[expect(clippy::new_without_default, reason = "each call makes another one: a default would hide that")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// From a stored value.
            #[must_use]
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The value to store.
            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// One life of one agent process.
    BootId
);
uuid_id!(
    /// One `interdict run`, or one workload of a serving agent.
    RunId
);
uuid_id!(
    /// One accepted connection.
    ConnectionId
);
uuid_id!(
    /// One protocol session; a connection carries at most one.
    SessionId
);
uuid_id!(
    /// One judged operation: the reference that a refusal shows.
    OperationId
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

text_id!(
    /// A policy's `@id`.
    PolicyId
);
text_id!(
    /// A group of principals, as an issuer names it.
    Group
);
text_id!(
    /// The configured name of a workload.
    WorkloadName
);
text_id!(
    /// The configured name of an issuer (not its URL).
    IssuerName
);

/// What a person types to decide a request for approval: `apr-` and six letters or digits of a set without
/// look-alikes (Crockford base 32, lower case).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(Arc<str>);

/// The text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a ticket: a ticket looks like apr-7k2m9x (see `interdict approvals list`)")]
pub struct InvalidTicket(pub String);

impl Ticket {
    const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// A ticket from 30 random bits (the upper two are dropped).
    #[must_use]
    pub fn from_random(bits: u32) -> Self {
        let letters = (0..6).map(|at| char::from(Self::ALPHABET[(bits >> (at * 5)) as usize & 31]));
        Self("apr-".chars().chain(letters).collect::<String>().into())
    }

    /// The text as shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ticket {
    type Err = InvalidTicket;

    /// Upper case is taken as lower case.
    fn from_str(text: &str) -> Result<Self, InvalidTicket> {
        let lower = text.trim().to_ascii_lowercase();
        let valid = lower
            .strip_prefix("apr-")
            .is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| Self::ALPHABET.contains(&b)));
        if valid {
            Ok(Self(lower.into()))
        } else {
            Err(InvalidTicket(text.to_owned()))
        }
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest; shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// The digest of `parts`, each preceded by its length as eight bytes (so that moving a byte from one part to the
    /// next changes it).
    #[must_use]
    pub fn of_fields(parts: &[&[u8]]) -> Self {
        /// From here on one call for everything saves less than the copy costs, in bytes.
        const LONG: usize = 16 * 1024;
        let length = |part: &[u8]| (part.len() as u64).to_be_bytes();
        if parts.iter().map(|part| part.len()).sum::<usize>() < LONG {
            let mut whole = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
            for part in parts {
                whole.extend_from_slice(&length(part));
                whole.extend_from_slice(part);
            }
            return Self::of(&whole);
        }
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            context.update(&length(part));
            context.update(part);
        }
        Self::finish(context)
    }

    /// The digest of `parts` one after another.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            context.update(part);
        }
        Self::finish(context)
    }

    fn finish(context: aws_lc_rs::digest::Context) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }

    /// From a stored value.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        data_encoding::HEXLOWER.encode_mut(&self.0, &mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A digest of bytes that come in pieces.
#[derive(Clone)]
pub struct Digester(aws_lc_rs::digest::Context);

impl Default for Digester {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl Digester {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of everything.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::finish(self.0)
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

/// The digest of an operation as it would reach the target, parameters included: what an approval is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub Digest);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_reads_back_and_forgives_case() {
        let ticket = Ticket::from_random(0x2b3c_4d5e);
        assert_eq!(ticket.to_string().to_uppercase().parse(), Ok(ticket.clone()));
        assert_eq!(ticket.as_str().len(), 10);
    }

    #[test]
    fn what_is_no_ticket_says_what_one_looks_like() {
        for text in ["", "apr-", "apr-12345", "apr-12345il", "x", "apr-ilou12"] {
            let error = text.parse::<Ticket>().expect_err(text);
            assert!(error.to_string().contains("apr-7k2m9x"), "{error}");
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(
            Digest::of_fields(&[b"ab", b"c"]),
            Digest::of_fields(&[b"a", b"bc"])
        );
        // Long ones are digested in the same way, piece by piece.
        for length in [10, 100_000] {
            let long = vec![b'x'; length];
            let first = [0, 0, 0, 0, 0, 0, 0, 1, b'a'].as_slice();
            let fields = [first, &(length as u64).to_be_bytes(), &long].concat();
            assert_eq!(Digest::of_fields(&[b"a", &long]), Digest::of(&fields));
        }
        assert_eq!(
            Digest::from_hex(&Digest::of(b"x").to_string()),
            Some(Digest::of(b"x"))
        );
    }
}
