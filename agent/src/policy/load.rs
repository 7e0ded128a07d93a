//! Loading policies: parsed, named, validated against the schema, annotations understood; all mistakes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use crate::model::Digest;

use super::annotations::{self, Annotations};
use super::typed::{self, ToolTypes};

/// The schema.
pub(super) const SCHEMA: &str = include_str!("../../../policies/interdict.cedarschema");

/// One file of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// Its name, for errors.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyMistake {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub what: String,
}

/// Every mistake in a set of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyErrors(pub Vec<PolicyMistake>);

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, PolicyMistake { file, line, what }) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            match line {
                Some(line) => write!(f, "{end}{file}:{line}: {what}")?,
                None => write!(f, "{end}{file}: {what}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// The policies that ship with the agent.
#[must_use]
pub fn shipped() -> Vec<PolicySource> {
    let one = |file: &str, text: &str| PolicySource {
        file: file.to_owned(),
        text: text.to_owned(),
    };
    vec![
        one(
            "policies/10-read.cedar",
            include_str!("../../../policies/10-read.cedar"),
        ),
        one(
            "policies/20-write.cedar",
            include_str!("../../../policies/20-write.cedar"),
        ),
        one(
            "policies/30-destructive.cedar",
            include_str!("../../../policies/30-destructive.cedar"),
        ),
        one(
            "policies/40-code.cedar",
            include_str!("../../../policies/40-code.cedar"),
        ),
        one(
            "policies/50-agents.cedar",
            include_str!("../../../policies/50-agents.cedar"),
        ),
        one(
            "policies/50-http.cedar",
            include_str!("../../../policies/50-http.cedar"),
        ),
        one(
            "policies/60-dns.cedar",
            include_str!("../../../policies/60-dns.cedar"),
        ),
    ]
}

/// Every `*.cedar` file of a directory, and what declares the arguments of tools (`*.cedarschema`), by name.
///
/// # Errors
/// Where it cannot be read or holds none.
pub fn from_directory(dir: &Path) -> Result<Vec<PolicySource>, PolicyErrors> {
    let wrong = |file: &Path, what: String| {
        PolicyErrors(vec![PolicyMistake {
            file: file.display().to_string(),
            line: None,
            what,
        }])
    };
    let mut files =
        crate::files::list(dir).map_err(|error| wrong(dir, format!("cannot be read: {error}")))?;
    files.retain(|p| p.extension().is_some_and(|e| e == "cedar" || e == "cedarschema"));
    files.sort();
    if !files.iter().any(|p| p.extension().is_some_and(|e| e == "cedar")) {
        return Err(wrong(
            dir,
            "holds no *.cedar file: without policies everything is denied".into(),
        ));
    }
    let read = |file: PathBuf| match crate::files::read_to_string(&file) {
        Ok(text) => Ok(PolicySource {
            file: file.display().to_string(),
            text,
        }),
        Err(error) => Err(wrong(&file, format!("cannot be read: {error}"))),
    };
    files.into_iter().map(read).collect()
}

/// A loaded set.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) policies: PolicySet,
    pub(super) schema: Schema,
    pub(super) annotations: BTreeMap<PolicyId, Annotations>,
    /// Of the schema and every file, in the order of their names.
    pub(super) bundle: Digest,
    /// Arguments of tools that have types.
    pub(super) tools: ToolTypes,
    /// Whether some policy reads the time: then verdicts cannot be kept.
    pub(super) reads_time: bool,
    /// Whether some policy reads what prompts take.
    pub(super) reads_usage: bool,
    /// Where each policy stands: file and line.
    pub(super) places: BTreeMap<PolicyId, (String, usize)>,
}

/// Loads a set.
pub(super) fn load(sources: &[PolicySource]) -> Result<Loaded, PolicyErrors> {
    let mut mistakes = Vec::new();
    let mut policies = PolicySet::new();
    let mut annotations = BTreeMap::new();
    let mut homes: BTreeMap<PolicyId, (&PolicySource, usize)> = BTreeMap::new();
    let (text, tools) = schema_with(sources, &mut mistakes);
    for source in sources.iter().filter(|source| !declares_tools(source)) {
        let parsed: PolicySet = match source.text.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                mistakes.push(mistake(source, line(&error, &source.text), error.to_string()));
                continue;
            }
        };
        for template in parsed.templates() {
            let what = format!(
                "{} is a template: templates are not used, write the policy out",
                template.id()
            );
            mistakes.push(mistake(source, None, what));
        }
        for policy in parsed.policies() {
            let at = line_of(policy, &source.text);
            match named(policy) {
                Err(what) => mistakes.push(mistake(source, at, what)),
                Ok(policy) => {
                    let id = policy.id().clone();
                    if policies.add(policy.clone()).is_err() {
                        mistakes.push(mistake(
                            source,
                            at,
                            format!("a second policy has @id(\"{id}\"): give it another"),
                        ));
                    }
                    match annotations::read(&policy) {
                        Ok(read) => drop(annotations.insert(id.clone(), read)),
                        Err(wrong) => {
                            mistakes.extend(wrong.into_iter().map(|what| mistake(source, at, what)))
                        }
                    }
                    homes.insert(id, (source, at.unwrap_or(1)));
                }
            }
        }
    }
    let schema = validate(&text, &policies, &homes, &mut mistakes);
    let Some(schema) = schema.filter(|_| mistakes.is_empty()) else {
        return Err(PolicyErrors(mistakes));
    };
    let mut parts: Vec<&[u8]> = vec![SCHEMA.as_bytes()];
    let mut sorted: Vec<&PolicySource> = sources.iter().collect();
    sorted.sort_by(|a, b| a.file.cmp(&b.file));
    parts.extend(sorted.iter().map(|s| s.text.as_bytes()));
    let reads_time = policies.policies().any(|p| p.to_string().contains("now"));
    let reads_usage = policies.policies().any(|p| p.to_string().contains("usage"));
    let place = |(id, (source, line)): (PolicyId, (&PolicySource, usize))| (id, (source.file.clone(), line));
    Ok(Loaded {
        places: homes.into_iter().map(place).collect(),
        schema,
        bundle: Digest::of_fields(&parts),
        policies,
        annotations,
        tools,
        reads_time,
        reads_usage,
    })
}

