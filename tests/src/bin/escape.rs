//! `cargo xtask escape`: the escape suite, for people and for programs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use interdict_tests::escape;

fn main() -> Result<ExitCode> {
    let rows = escape::run()?;
    let summary = escape::summary(&rows);
    let mut out = std::io::stdout().lock();
    write!(out, "{}", escape::table(&rows))?;
    writeln!(
        out,
        "\n{} tried, {} denied, {} of them recorded, {} open",
        summary.tried,
        summary.denied,
        summary.recorded,
        summary.open.len()
    )?;
    let unexpected = escape::unexpected(&rows);
    for line in &unexpected {
        writeln!(out, "UNEXPECTED {line}")?;
    }
    if std::env::args().any(|a| a == "--json") {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    }
    Ok(ExitCode::from(u8::from(!unexpected.is_empty())))
}
