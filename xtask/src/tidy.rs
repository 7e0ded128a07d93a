//! House rules that no compiler knows.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell::{complain, repository, say};

/// Longest file, tests included.
const MAX_LINES: usize = 700;

/// Which rooms of the agent a room may import. Those of `OPEN` are open to all.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("json", &["model"]),
    ("config", &["model"]),
    ("guard", &["model", "config"]),
    ("identity", &["model", "config"]),
    ("mask", &["model", "config"]),
    ("credential", &["model", "config"]),
    ("audit", &["model", "config"]),
    ("connection", &["model", "config", "guard"]),
    ("inventory", &["model", "config"]),
    ("approval", &["model", "config", "audit"]),
    ("policy", &["json", "model", "config", "approval"]),
    (
        "session",
        &[
            "model",
            "config",
            "connection",
            "identity",
            "policy",
            "approval",
            "mask",
            "credential",
            "audit",
        ],
    ),
    (
        "protocol",
        &[
            "json",
            "model",
            "config",
            "session",
            "connection",
            "mask",
            "credential",
            "inventory",
        ],
    ),
    (
        "control",
        &[
            "model", "config", "session", "identity", "policy", "approval", "audit",
        ],
    ),
    (
        "app",
        &[
            "model",
            "config",
            "guard",
            "connection",
            "identity",
            "policy",
            "approval",
            "credential",
            "mask",
            "audit",
            "session",
            "protocol",
            "control",
            "inventory",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "config",
            "control",
            "app",
            "policy",
            "audit",
            "mask",
            "identity",
            "guard",
            "inventory",
        ],
    ),
];
/// Open to every room (but `model` and `policy` use the clock as an argument only).
const OPEN: &[&str] = &["clock", "files", "task", "telemetry"];

/// Checks every rule.
pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    let root = repository();
    for file in sources(&root) {
        let text = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        wrong.extend(check(&name, &text));
    }
    for line in &wrong {
        complain(line);
    }
    if wrong.is_empty() {
        say("    the house rules hold");
        return Ok(());
    }
    bail!("{} house rules are broken", wrong.len())
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = ["agent", "agent-ebpf", "xtask", "tests"]
        .iter()
        .map(|d| root.join(d))
        .collect();
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The rules that one file breaks.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!(
            "{name}:1: the first line must be `//!` and say what the file is for"
        ));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!(
            "{name}: {lines} lines: a file over {MAX_LINES} has two purposes"
        ));
    }
    let Some(room) = room(name) else { return wrong };
    let allowed = EDGES
        .iter()
        .find(|(known, _)| *known == room)
        .map(|(_, allowed)| *allowed);
    for (at, line) in text.lines().enumerate() {
        if room == "model" && (line.contains("serde") && !line.trim_start().starts_with("//")) {
            wrong.push(format!(
                "{name}:{}: the model has no serde: each room has wire types of its own",
                at + 1
            ));
        }
        for used in imports(line) {
            let fine = used == room || OPEN.contains(&used) || allowed.is_some_and(|a| a.contains(&used));
            let is_room = EDGES.iter().any(|(known, _)| *known == used);
            if is_room && !fine {
                wrong.push(format!("{name}:{}: `{room}` may not import `{used}`", at + 1));
            }
        }
    }
    wrong
}

/// The room that a file of the agent belongs to; tests see everything.
fn room(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("agent/src/")?;
    if rest.ends_with("tests.rs") {
        return None;
    }
    let first = rest.split('/').next()?;
    first
        .strip_suffix(".rs")
        .or(Some(first))
        .filter(|room| EDGES.iter().any(|(known, _)| known == room))
}

/// Rooms that a line names after `crate::`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        rest.split_at(end).0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_seen() {
        let table = [
            ("agent/src/model/x.rs", "//! x\nuse serde::Serialize;\n", "serde"),
            (
                "agent/src/model/x.rs",
                "//! x\nuse crate::audit::Event;\n",
                "may not import `audit`",
            ),
            (
                "agent/src/protocol/postgres/x.rs",
                "//! x\nlet a = crate::policy::Engine::empty();\n",
                "`policy`",
            ),
            ("agent/src/mask/x.rs", "use std::fmt;\n", "//!"),
        ];
        for (name, text, expected) in table {
            let wrong = check(name, text);
            assert!(wrong.iter().any(|w| w.contains(expected)), "{name}: {wrong:?}");
        }
        assert!(check("xtask/src/x.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES))).len() == 1);
        assert!(
            check(
                "agent/src/session/x.rs",
                "//! x\nuse crate::audit::Event;\nuse crate::clock;\n"
            )
            .is_empty()
        );
    }
}
