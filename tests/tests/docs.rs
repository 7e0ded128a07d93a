//! What the documentation tells a newcomer to type, typed: every `sh` block, on a copy of this system that is thrown away. What a copy
//! cannot have (a running systemd, a cluster, the package manager's servers) is left out aloud.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use interdict_tests::system_copy::on_a_copy;
use interdict_tests::tools::{binary, repository};

/// Commands that need what is not here, and why they are left out.
const ELSEWHERE: [(&str, &str); 6] = [
    ("systemctl ", "no systemd runs here"),
    ("kubectl ", "there is no cluster"),
    ("helm ", "there is no cluster"),
    ("skopeo copy ", "there is no registry"),
    ("cargo ", "the package is made by another test"),
    (
        "interdict systemd govern ",
        "it needs a unit of yours; another test writes one",
    ),
];

/// The blocks of a document in this language.
fn blocks_of(file: &Path, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("a document");
    let mut inside = false;
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        match line.trim() {
            begin if begin.strip_prefix("```") == Some(language) => {
                inside = true;
                found.push(String::new());
            }
            "```" => inside = false,
            _ if inside => {
                let block = found.last_mut().expect("a block has begun");
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{}: no block of {language}", file.display());
    found
}

/// The `sh` blocks of a document, one text.
fn blocks(file: &Path) -> String {
    blocks_of(file, "sh").concat().replace("\\\n", " ")
}

/// What the README configures is accepted, and valid for whoever reads the JSON Schema; so is what packages install.
#[test]
fn configurations_in_the_documents_are_valid() {
    let repository = repository();
    let mut all = blocks_of(&repository.join("README.md"), "toml");
    all.extend(blocks_of(&repository.join("deploy/serve.md"), "toml"));
    let shipped = repository.join("deploy/package/interdict.toml");
    all.push(std::fs::read_to_string(shipped).expect("read"));
    let dir = tempfile::tempdir().expect("temp dir");
    let schema = Command::new(binary())
        .args(["config", "schema"])
        .output()
        .expect("interdict");
    std::fs::write(dir.path().join("schema.json"), schema.stdout).expect("written");
    for text in all {
        let file = dir.path().join("interdict.toml");
        std::fs::write(&file, &text).expect("written");
        let checked = Command::new(binary())
            .args(["config", "check", "--config"])
            .arg(&file)
            .output();
        let checked = checked.expect("interdict");
        assert!(
            checked.status.success(),
            "{}\n{text}",
            String::from_utf8_lossy(&checked.stderr)
        );
        let look = "import json, sys, tomllib, jsonschema\n\
                    schema = json.load(open(sys.argv[1]))\n\
                    jsonschema.Draft202012Validator.check_schema(schema)\n\
                    jsonschema.validate(tomllib.load(open(sys.argv[2], 'rb')), schema)\n\
                    wrong = jsonschema.Draft202012Validator(schema).is_valid({'approval': {'hold': 'soon'}})\n\
                    sys.exit(1 if wrong else 0)\n";
        let mut python = Command::new(interdict_tests::python());
        python.args(["-c", "import jsonschema"]);
        if !python.output().is_ok_and(|out| out.status.success()) {
            let _closed = writeln!(
                std::io::stderr(),
                "SKIPPED the JSON Schema: `cargo xtask setup` installs jsonschema"
            );
            continue;
        }
        let valid = Command::new(interdict_tests::python())
            .args(["-c", look])
            .args([dir.path().join("schema.json"), file])
            .output()
            .expect("python");
        assert!(
            valid.status.success(),
            "{}\n{text}",
            String::from_utf8_lossy(&valid.stderr)
        );
    }
}

/// The lines that can be typed here; the others are said.
fn typed(file: &Path, change: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for line in blocks(file).lines() {
        let line = line.trim_start_matches("sudo ");
        if let Some((_, why)) = ELSEWHERE.iter().find(|(start, _)| line.starts_with(start)) {
            let _closed = writeln!(std::io::stderr(), "NOT TYPED ({why}): {line}");
            continue;
        }
        let changed = change
            .iter()
            .fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        // What is typed is shown, so that a failure names its line.
        out.push_str(&format!("echo '$ '{}\n{changed}\n", quoted(&changed)));
    }
    out
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn skip(test: &str) {
    let _closed = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: overlayfs cannot be mounted here"
    );
}

#[test]
fn the_first_steps_of_the_readme_work() {
    if !interdict_tests::can_govern("the_first_steps_of_the_readme_work") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let out = dir.path().join("target/package");
    let made = Command::new(std::env::var("CARGO").unwrap_or_else(|_unset| "cargo".into()))
        .args([
            "run", "-q", "--locked", "-p", "xtask", "--", "package", "--format", "deb", "--binary",
        ])
        .arg(binary())
        .arg("--out")
        .arg(&out)
        .current_dir(repository())
        .output()
        .expect("cargo");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // apt's lists may be empty here: what it would do with a file, dpkg does.
    let script = typed(
        &repository().join("README.md"),
        &[("apt install", "dpkg --force-depends -i")],
    );
    assert!(script.contains("interdict run -- true"), "{script}");
    let files = [dir.path().join("target")];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    match on_a_copy(&files, true, &script).expect("what the README says") {
        None => skip("the_first_steps_of_the_readme_work"),
        Some(copied) => {
            for part in ["VALID 0 issuers", "AVAILABLE", "WOULD GO"] {
                assert!(copied.told.contains(part), "{part}\n{}", copied.told);
            }
        }
    }
}

#[test]
fn installing_the_unit_by_hand_works() {
    let repository = repository();
    let script = typed(
        &repository.join("deploy/systemd/README.md"),
        &[("interdict doctor ", "echo NOT HERE interdict doctor ")],
    );
    for part in [
        "systemd-sysusers",
        "interdict config check",
        "interdict uninstall --purge",
    ] {
        assert!(script.contains(part), "{part}\n{script}");
    }
    let (deploy, binary) = (repository.join("deploy"), binary());
    match on_a_copy(&[&deploy, &binary], false, &script).expect("what the document says") {
        None => skip("installing_the_unit_by_hand_works"),
        Some(copied) => {
            let left: Vec<&PathBuf> = copied
                .left
                .iter()
                .filter(|path| !path.ends_with("usr/bin/interdict") && !path.starts_with("/usr"))
                .collect();
            assert!(copied.told.contains("GONE"), "{}", copied.told);
            // Programs and units were put there by hand; state and configuration are gone.
            let state = |path: &&&PathBuf| path.to_string_lossy().contains("var/lib/interdict");
            assert_eq!(left.iter().find(state), None, "{}", copied.told);
        }
    }
}

/// Nothing of it can be done here but what it names: files and flags that there are.
#[test]
fn what_the_cluster_document_names_is_there() {
    let file = repository().join("deploy/kubernetes/README.md");
    let script = typed(&file, &[]);
    assert_eq!(script, "", "something could be typed here: type it");
    let text = blocks(&file);
    let mut seen = 0;
    for word in text.split_whitespace().filter(|word| word.starts_with("deploy/")) {
        assert!(repository().join(word).exists(), "{word}");
        seen += 1;
    }
    assert!(seen >= 2);
    let values =
        std::fs::read_to_string(repository().join("deploy/helm/interdict/values.yaml")).expect("read");
    for flag in ["image", "governed"] {
        assert!(
            text.contains(flag) && values.contains(&format!("\n{flag}:")),
            "{flag}"
        );
    }
}
