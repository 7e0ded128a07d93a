//! `interdict doctor` on the running kernel: what a run needs is there, and what is not is named.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::process::Command;

use serde_json::Value;

fn doctor(config: &str) -> (i32, Value) {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("interdict.toml");
    std::fs::write(&file, config).expect("file");
    let out = Command::new(interdict_tests::tools::binary())
        .args(["doctor", "--json", "--config"])
        .arg(&file)
        .output()
        .expect("interdict doctor");
    let report = serde_json::from_slice(&out.stdout).expect("one JSON object");
    (out.status.code().expect("a status"), report)
}

fn states<'a>(report: &'a Value, area: &'a str) -> Vec<&'a str> {
    let checks = report["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_area = checks.iter().filter(|check| check["area"] == area);
    of_area.filter_map(|check| check["state"].as_str()).collect()
}

#[test]
fn a_host_that_can_govern_is_well() {
    if !interdict_tests::can_govern("doctor") {
        return;
    }
    let (status, report) = doctor("state_dir = \"state\"\n");
    assert_eq!((status, &report["well"]), (0, &Value::Bool(true)), "{report}");
    let hooks = states(&report, "hook");
    assert_eq!(hooks.len(), 17);
    assert!(hooks.iter().all(|state| *state == "available"), "{report}");
    let check = |name: &str| {
        let checks = report["checks"].as_array().expect("checks");
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not looked at: {report}"))
    };
    let told = |name: &str| check(name)["found"].as_str().unwrap_or_default().to_owned();
    assert!(told("32-bit programs").contains("SIGSYS"), "{report}");
    assert_eq!(check("order of hooks")["state"], "available");
    for check in report["checks"].as_array().expect("checks") {
        let said = check["open"].is_string() || check["next"].is_string();
        assert!(check["state"] == "available" || said, "{check}");
    }
}

#[test]
fn a_target_that_does_not_answer_is_missing() {
    if !interdict_tests::can_govern("doctor") {
        return;
    }
    let (status, report) = doctor(
        "state_dir = \"state\"\n[[target]]\nname = \"shop\"\nprotocol = \"postgres\"\n\
         addresses = [\"127.0.0.1:1\"]\ntls = \"disabled\"\n",
    );
    assert_eq!((status, &report["well"]), (1, &Value::Bool(false)), "{report}");
    assert_eq!(states(&report, "target"), ["missing"]);
}
