//! The chart: rendered by a stand-in for helm (`adapters/helm.py`; helm is in no package registry that the setup uses), its manifests
//! held against the schemas of Kubernetes, and the rendered copy that ships against the chart.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use interdict_tests::tools::{binary, python, repository};

fn can_render(test: &str) -> bool {
    let there = Command::new(python())
        .args(["-c", "import kubernetes_validate, yaml, jsonschema"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        let _closed = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: `cargo xtask setup` installs kubernetes-validate"
        );
    }
    there
}

fn chart() -> PathBuf {
    repository().join("deploy/helm/interdict")
}

/// Whether it went well, and what was printed.
fn helm(arguments: &[&str], stdin: &str) -> (bool, String, String) {
    let mut child = Command::new(python())
        .arg(repository().join("tests/adapters/helm.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(stdin.as_bytes()).expect("written");
    drop(pipe);
    let out = child.wait_with_output().expect("ended");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

fn render(values: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("temp file");
    file.write_all(values.as_bytes()).expect("written");
    let (values, chart) = (file.path().display().to_string(), chart().display().to_string());
    let (fine, _, told) = helm(&["values", &chart, &values], "");
    assert!(fine, "{told}");
    let (fine, made, told) = helm(&["render", &chart, &values], "");
    assert!(fine && told.contains("rollout status"), "{told}");
    let (fine, checked, told) = helm(&["check"], &made);
    assert!(fine && !checked.is_empty(), "{told}\n{made}");
    made
}

const EVERYTHING: &str = r#"
image: {repository: registry.example/interdict, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: registry}]
governed:
  - {namespace: agents, serviceAccount: worker, podLabel: "team=a"}
  - {namespace: trial, mode: observe, identity: trial-agents}
  - {namespace: ada, identityTokenFile: /credentials/shop-database/token}
  - {namespace: own, identityPodToken: interdict/token}
kubelet: {dir: /var/lib/kubelet}
policies: {"a.cedar": "permit (principal, action, resource);"}
credentials: [shop-database]
ca: {existingSecret: authority, certificate: "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"}
podMonitor: {enabled: true, labels: {release: prometheus}}
podAnnotations: {a: b}
startupTaint: {enabled: true}
affinity: {nodeAffinity: {}}
"#;

#[test]
fn manifests_are_ones_that_kubernetes_takes() {
    if !can_render("manifests_are_ones_that_kubernetes_takes") {
        return;
    }
    let made = render(EVERYTHING);
    for part in [
        "image: \"registry.example/interdict@sha256:000",
        "kind: PodMonitor",
        "listen = \"0.0.0.0:9464\"",
        "mode = \"observe\"",
        "pod_label = \"team=a\"",
        "name: interdict-ca\n  namespace: trial",
        "mountPath: /credentials/shop-database",
        "mountPath: /policies",
        "identity_pod_token = \"interdict/token\"",
        "mountPath: /var/lib/kubelet/pods, readOnly: true",
    ] {
        assert!(made.contains(part), "{part}\n{made}");
    }
    // Least rights: nothing is written, no secrets are read, nothing is privileged.
    for part in [
        "privileged: true",
        "secrets]",
        "\"*\"",
        "create",
        "update]",
        "delete",
    ] {
        assert!(!made.contains(part), "{part}");
    }
    assert_eq!(made.matches("verbs: [get, patch]").count(), 1, "{made}");
    let least = render("{}");
    for part in [
        "kind: PodMonitor",
        "kind: NetworkPolicy",
        "-policies",
        "subPath",
        "kubelet",
        "patch",
        "untaint",
    ] {
        assert!(!least.contains(part), "{part}");
    }
}

#[test]
fn wrong_values_and_wrong_manifests_are_refused() {
    if !can_render("wrong_values_and_wrong_manifests_are_refused") {
        return;
    }
    let chart = chart().display().to_string();
    for (wrong, told) in [
        ("governed: [{namespace: kube-system}]", "kube-system"),
        ("governed: [{namespace: a, mode: off}]", "enforce"),
        ("goverened: []", "goverened"),
        ("config: 'mode = \"observe\"'", "does not match"),
        ("image: {repository: a, digest: sha256:12}", "does not match"),
        (
            "governed: [{namespace: a, identity: b, identityTokenFile: /c}]",
            "should not be valid",
        ),
        (
            "governed: [{namespace: a, identityTokenFile: /c, identityPodToken: v/t}]",
            "should not be valid",
        ),
        (
            "governed: [{namespace: a, identityPodToken: t}]",
            "does not match",
        ),
        ("telemetry: {port: 0}", "minimum"),
    ] {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(wrong.as_bytes()).expect("written");
        let (fine, _, text) = helm(&["values", &chart, &file.path().display().to_string()], "");
        assert!(!fine && text.contains(told), "{wrong}\n{text}");
    }
    let manifest = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nautomount: true\n";
    let (fine, ..) = helm(&["check"], manifest);
    assert!(!fine, "a key that Kubernetes does not know passed");
}

/// The start-up taint goes when the agent is ready, whatever others do to the node meanwhile; the token goes to the API server alone.
#[test]
fn the_startup_taint_is_taken_off_when_the_agent_is_ready() {
    let mut api = Command::new("/usr/bin/python3")
        .arg(repository().join("tests/adapters/node_api.py"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(api.stdout.take().expect("a pipe")).lines();
    let port = lines.next().expect("a port").expect("a line");
    let url = format!("http://127.0.0.1:{port}");
    let dir = tempfile::tempdir().expect("temp dir");
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken\n").expect("written");
    let out = Command::new("timeout")
        .arg("60")
        .arg(binary())
        .args([
            "kubernetes",
            "untaint",
            "--once",
            "--node",
            "node-1",
            "--api",
            &url,
        ])
        .arg(format!("--ready={url}/readyz"))
        .arg("--token-file")
        .arg(&token)
        .output()
        .expect("interdict");
    api.kill().expect("ended");
    api.wait().expect("ended");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{told}");
    let seen: Vec<String> = lines.map_while(Result::ok).collect();
    let all = seen.join("\n");
    for line in &seen {
        assert_eq!(line.contains("/readyz"), line.contains(" None "), "{all}");
    }
    assert!(
        seen.iter().take(2).all(|line| line.contains("/readyz 503")),
        "{all}"
    );
    assert!(all.contains("PATCH /api/v1/nodes/node-1 422"), "{all}");
    assert!(seen.last().is_some_and(|line| line.ends_with(" []")), "{all}");
}

/// What the agent would read on a node.
#[test]
fn the_configuration_in_the_manifests_is_valid() {
    if !can_render("the_configuration_in_the_manifests_is_valid") {
        return;
    }
    let schema = Command::new(binary())
        .args(["config", "schema"])
        .output()
        .expect("interdict");
    let schema = String::from_utf8_lossy(&schema.stdout).into_owned();
    for values in [EVERYTHING, "{}"] {
        if values == EVERYTHING && !schema.contains("\"workload\"") {
            let _closed = writeln!(
                std::io::stderr(),
                "SKIPPED [[workload]] of the chart: this agent knows none"
            );
            continue;
        }
        let made = render(values);
        let (_, rest) = made.split_once("interdict.toml: |\n").expect("a configuration");
        let lines = rest
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "));
        let text: Vec<&str> = lines.map(str::trim_start).collect();
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("interdict.toml");
        std::fs::write(&file, text.join("\n")).expect("written");
        let out = Command::new(binary())
            .args(["config", "check"])
            .arg(&file)
            .output()
            .expect("interdict");
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{told}\n{}", text.join("\n"));
    }
}

/// `INTERDICT_WRITE=1` writes it anew.
#[test]
fn the_rendered_copy_is_that_of_the_chart() {
    if !can_render("the_rendered_copy_is_that_of_the_chart") {
        return;
    }
    let directory = repository().join("deploy/kubernetes");
    let values = std::fs::read_to_string(directory.join("values.yaml")).expect("read");
    let made = render(&values);
    let file = directory.join("interdict.yaml");
    if std::env::var_os("INTERDICT_WRITE").is_some() {
        std::fs::write(&file, &made).expect("written");
    }
    let there = std::fs::read_to_string(&file).expect("read");
    assert!(
        there == made,
        "deploy/kubernetes/interdict.yaml is not that of the chart: INTERDICT_WRITE=1 writes it"
    );
}

/// The alerts are rules of Prometheus, on figures that there are. (`promtool` is not looked for: it comes with the whole server.)
#[test]
fn alerts_are_on_figures_that_there_are() {
    let text = std::fs::read_to_string(repository().join("deploy/prometheus/alerts.yaml")).expect("read");
    let figures = std::fs::read_to_string(repository().join("deploy/metrics.md")).expect("read");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut seen = 0;
    for name in text
        .split(|c| !word(c))
        .filter(|name| name.starts_with("interdict_"))
    {
        seen += 1;
        assert!(
            figures.contains(&format!("`{name}`")),
            "{name} is not in deploy/metrics.md"
        );
    }
    assert!(seen >= 8);
    if !can_render("alerts_are_on_figures_that_there_are") {
        return;
    }
    let look = "import sys, yaml\nfor g in yaml.safe_load(open(sys.argv[1]))['groups']:\n for r in g['rules']:\n  assert r['alert'] and r['expr'] and r['labels']['severity'] and r['annotations']['summary'], r";
    let status = Command::new(python())
        .args(["-c", look])
        .arg(repository().join("deploy/prometheus/alerts.yaml"))
        .status()
        .expect("python");
    assert!(status.success());
}
