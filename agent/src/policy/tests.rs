//! Policies and their answers.
#![expect(clippy::wildcard_enum_match_arm, reason = "any other answer fails the test")]
#![expect(clippy::type_complexity, reason = "tables of cases")]

use std::collections::{BTreeMap, BTreeSet};

use crate::approval::{Approver, Consent};
use crate::model::{
    Action, Digest, Environment, Facts, Fingerprint, IssuerName, Operation, Principal, PrincipalKind,
    Protocol, SqlFacts, StatementFacts, StatementKind, Target, TargetName, Timestamp,
};

use super::load::SCHEMA;
use super::*;

fn classes() -> BTreeSet<crate::model::DataClass> {
    ["pci.card", "pii.email"]
        .iter()
        .map(|c| c.parse().expect("class"))
        .collect()
}

fn source(text: &str) -> Vec<PolicySource> {
    vec![PolicySource {
        file: "test.cedar".into(),
        text: text.into(),
    }]
}

fn user(groups: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        issuer: Some(IssuerName::from("corp")),
        subject: "alice".into(),
        display: "Alice".into(),
        groups: groups.iter().map(|g| (*g).into()).collect(),
        expires_at: None,
    }
}

fn workload() -> Principal {
    Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        ..user(&[])
    }
}

fn target(environment: &str) -> Target {
    Target {
        name: TargetName("shop".into()),
        environment: Environment(environment.into()),
        labels: BTreeMap::new(),
        protocol: Protocol::Postgres,
        configured: true,
    }
}

fn operation(actions: &[Action]) -> Operation {
    let statement = StatementFacts {
        kind: StatementKind("X"),
        actions: actions.iter().copied().collect(),
        reads: BTreeSet::new(),
        writes: BTreeSet::new(),
        columns: BTreeSet::new(),
        functions: BTreeSet::new(),
        bounded: true,
    };
    let facts = SqlFacts {
        statements: vec![statement],
        database: "shop".into(),
        in_transaction: false,
    };
    Operation {
        actions: actions.iter().copied().collect(),
        facts: Facts::Sql(facts),
        text: String::new(),
        fingerprint: Fingerprint(Digest::of(b"")),
        parameters: Vec::new(),
    }
}

fn consent(groups: &[&str]) -> Consent {
    let approver = Approver {
        principal: "corp/dora".into(),
        groups: groups.iter().map(|g| (*g).into()).collect(),
        at: Timestamp::from_seconds(1),
    };
    Consent::for_tests("apr-7k2m9x".parse().expect("ticket"), vec![approver])
}

