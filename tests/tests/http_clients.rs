//! Package managers and git through the agent: downloads arrive byte by byte, checksums hold.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::path::Path;
use std::process::Command;

use interdict_tests::{Agent, HttpTarget, Oidc, can_govern, can_serve_http, python};

fn shell(dir: &Path, script: &str) -> String {
    let out = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .output()
        .expect("sh");
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn pip_npm_and_git_get_what_was_published() {
    if !can_govern("pip_npm_and_git") || !can_serve_http("pip_npm_and_git") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = HttpTarget::start(dir.path()).expect("target");
    let files = dir.path().join("http/files");
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[[target]]\nname = \"registry\"\nprotocol = \"http\"\naddresses = [\"localhost:{}\"]\nca_file = \"{}\"\n",
        target.tls,
        target.ca().display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let url = format!("https://localhost:{}/file", target.tls);
    let run = |script: &str| {
        let seen = agent.run(Some(&alice), &["sh", "-ec", script]).expect("run");
        assert_eq!(seen.status, 0, "{script}: {}{}", seen.out, seen.err);
        seen.out
    };
    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("made");
    let work_dir = work.display();

    // A wheel, by its digest; its author stays as he is.
    let wheel = "import zipfile, base64, hashlib\n\
        z = zipfile.ZipFile('demo-1.0-py3-none-any.whl', 'w')\n\
        z.writestr('demo.py', 'AUTHOR = \"ada@example.com\"\\n')\n\
        z.writestr('demo-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\nAuthor-email: ada@example.com\\n')\n\
        z.writestr('demo-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        z.writestr('demo-1.0.dist-info/RECORD', '')\n\
        z.close()\n\
        print(hashlib.sha256(open('demo-1.0-py3-none-any.whl', 'rb').read()).hexdigest())\n";
    std::fs::write(files.join("wheel.py"), wheel).expect("written");
    let digest = shell(&files, "python3 wheel.py");
    let page = format!(
        "<p>mail ada@example.com</p><a href=\"{url}/demo-1.0-py3-none-any.whl#sha256={digest}\">demo-1.0-py3-none-any.whl</a>"
    );
    target.file("links.html", page.as_bytes()).expect("file");
    let python = python().display().to_string();
    let seen = run(&format!(
        "{python} -m pip install -q --no-cache-dir --disable-pip-version-check --no-index --target {work_dir}/py \
         --find-links '{url}/links.html?type=text/html' demo && PYTHONPATH={work_dir}/py {python} -c 'import demo; print(demo.AUTHOR)'"
    ));
    assert_eq!(seen.trim(), "ada@example.com");

    // A package of npm, with the digest that npm computes.
    std::fs::create_dir_all(files.join("package")).expect("made");
    let manifest = r#"{"name": "demo", "version": "1.0.0", "author": "ada@example.com"}"#;
    std::fs::write(files.join("package/package.json"), manifest).expect("written");
    shell(&files, "tar czf demo.tgz package");
    let digest = shell(
        &files,
        "openssl dgst -sha512 -binary demo.tgz | openssl base64 -A",
    );
    run(&format!(
        "mkdir -p {work_dir}/js && cd {work_dir}/js && npm_config_cache={work_dir}/cache npm install --no-audit --no-fund '{url}/demo.tgz'"
    ));
    let lock = std::fs::read_to_string(work.join("js/package-lock.json")).expect("a lock file");
    assert!(lock.contains(&digest), "{digest} {lock}");

    // A repository over HTTP without a server that knows git.
    shell(
        &files,
        "git init -q repo && cd repo && git config user.email ada@example.com && git config user.name Ada && \
         for n in $(seq 40); do echo \"$n ada@example.com\" > $n; git add $n; git commit -qm \"$n\"; done && \
         cd .. && git clone -q --bare repo repo.git && cd repo.git && git update-server-info",
    );
    run(&format!("git clone -q '{url}/repo.git' {work_dir}/clone"));
    let head = |path: &Path| shell(path, "git rev-parse HEAD && git fsck 2>/dev/null && cat 40");
    assert_eq!(head(&work.join("clone")), head(&files.join("repo")));
}
