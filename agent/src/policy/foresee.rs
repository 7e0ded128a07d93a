//! What could be permitted at all: the question that a list of offers asks, where arguments are not known yet.

use cedar_policy::{Authorizer, Context, Decision as Cedar, RestrictedExpression as Value};

use crate::model::{Offer, Principal, Target, Timestamp};

use super::engine::{Engine, scene_key};
use super::question::{Unsayable, request, uid};

impl Engine {
    /// Whether some arguments, at some time and with the consent of whoever is needed, could be permitted. Cedar
    /// evaluates the policies with all of that unknown: no only where the answer is no for all of them. A yes promises nothing: what is asked for is
    /// decided when it is.
    #[must_use]
    pub fn possible(&self, offer: &Offer, principal: &Principal, target: &Target, now: Timestamp) -> bool {
        [false, true].into_iter().any(|consented| {
            self.might(offer, principal, target, consented, now)
                .unwrap_or(false)
        })
    }

    fn might(
        &self,
        offer: &Offer,
        principal: &Principal,
        target: &Target,
        consented: bool,
        now: Timestamp,
    ) -> Result<bool, Unsayable> {
        let scene = self.scene(scene_key(principal, target), principal, target, now)?;
        let typed = matches!(offer, Offer::Tool(name) if self.has_types(target, name));
        let context = context(offer, consented, typed)?;
        let resource = uid("Target", &target.name.0)?;
        let request = request(principal, offer.action().name(), resource, context)?;
        let response = Authorizer::new().is_authorized_partial(&request, self.all(), scene.entities());
        // A policy that fails whatever the arguments are is a denial, as it is in every decision.
        let fails = response.definitely_errored().next().is_some();
        Ok(!fails && response.decision() != Some(Cedar::Deny))
    }
}

/// The context of taking an offer: what its name says is known, the rest is not.
fn context(offer: &Offer, consented: bool, typed: bool) -> Result<Context, Unsayable> {
    let text = |s: &str| Value::new_string(s.to_owned());
    let (mut tool, mut uri, mut prompt) = (text(""), text(""), text(""));
    match offer {
        Offer::Tool(name) => tool = text(name),
        Offer::Prompt(name) => prompt = text(name),
        Offer::Resource(name) => uri = text(name),
        Offer::Resources => uri = Value::new_unknown("uri"),
    }
    let fields = [
        ("method".to_owned(), text(offer.method())),
        ("tool".to_owned(), tool),
        ("uri".to_owned(), uri),
        ("prompt".to_owned(), prompt),
    ];
    let mcp = Value::new_record(fields).map_err(|error| error.to_string())?;
    let mut pairs = vec![
        ("mcp".to_owned(), mcp),
        ("input".to_owned(), Value::new_unknown("input")),
        // A list is kept for a while. Nor could Cedar see into a context that is unknown in part and has a time in it.
        ("now".to_owned(), Value::new_unknown("now")),
    ];
    if typed {
        pairs.push(("tools".to_owned(), Value::new_unknown("tools")));
    }
    if consented {
        pairs.push(("approval".to_owned(), Value::new_unknown("approval")));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::nobody::{principal, target};
    use super::*;
    use crate::model::Protocol;
    use crate::policy::PolicySource;

    const POLICIES: &str = r#"
@id("tools") permit (principal, action in Action::"mcp", resource) unless { context.mcp.tool == "unlisted" };
@id("no-shell") @reason("No shell.")
forbid (principal, action == Action::"mcp.tool.call", resource) when { context.mcp.tool == "shell" };
@id("no-drop") @reason("Nothing is dropped.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.input.text.hasTag("sql") && context.input.text.getTag("sql") like "*DROP*" };
@id("never-whatever") @reason("Whatever it says.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "whatever" && (context.mcp.tool like "what*" || context.input.names.contains("a")) };
@id("removal-needs-owner") @reason("Removing needs an owner.") @approvers("owners")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "remove" }
unless { context has approval && context.approval.groups.contains("owners") };
@id("fails") @reason("It fails.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "fails" && 9223372036854775807 + 1 > 0 };
@id("secret-notes") @reason("That note is secret.")
forbid (principal, action == Action::"mcp.resource.read", resource) when { context.mcp.uri like "*secret*" };
@id("no-letters") @reason("No letters.")
forbid (principal, action == Action::"mcp.prompt.get", resource) when { context.mcp.prompt == "letter" };
@id("later") @reason("Later.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "later" && context.now < datetime("2026-01-01") };
"#;

    #[test]
    fn an_offer_is_possible_unless_it_is_denied_whatever_the_arguments_are() {
        let source = PolicySource {
            file: "test.cedar".into(),
            text: POLICIES.into(),
        };
        let engine = Engine::load(&[source], &[].into()).expect("valid");
        let (principal, target) = (principal(), target("tools", Protocol::Mcp));
        let tool = |name: &str| Offer::Tool(name.into());
        for (offer, possible) in [
            (tool("query"), true),
            (tool("remove"), true),
            (tool("shell"), false),
            (tool("unlisted"), false),
            (tool("whatever"), false),
            (tool("fails"), false),
            (tool("later"), true),
            (Offer::Prompt("hello".into()), true),
            (Offer::Prompt("letter".into()), false),
            (Offer::Resource("note://open".into()), true),
            (Offer::Resource("note://secret".into()), false),
            (Offer::Resources, true),
        ] {
            let now = Timestamp::from_seconds(1_800_000_000);
            assert_eq!(
                engine.possible(&offer, &principal, &target, now),
                possible,
                "{offer:?}"
            );
        }
        let now = Timestamp::from_seconds(1_700_000_000);
        assert!(
            engine.possible(&tool("later"), &principal, &target, now),
            "it will be"
        );
        let none = Engine::load(&[], &[].into()).expect("valid");
        assert!(!none.possible(&tool("query"), &principal, &target, now));
    }
}
