//! `interdict config`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::load;

use super::output::{Style, say, say_json};
use super::{FAILED, Failure, OK, Outcome};

/// The configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file; every mistake with its line and what to write instead.
    Check {
        /// The file.
        file: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: ConfigCommand) -> Outcome {
    let ConfigCommand::Check { file, json } = command;
    match load(&file) {
        Ok(config) if json => {
            say_json(&serde_json::json!({
                "valid": true, "issuers": config.issuers.len(), "targets": config.targets.len(),
            }));
            Ok(OK)
        }
        Ok(config) => {
            let good = Style::for_stdout().good("VALID");
            say(&format!(
                "{good} {} issuers, {} targets",
                config.issuers.len(),
                config.targets.len()
            ));
            Ok(OK)
        }
        Err(errors) if json => {
            let one = |m: &crate::config::Mistake| serde_json::json!({"line": m.line, "what": m.what});
            say_json(
                &serde_json::json!({"valid": false, "mistakes": errors.mistakes.iter().map(one).collect::<Vec<_>>()}),
            );
            Ok(FAILED)
        }
        Err(errors) => Err(Failure::new(errors.to_string(), "")),
    }
}
