//! `interdict policy`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Subcommand;

use crate::mask::{Classes, MaskEngine, MaskKey};
use crate::model::DataClass;
use crate::policy::{Engine, from_directory, shipped};

use super::output::{Style, say, say_json};
use super::policy_schema::{self, SchemaArgs};
use super::policy_test::{self, TestArgs};
use super::{FAILED, Failure, OK, Outcome};

/// Policies.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Validate policies against the schema; every mistake with its file and line.
    Check {
        /// A directory of *.cedar files; default: the policies that ship.
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// Data classes in place of those that ship (a classes.toml).
        #[arg(long, value_name = "FILE")]
        classes: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Ask the policies about cases kept beside them, and compare.
    Test(TestArgs),
    /// Declare the arguments of MCP tools with their types, for policies over `context.tools`.
    Schema(SchemaArgs),
}

pub(super) fn run(command: PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Check {
            policies,
            classes,
            json,
        } => check(policies, classes, json),
        PolicyCommand::Test(args) => policy_test::run(args),
        PolicyCommand::Schema(args) => policy_schema::run(args),
    }
}

/// The data classes of a file, or those that ship.
pub(super) fn class_names(file: Option<PathBuf>) -> Result<BTreeSet<DataClass>, Failure> {
    let config = crate::config::MaskingConfig {
        classes: file,
        ..crate::config::MaskingConfig::default()
    };
    let classes = Classes::load(&config, []).map_err(|error| Failure::new(error.to_string(), ""))?;
    // Names need no key.
    Ok(MaskEngine::new(classes, MaskKey::from_bytes(&[0; 32]))
        .classes()
        .clone())
}

fn check(policies: Option<PathBuf>, classes: Option<PathBuf>, json: bool) -> Outcome {
    let names = class_names(classes)?;
    let loaded = match &policies {
        Some(dir) => from_directory(dir),
        None => Ok(shipped()),
    };
    let style = Style::for_stdout();
    match loaded.and_then(|sources| Engine::load(&sources, &names)) {
        Ok(engine) if json => {
            say_json(
                &serde_json::json!({"valid": true, "policies": engine.len(), "bundle": engine.bundle().to_string()}),
            );
            Ok(OK)
        }
        Ok(engine) => {
            say(&format!(
                "{} {} policies, bundle {}",
                style.good("VALID"),
                engine.len(),
                engine.bundle()
            ));
            Ok(OK)
        }
        Err(errors) if json => {
            let one = |m: &crate::policy::PolicyMistake| serde_json::json!({"file": m.file, "line": m.line, "what": m.what});
            say_json(
                &serde_json::json!({"valid": false, "mistakes": errors.0.iter().map(one).collect::<Vec<_>>()}),
            );
            Ok(FAILED)
        }
        Err(errors) => Err(Failure::new(format!("the policies are wrong:\n{errors}"), "")),
    }
}
