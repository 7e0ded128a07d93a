//! What annotations of a policy say beyond Cedar.

use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{ActionConstraint, Effect, Policy};

use crate::model::{Action, Alias, DataClass, Group, PromptMask, RecordingLevel, duration};

/// What a policy's annotations say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) reason: String,
    pub(super) approvers: BTreeSet<Group>,
    pub(super) hold: Option<Duration>,
    pub(super) min_approvals: Option<u32>,
    pub(super) recording: Option<RecordingLevel>,
    pub(super) max_rows: Option<u64>,
    pub(super) max_time: Option<Duration>,
    /// Classes and families, or `*`, and what becomes of their aliases.
    pub(super) prompt: Vec<(String, Alias)>,
}

impl Annotations {
    /// Of `classes`, those that are masked in prompts. The stricter counts where both are written.
    pub(super) fn prompt_mask(&self, classes: &BTreeSet<DataClass>) -> PromptMask {
        let mut mask = PromptMask::default();
        for class in classes {
            let named = self.prompt.iter().filter(|(name, _)| names(name, class));
            if let Some(alias) = named.map(|(_, alias)| *alias).max() {
                mask.0.insert(class.clone(), alias);
            }
        }
        mask
    }

    /// The first name that means none of `classes`.
    pub(super) fn names_nothing(&self, classes: &BTreeSet<DataClass>) -> Option<&str> {
        let nothing = |name: &str| !classes.iter().any(|class| names(name, class));
        self.prompt
            .iter()
            .map(|(name, _)| name.as_str())
            .find(|name| nothing(name))
    }
}

/// Whether a class is called so, or lies in a family that is.
fn names(name: &str, class: &DataClass) -> bool {
    let rest = class.as_str().strip_prefix(name);
    name == "*" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Reads the annotations of `policy`; every mistake with what to write instead.
pub(super) fn read(policy: &Policy) -> Result<Annotations, Vec<String>> {
    let mut found = Annotations::default();
    let mut mistakes = Vec::new();
    for (name, value) in policy.annotations() {
        if let Err(mistake) = one(&mut found, name, value) {
            mistakes.push(mistake);
        }
    }
    check_approval(policy, &found, &mut mistakes);
    if policy.effect() == Effect::Forbid && (found.max_rows.is_some() || found.max_time.is_some()) {
        mistakes.push(
            "@max_rows and @max_time stand on a forbid: write them on the permit that they bound".into(),
        );
    }
    if !found.prompt.is_empty() && (policy.effect() == Effect::Forbid || !only_prompts(policy)) {
        mistakes.push(
            "@mask_prompt and @mask_prompt_reversible stand on permits for models only: write \
             `permit (…, action == Action::\"llm.prompt\", …)`"
                .into(),
        );
    }
    if mistakes.is_empty() {
        Ok(found)
    } else {
        Err(mistakes)
    }
}

fn one(found: &mut Annotations, name: &str, value: &str) -> Result<(), String> {
    match name {
        "id" => {}
        "reason" => value.clone_into(&mut found.reason),
        "approvers" => {
            found.approvers = value
                .split(',')
                .map(str::trim)
                .filter(|g| !g.is_empty())
                .map(Group::from)
                .collect();
            if found.approvers.is_empty() {
                return Err("@approvers names no group: write @approvers(\"dba\")".into());
            }
        }
        "hold" => {
            found.hold = Some(duration(value).map_err(|wrong| format!("@hold(\"30s\") is meant: {wrong}"))?);
        }
        "min_approvals" => {
            let count = value.parse().ok().filter(|n| (1..=10).contains(n));
            found.min_approvals =
                Some(count.ok_or("@min_approvals is no number from 1 to 10: write @min_approvals(\"2\")")?);
        }
        "recording" => {
            found.recording = Some(match value {
                "metadata" => RecordingLevel::Metadata,
                "operations" => RecordingLevel::Operations,
                "full" => RecordingLevel::Full,
                _ => {
                    return Err(
                        "@recording is unknown: write \"metadata\", \"operations\" or \"full\"".into(),
                    );
                }
            });
        }
        "max_rows" => {
            found.max_rows = Some(
                value
                    .parse()
                    .map_err(|_number| "@max_rows is no number: write @max_rows(\"1000\")")?,
            );
        }
        "max_time" => {
            let time = duration(value).map_err(|wrong| format!("@max_time(\"30s\") is meant: {wrong}"))?;
            if time.is_zero() {
                return Err(
                    "@max_time of nothing would stop everything: write @max_time(\"30s\"), or a forbid"
                        .into(),
                );
            }
            found.max_time = Some(time);
        }
        "mask_prompt" => classes(found, name, value, Alias::Final)?,
        "mask_prompt_reversible" => classes(found, name, value, Alias::Reversible)?,
        other => {
            return Err(format!(
                "@{other} is not understood: known are @id, @reason, @approvers, @hold, @min_approvals, @recording, \
                 @max_rows, @max_time, @mask_prompt and @mask_prompt_reversible"
            ));
        }
    }
    Ok(())
}

/// `secret, pii.email` or `*`.
fn classes(found: &mut Annotations, name: &str, value: &str, alias: Alias) -> Result<(), String> {
    let before = found.prompt.len();
    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
    found.prompt.extend(words.map(|word| (word.to_owned(), alias)));
    if found.prompt.len() == before {
        return Err(format!(
            "@{name} names no class: write @{name}(\"secret, pii.email\"), or \"*\" for all"
        ));
    }
    Ok(())
}

/// Whether a policy is about what goes to models and nothing else.
fn only_prompts(policy: &Policy) -> bool {
    let prompt = |action: &cedar_policy::EntityUid| {
        let known = [Action::LlmPrompt, Action::LlmEmbed];
        known.iter().any(|known| action.id().unescaped() == known.name())
    };
    match policy.action_constraint() {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(action) => prompt(&action),
        ActionConstraint::In(actions) => actions.iter().all(prompt),
    }
}

/// Approval must be able to lift what asks for it.
fn check_approval(policy: &Policy, found: &Annotations, mistakes: &mut Vec<String>) {
    let asks = !found.approvers.is_empty();
    if asks && policy.effect() == Effect::Permit {
        mistakes.push("@approvers stands on a permit: write it on the forbid that an approval lifts".into());
    }
    if asks && !policy.to_string().contains("approval") {
        mistakes.push(
            "@approvers stands on a forbid that no approval lifts: add \
             `unless { context has approval && context.approval.groups.contains(\"GROUP\") }`"
                .into(),
        );
    }
    if !asks && (found.hold.is_some() || found.min_approvals.is_some()) {
        mistakes.push("@hold and @min_approvals mean nothing without @approvers".into());
    }
}
