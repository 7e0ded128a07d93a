//! `interdict mcp`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::deed;
use crate::audit::Event;
use crate::inventory::{FILE, Inventory, InventoryError, Kept};

use super::output::{Style, say, say_json, short, table, time};
use super::{FAILED, Failure, OK, Outcome};

/// Where the agent keeps its state unless configured.
const STATE_DIR: &str = "/var/lib/interdict";

/// MCP servers.
#[derive(Debug, Subcommand)]
pub(super) enum McpCommand {
    /// What servers say of their tools, and what of it was accepted.
    #[command(subcommand)]
    Tools(ToolsCommand),
}

/// Tools of MCP servers.
#[derive(Debug, Subcommand)]
pub(super) enum ToolsCommand {
    /// Every tool that was seen, and how it stands.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// What changed in tools since they were accepted. Exit status 1 where something did.
    Diff {
        /// Only these tools.
        names: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Accept what tools say now; `diff` shows it.
    Accept {
        /// These tools.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        names: Vec<String>,
        /// All that are new or changed.
        #[arg(long)]
        all: bool,
        /// The log's directory, where that is not STATE_DIR/audit: who accepted what is recorded there.
        #[arg(long, value_name = "DIR")]
        audit_dir: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Only tools of this target.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The agent's state directory.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn inventory(&self) -> Result<Inventory, Failure> {
        let file: &Path = &self.state_dir.join(FILE);
        if !file.exists() {
            let message = format!("no tools were seen yet: there is no {}", file.display());
            let hint =
                "Give the agent's state directory with --state-dir; a tool is seen when a client lists it.";
            return Err(Failure::new(message, hint));
        }
        Inventory::open(file).map_err(|error| unusable(&error))
    }

    fn tools(&self, inventory: &Inventory, names: &[String]) -> Result<Vec<Kept>, Failure> {
        let mut tools = inventory.all().map_err(|error| unusable(&error))?;
        tools.retain(|tool| {
            self.target.as_ref().is_none_or(|target| tool.target == *target)
                && (names.is_empty() || names.contains(&tool.name))
        });
        if let Some(missing) = names
            .iter()
            .find(|name| tools.iter().all(|tool| tool.name != **name))
        {
            let hint = "`interdict mcp tools list` shows what was seen.";
            return Err(Failure::new(format!("no tool {missing:?} was seen here"), hint));
        }
        Ok(tools)
    }
}

fn unusable(error: &InventoryError) -> Failure {
    Failure::new(
        error.to_string(),
        "It belongs to the agent's user: run this as root.",
    )
}

pub(super) fn run(command: McpCommand) -> Outcome {
    match command {
        McpCommand::Tools(ToolsCommand::List { common }) => list(&common),
        McpCommand::Tools(ToolsCommand::Diff { names, common }) => diff(&common, &names),
        McpCommand::Tools(ToolsCommand::Accept {
            names,
            all: _,
            audit_dir,
            common,
        }) => accept(&common, &names, audit_dir),
    }
}

/// What was accepted last; a tool with neither is new.
fn known(tool: &Kept) -> Option<&String> {
    tool.accepted.as_ref().or(tool.first.as_ref())
}

fn is_same(tool: &Kept) -> bool {
    [&tool.first, &tool.accepted]
        .into_iter()
        .flatten()
        .any(|text| *text == tool.seen)
}

fn stands(tool: &Kept) -> &'static str {
    match known(tool) {
        None => "new",
        Some(_) if is_same(tool) => "accepted",
        Some(_) => "changed",
    }
}

fn as_json(tool: &Kept) -> serde_json::Value {
    let text = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    serde_json::json!({
        "target": tool.target, "server": tool.server, "tool": tool.name, "state": stands(tool),
        "accepted": known(tool).map(text), "seen": text(&tool.seen), "seen_ns": tool.seen_ns,
        "decided_by": tool.decided.as_ref().map(|(by, _)| by), "decided_ns": tool.decided.as_ref().map(|(_, at)| at),
    })
}

