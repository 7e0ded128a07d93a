//! The units that ship and the drop-ins that are written, as systemd itself reads them.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::path::Path;
use std::process::Command;

use interdict_tests::tools::{binary, repository};

/// Guard and proxy.
const UNITS: [&str; 2] = ["interdict.service", "interdict-proxy.service"];

/// Whether systemd's own checker is here.
fn can_check(test: &str) -> bool {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !there {
        use std::io::Write;
        let _closed = writeln!(std::io::stderr(), "SKIPPED {test}: systemd-analyze is not here");
    }
    there
}

/// A system of its own, with the agent's unit and programs that units name.
fn system() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path();
    for made in [
        "usr/bin",
        "bin",
        "etc/systemd/system",
        "usr/lib/systemd/system",
        "etc/ssl/certs",
    ] {
        std::fs::create_dir_all(root.join(made)).expect("made");
    }
    for program in ["usr/bin/interdict", "bin/kill", "bin/mkdir", "usr/bin/mcp"] {
        std::fs::copy("/bin/true", root.join(program)).expect("copied");
    }
    std::fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), "").expect("written");
    for unit in UNITS {
        std::fs::copy(
            repository().join("deploy/systemd").join(unit),
            root.join("usr/lib/systemd/system").join(unit),
        )
        .expect("copied");
    }
    for target in [
        "sysinit",
        "basic",
        "shutdown",
        "multi-user",
        "network-online",
        "nss-lookup",
        "time-sync",
    ] {
        let file = root.join(format!("usr/lib/systemd/system/{target}.target"));
        std::fs::write(file, "[Unit]\nDescription=a stand-in\n").expect("written");
    }
    std::fs::write(
        root.join("usr/lib/systemd/system/mcp.service"),
        "[Unit]\nDescription=an MCP server\n[Service]\nExecStart=/usr/bin/mcp\nDynamicUser=yes\n",
    )
    .expect("written");
    dir
}

/// What `systemd-analyze verify` complains about in a unit and its drop-ins.
fn verify(root: &Path, unit: &str) -> Vec<String> {
    let out = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", "--root"])
        .arg(root)
        .arg(unit)
        .output()
        .expect("systemd-analyze");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    if !out.status.success() {
        lines.push(out.status.to_string());
    }
    lines
}

#[test]
fn the_units_are_ones_that_systemd_takes() {
    if !can_check("the_units_are_ones_that_systemd_takes") {
        return;
    }
    let system = system();
    for unit in UNITS {
        assert_eq!(verify(system.path(), unit), [] as [&str; 0], "{unit}");
    }
    // The checker does see mistakes.
    for unit in UNITS {
        let file = system.path().join("usr/lib/systemd/system").join(unit);
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, text.replace("WatchdogSec=10s", "WatchdogSec=soon")).expect("written");
        assert!(!verify(system.path(), unit).is_empty(), "{unit}");
    }
}

/// How exposed a unit is, as `systemd-analyze security` counts: 0 is nothing, 10 everything.
fn exposure(unit: &Path) -> f64 {
    let out = Command::new("systemd-analyze")
        .args(["security", "--offline=true"])
        .arg(unit)
        .output()
        .expect("systemd-analyze");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("Overall exposure level"));
    let number = line.and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok());
    number.expect("a figure")
}

#[test]
fn the_units_do_not_become_more_exposed() {
    if !can_check("the_units_do_not_become_more_exposed") {
        return;
    }
    // What the network reaches has next to nothing.
    for (unit, most) in UNITS.into_iter().zip([3.5, 1.5]) {
        let exposed = exposure(&repository().join("deploy/systemd").join(unit));
        assert!(exposed <= most, "{unit}: {exposed}");
    }
}

fn govern(root: &Path, arguments: &[&str]) -> (i32, String) {
    let out = Command::new(binary())
        .args(["systemd", "govern", "--root"])
        .arg(root)
        .args(arguments)
        .output()
        .expect("interdict systemd");
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.code().expect("a status"),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_governed_unit_is_one_that_systemd_takes() {
    if !can_check("a_governed_unit_is_one_that_systemd_takes") {
        return;
    }
    let system = system();
    let root = system.path();
    let (status, printed) = govern(root, &["mcp", "--print"]);
    assert_eq!(status, 0, "{printed}");
    let dropped = root.join("etc/systemd/system/mcp.service.d/50-interdict.conf");
    assert!(!dropped.exists(), "--print writes nothing");
    let before = exposure(&root.join("usr/lib/systemd/system/mcp.service"));
    let (status, told) = govern(root, &["mcp", "--slice", "agents.slice"]);
    assert_eq!(status, 0, "{told}");
    std::fs::write(
        root.join("etc/systemd/system/agents.slice"),
        "[Unit]\nDescription=agents\n",
    )
    .expect("written");
    assert_eq!(verify(root, "mcp.service"), [] as [&str; 0]);
    let text = std::fs::read_to_string(&dropped).expect("written");
    assert_eq!(text.replace("Slice=agents.slice\n", ""), printed);
    // As one unit, since the offline look does not read drop-ins of another root.
    let whole = root.join("mcp-whole.service");
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/mcp.service")).expect("read");
    std::fs::write(&whole, unit + &text).expect("written");
    let after = exposure(&whole);
    assert!(after + 2.0 < before, "{before} before, {after} governed");
    let (status, told) = govern(root, &["mcp", "--remove"]);
    assert!(status == 0 && told.contains("REMOVED"), "{told}");
    assert!(!dropped.parent().is_some_and(Path::exists));
}

#[test]
fn nonsense_is_refused_with_the_status_of_wrong_use() {
    let system = system();
    for (unit, told) in [
        ("absent", "check its name"),
        ("a.timer", "the service that it starts"),
    ] {
        let (status, text) = govern(system.path(), &[unit]);
        assert!(status == 2 && text.contains(told), "{status} {text}");
    }
}
