//! `interdict audit`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use crate::audit::{Auditor, Index, Verification, clickhouse_tables, verify};

use crate::config::SecretSourceConfig;

use super::audit_sink as sink;
use super::output::{Style, say, say_json};
use super::{FAILED, Failure, OK, Outcome};

/// Where records live unless configured.
pub(super) const DEFAULT_DIR: &str = "/var/lib/interdict/audit";

/// The audit log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Find what was removed, added, reordered or altered.
    Verify {
        /// The directory of the log.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
        /// The public key (hexadecimal) that seals must be of, kept elsewhere; default: the one beside the log.
        #[arg(long, value_name = "HEX")]
        key: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Compare ClickHouse with the log: every record that was sent is there once and unaltered, and the agent's user can only insert.
    VerifySink {
        /// The configuration, for [audit.clickhouse] and the directory of the log.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Who reads there: an auditor (the agent's own user cannot).
        #[arg(long, value_name = "NAME")]
        user: String,
        /// The auditor's password: the first line of a file.
        #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
        password_file: Option<PathBuf>,
        /// The auditor's password: an environment variable.
        #[arg(long, value_name = "NAME")]
        password_env: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make the index of the log anew (it is made by itself where it is missing; what is shown comes from the log).
    Reindex {
        /// The directory of the log.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
    },
    /// Print the tables that ClickHouse needs.
    Schema {
        /// For a server before 20.
        #[arg(long)]
        legacy: bool,
    },
}

#[derive(Serialize)]
struct Shown<'a> {
    verified: bool,
    boots: u64,
    sealed_segments: u64,
    records: u64,
    unsealed_records: u64,
    findings: Vec<ShownFinding<'a>>,
}

#[derive(Serialize)]
struct ShownFinding<'a> {
    file: &'a str,
    what: &'a str,
}

pub(super) fn run(command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify { dir, key, json } => verified(&dir, key.as_deref(), json),
        AuditCommand::VerifySink {
            config,
            user,
            password_file,
            password_env,
            json,
        } => {
            let password = password_file
                .map(SecretSourceConfig::File)
                .or(password_env.map(SecretSourceConfig::Env));
            sink::verified(&config, &Auditor { user, password }, json)
        }
        AuditCommand::Reindex { dir } => {
            let count = Index::rebuild(&dir).map_err(|error| {
                Failure::new(
                    error.to_string(),
                    "Give the log's directory with --dir; writing there needs the agent's user or root.",
                )
            })?;
            say(&format!("{count} records are in the index."));
            Ok(OK)
        }
        AuditCommand::Schema { legacy } => {
            say(clickhouse_tables(legacy).trim_end());
            Ok(OK)
        }
    }
}

fn verified(dir: &Path, key: Option<&str>, json: bool) -> Outcome {
    let seen = verify(dir, key).map_err(|error| {
        Failure::new(
            format!("{} cannot be verified: {error}", dir.display()),
            "Give the directory with --dir; reading it needs the agent's user or root.",
        )
    })?;
    if json {
        print_json(&seen)
    } else {
        print(&seen)
    }
    Ok(if seen.findings.is_empty() { OK } else { FAILED })
}

fn print_json(seen: &Verification) {
    say_json(&Shown {
        verified: seen.findings.is_empty(),
        boots: seen.boots,
        sealed_segments: seen.sealed,
        records: seen.records,
        unsealed_records: seen.unsealed_records,
        findings: seen
            .findings
            .iter()
            .map(|f| ShownFinding {
                file: &f.file,
                what: &f.what,
            })
            .collect(),
    });
}

fn print(seen: &Verification) {
    let style = Style::for_stdout();
    for finding in &seen.findings {
        say(&format!(
            "{} {}: {}",
            style.bad("WRONG"),
            finding.file,
            finding.what
        ));
    }
    let counts = format!(
        "{} records in {} sealed segments of {} agents",
        seen.records, seen.sealed, seen.boots
    );
    if seen.findings.is_empty() {
        say(&format!(
            "{} {counts}: complete, in order, unaltered.",
            style.good("VERIFIED")
        ));
    } else {
        say(&format!(
            "{} {counts}: {} findings.",
            style.bad("NOT VERIFIED"),
            seen.findings.len()
        ));
    }
    if seen.unsealed_records > 0 {
        say(&format!(
            "{} records of running agents are not sealed yet.",
            seen.unsealed_records
        ));
    }
}
