//! Trying cases: what was expected, what the policies answer, and which of them determined it.

use std::collections::BTreeSet;

use crate::model::{PolicyId, duration_text};

use super::cases::{Case, Expected};
use super::engine::Engine;
use super::rehearse::{Answer, Rehearsal};

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub what: &'static str,
    /// As the case says.
    pub expected: String,
    /// As the policies say.
    pub got: String,
}

/// One case, tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What is not as expected; empty where it passed.
    pub differences: Vec<Difference>,
    /// The answer.
    pub answer: Answer,
    /// Its reason.
    pub reason: String,
    /// The policies that determined it, each with `FILE:LINE`.
    pub decided_by: Vec<(PolicyId, String)>,
    /// The same, and those that held it before the consent that the case imagines.
    pub reached: BTreeSet<PolicyId>,
}

impl Case {
    /// Asks the policies, and compares.
    #[must_use]
    pub fn attempt(&self, engine: &Engine) -> Trial {
        let ask =
            |consent| engine.rehearse(&self.operation, &self.principal, &self.target, consent, self.now);
        let got = ask(self.consent.as_ref());
        let mut reached: BTreeSet<PolicyId> = got.policies.iter().cloned().collect();
        if self.consent.is_some() {
            reached.extend(ask(None).policies);
        }
        let place = |id: &PolicyId| (id.clone(), engine.place(id).unwrap_or_default());
        Trial {
            differences: differences(&self.expect, &got),
            answer: got.answer,
            decided_by: got.policies.iter().map(place).collect(),
            reason: got.reason,
            reached,
        }
    }
}

/// Policies that no trial reached, each with `FILE:LINE`; without those that only reveal, which are no part of an
/// operation's own answer.
#[must_use]
pub fn untested(engine: &Engine, trials: &[Trial]) -> Vec<(PolicyId, String)> {
    let reached: BTreeSet<&PolicyId> = trials.iter().flat_map(|trial| &trial.reached).collect();
    engine
        .policies()
        .filter(|id| !reached.contains(id) && !engine.only_reveals(id))
        .map(|id| {
            let place = engine.place(&id).unwrap_or_default();
            (id, place)
        })
        .collect()
}

fn differences(expect: &Expected, got: &Rehearsal) -> Vec<Difference> {
    let Expected {
        answer,
        policies,
        approvers,
        min_approvals,
        hold,
        reveals,
        reasons,
        max_rows,
        max_time,
        masks,
        restores,
    } = expect;
    let mut found = Vec::new();
    if *answer != got.answer {
        found.push(Difference {
            what: "outcome",
            expected: answer.name().into(),
            got: got.answer.name().into(),
        });
        // What else differs only follows from that.
        return found;
    }
    let mut compare = |what, expected: Option<String>, got: String| {
        if let Some(expected) = expected
            && expected != got
        {
            found.push(Difference { what, expected, got });
        }
    };
    let decided: BTreeSet<&PolicyId> = got.policies.iter().collect();
    compare("policies", policies.as_ref().map(list), list(decided));
    compare("approvers", approvers.as_ref().map(list), list(&got.approvers));
    compare(
        "min_approvals",
        min_approvals.map(|n| n.to_string()),
        number(got.min_approvals),
    );
    compare(
        "hold",
        hold.map(duration_text),
        got.hold.map_or_else(none, duration_text),
    );
    compare("reveals", reveals.as_ref().map(list), list(&got.reveals));
    compare(
        "max_rows",
        max_rows.map(|n| n.to_string()),
        number(got.limits.max_rows),
    );
    compare(
        "max_time",
        max_time.map(duration_text),
        got.limits.max_time.map_or_else(none, duration_text),
    );
    compare("masks", masks.as_ref().map(list), list(got.prompt.0.keys()));
    let restored = got.prompt.reversible();
    compare("restores", restores.as_ref().map(list), list(&restored));
    for part in reasons {
        let said = got.reason.contains(part.as_str());
        compare(
            "reason",
            (!said).then(|| format!("… {part} …")),
            got.reason.clone(),
        );
    }
    found
}

fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    if names.is_empty() {
        none()
    } else {
        names.join(", ")
    }
}

fn number<T: ToString>(number: Option<T>) -> String {
    number.map_or_else(none, |n| n.to_string())
}

fn none() -> String {
    "none".into()
}

#[cfg(test)]
mod tests {
    use super::super::{PolicySource, parse_cases, shipped, shipped_cases};
    use super::*;

    fn source(file: &str, text: &str) -> PolicySource {
        PolicySource {
            file: file.into(),
            text: text.into(),
        }
    }

    fn engine() -> Engine {
        let classes = ["pci.card", "pii.email"].map(|class| class.parse().expect("class"));
        Engine::load(&shipped(), &classes.into()).expect("the shipped policies are valid")
    }

    #[test]
    fn the_shipped_policies_answer_as_their_cases_say() {
        let engine = engine();
        let sources = shipped_cases();
        let there = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/tests"));
        let files = there.expect("policies/tests").count();
        assert_eq!(
            files,
            sources.len(),
            "a file of cases is not among those that ship"
        );
        let mut trials = Vec::new();
        for source in sources {
            for case in parse_cases(&source).expect("valid cases") {
                let trial = case.attempt(&engine);
                assert_eq!(trial.differences, [], "{}:{} {}", case.file, case.line, case.name);
                trials.push(trial);
            }
        }
        assert_eq!(untested(&engine, &trials), [], "every policy has a case");
    }