/// The policy under its own `@id`.
fn named(policy: &Policy) -> Result<Policy, String> {
    match policy.annotation("id") {
        Some(id) if !id.is_empty() => Ok(policy.new_id(PolicyId::new(id))),
        _ => Err("the policy has no @id: write @id(\"a-short-name\") before it, refusals name it".into()),
    }
}

fn declares_tools(source: &PolicySource) -> bool {
    source.file.ends_with(".cedarschema")
}

/// The schema with the types of the file that declares arguments of tools.
fn schema_with(sources: &[PolicySource], mistakes: &mut Vec<PolicyMistake>) -> (String, ToolTypes) {
    let mut files = sources.iter().filter(|source| declares_tools(source));
    let (first, second) = (files.next(), files.next());
    if let Some(second) = second {
        let what = "a second file declares arguments of tools: write them into one";
        mistakes.push(mistake(second, None, what.into()));
    }
    let Some(first) = first else {
        return (SCHEMA.to_owned(), ToolTypes::default());
    };
    match ToolTypes::read(&first.text) {
        Ok(tools) => (SCHEMA.replace(typed::PLACE, &first.text), tools),
        Err(what) => {
            mistakes.push(mistake(
                first,
                None,
                format!("it does not declare arguments of tools: {what}"),
            ));
            (SCHEMA.to_owned(), ToolTypes::default())
        }
    }
}

fn validate(
    text: &str,
    policies: &PolicySet,
    homes: &BTreeMap<PolicyId, (&PolicySource, usize)>,
    mistakes: &mut Vec<PolicyMistake>,
) -> Option<Schema> {
    let schema = match Schema::from_cedarschema_str(text) {
        Ok((schema, _warnings)) => schema,
        Err(error) => {
            mistakes.push(PolicyMistake {
                file: "the schema".into(),
                line: None,
                what: error.to_string(),
            });
            return None;
        }
    };
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    for error in result.validation_errors() {
        let home = homes.get(error.policy_id());
        let what = match error.help() {
            Some(help) => format!("{error}: {help}"),
            None => error.to_string(),
        };
        match home {
            Some((source, at)) => {
                mistakes.push(mistake(source, line(error, &source.text).or(Some(*at)), what))
            }
            None => mistakes.push(PolicyMistake {
                file: "policies".into(),
                line: None,
                what,
            }),
        }
    }
    Some(schema)
}

fn mistake(source: &PolicySource, line: Option<usize>, what: String) -> PolicyMistake {
    PolicyMistake {
        file: source.file.clone(),
        line,
        what,
    }
}

/// The line that a diagnostic points to.
fn line(error: &dyn Diagnostic, text: &str) -> Option<usize> {
    let offset = error.labels()?.next()?.offset();
    Some(count_lines(text, offset))
}

/// Where a policy's `@id` stands; a policy without one has no better place than its file.
fn line_of(policy: &Policy, text: &str) -> Option<usize> {
    let id = policy.annotation("id")?;
    let offset = text.find(&format!("@id(\"{id}\")"))?;
    Some(count_lines(text, offset))
}

fn count_lines(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Names that appear twice do not appear twice in a message.
#[must_use]
pub(super) fn joined(reasons: impl IntoIterator<Item = String>) -> String {
    let distinct: BTreeSet<String> = reasons.into_iter().filter(|r| !r.is_empty()).collect();
    distinct.into_iter().collect::<Vec<_>>().join(" ")
}
