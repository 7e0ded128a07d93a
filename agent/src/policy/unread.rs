//! Requests whose body nobody has read: they are permitted only where they would be whatever is in it.

use cedar_policy::{Authorizer, Context, Decision as Cedar, Effect, Entities, RestrictedExpression as Value};

use crate::model::{Facts, HttpBody, HttpFacts, Operation, Principal, Target, Timestamp};

use super::decision::{Denial, DenialCause};
use super::engine::{Engine, name};
use super::question::{Unsayable, http, request, time, uid};

/// The body of a request, where nobody has read it.
fn unread(operation: &Operation) -> Option<&HttpFacts> {
    match &operation.facts {
        Facts::Http(facts) if facts.body != HttpBody::Read => Some(facts),
        Facts::Http(_)
        | Facts::Sql(_)
        | Facts::Connect(_)
        | Facts::Mcp(_)
        | Facts::Llm(_)
        | Facts::Dns(_) => None,
    }
}

impl Engine {
    /// Why an operation is denied after all whose body was not read; `needs`: it needs consent.
    pub(super) fn unread(
        &self,
        operation: &Operation,
        (principal, target): (&Principal, &Target),
        entities: &Entities,
        needs: bool,
        now: Timestamp,
    ) -> Result<Option<Denial>, Unsayable> {
        let Some(facts) = unread(operation) else {
            return Ok(None);
        };
        let denial = |policies, reason: &str| Denial {
            policies,
            reason: reason.into(),
            cause: DenialCause::Forbidden,
            bundle: self.bundle(),
        };
        if needs {
            let reason = "It needs consent, which is for what is sent; the body of this request is not read before (uploads). \
                          Send less at once.";
            return Ok(Some(denial(Vec::new(), reason)));
        }
        for action in &operation.actions {
            for has_values in [false, true] {
                let context = context(facts, has_values)?;
                let resource = uid("Target", &target.name.0)?;
                let request = request(principal, action.name(), resource, context)?;
                let authorizer = Authorizer::new();
                let response = authorizer.is_authorized_partial(&request, self.all(), entities);
                let now = time(Some(now));
                let known = now.iter().map(|(name, value)| (name.as_str(), value));
                let response = response
                    .reauthorize_with_bindings(known, &authorizer, entities)
                    .map_err(|error| error.to_string())?;
                if let Some(failed) = response.definitely_errored().next() {
                    return Ok(Some(self.failed(vec![name(failed)], "a policy fails")));
                }
                if response.decision() == Some(Cedar::Allow) {
                    continue;
                }
                let hang = response.nontrivial_residuals();
                let forbids = hang.filter(|policy| policy.effect() == Effect::Forbid);
                let mut policies: Vec<_> = forbids.map(|policy| name(policy.id())).collect();
                policies.sort();
                let reason = "Whether this may be sent depends on its body, and that is not read before it is sent (uploads). Send \
                              less at once.";
                return Ok(Some(denial(policies, reason)));
            }
        }
        Ok(None)
    }
}

/// What is known without the body. The time is unknown too at first: Cedar could not see into a context that is unknown in
/// part and has a time in it.
fn context(facts: &HttpFacts, has_values: bool) -> Result<Context, Unsayable> {
    let mut pairs = vec![
        ("http".to_owned(), http(facts, true)?),
        ("now".to_owned(), Value::new_unknown("now")),
    ];
    if has_values {
        pairs.push(("input".to_owned(), Value::new_unknown("input")));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::nobody::{principal, target};
    use super::*;
    use crate::model::{Action, Digest, Fingerprint, PolicyId, Protocol};
    use crate::policy::{Decision, PolicySource};

    const POLICIES: &str = r#"
@id("writes") @reason("Writes.") permit (principal, action in Action::"http", resource) unless { context.http.path == "/by-body" };
@id("by-body") @reason("By its body.") permit (principal, action in Action::"http", resource)
when { context.http.path == "/by-body" && context has input && context.input.flag.hasTag("ok") };
@id("amounts") @reason("Small amounts.") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/pay" && context has input && context.input.number.hasTag("amount") && context.input.number.getTag("amount") > 10 };
@id("values") @reason("Values are needed.") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/values" } unless { context has input };
@id("unread") @reason("Read before.") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/read" && !context.http.body_read };
@id("size") @reason("Not so large.") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/size" && context.http.body_bytes > 1000 };
@id("night") @reason("Not then.") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/then" && context.now > datetime("2026-01-01") };
@id("ask") @reason("Ask.") @approvers("owners") forbid (principal, action in Action::"http", resource)
when { context.http.path == "/ask" } unless { context has approval && context.approval.groups.contains("owners") };
"#;

    #[test]
    fn what_depends_on_a_body_that_nobody_read_is_denied() {
        let source = PolicySource {
            file: "test.cedar".into(),
            text: POLICIES.into(),
        };
        let engine = Engine::load(&[source], &[].into()).expect("valid");
        let (principal, target) = (principal(), target("store", Protocol::Http));
        let decide = |path: &str, body: HttpBody, body_bytes: u64, year: i64| {
            let operation = Operation {
                actions: [Action::HttpWrite].into(),
                facts: Facts::Http(HttpFacts {
                    method: "PUT".into(),
                    host: "h".into(),
                    port: 443,
                    tls: true,
                    path: path.into(),
                    query: [].into(),
                    headers: [].into(),
                    content_type: String::new(),
                    body_bytes,
                    body,
                    input: None,
                }),
                text: String::new(),
                fingerprint: Fingerprint(Digest::of(path.as_bytes())),
                parameters: Vec::new(),
            };
            let now = Timestamp::from_seconds((year - 1970) * 31_556_952);
            match engine.decide(&operation, &principal, &target, None, now) {
                Decision::Allow(_) => Ok(()),
                Decision::Deny(denial) => Err(denial.policies.iter().map(PolicyId::to_string).collect()),
                Decision::NeedsApproval(_) => Err(vec!["approval".to_owned()]),
            }
        };
        let denied = |by: &[&str]| Err(by.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        for (path, read, declared, unknown) in [
            ("/put", Ok(()), Ok(()), Ok(())),
            ("/by-body", denied(&[]), denied(&[]), denied(&[])),
            ("/pay", Ok(()), denied(&["amounts"]), denied(&["amounts"])),
            (
                "/values",
                denied(&["values"]),
                denied(&["values"]),
                denied(&["values"]),
            ),
            ("/read", Ok(()), denied(&["unread"]), denied(&["unread"])),
            ("/size", Ok(()), Ok(()), denied(&["size"])),
            ("/ask", denied(&["approval"]), denied(&[]), denied(&[])),
        ] {
            assert_eq!(decide(path, HttpBody::Read, 1000, 2030), read, "{path}");
            assert_eq!(decide(path, HttpBody::Declared, 1000, 2030), declared, "{path}");
            assert_eq!(decide(path, HttpBody::Unknown, 1000, 2030), unknown, "{path}");
        }
        // What is known of the time counts.
        assert_eq!(decide("/then", HttpBody::Declared, 1, 2020), Ok(()));
        assert_eq!(decide("/then", HttpBody::Declared, 1, 2030), denied(&["night"]));
    }
}
