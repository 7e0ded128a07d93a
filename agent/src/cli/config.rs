//! `interdict config`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::config::{ConfigErrors, Mistake, load, schema, settings};

use super::output::{Style, say, say_bytes, say_json};
use super::{FAILED, Failure, OK, Outcome, WRONG};

const EXAMPLES: &str = "\
Examples:
  interdict config check /etc/interdict/interdict.toml
  interdict config show --config /etc/interdict/interdict.toml --origin
  interdict config schema > interdict.schema.json";

/// The configuration.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum ConfigCommand {
    /// Check a file; every mistake with its line and what to write instead.
    Check {
        #[command(flatten)]
        file: File,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show what holds, defaults included; without a file the defaults alone.
    Show {
        #[command(flatten)]
        file: File,
        /// Say for each value where it comes from: file and line, or default.
        #[arg(long)]
        origin: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

/// A configuration file, named either way.
#[derive(Debug, Args)]
pub(super) struct File {
    /// The file.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    fn named(self) -> Option<PathBuf> {
        let Self { file, config } = self;
        file.or(config)
    }
}

pub(super) fn run(command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check { file, json } => match file.named() {
            Some(file) => check(&file, json),
            None => Err(Failure {
                status: WRONG,
                message: "no file is given".into(),
                hint: "interdict config check /etc/interdict/interdict.toml".into(),
            }),
        },
        ConfigCommand::Show { file, origin, json } => show(file.named().as_deref(), origin, json),
        ConfigCommand::Schema => {
            let text = serde_json::to_string_pretty(&schema());
            let text = text.map_err(|error| Failure::new(error.to_string(), ""))?;
            say_bytes(text.as_bytes());
            say("");
            Ok(OK)
        }
    }
}

fn check(file: &Path, json: bool) -> Outcome {
    match load(file) {
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
            let one = |m: &Mistake| serde_json::json!({"line": m.line, "what": m.what});
            say_json(
                &serde_json::json!({"valid": false, "mistakes": errors.mistakes.iter().map(one).collect::<Vec<_>>()}),
            );
            Ok(FAILED)
        }
        Err(errors) => Err(Failure::new(errors.to_string(), "")),
    }
}

fn show(file: Option<&Path>, origin: bool, json: bool) -> Outcome {
    let wrong = |errors: ConfigErrors| Failure::new(errors.to_string(), "");
    let text = match file {
        Some(file) => {
            load(file).map_err(wrong)?;
            std::fs::read_to_string(file)
                .map_err(|error| Failure::new(format!("{} cannot be read: {error}", file.display()), ""))?
        }
        None => String::new(),
    };
    let file = file.unwrap_or(Path::new(""));
    let shown = settings(&text, file);
    let origin_of = |line: Option<usize>| match line {
        Some(line) => format!("{}:{line}", file.display()),
        None => "default".to_owned(),
    };
    if json {
        let one = |s: &crate::config::Setting| {
            let value = toml::from_str::<toml::Table>(&format!("v = {}", s.value)).ok();
            let value = value.and_then(|t| serde_json::to_value(t.get("v")?).ok());
            serde_json::json!({"key": s.key, "value": value, "origin": origin_of(s.line)})
        };
        say_json(&serde_json::json!({"settings": shown.iter().map(one).collect::<Vec<_>>()}));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    let lines = shown.iter().map(|s| format!("{} = {}", s.key, s.value));
    let width = shown
        .iter()
        .map(|s| s.key.chars().count() + s.value.chars().count() + 3);
    let width = width.filter(|w| *w <= 60).max().unwrap_or(0);
    for (line, setting) in lines.zip(&shown) {
        if origin {
            let note = style.dim(&format!("# {}", origin_of(setting.line)));
            say(&format!("{line:width$}  {note}"));
        } else {
            say(&line);
        }
    }
    Ok(OK)
}
