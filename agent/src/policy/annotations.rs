//! What annotations of a policy say beyond Cedar.

use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{Effect, Policy};

use crate::model::{Group, RecordingLevel};

/// What a policy's annotations say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) reason: String,
    pub(super) approvers: BTreeSet<Group>,
    pub(super) hold: Option<Duration>,
    pub(super) min_approvals: Option<u32>,
    pub(super) recording: Option<RecordingLevel>,
    pub(super) max_rows: Option<u64>,
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
            found.hold =
                Some(duration(value).ok_or("@hold is no duration: write @hold(\"30s\") or @hold(\"2m\")")?);
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
        other => {
            return Err(format!(
                "@{other} is not understood: known are @id, @reason, @approvers, @hold, @min_approvals, @recording and @max_rows"
            ));
        }
    }
    Ok(())
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

/// `90s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(seconds)
        .map(Duration::from_secs)
}
