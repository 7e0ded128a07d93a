//! When a prompt that is denied for what was asked before will be allowed again.

use crate::model::{Facts, LlmFacts, Operation, Principal, Target, Timestamp, Usage};

use super::decision::{Decision, Denial};
use super::engine::{Engine, scene_key};

impl Engine {
    /// The denial, with the time when it ends by itself: the policies are asked again as if what was asked before had left
    /// the hour. Only where a policy reads that.
    pub(super) fn until(
        &self,
        mut denial: Denial,
        operation: &Operation,
        principal: &Principal,
        target: &Target,
        now: Timestamp,
    ) -> Denial {
        let Facts::Llm(facts) = &operation.facts else {
            return denial;
        };
        let Some(usage) = facts.usage.as_ref().filter(|_| self.reads_usage()) else {
            return denial;
        };
        let Ok(scene) = self.scene(scene_key(principal, target), principal, target, now) else {
            return denial;
        };
        let free = usage.later.iter().find(|(_, hour)| {
            let usage = Usage {
                hour: *hour,
                later: Vec::new(),
            };
            let then = Operation {
                facts: Facts::Llm(LlmFacts {
                    usage: Some(usage),
                    ..facts.clone()
                }),
                ..operation.clone()
            };
            let asked = self.evaluate(&scene, &then, principal, target, None, now);
            matches!(asked, Ok(Decision::Allow(_) | Decision::NeedsApproval(_)))
        });
        if let Some((at, _)) = free {
            denial.reason.push_str(&format!(
                " The last hour has {} tokens in {} requests; from {at} on so little of it counts that this is allowed.",
                usage.hour.tokens, usage.hour.requests
            ));
        }
        denial
    }
}