/// The answer in a word: `allow`, `deny POLICIES`, `ask POLICIES`.
fn answer(
    engine: &Engine,
    who: &Principal,
    what: &[Action],
    place: &str,
    consent: Option<&Consent>,
) -> String {
    let now = Timestamp::from_seconds(1_700_000_000);
    let names =
        |ids: &[crate::model::PolicyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match engine.decide(&operation(what), who, &target(place), consent, now) {
        Decision::Allow(_) => "allow".into(),
        Decision::Deny(denial) => format!("deny {}", names(&denial.policies)).trim_end().to_owned(),
        Decision::NeedsApproval(need) => format!("ask {}", names(&need.policies)),
    }
}

#[test]
fn shipped_policies() {
    use Action::{
        Connect, SqlAdmin, SqlCreate, SqlDrop, SqlExecute, SqlLogin, SqlSelect, SqlTruncate, SqlUpdate,
        SqlUpdateAll,
    };
    let engine = Engine::load(&shipped(), &classes()).expect("the shipped policies are valid");
    let dba = consent(&["dba"]);
    let other = consent(&["sales"]);
    let table: &[(&Principal, &[Action], &str, Option<&Consent>, &str)] = &[
        (&user(&[]), &[SqlLogin], "prod", None, "allow"),
        (&user(&[]), &[SqlSelect], "prod", None, "allow"),
        (&workload(), &[SqlSelect], "prod", None, "allow"),
        (&workload(), &[SqlUpdate], "prod", None, "deny"),
        // No approval could help: nobody is asked.
        (&workload(), &[SqlUpdateAll], "prod", None, "deny"),
        (&user(&[]), &[SqlUpdate, SqlSelect], "prod", None, "allow"),
        (&user(&["dba"]), &[SqlDrop], "prod", None, "deny prod-no-drop"),
        (&user(&[]), &[SqlDrop], "prod", Some(&dba), "deny prod-no-drop"),
        (&user(&[]), &[SqlTruncate], "prod", None, "deny prod-no-drop"),
        (&user(&[]), &[SqlDrop], "staging", None, "allow"),
        (
            &user(&[]),
            &[SqlUpdateAll],
            "prod",
            None,
            "ask prod-unbounded-write-needs-dba",
        ),
        (&user(&[]), &[SqlUpdateAll], "prod", Some(&dba), "allow"),
        (
            &user(&[]),
            &[SqlUpdateAll],
            "prod",
            Some(&other),
            "ask prod-unbounded-write-needs-dba",
        ),
        (
            &user(&[]),
            &[SqlUpdateAll, SqlDrop],
            "prod",
            Some(&dba),
            "deny prod-no-drop",
        ),
        (
            &user(&[]),
            &[SqlCreate],
            "prod",
            None,
            "ask prod-schema-needs-dba",
        ),
        (&user(&[]), &[SqlExecute], "staging", None, "ask code-needs-dba"),
        (&user(&[]), &[SqlExecute], "staging", Some(&dba), "allow"),
        (&user(&["dba"]), &[SqlAdmin], "staging", None, "deny"),
    ];
    for (who, what, place, consent, expected) in table {
        assert_eq!(
            answer(&engine, who, what, place, *consent),
            *expected,
            "{who} {what:?} {place}"
        );
    }
    let mut connect = operation(&[Connect]);
    connect.facts = Facts::Connect(crate::model::ConnectFacts {
        address: [10, 0, 0, 7].into(),
        port: 22,
    });
    let decided = engine.decide(
        &connect,
        &user(&[]),
        &target("prod"),
        None,
        Timestamp::from_seconds(1),
    );
    assert!(matches!(decided, Decision::Deny(_)), "{decided:?}");
}

#[test]
fn schema_and_model_name_the_same_actions() {
    for action in Action::ALL {
        let engine = Engine::load(
            &source(&format!(
                "@id(\"x\") permit (principal, action == Action::\"{action}\", resource);"
            )),
            &classes(),
        );
        assert!(engine.is_ok(), "{action} is not in the schema: {engine:?}");
        for group in action.groups() {
            assert!(Action::GROUPS.iter().any(|(name, _)| name == group), "{group}");
        }
    }
    for (group, _) in Action::GROUPS {
        assert!(SCHEMA.contains(&format!("action \"{group}\"")), "{group}");
    }
    // A group in a policy reaches every leaf below it.
    for action in Action::ALL {
        for group in action.groups() {
            let text = format!("@id(\"x\") permit (principal, action in Action::\"{group}\", resource);");
            let engine = Engine::load(&source(&text), &classes()).expect("valid");
            assert_eq!(
                answer(&engine, &user(&[]), &[action], "x", None),
                "allow",
                "{action} in {group}"
            );
        }
    }
}

#[test]
fn mistakes_name_file_line_and_fix() {
    let table = [
        ("permit (principal, action, resource);", "@id"),
        (
            "@id(\"a\")\npermit (principal, action == Action::\"sql.selct\", resource);",
            "sql.sel",
        ),
        (
            "@id(\"a\") @approver(\"x\") forbid (principal, action, resource);",
            "@approvers",
        ),
        (
            "@id(\"a\") @approvers(\"x\") forbid (principal, action, resource);",
            "context has approval",
        ),
        (
            "@id(\"a\") @approvers(\"x\") permit (principal, action, resource);",
            "on the forbid",
        ),
        (
            "@id(\"a\") @hold(\"soon\") forbid (principal, action, resource);",
            "@hold(\"30s\")",
        ),
        (
            "@id(\"a\") @max_time(\"soon\") permit (principal, action, resource);",
            "@max_time(\"30s\")",
        ),
        (
            "@id(\"a\") @max_time(\"0s\") permit (principal, action, resource);",
            "of nothing",
        ),
        (
            "@id(\"a\") @max_time(\"30s\") forbid (principal, action, resource);",
            "on the permit",
        ),
        (
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);",
            "second",
        ),
        (
            "@id(\"a\") permit (principal, action, resource) when { resource.nme == \"x\" };",
            "nme",
        ),
        ("@id(\"a\") permit (principal action, resource);", "test.cedar:1"),
        (
            "@id(\"a\") @mask_prompt(\"pii\") permit (principal, action, resource);",
            "llm.prompt",
        ),
        (
            "\n@id(\"a\") @mask_prompt(\"pi\") permit (principal, action == Action::\"llm.prompt\", resource);",
            "test.cedar:2: \"pi\" is no class",
        ),
        (
            "@id(\"a\") @mask_prompt(\" \") permit (principal, action == Action::\"llm.prompt\", resource);",
            "names no class",
        ),
    ];
    for (text, expected) in table {
        let error = Engine::load(&source(text), &classes()).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}\n{error}");
        assert!(error.to_string().starts_with("test.cedar"), "{error}");
    }
}

