//! Nothing gets out: every hostile program, with the agent well, killed and stopped.

use std::io::Write as _;

use interdict_tests::escape;

#[test]
fn nothing_gets_out_that_must_not() {
    if !interdict_tests::can_govern("escape") {
        return;
    }
    let rows = match escape::run() {
        Ok(rows) => rows,
        Err(error) => panic!("the suite could not be run: {error:#}"),
    };
    // Past the harness, which shows what a test prints only when it fails.
    let _closed = writeln!(std::io::stdout(), "\n{}", escape::table(&rows));
    let unexpected = escape::unexpected(&rows);
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    // The eyes see: most attempts get out where nobody governs them.
    let free = rows.iter().filter(|row| row.free == "gets out").count();
    assert!(
        free * 2 > rows.len(),
        "only {free} of {} get out ungoverned",
        rows.len()
    );
}