    #[test]
    fn the_examples_answer_as_their_cases_say() {
        let dir = std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../policies/examples/models"
        ));
        // The shipped classes, and one of the example's own.
        let classes = [
            "fin.iban",
            "own.codename",
            "pci.card",
            "pii.email",
            "pii.ip",
            "pii.name",
            "pii.phone",
            "pii.ssn",
            "secret.key",
            "secret.pem",
            "secret.token",
        ];
        let sources = super::super::from_directory(dir).expect("policies");
        let classes = classes.map(|class| class.parse().expect("class"));
        let engine = Engine::load(&sources, &classes.into()).expect("valid policies");
        let cases = std::fs::read_to_string(dir.join("tests/models.toml")).expect("cases");
        let cases = parse_cases(&source("models.toml", &cases)).expect("valid cases");
        let trials: Vec<Trial> = cases.iter().map(|case| case.attempt(&engine)).collect();
        for (case, trial) in cases.iter().zip(&trials) {
            assert_eq!(trial.differences, [], "{}", case.name);
        }
        assert_eq!(untested(&engine, &trials), [], "every policy has a case");
    }

    #[test]
    fn a_difference_names_both_sides_and_the_policy() {
        let case = |expect: &str| {
            let text = format!(
                "[[case]]\nname = \"n\"\nprincipal = {{ user = \"corp/a\" }}\naction = \"sql.delete_all\"\n\
                 resource = {{ target = \"shop\", environment = \"prod\" }}\nexpect = {{ {expect} }}\n"
            );
            let cases = parse_cases(&source("c.toml", &text)).expect("valid");
            assert_eq!((cases.len(), cases[0].line), (1, 1));
            cases[0].attempt(&engine())
        };
        let seen = |expect: &str| {
            let differences = case(expect).differences;
            let shown = differences
                .into_iter()
                .map(|d| format!("{}: {} / {}", d.what, d.expected, d.got));
            shown.collect::<Vec<_>>().join("; ")
        };
        let policy = "prod-unbounded-write-needs-dba";
        for (expect, expected) in [
            ("outcome = \"hold\"".to_owned(), String::new()),
            (
                "outcome = \"allow\"".to_owned(),
                "outcome: allow / hold".to_owned(),
            ),
            (
                "outcome = \"hold\", approvers = [\"security\"]".to_owned(),
                "approvers: security / dba".to_owned(),
            ),
            (
                "outcome = \"hold\", policies = []".to_owned(),
                format!("policies: none / {policy}"),
            ),
            (
                "outcome = \"hold\", hold = \"2m\", min_approvals = 2".to_owned(),
                "min_approvals: 2 / 1; hold: 120s / none".to_owned(),
            ),
        ] {
            assert_eq!(seen(&expect), expected, "{expect}");
        }
        let reason = seen("outcome = \"hold\", reasons = [\"needs a lawyer\"]");
        assert!(
            reason.starts_with("reason: … needs a lawyer … / UPDATE or DELETE"),
            "{reason}"
        );
        let decided = case("outcome = \"allow\"").decided_by;
        assert_eq!(decided[0].0.as_str(), policy);
        assert!(
            decided[0].1.starts_with("policies/30-destructive.cedar:"),
            "{decided:?}"
        );
    }

    #[test]
    fn mistakes_in_cases_name_line_and_fix() {
        let case = |fields: &str| format!("\n[[case]]\nname = \"n\"\n{fields}");
        let rest = "resource = { target = \"shop\" }\nexpect = { outcome = \"allow\" }\n";
        let alice = "principal = { user = \"corp/a\" }\n";
        for (text, expected) in [
            (String::new(), "no [[case]]"),
            (
                case(&format!("{alice}action = \"sql.selct\"\n{rest}")),
                "no action",
            ),
            (
                case(&format!("{alice}action = \"reveal\"\n{rest}")),
                "expect.reveals",
            ),
            (case(&format!("{alice}action = []\n{rest}")), "no action"),
            (
                case(&format!("{alice}action = \"connect\"\n{rest}")),
                "context.address",
            ),
            (
                case(&format!("principal = \"bob\"\naction = \"sql.select\"\n{rest}")),
                "[principals]",
            ),
            (
                case(&format!("principal = 7\naction = \"sql.select\"\n{rest}")),
                "c.toml:4: write a name",
            ),
            (
                case(&format!(
                    "principal = {{ user = \"alice\" }}\naction = \"sql.select\"\n{rest}"
                )),
                "corp/alice",
            ),
            (
                case(&format!(
                    "{alice}action = \"sql.select\"\nresource = {{ target = \"s\" }}\nexpect = {{ outcome = \"maybe\" }}\n"
                )),
                "\"hold\"",
            ),
            (
                case(&format!(
                    "{alice}action = \"sql.select\"\nresource = {{ target = \"s\" }}\nexpect = {{ outcome = \"deny\", reveals = [] }}\n"
                )),
                "of the outcome \"allow\"",
            ),
            (
                case(&format!(
                    "{alice}action = \"sql.select\"\ncontext = {{ tabels = [] }}\n{rest}"
                )),
                "tabels",
            ),
        ] {
            let mistakes = parse_cases(&source("c.toml", &text)).expect_err(&text);
            let shown = mistakes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n");
            assert!(
                shown.contains(expected) && shown.starts_with("c.toml"),
                "{text}\n{shown}"
            );
        }
    }
}