#[test]
fn a_policy_that_fails_denies() {
    let text = "@id(\"all\") permit (principal, action, resource);\n\
                @id(\"overflow\") forbid (principal, action == Action::\"sql.select\", resource)\n\
                when { context.sql.statements * 9223372036854775807 + 9223372036854775807 > 0 };";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let now = Timestamp::from_seconds(1);
    match engine.decide(
        &operation(&[Action::SqlSelect]),
        &user(&[]),
        &target("x"),
        None,
        now,
    ) {
        Decision::Deny(denial) => {
            assert_eq!(denial.cause, DenialCause::EvaluationError);
            assert!(denial.reason.contains("overflow"), "{}", denial.reason);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_strictest_limit_of_all_permits_counts() {
    let text = "@id(\"a\") @max_time(\"2m\") permit (principal, action in Action::\"sql\", resource);\n\
                @id(\"b\") @max_time(\"30s\") @max_rows(\"9\") permit (principal, action in Action::\"sql.read\", resource);\n\
                @id(\"c\") @max_time(\"1s\") permit (principal, action in Action::\"sql.write\", resource);";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let now = Timestamp::from_seconds(1);
    match engine.decide(
        &operation(&[Action::SqlSelect]),
        &user(&[]),
        &target("x"),
        None,
        now,
    ) {
        Decision::Allow(allowed) => {
            let got = allowed.obligations().limits;
            let half_a_minute = Some(std::time::Duration::from_secs(30));
            assert_eq!((got.max_time, got.max_rows), (half_a_minute, Some(9)));
            let configured = crate::model::Limits {
                max_rows: Some(100),
                max_time: Some(std::time::Duration::from_secs(10)),
            };
            let both = got.and(configured);
            assert_eq!((both.max_time, both.max_rows), (configured.max_time, Some(9)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn seeing_is_an_action_and_families_count() {
    let text = "@id(\"all\") permit (principal, action in Action::\"sql\", resource);\n\
                @id(\"fraud\") permit (principal in Group::\"corp/fraud\", action == Action::\"reveal\", resource in DataClass::\"pci\");";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let revealed = |groups: &[&str]| -> Vec<String> {
        let now = Timestamp::from_seconds(1);
        match engine.decide(
            &operation(&[Action::SqlSelect]),
            &user(groups),
            &target("x"),
            None,
            now,
        ) {
            Decision::Allow(allowed) => allowed
                .obligations()
                .revealed
                .iter()
                .map(ToString::to_string)
                .collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(revealed(&["fraud"]), vec!["pci.card".to_owned()]);
    assert_eq!(revealed(&["sales"]), Vec::<String>::new());
    // Another issuer's group cannot be claimed by writing its name.
    let foreign = Principal {
        issuer: Some(IssuerName::from("partner")),
        ..user(&["corp/fraud"])
    };
    let now = Timestamp::from_seconds(1);
    match engine.decide(
        &operation(&[Action::SqlSelect]),
        &foreign,
        &target("x"),
        None,
        now,
    ) {
        Decision::Allow(allowed) => assert!(allowed.obligations().revealed.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn time_is_read_anew_for_each_decision() {
    let text = "@id(\"day\") permit (principal, action, resource)\n\
                when { context.now < datetime(\"2024-01-01\") };";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let at = |seconds| {
        let now = Timestamp::from_seconds(seconds);
        matches!(
            engine.decide(
                &operation(&[Action::SqlSelect]),
                &user(&[]),
                &target("x"),
                None,
                now
            ),
            Decision::Allow(_)
        )
    };
    assert!(at(1_700_000_000));
    assert!(!at(1_800_000_000));
}

#[test]
fn prompts_are_masked_as_the_strictest_permit_says() {
    let text = "@id(\"a\") @mask_prompt_reversible(\"pii, pci.card\") permit (principal, action == Action::\"llm.prompt\", resource);\n\
                @id(\"b\") @mask_prompt(\"pci\") permit (principal, action in [Action::\"llm.prompt\"], resource)\n\
                when { context.llm.model == \"m\" };";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let asked = |model: &str| Operation {
        facts: Facts::Llm(crate::model::LlmFacts {
            model: model.to_owned(),
            ..crate::model::LlmFacts::default()
        }),
        ..operation(&[Action::LlmPrompt])
    };
    let masked = |model: &str| match engine.decide(
        &asked(model),
        &user(&[]),
        &target("x"),
        None,
        Timestamp::from_seconds(1),
    ) {
        Decision::Allow(allowed) => allowed.obligations().prompt.mask.clone(),
        other => panic!("{other:?}"),
    };
    let (card, email) = (
        "pci.card".parse().expect("class"),
        "pii.email".parse().expect("class"),
    );
    assert_eq!(masked("x").reversible(), [&card, &email].map(Clone::clone).into());
    assert_eq!(masked("m").reversible(), [email].into());
    assert_eq!(masked("m").0.get(&card), Some(&crate::model::Alias::Final));
}

#[test]
fn a_budget_that_is_spent_says_when_it_is_free_again() {
    let text = "@id(\"all\") permit (principal, action, resource);\n\
                @id(\"budget\") @reason(\"1000 tokens an hour.\") forbid (principal, action == Action::\"llm.prompt\", resource)\n\
                unless { context has usage && context.usage.tokens_hour < 1000 };";
    let engine = Engine::load(&source(text), &classes()).expect("valid");
    let spent = |tokens| crate::model::Spent {
        tokens,
        requests: 2,
        ..crate::model::Spent::default()
    };
    let asked = |usage| {
        let facts = crate::model::LlmFacts {
            usage,
            ..crate::model::LlmFacts::default()
        };
        let operation = Operation {
            facts: Facts::Llm(facts),
            ..operation(&[Action::LlmPrompt])
        };
        engine.decide(
            &operation,
            &user(&[]),
            &target("x"),
            None,
            Timestamp::from_seconds(1),
        )
    };
    let usage = |tokens, later: &[(i64, u64)]| {
        let later = later
            .iter()
            .map(|(at, left)| (Timestamp::from_seconds(*at), spent(*left)));
        Some(crate::model::Usage {
            hour: spent(tokens),
            later: later.collect(),
        })
    };
    match asked(usage(999, &[])) {
        Decision::Allow(allowed) => assert!(allowed.obligations().prompt.counted),
        other => panic!("{other:?}"),
    }
    let reason = |decision| match decision {
        Decision::Deny(denial) => denial.reason,
        other => panic!("{other:?}"),
    };
    let said = reason(asked(usage(3000, &[(60, 2000), (120, 500), (180, 0)])));
    assert_eq!(
        said,
        "1000 tokens an hour. The last hour has 3000 tokens in 2 requests; from 1970-01-01T00:02:00Z on so little of \
         it counts that this is allowed."
    );
    assert_eq!(reason(asked(None)), "1000 tokens an hour.");
}
