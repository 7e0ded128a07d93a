//! The distributed trace that a request names (W3C Trace Context), and what its target is told of it.
//!
//! Where the agent keeps a span of the request, the target is told that this span calls: same trace, same flags. Otherwise, and of
//! `tracestate` and `baggage` always, the process's own words go on as they are. A request that names no trace gets none.

use hyper::header::{HeaderMap, HeaderValue};

use crate::model::TraceContext;

const TRACEPARENT: &str = "traceparent";

/// The trace that a request names; `None` where it names none, two, or one that is not valid, and where the process has signed the
/// field: changed, its signature would be worth nothing.
pub(super) fn named(headers: &HeaderMap) -> Option<TraceContext> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (only, None) = (all.next()?, all.next()) else {
        return None;
    };
    let context = TraceContext::parse(only.to_str().ok()?)?;
    (!is_signed(headers)).then_some(context)
}

/// Tells the target `trace`.
pub(super) fn continued(headers: &mut HeaderMap, trace: TraceContext) {
    if let Ok(value) = HeaderValue::try_from(trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Whether a signature names the field: that of AWS in `Authorization` (`SignedHeaders=…`), that of RFC 9421 in `Signature-Input`.
fn is_signed(headers: &HeaderMap) -> bool {
    let names_it = |value: &HeaderValue| {
        let lower = value.as_bytes().to_ascii_lowercase();
        memchr::memmem::find(&lower, TRACEPARENT.as_bytes()).is_some()
    };
    let signatures = ["authorization", "signature-input"];
    signatures
        .iter()
        .flat_map(|name| headers.get_all(*name))
        .any(names_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn one_valid_field_names_a_trace_and_a_signed_one_stays() {
        assert!(
            named(&headers(&[
                ("traceparent", PARENT),
                ("authorization", "Bearer x")
            ]))
            .is_some()
        );
        for fields in [
            &[][..],
            &[("traceparent", "00-0-0-0")],
            &[("traceparent", PARENT), ("traceparent", PARENT)],
            &[
                ("traceparent", PARENT),
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;traceparent, Signature=c",
                ),
            ],
            &[
                ("traceparent", PARENT),
                ("signature-input", "sig=(\"@method\" \"Traceparent\")"),
            ],
        ] {
            assert_eq!(named(&headers(fields)), None, "{fields:?}");
        }
    }

    #[test]
    fn the_target_is_told_one_context() {
        let mut all = headers(&[("traceparent", PARENT), ("tracestate", "a=b")]);
        let asked = named(&all).expect("a trace");
        let span = crate::model::OperationId::new().span();
        continued(&mut all, asked.through(span));
        let told: Vec<_> = all.get_all(TRACEPARENT).iter().collect();
        assert_eq!(told, [&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01")]);
        assert_eq!(all["tracestate"], "a=b");
    }
}
