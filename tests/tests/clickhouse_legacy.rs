//! Records in a real old ClickHouse (Debian's 18.16): sockets, passwords, a server that is killed and started again.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interdict_tests::{Agent, Oidc, Postgres, can_govern, tools::repository};
use serde_json::Value;

const SERVER: &str = "/usr/sbin/clickhouse-server";
const PASSWORD: &str = "the-sinks-password";

/// The server, on loopback and below a directory of the test.
struct Server {
    child: Child,
    config: PathBuf,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let dir = dir.join("server");
        for part in ["data", "tmp", "formats"] {
            fs::create_dir_all(dir.join(part)).expect("made");
        }
        let (http, tcp) = (free_port(), free_port());
        let at = dir.display();
        let config = dir.join("config.xml");
        let text = format!(
            "<yandex><logger><level>error</level><log>{at}/log</log><errorlog>{at}/errors</errorlog></logger>\
             <http_port>{http}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>\
             <path>{at}/data/</path><tmp_path>{at}/tmp/</tmp_path><format_schema_path>{at}/formats/</format_schema_path>\
             <users_config>{at}/users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database><mark_cache_size>5368709</mark_cache_size></yandex>"
        );
        fs::write(&config, text).expect("written");
        let users = format!(
            "<yandex><profiles><default/></profiles><users><interdict><password>{PASSWORD}</password><networks><ip>127.0.0.1</ip></networks>\
             <profile>default</profile><quota>default</quota></interdict></users><quotas><default/></quotas></yandex>"
        );
        fs::write(dir.join("users.xml"), users).expect("written");
        let server = Self {
            child: Self::spawn(&config),
            config,
            port: http,
        };
        server.wait();
        server
    }

    fn spawn(config: &Path) -> Child {
        let mut server = Command::new(SERVER);
        server.arg(format!("--config-file={}", config.display()));
        server.stdout(Stdio::null()).stderr(Stdio::null());
        server.spawn().expect("the server")
    }

    fn wait(&self) {
        wait_for("the server", || {
            (self.query("SELECT 1").as_deref() == Some("1")).then_some(())
        });
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.config);
        self.wait();
    }

    fn query(&self, sql: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head = format!(
            "POST / HTTP/1.0\r\nX-ClickHouse-User: interdict\r\nX-ClickHouse-Key: {PASSWORD}\r\nContent-Length: {}\r\n\r\n",
            sql.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(sql.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some(body.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Whether the server is here; where not, says so loudly, and fails where `CI` is set.
fn can_serve(test: &str) -> bool {
    if Path::new(SERVER).exists() {
        return true;
    }
    let why = "clickhouse-server is not installed (cargo xtask setup)";
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} cannot run here, and CI must not skip: {why}"
    );
    let _closed = writeln!(std::io::stderr(), "\nSKIPPED {test}: {why}\n");
    false
}

#[test]
fn an_old_server_has_every_record_once_when_it_is_read_as_told() {
    let test = "an_old_server_has_every_record_once";
    if !can_govern(test) || !can_serve(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let database = Postgres::start(dir.path()).expect("PostgreSQL");
    let issuer = Oidc::start().expect("issuer");
    let mut server = Server::start(dir.path());
    let sql = fs::read_to_string(repository().join("deploy/clickhouse/legacy-records.sql")).expect("read");
    let plain: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    for statement in plain.join("\n").split(';').filter(|s| !s.trim().is_empty()) {
        assert_eq!(server.query(statement).as_deref(), Some(""), "{statement}");
    }
    let more = format!(
        "[audit.clickhouse]\nurl = \"http://127.0.0.1:{}\"\nuser = \"interdict\"\npassword_file = \"sink\"\nlegacy = true\n\
         batch_records = 25\nbatch_age = \"50ms\"\n",
        server.port
    );
    let agent = Agent::new(dir.path(), &database, &issuer, &more).expect("agent");
    let alice = issuer.token("alice", &[], 600);
    let alice = agent.token("alice", &alice).expect("token");
    let select = ["psql", "-X", "-q", "-c", "SELECT email, card FROM customers"];

    // With a wrong password nothing is sent and nothing is lost.
    let password = dir.path().join("agent/sink");
    fs::write(&password, "wrong").expect("written");
    let seen = agent.run(Some(&alice), &select).expect("run");
    assert_eq!(seen.status, 0, "{}", seen.err);
    assert!(seen.err.contains("will not by itself"), "{}", seen.err);
    let count = |server: &Server| server.query("SELECT count() FROM interdict.records_once");
    assert_eq!(count(&server).as_deref(), Some("0"));

    // Killed in the middle of its work, and away for a moment.
    fs::write(&password, PASSWORD).expect("written");
    let stop = dir.path().join("stop");
    let script = format!(
        "while [ ! -e {} ]; do echo 'SELECT email, card FROM customers;'; sleep 0.01; done | psql -X -q -v ON_ERROR_STOP=1 >/dev/null",
        stop.display()
    );
    let load = agent
        .start(Some(&alice), &["sh", "-ec", &script])
        .expect("started");
    for _ in 0..3 {
        let before: u64 = count(&server).and_then(|n| n.parse().ok()).expect("a number");
        wait_for("more records", || {
            let now: u64 = count(&server)?.parse().ok()?;
            (now > before + 100).then_some(())
        });
        server.kill();
        server.start_again();
    }
    fs::write(&stop, "").expect("stopped");
    let ended = load.wait_with_output().expect("ended");
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    wait_for("the rest", || {
        let idle = agent.run(None, &["sleep", "0.5"]).expect("run");
        assert_eq!(idle.status, 0, "{}", idle.err);
        let local = agent.records().expect("records").len().to_string();
        (count(&server)? == local).then_some(())
    });

    let config = dir.path().join("agent/interdict.toml").display().to_string();
    let words = [
        "audit",
        "verify-sink",
        "--config",
        &config,
        "--user",
        "interdict",
        "--json",
        "--password-file",
    ];
    let seen = agent.interdict(&[&words[..], &[&password.display().to_string()]].concat());
    let seen = seen.expect("run");
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    let told: Value = serde_json::from_str(&seen.out).expect("an object");
    assert_eq!(told["records"], agent.records().expect("records").len());
    server
        .query("ALTER TABLE interdict.records DELETE WHERE seq = 3")
        .expect("asked");
    let found = wait_for("the deletion", || {
        let seen = agent.interdict(&[&words[..], &[&password.display().to_string()]].concat());
        let seen = seen.expect("run");
        (seen.status == 1).then_some(seen.out)
    });
    assert!(found.contains("record 3 is missing"), "{found}");
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}
