//! What a target is configured with: bounds, client certificates, clients that look for its own certificate, and requests
//! that are signed for AWS.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use interdict_tests::tools::repository;
use interdict_tests::{Agent, HttpRelay, HttpSetting, Oidc, can_govern, can_serve_http, python};

fn relay(more: &str, policies: &str) -> HttpRelay {
    let setting = HttpSetting {
        policies,
        more,
        ..HttpSetting::default()
    };
    HttpRelay::start(setting).expect("relay")
}

#[test]
fn bounds_of_a_target_are_kept_and_explained() {
    if !can_serve_http("bounds_of_a_target") {
        return;
    }
    let relay = relay(
        "[target.http]\nmax_body = \"4 KiB\"\nmax_answer = \"8 KiB\"\nmax_header = \"4 KiB\"\n",
        "",
    );
    let post = |bytes: usize| {
        let body = "x".repeat(bytes);
        relay
            .get("/people/7", &["-d", &body, "-w", "%{http_code}"])
            .expect("curl")
    };
    assert!(post(4096).ends_with("200"), "{}", post(4096));
    let refused = post(4097);
    assert!(
        refused.contains("larger than 4096 bytes") && refused.contains("max_body"),
        "{refused}"
    );
    relay.target.file("small", &[b'x'; 8192]).expect("file");
    relay.target.file("large", &[b'x'; 8193]).expect("file");
    let get = |path: &str| relay.get(path, &["-w", "%{http_code}"]).expect("curl");
    assert!(get("/file/small?type=text/plain").ends_with("200"));
    let withheld = get("/file/large?type=text/plain");
    assert!(
        withheld.contains("max_answer") && withheld.ends_with("502"),
        "{withheld}"
    );
    // Without its length it is cut off where it is too long.
    let cut = relay
        .curl("/file/large?type=text/plain&step=1000", &[])
        .output()
        .expect("curl");
    assert!(!cut.status.success() && cut.stdout.len() <= 8192);
    let long = format!("X: {}", "x".repeat(5000));
    let seen = relay
        .get("/people/7", &["-H", &long, "-w", "%{http_code}"])
        .expect("curl");
    assert!(seen.ends_with("431") || seen.ends_with("400"), "{seen}");
}

#[test]
fn what_no_detector_reads_passes_or_is_withheld() {
    if !can_serve_http("what_no_detector_reads") {
        return;
    }
    let small: Vec<u8> = (0..=255).collect();
    let large = small.repeat(2000);
    for (choice, passes) in [
        ("", true),
        ("unreadable = \"pass\"\n", true),
        ("unreadable = \"refuse\"\n", false),
    ] {
        let relay = relay(&format!("[target.http]\n{choice}"), "");
        relay.target.file("small", &small).expect("file");
        relay.target.file("large", &large).expect("file");
        relay.target.file("text", b"a text").expect("file");
        for version in ["--http1.1", "--http2"] {
            let get = |path: &str| {
                relay
                    .curl(path, &[version, "-w", "%{http_code}"])
                    .output()
                    .expect("curl")
            };
            let text = get("/file/text").stdout;
            assert_eq!(String::from_utf8_lossy(&text), "a text200");
            let whole = get("/file/small").stdout;
            // In pieces, without its length.
            let pieces = get("/file/large?step=5000");
            if passes {
                assert_eq!(whole, [small.as_slice(), b"200"].concat());
                assert!(pieces.stdout == [large.as_slice(), b"200"].concat());
            } else {
                for told in [whole, pieces.stdout] {
                    let told = String::from_utf8_lossy(&told).into_owned();
                    assert!(
                        told.contains("withheld: no detector reads its format") && told.ends_with("502"),
                        "{told}"
                    );
                }
            }
        }
        let records = relay.records().expect("records").concat();
        let said = if passes {
            "200: not looked into"
        } else {
            "the answer was cut off, no detector reads its format"
        };
        assert!(records.contains(said), "{choice}: {records}");
    }
}

#[test]
fn an_old_version_of_tls_is_not_spoken_where_it_is_not_enough() {
    if !can_serve_http("an_old_version_of_tls") {
        return;
    }
    // nginx of Debian 12 speaks TLS 1.2 unless it is told otherwise.
    let relay = relay("tls_min_version = \"1.3\"\n", "");
    let seen = relay.get("/people/7", &["-w", "%{http_code}"]).expect("curl");
    assert!(
        seen.contains("ProtocolVersion") && seen.ends_with("502"),
        "{seen}"
    );
}

#[test]
fn a_target_that_asks_for_a_client_certificate_gets_the_agents() {
    if !can_serve_http("a_client_certificate") {
        return;
    }
    let without = relay("mutual = true\n", "");
    let seen = without.get("/people/7", &["-w", "%{http_code}"]).expect("curl");
    assert!(
        seen.contains("client_cert_file") || seen.contains("400"),
        "{seen}"
    );
    let with = relay(
        "mutual = true\nclient_cert_file = \"../http/server.crt\"\nclient_key_file = \"../http/server.key\"\n",
        "",
    );
    for protocol in ["--http1.1", "--http2"] {
        let seen = with
            .get("/people/7", &[protocol, "-w", "%{http_code}"])
            .expect("curl");
        assert!(seen.contains("a***@e***.com") && seen.ends_with("200"), "{seen}");
    }
}