fn list(common: &Common) -> Outcome {
    let tools = common.tools(&common.inventory()?, &[])?;
    if common.json {
        tools.iter().for_each(|tool| say_json(&as_json(tool)));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    let row = |tool: &Kept| {
        let state = match stands(tool) {
            "accepted" => style.good("accepted"),
            other => style.wait(other),
        };
        let by = tool.decided.as_ref().map_or("first seen", |(by, _)| by);
        vec![
            tool.target.clone(),
            tool.server.clone(),
            short(&tool.name, 40),
            state,
            time(tool.seen_ns),
            by.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = tools.iter().map(row).collect();
    say(&table(
        &["TARGET", "SERVER", "TOOL", "STATE", "SINCE", "ACCEPTED BY"],
        &rows,
    ));
    Ok(OK)
}

fn diff(common: &Common, names: &[String]) -> Outcome {
    let mut tools = common.tools(&common.inventory()?, names)?;
    tools.retain(|tool| !is_same(tool));
    for tool in &tools {
        if common.json {
            say_json(&as_json(tool));
        } else {
            show(tool);
        }
    }
    if tools.is_empty() && !common.json {
        say("Every tool is as it was accepted.");
    }
    Ok(if tools.is_empty() { OK } else { FAILED })
}

fn show(tool: &Kept) {
    let style = Style::for_stdout();
    let head = format!("{} {} {}: {}", tool.target, tool.server, tool.name, stands(tool));
    say(&style.bold(&super::output::plain(&head)));
    let pretty = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        serde_json::to_string_pretty(&value).unwrap_or_default()
    };
    let (before, after) = (
        known(tool).map(|text| pretty(text)).unwrap_or_default(),
        pretty(&tool.seen),
    );
    for (sign, line) in lines(&before, &after) {
        let line = super::output::plain(&format!("{sign} {line}"));
        say(&match sign {
            '-' => style.bad(&line),
            '+' => style.good(&line),
            _ => style.dim(&line),
        });
    }
}

/// Lines with what became of them, by their longest common subsequence.
fn lines<'a>(before: &'a str, after: &'a str) -> Vec<(char, &'a str)> {
    /// Beyond it everything is shown as removed and added.
    const MOST: usize = 2000;
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old.len() > MOST || new.len() > MOST {
        let removed = old.into_iter().map(|line| ('-', line));
        return removed.chain(new.into_iter().map(|line| ('+', line))).collect();
    }
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    for (i, one) in old.iter().enumerate().rev() {
        for (j, other) in new.iter().enumerate().rev() {
            longest[i * width + j] = if one == other {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1])
        {
            out.push(('-', old[i]));
            i += 1;
        } else {
            out.push(('+', new[j]));
            j += 1;
        }
    }
    out
}

fn accept(common: &Common, names: &[String], audit_dir: Option<PathBuf>) -> Outcome {
    let inventory = common.inventory()?;
    let mut tools = common.tools(&inventory, names)?;
    tools.retain(|tool| !is_same(tool));
    let actor = deed::actor();
    let log = deed::log_of(&common.state_dir, audit_dir);
    let mut left = 0_u32;
    for tool in &tools {
        let record = |before, after| {
            let accepted = Event::ToolAccepted {
                target: tool.target.clone(),
                server: tool.server.clone(),
                tool: tool.name.clone(),
                before,
                after,
                actor,
            };
            deed::record(&common.state_dir, &log, vec![accepted]).map_err(|error| error.to_string())
        };
        let done = inventory
            .accept(tool, &actor.to_string(), crate::clock::now(), record)
            .map_err(|error| unusable(&error))?;
        left += u32::from(!done);
        if common.json {
            say_json(&serde_json::json!({"target": tool.target, "tool": tool.name, "accepted": done}));
        } else if done {
            say(&format!(
                "Accepted: {} of {} {}",
                tool.name, tool.target, tool.server
            ));
        } else {
            say(&format!(
                "Not accepted: {} has changed in this moment. Look again.",
                tool.name
            ));
        }
    }
    if tools.is_empty() && !common.json {
        say("Nothing to accept: every tool is as it was accepted.");
    }
    Ok(if left == 0 { OK } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_what_changed_and_what_stayed() {
        let shown = |before, after| {
            let all = lines(before, after);
            all.iter()
                .map(|(sign, line)| format!("{sign}{line}"))
                .collect::<Vec<_>>()
                .join("|")
        };
        assert_eq!(shown("a\nb\nc", "a\nx\nc"), " a|-b|+x| c");
        assert_eq!(shown("", "a\nb"), "+a|+b");
        assert_eq!(shown("a\nb", ""), "-a|-b");
        assert_eq!(shown("a\nb\nc\nd", "b\nd\ne"), "-a| b|-c| d|+e");
        assert_eq!(shown("same", "same"), " same");
    }
}
