//! Where an operation stands in a distributed trace (W3C Trace Context).

use std::fmt;

use uuid::Uuid;

use super::id::{OperationId, SessionId};

/// A trace: 16 bytes, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// A span within a trace: 8 bytes, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

/// The only flags that are known: sampled, and that the trace's id is random (level 2 of the standard).
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;

/// What a `traceparent` says: the trace, the span that calls, and whether somebody keeps the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that calls.
    pub span: SpanId,
    /// The flags that are known.
    flags: u8,
}

impl TraceContext {
    /// Reads the value of a `traceparent` field (W3C Trace Context, 3.2). Of versions that are not known yet what version 00
    /// has is read, as the standard says. `None` where it is not valid: then a trace begins anew.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let (version, rest) = value.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (span, flags) = rest.split_once('-')?;
        let [version] = bytes::<1>(version)?;
        let flags = match (version, flags.split_once('-')) {
            (0xff, _) | (0, Some(_)) => return None,
            (_, Some((flags, _later))) => flags,
            (_, None) => flags,
        };
        let [flags] = bytes::<1>(flags)?;
        let context = Self {
            trace: TraceId(bytes(trace)?),
            span: SpanId(bytes(span)?),
            flags: flags & KNOWN_FLAGS,
        };
        (context.trace.0 != [0; 16] && context.span.0 != [0; 8]).then_some(context)
    }

    /// Whether whoever began the trace keeps it.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags that are known.
    #[must_use]
    pub const fn flags(self) -> u8 {
        self.flags
    }

    /// The same trace, called on by `span`.
    #[must_use]
    pub const fn through(self, span: SpanId) -> Self {
        Self { span, ..self }
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent` of version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower-case hexadecimal digits, exactly as many.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != N * 2 || !text.as_bytes().iter().all(lower) {
        return None;
    }
    let mut all = [0; N];
    for (at, byte) in all.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(all)
}

impl TraceId {
    /// The trace that begins with this.
    fn of(id: Uuid) -> Self {
        Self(id.into_bytes())
    }

    /// Whether a trace that begins here is among so many of a hundred: the last 32 bits of the ids are random.
    #[must_use]
    pub fn is_among(self, percent: u8) -> bool {
        let [.., a, b, c, d] = self.0;
        let chance = u64::from(u32::from_be_bytes([a, b, c, d]));
        chance * 100 < u64::from(percent) << 32
    }
}

impl SpanId {
    /// The last half of an id of version 7: the two bits of its variant are never zero, the others are chance.
    fn of(id: Uuid) -> Self {
        let [.., a, b, c, d, e, f, g, h] = id.into_bytes();
        Self([a, b, c, d, e, f, g, h])
    }
}

impl SessionId {
    /// The trace of a session, which is one span.
    #[must_use]
    pub fn trace(self) -> TraceId {
        TraceId::of(self.as_uuid())
    }

    /// The span of a session.
    #[must_use]
    pub fn span(self) -> SpanId {
        SpanId::of(self.as_uuid())
    }
}

impl OperationId {
    /// The trace of an operation that stands in none.
    #[must_use]
    pub fn trace(self) -> TraceId {
        TraceId::of(self.as_uuid())
    }

    /// The span of an operation.
    #[must_use]
    pub fn span(self) -> SpanId {
        SpanId::of(self.as_uuid())
    }
}

macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

hexadecimal!(TraceId);
hexadecimal!(SpanId);

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the standard, and what it says is none.
    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(good).expect("valid");
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), good);
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-more";
        let context = TraceContext::parse(later).expect("a later version");
        assert_eq!(
            context.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"
        );
        let unsampled = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert!(!unsampled.expect("valid").is_sampled());
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é6-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_become_spans_and_some_are_kept() {
        let ids: Vec<OperationId> = (0..2000).map(|_| OperationId::new()).collect();
        let spans: std::collections::BTreeSet<SpanId> = ids.iter().map(|id| id.span()).collect();
        assert_eq!(spans.len(), ids.len());
        let kept = |percent| ids.iter().filter(|id| id.trace().is_among(percent)).count();
        assert_eq!((kept(0), kept(100)), (0, ids.len()));
        assert!((300..700).contains(&kept(25)), "{}", kept(25));
        let one = ids.first().expect("one");
        assert!(one.trace().to_string().ends_with(&one.span().to_string()));
    }
}