#[test]
fn a_client_that_looks_for_the_targets_own_certificate_is_told_apart() {
    if !can_serve_http("a_pinned_client") {
        return;
    }
    let connect = "@id(\"let-pinned\") @reason(\"Pinned clients may pass.\")\n\
                   permit (principal, action == Action::\"connect\", resource);";
    let pinned = |relay: &HttpRelay| {
        let ca = relay.target.ca().display().to_string();
        let out = relay
            .curl("/people/7", &["--cacert", &ca])
            .output()
            .expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let blocked = relay("", connect);
    for _ in 0..2 {
        assert_eq!(pinned(&blocked), "");
    }
    let told = |relay: &HttpRelay| {
        // The record of a session's end comes with the next commit.
        for _ in 0..200 {
            let records = relay.records().expect("records");
            if records
                .iter()
                .any(|r| r.contains("does not accept the agent's certificate"))
            {
                return records;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        relay.records().expect("records")
    };
    let records = told(&blocked);
    assert!(
        records.iter().any(|r| r.contains("interdict ca export")),
        "{records:?}"
    );

    // Where the target says so, the next connection to that name passes, as what it is: opaque.
    let passing = relay("[target.http]\npinned = \"pass\"\n", connect);
    assert_eq!(pinned(&passing), "");
    told(&passing);
    let seen = pinned(&passing);
    assert!(seen.contains("ada@example.com"), "{seen}");
    let records = passing.records().expect("records");
    assert!(records.iter().any(|r| r.contains("let-pinned")), "{records:?}");

    // Without a policy that lets opaque connections to it through, nothing passes.
    let denied = relay("[target.http]\npinned = \"pass\"\n", "");
    pinned(&denied);
    told(&denied);
    assert_eq!(pinned(&denied), "");
}

struct Aws(Child, u16);

impl Drop for Aws {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

impl Aws {
    fn start() -> Self {
        let mut child = Command::new(python())
            .arg(repository().join("tests/adapters/aws_server.py"))
            .args(["AKIAREAL", "the-real-secret", "the-real-token"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("server");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its port");
        Self(child, line.trim().parse().expect("a port"))
    }
}

#[test]
fn an_unchanged_s3_client_is_signed_for_with_the_real_key() {
    if !can_govern("an_unchanged_s3_client") || !can_serve_http("an_unchanged_s3_client") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let aws = Aws::start();
    let issuer = Oidc::start().expect("issuer");
    let keep = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let config = format!(
        "[[target]]\nname = \"store\"\nprotocol = \"http\"\ntls = \"disabled\"\naddresses = [\"localhost:{}\"]\n\
         [target.credential]\nas = \"sigv4\"\naccess_key_id = \"AKIAREAL\"\nsecret_file = \"{}\"\n\
         session_token_file = \"{}\"\nregion = \"eu-central-1\"\nservice = \"s3\"\n",
        aws.1,
        keep("secret", "the-real-secret\n"),
        keep("token", "the-real-token\n"),
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let client = repository()
        .join("tests/adapters/aws_client.py")
        .display()
        .to_string();
    let endpoint = format!("http://localhost:{}", aws.1);
    let python = python().display().to_string();
    let seen = agent
        .run(Some(&alice), &[&python, &client, &endpoint])
        .expect("run");
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    assert_eq!(
        seen.out.trim(),
        "mail a***@e***.com\n['notes/a b+c=d~é.txt']\nmail a***@e***.com"
    );
    let records: Vec<String> = agent
        .records()
        .expect("records")
        .iter()
        .map(ToString::to_string)
        .collect();
    let leaked = |r: &&String| r.contains("the-real");
    assert_eq!(records.iter().find(leaked), None);
}

#[test]
fn another_authority_is_made_while_a_command_runs() {
    if !can_govern("another_authority") || !can_serve_http("another_authority") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = interdict_tests::HttpTarget::start(dir.path()).expect("target");
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[[target]]\nname = \"api\"\nprotocol = \"http\"\naddresses = [\"localhost:{}\"]\nca_file = \"{}\"\n",
        target.tls,
        target.ca().display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let url = format!("https://localhost:{}/people/7", target.tls);
    // Once by the variable, once by the system's bundle; then the same with another authority.
    let both = format!("curl -sS {url} && env -i curl -sS {url} && echo");
    // The agent looks once a second.
    let script = format!(
        "{both} && read line && sleep 1.2 && {both} && curl -vsS {url} 2>&1 | grep -c 'issuer: CN=Interdict'"
    );
    let mut child = agent
        .start(Some(&alice), &["sh", "-c", &script])
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line().matches("a***@e***.com").count(), 2);
    let state = agent.state().display().to_string();
    let show = || {
        agent
            .interdict(&["ca", "show", "--state-dir", &state])
            .expect("shown")
            .out
    };
    let before = show();
    let rotated = agent
        .interdict(&["ca", "rotate", "--state-dir", &state, "--overlap", "1h"])
        .expect("rotated");
    assert_eq!(rotated.status, 0, "{}{}", rotated.out, rotated.err);
    assert_ne!(show(), before);
    let exported = agent
        .interdict(&["ca", "export", "--state-dir", &state])
        .expect("exported")
        .out;
    assert_eq!(exported.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!exported.contains("PRIVATE"));
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), b"go\n").expect("told");
    assert_eq!(line().matches("a***@e***.com").count(), 2);
    assert_eq!(line(), "1");
    assert!(child.wait().expect("ended").success());
    let missing = agent
        .interdict(&["ca", "rotate", "--state-dir", "/nonexistent"])
        .expect("tried");
    assert!(
        missing.status != 0 && missing.err.contains("first `interdict run`"),
        "{}",
        missing.err
    );
}
