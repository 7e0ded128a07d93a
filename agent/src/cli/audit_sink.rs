//! `interdict audit verify-sink`.

use std::path::Path;

use crate::audit::{Auditor, SinkVerification, verify_sink};
use crate::config;

use super::output::{Style, say, say_json};
use super::{FAILED, Failure, OK, Outcome};

/// Compares, and prints what was seen.
pub(super) fn verified(file: &Path, auditor: &Auditor, json: bool) -> Outcome {
    let config = config::load(file).map_err(|errors| Failure::new(errors.to_string(), ""))?;
    let Some(sink) = &config.audit.clickhouse else {
        return Err(Failure::new(
            format!("{} names no ClickHouse", file.display()),
            "Write [audit.clickhouse] with its url.",
        ));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}"), ""))?;
    let seen = runtime.block_on(verify_sink(&config.audit.dir, sink, auditor));
    let seen = seen.map_err(|error| {
        Failure::new(
            format!("{} cannot be compared: {error}", sink.url),
            "The log needs the agent's user or root; ClickHouse a user with SELECT on both tables (deploy/clickhouse/002-access.sql).",
        )
    })?;
    if json {
        print_json(&seen);
    } else {
        print(&seen);
    }
    Ok(if seen.findings.is_empty() { OK } else { FAILED })
}

fn print_json(seen: &SinkVerification) {
    let findings: Vec<_> = seen
        .findings
        .iter()
        .map(|f| serde_json::json!({"place": f.file, "what": f.what}))
        .collect();
    say_json(&serde_json::json!({
        "verified": seen.findings.is_empty(), "boots": seen.boots, "records": seen.records, "seals": seen.seals,
        "unsent_records": seen.unsent_records, "rights_checked": seen.rights_checked, "findings": findings,
    }));
}

fn print(seen: &SinkVerification) {
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
        "{} records and {} seals of {} agents are in ClickHouse as the log has them",
        seen.records, seen.seals, seen.boots
    );
    if seen.findings.is_empty() {
        say(&format!("{} {counts}.", style.good("VERIFIED")));
    } else {
        say(&format!(
            "{} {counts}; {} findings.",
            style.bad("NOT VERIFIED"),
            seen.findings.len()
        ));
    }
    if seen.unsent_records > 0 {
        say(&format!("{} records are not sent yet.", seen.unsent_records));
    }
    if seen.rights_checked {
        say("The agent's user was asked for: it may insert.");
    } else {
        say("The server could not be asked what the agent's user may do: it is older than 24.11.");
    }
}
