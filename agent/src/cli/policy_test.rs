//! `interdict policy test`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::policy::{
    Case, CaseMistake, Engine, PolicySource, Trial, from_directory, parse_cases, shipped, shipped_cases,
    untested,
};

use super::output::{Style, say, say_json};
use super::policy::class_names;
use super::{FAILED, Failure, OK, Outcome, WRONG};

const EXAMPLES: &str = "\
Examples:
  interdict policy test                                       what ships, with the cases that ship
  interdict policy test --policies /etc/interdict/policies    with the cases in its directory tests/
  interdict policy test --policies policies cases.toml more/  with these files, and every *.toml of a directory

A case:
  [[case]]
  name = \"every row at once waits for a DBA\"
  principal = { user = \"corp/alice\", groups = [\"analyst\"] }      # or { workload = \"etl\" }
  action = \"sql.update_all\"                                      # or a list of actions
  resource = { target = \"shop\", environment = \"prod\" }
  context = { tables = [\"orders\"] }            # approval = { groups = [\"dba\"] }: with that consent
  expect = { outcome = \"hold\", approvers = [\"dba\"], policies = [\"prod-unbounded-write-needs-dba\"] }

outcome is allow, deny or hold. Compared only where written: policies, reasons (parts of the text), of a hold approvers,
min_approvals, hold, of an allow reveals, max_rows, max_time, masks, restores.

Exit status: 0 all as expected, 1 a case is not, 2 policies or cases cannot be used.";

/// Ask the policies about cases kept beside them, and compare.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TestArgs {
    /// Files of cases, or directories of *.toml files; default: the directory tests beside the policies.
    #[arg(value_name = "CASES")]
    cases: Vec<PathBuf>,
    /// A directory of *.cedar files; default: the policies that ship.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Data classes in place of those that ship (a classes.toml).
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: TestArgs) -> Outcome {
    let TestArgs {
        cases: files,
        policies,
        classes,
        json,
    } = args;
    let unusable = |message: String| Failure {
        status: WRONG,
        ..Failure::new(
            message,
            "See `interdict policy test --help` for how a case looks.",
        )
    };
    let sources = match &policies {
        Some(dir) => from_directory(dir),
        None => Ok(shipped()),
    };
    let names = class_names(classes).map_err(|failure| unusable(failure.message))?;
    let engine = sources
        .and_then(|sources| Engine::load(&sources, &names))
        .map_err(|errors| unusable(format!("the policies are wrong:\n{errors}")))?;
    let sources = if !files.is_empty() {
        read(&files)
    } else if let Some(dir) = &policies {
        read(&[dir.join("tests")])
    } else {
        Ok(shipped_cases())
    };
    let cases = sources
        .and_then(|sources| cases_of(&sources))
        .map_err(|mistakes| unusable(format!("the cases are wrong:\n{mistakes}")))?;
    let trials: Vec<Trial> = cases.iter().map(|case| case.attempt(&engine)).collect();
    if json {
        print_json(&engine, &cases, &trials);
    } else {
        print(&engine, &cases, &trials);
    }
    let passed = trials.iter().all(|trial| trial.differences.is_empty());
    Ok(if passed { OK } else { FAILED })
}

/// Files, and every `*.toml` of directories.
fn read(paths: &[PathBuf]) -> Result<Vec<PolicySource>, String> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|error| cannot(path, &error))?;
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        if found.is_empty() {
            return Err(format!("{}: holds no *.toml file", path.display()));
        }
        found.sort();
        files.extend(found);
    }
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|error| cannot(&path, &error))?;
        Ok(PolicySource {
            file: path.display().to_string(),
            text,
        })
    };
    files.into_iter().map(source).collect()
}

fn cannot(path: &Path, error: &std::io::Error) -> String {
    format!("{}: cannot be read: {error}", path.display())
}

fn cases_of(sources: &[PolicySource]) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut mistakes: Vec<CaseMistake> = Vec::new();
    for source in sources {
        match parse_cases(source) {
            Ok(more) => cases.extend(more),
            Err(more) => mistakes.extend(more),
        }
    }
    if mistakes.is_empty() {
        return Ok(cases);
    }
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
}

fn print(engine: &Engine, cases: &[Case], trials: &[Trial]) {
    let style = Style::for_stdout();
    let mut failed = 0;
    for (case, trial) in cases.iter().zip(trials) {
        if trial.differences.is_empty() {
            continue;
        }
        failed += 1;
        say(&format!(
            "{} {}:{} {}",
            style.bad("FAIL"),
            case.file,
            case.line,
            case.name
        ));
        for difference in &trial.differences {
            say(&format!("     {}", difference.what));
            say(&format!("       expected  {}", difference.expected));
            say(&format!("       got       {}", difference.got));
        }
        match trial.decided_by.as_slice() {
            [] => say("     determined by no policy: none permits it"),
            policies => {
                for (id, place) in policies {
                    say(&format!("     determined by {id} ({place})"));
                }
            }
        }
        if !trial.reason.is_empty() {
            say(&format!("     reason: {}", trial.reason));
        }
    }
    for (id, place) in untested(engine, trials) {
        say(&format!("{} {place} no case reaches {id}", style.wait("NOTE")));
    }
    let word = if failed == 0 {
        style.good("PASSED")
    } else {
        style.bad("FAILED")
    };
    say(&format!(
        "{word} {} of {} cases as expected, bundle {}",
        cases.len() - failed,
        cases.len(),
        engine.bundle()
    ));
}

fn print_json(engine: &Engine, cases: &[Case], trials: &[Trial]) {
    let policy = |(id, place): &(crate::model::PolicyId, String)| serde_json::json!({"id": id.as_str(), "place": place});
    let one = |(case, trial): (&Case, &Trial)| {
        let differences: Vec<_> = trial
            .differences
            .iter()
            .map(|d| serde_json::json!({"what": d.what, "expected": d.expected, "got": d.got}))
            .collect();
        serde_json::json!({
            "file": case.file, "line": case.line, "name": case.name, "passed": differences.is_empty(),
            "outcome": trial.answer.name(), "reason": trial.reason, "differences": differences,
            "determined_by": trial.decided_by.iter().map(policy).collect::<Vec<_>>(),
        })
    };
    let passed = trials.iter().filter(|t| t.differences.is_empty()).count();
    say_json(&serde_json::json!({
        "passed": passed, "failed": trials.len() - passed, "bundle": engine.bundle().to_string(),
        "untested": untested(engine, trials).iter().map(policy).collect::<Vec<_>>(),
        "cases": cases.iter().zip(trials).map(one).collect::<Vec<_>>(),
    }));
}
