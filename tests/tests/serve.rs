//! `interdict serve` around processes that it did not start, in cgroups that the tests make.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use interdict_tests::service::{Cgroups, Manager};
use interdict_tests::world::{World, kinds, world};
use rustix::process::Signal;

/// A served world: the database, the agent's files, the cgroups, the manager.
struct Served {
    // Declared in the order of dropping: the agent before its cgroups.
    manager: Manager,
    cgroups: Cgroups,
    w: World,
}

/// An agent whose configuration has `workloads`; `{root}` in it is the cgroup of the test.
fn served(test: &str, workloads: &str) -> Option<Served> {
    let cgroups = Cgroups::make().expect("cgroups");
    let more = workloads.replace("{root}", &cgroups.path(""));
    let w = world(test, &more)?;
    let manager = Manager::new(&w.agent.config()).expect("manager");
    Some(Served { manager, cgroups, w })
}

impl Served {
    fn psql(&self, cgroup: &str, sql: &str) -> Output {
        let words = ["psql", "-X", "-At", "-c", sql];
        self.command(cgroup, &words).output().expect("psql")
    }

    /// A client of the database in a cgroup.
    fn command(&self, cgroup: &str, words: &[&str]) -> Command {
        let ca = self.w.agent.state().join("ca/bundle.pem").display().to_string();
        let port = self.w.database.port.to_string();
        let mut command = self.cgroups.command(cgroup, words);
        command
            .envs([
                ("PGHOST", "localhost"),
                ("PGUSER", "anybody"),
                ("PGPASSWORD", "wrong"),
            ])
            .envs([
                ("PGPORT", port.as_str()),
                ("PGDATABASE", "shop"),
                ("HOME", "/nonexistent"),
            ])
            .envs([("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", ca.as_str())]);
        command
    }

    /// A session that is asked one thing after another.
    fn session(&self, cgroup: &str) -> Session {
        let mut command = self.command(cgroup, &["sh", "-c", "exec psql -X -At -q 2>&1"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        Session { child, answers }
    }

    /// Somebody else consents to whatever waits first.
    fn approve_the_first(&self) {
        let token = self.w.dora.display().to_string();
        let words = ["approvals", "list", "--json", "--token-file", &token];
        let until = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let listed = self.w.agent.interdict(&words).expect("listed").out;
            let waiting = listed.lines().find_map(|line| {
                let request: serde_json::Value = serde_json::from_str(line).ok()?;
                request["ticket"].as_str().map(str::to_owned)
            });
            if let Some(ticket) = waiting {
                let words = ["approvals", "approve", &ticket, "--token-file", &token];
                let done = self.w.agent.interdict(&words).expect("approved");
                assert_eq!(done.status, 0, "{}", done.err);
                return;
            }
            assert!(std::time::Instant::now() < until, "nothing waits: {listed}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes the configuration anew, with `workloads` in the place of the old ones.
    fn configure(&self, workloads: &str) {
        let file = self.w.agent.config();
        let old = std::fs::read_to_string(&file).expect("read");
        let kept = old.split("[[workload]]").next().unwrap_or_default();
        let new = format!("{kept}{}", workloads.replace("{root}", &self.cgroups.path("")));
        std::fs::write(&file, new).expect("written");
    }

    fn stop(&mut self) {
        self.manager.signal(Signal::TERM).expect("sent");
        assert_eq!(self.manager.wait().expect("ended"), 0, "{}", self.manager.log());
    }
}

struct Session {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn ask(&mut self, sql: &str) -> String {
        let mut input = self.child.stdin.as_ref().expect("stdin");
        writeln!(input, "{sql};\n\\echo ---").expect("asked");
        let mut answer = String::new();
        loop {
            let from = answer.len();
            let read = self.answers.read_line(&mut answer).expect("answered");
            if read == 0 || answer.get(from..) == Some("---\n") {
                answer.truncate(from);
                return answer.trim().to_owned();
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The workload of most tests.
const MCP: &str = "[[workload]]\nname = \"mcp\"\ncgroup = \"{root}mcp/*\"\nidentity_token_file = \"alice\"\n";

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn a_cgroup_is_governed_and_its_sibling_is_not() {
    let Some(mut s) = served("a_cgroup_is_governed", MCP) else {
        return;
    };
    s.cgroups.add("mcp/one").expect("made");
    s.cgroups.add("other").expect("made");
    s.manager.start().expect("ready");
    let seen = s.psql("mcp/one", "SELECT email FROM customers ORDER BY id LIMIT 1");
    assert!(text(&seen).contains("***"), "{}", text(&seen));
    // Beside it, the database is as it is: it knows no such user.
    let seen = s.psql("other", "SELECT 1");
    assert!(!seen.status.success(), "{}", text(&seen));
    assert!(!text(&seen).contains("Interdict"), "{}", text(&seen));
    s.manager.wait_for("WATCHDOG=1").expect("alive");
    let figures = s.w.agent.interdict(&["metrics"]).expect("figures").out;
    assert!(
        figures.contains("interdict_kernel_redirected_total{run=\"serve\",workload=\"mcp\"}"),
        "{figures}"
    );
    // Held, and decided over the control socket.
    let held = s
        .command(
            "mcp/one",
            &["psql", "-X", "-At", "-c", "UPDATE orders SET total = total"],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    s.approve_the_first();
    let held = held.wait_with_output().expect("ended");
    assert!(held.status.success(), "{}", text(&held));
    // A cgroup that comes later is governed too.
    s.cgroups.add("mcp/two").expect("made");
    s.manager.wait_for_log("mcp/two").expect("governed");
    let seen = s.psql("mcp/two", "DROP TABLE orders");
    assert!(text(&seen).contains("Interdict denied"), "{}", text(&seen));

    s.manager.signal(Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0);
    s.w.agent.verify().expect("verified");
    let records = s.w.agent.records().expect("records");
    let sessions: Vec<_> = kinds(&records, "session.opened").collect();
    assert!(!sessions.is_empty());
    for session in sessions {
        assert_eq!(
            (&session["workload"], &session["principal"]),
            (&"mcp".into(), &"corp/alice".into())
        );
    }
}

#[test]
fn workloads_have_their_own_identities_and_a_reload_loses_no_session() {
    let batch = "[[workload]]\nname = \"batch\"\ncgroup = \"{root}batch\"\n";
    let Some(mut s) = served("workloads_have_their_own", &format!("{MCP}{batch}")) else {
        return;
    };
    for cgroup in ["mcp/one", "batch", "late"] {
        s.cgroups.add(cgroup).expect("made");
    }
    s.manager.start().expect("ready");
    let mut session = s.session("mcp/one");
    assert_eq!(session.ask("SELECT 1"), "1");
    let as_workload = text(&s.psql("batch", "UPDATE customers SET name = name WHERE id = 1"));
    assert!(as_workload.contains("Interdict denied"), "{as_workload}");

    // Under load: a client after the other, while the configuration changes ten times.
    let load = "for i in $(seq 40); do psql -X -At -c 'SELECT 41 + 1' || echo LOST; done";
    let loaded = s
        .command("mcp/one", &["sh", "-c", load])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("load");
    let late = "[[workload]]\nname = \"late\"\ncgroup = \"{root}late\"\nidentity_token_file = \"dora\"\n";
    for round in 0..10 {
        let with_late = format!("{MCP}{batch}{late}");
        s.configure(if round % 2 == 0 { &with_late } else { MCP });
        s.manager.signal(Signal::HUP).expect("sent");
        s.manager
            .wait_for("RELOADING=1\nMONOTONIC_USEC=")
            .expect("reloading");
        s.manager.wait_for("READY=1").expect("ready again");
        assert_eq!(session.ask(&format!("SELECT {round}")), round.to_string());
    }
    let loaded = loaded.wait_with_output().expect("ended");
    assert_eq!(text(&loaded), "42\n".repeat(40));
    // Neither is a workload any more: the database is as it is there.
    for cgroup in ["late", "batch"] {
        let seen = text(&s.psql(cgroup, "SELECT 1"));
        assert!(!seen.contains("Interdict") && seen != "1\n", "{seen}");
    }
    // A wrong configuration changes nothing, and is recorded.
    s.configure("[[workload]]\nname = \"mcp\"\n");
    s.manager.signal(Signal::HUP).expect("sent");
    s.manager.wait_for("RELOADING=1").expect("reloading");
    s.manager.wait_for("READY=1").expect("ready again");
    assert_eq!(session.ask("SELECT 5"), "5");
    drop(session);
    s.configure(MCP);
    s.stop();
    s.w.agent.verify().expect("verified");
    let records = s.w.agent.records().expect("records");
    let reloads = kinds(&records, "agent.reloaded").filter(|r| {
        r["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("configuration"))
    });
    assert_eq!(reloads.count(), 10);
    let wrong = kinds(&records, "agent.reload_refused").next().expect("a record");
    assert!(
        wrong["reason"]
            .as_str()
            .expect("a reason")
            .contains("selects nothing"),
        "{wrong}"
    );
    let principals: std::collections::BTreeSet<_> = kinds(&records, "session.opened")
        .map(|r| {
            (
                r["workload"].as_str().unwrap_or_default(),
                r["principal"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        principals,
        [("batch", "workload/batch"), ("mcp", "corp/alice")].into()
    );
}

/// Whoever the processes of a cgroup reached that the agent did not dial for them.
fn reached(outside: &TcpListener) -> bool {
    outside.set_nonblocking(true).expect("non-blocking");
    outside.accept().is_ok()
}

#[test]
fn a_killed_agent_starts_again_and_no_new_connection_is_lost() {
    let Some(mut s) = served("a_killed_agent_starts_again", MCP) else {
        return;
    };
    s.cgroups.add("mcp/one").expect("made");
    s.manager.start().expect("ready");
    assert_eq!(text(&s.psql("mcp/one", "SELECT 1")), "1\n");
    // Tries to get out, all the time.
    let outside = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = outside.local_addr().expect("address").port().to_string();
    let escape = "import socket, sys, time\n\
                  while True:\n    \
                  time.sleep(0.02)\n    \
                  try: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1).close()\n    \
                  except OSError: pass\n";
    let mut escaping = s
        .command("mcp/one", &["/usr/bin/python3", "-c", escape, &port])
        .spawn()
        .expect("started");
    for round in 0..3 {
        s.manager.signal(Signal::KILL).expect("sent");
        s.manager.wait().expect("ended");
        // They come while nobody is there.
        let clients: Vec<Child> = (0..8)
            .map(|n| {
                let sql = format!("SELECT {round} * 10 + {n}");
                let mut client = s.command("mcp/one", &["psql", "-X", "-At", "-c", &sql]);
                client
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("started")
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        s.manager.start().expect("ready");
        for (n, client) in clients.into_iter().enumerate() {
            let out = client.wait_with_output().expect("ended");
            assert_eq!(
                text(&out),
                format!("{}\n", round * 10 + n),
                "round {round}: {}",
                s.manager.log()
            );
        }
    }
    // In good order too: a statement that runs goes on to its end, and who comes meanwhile is the next agent's.
    let mut session = s.session("mcp/one");
    assert_eq!(session.ask("SELECT 1"), "1");
    let running = s
        .command(
            "mcp/one",
            &["psql", "-X", "-At", "-c", "SELECT 'slept' FROM pg_sleep(1)"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    s.w.database.wait_for_statement("pg_sleep").expect("running");
    drop(session);
    s.manager.signal(Signal::TERM).expect("sent");
    s.manager.wait_for("STOPPING=1").expect("stopping");
    let coming = s
        .command("mcp/one", &["psql", "-X", "-At", "-c", "SELECT 'came'"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    assert_eq!(s.manager.wait().expect("ended"), 0);
    s.manager.start().expect("ready");
    assert_eq!(text(&running.wait_with_output().expect("ended")), "slept\n");
    assert_eq!(text(&coming.wait_with_output().expect("ended")), "came\n");
    // What the killed ones left is sealed by those after them.
    s.w.agent.verify().expect("verified");
    // Away for longer than a heartbeat lasts, and nothing gets out either.
    s.manager.signal(Signal::KILL).expect("sent");
    s.manager.wait().expect("ended");
    std::thread::sleep(Duration::from_millis(3500));
    let seen = s.psql("mcp/one", "SELECT 1");
    assert!(!seen.status.success(), "{}", text(&seen));
    assert!(!reached(&outside), "somebody came through");
    escaping.kill().expect("killed");
    escaping.wait().expect("ended");
    assert_eq!(
        s.manager.release().expect("released"),
        "mcp is not governed any more\n"
    );
}

#[test]
fn connections_that_are_older_than_the_guard_are_closed_or_left() {
    for (on_attach, expected) in [("close", "closed\n"), ("drain", "open\n")] {
        let workload = format!("{MCP}on_attach = \"{on_attach}\"\n");
        let Some(mut s) = served("connections_that_are_older", &workload) else {
            return;
        };
        s.cgroups.add("mcp/one").expect("made");
        let outside = TcpListener::bind("127.0.0.1:0").expect("listener");
        let port = outside.local_addr().expect("address").port().to_string();
        let script = "import socket, sys\n\
                      s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
                      print('connected', flush=True)\n\
                      try: print('open' if s.recv(1) == b'y' else 'ended')\n\
                      except OSError: print('closed')\n";
        let mut old = s
            .command("mcp/one", &["/usr/bin/python3", "-c", script, &port])
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut said = BufReader::new(old.stdout.take().expect("stdout"));
        let mut line = String::new();
        said.read_line(&mut line).expect("connected");
        let (mut peer, _) = outside.accept().expect("accepted");
        s.manager.start().expect("ready");
        let _closed = peer.write_all(b"y");
        line.clear();
        said.read_line(&mut line).expect("told");
        assert_eq!(line, expected, "{}", s.manager.log());
        old.wait().expect("ended");
        assert_eq!(text(&s.psql("mcp/one", "SELECT 1")), "1\n");
    }
}

#[test]
fn another_kernel_object_takes_over_without_a_moment_unguarded() {
    let Some(mut s) = served("another_kernel_object", MCP) else {
        return;
    };
    s.cgroups.add("mcp/one").expect("made");
    s.manager.start().expect("ready");
    s.manager.signal(Signal::KILL).expect("sent");
    s.manager.wait().expect("ended");
    // What is there is another version's from now on.
    let bpffs = interdict::guard::bpffs().expect("bpffs");
    let homes: Vec<_> = std::fs::read_dir(bpffs.join("interdict"))
        .expect("pins")
        .flatten()
        .map(|entry| entry.path().join("mcp"))
        .filter(|path| path.exists())
        .collect();
    let version = homes
        .iter()
        .flat_map(|home| std::fs::read_dir(home).expect("versions").flatten())
        .find(|v| {
            v.path()
                .join("links")
                .join(s.cgroups.id("mcp/one").expect("an id"))
                .exists()
        })
        .expect("the agent's pins")
        .path();
    std::fs::rename(&version, version.with_file_name("another")).expect("renamed");
    let outside = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = outside.local_addr().expect("address").port().to_string();
    let escape = "import socket, sys, time\n\
                  end = time.time() + 3\n\
                  while time.time() < end:\n    \
                  time.sleep(0.002)\n    \
                  try: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1).close()\n    \
                  except OSError: pass\n";
    let mut escaping = s
        .command("mcp/one", &["/usr/bin/python3", "-c", escape, &port])
        .spawn()
        .expect("started");
    s.manager.start().expect("ready");
    assert!(
        !version.with_file_name("another").exists(),
        "the old version is left"
    );
    assert_eq!(text(&s.psql("mcp/one", "SELECT 1")), "1\n", "{}", s.manager.log());
    escaping.wait().expect("ended");
    assert!(!reached(&outside), "somebody came through");
}

#[test]
fn cgroups_are_found_by_unit_user_and_file() {
    let program = tempfile::tempdir().expect("temp dir");
    let sleep = program.path().join("sleep");
    std::fs::copy("/bin/sleep", &sleep).expect("copied");
    let unit = format!("itest-{}", std::process::id());
    let workloads = format!(
        "[[workload]]\nname = \"unit\"\nsystemd_unit = \"{unit}-*.service\"\nslice = \"{unit}.slice\"\n\
         [[workload]]\nname = \"user\"\nuid = 64321\ncgroup = \"{{root}}**\"\n\
         [[workload]]\nname = \"file\"\nexecutable = \"{}\"\ncgroup = \"{{root}}**\"\n",
        sleep.display()
    );
    let Some(mut s) = served("cgroups_are_found", &workloads) else {
        return;
    };
    s.manager.start().expect("ready");
    let in_slice = format!("{unit}.slice/{unit}-a.service");
    for cgroup in [
        in_slice.as_str(),
        "outside/x.service",
        "by-user",
        "by-file",
        "by-nothing",
    ] {
        s.cgroups.add(cgroup).expect("made");
    }
    let sleep = sleep.display().to_string();
    let as_user = ["setpriv", "--reuid", "64321", "--clear-groups", "sleep", "60"];
    let mut sleeping: Vec<Child> = [
        ("by-user", &as_user[..]),
        ("by-file", &[&sleep, "60"]),
        ("by-nothing", &["sleep", "60"]),
    ]
    .into_iter()
    .map(|(cgroup, words)| s.cgroups.command(cgroup, words).spawn().expect("started"))
    .collect();
    for (workload, cgroup) in [
        ("unit", in_slice.as_str()),
        ("user", "by-user"),
        ("file", "by-file"),
    ] {
        let governed = format!("workload={workload} cgroup=\"{}\"", s.cgroups.path(cgroup));
        s.manager.wait_for_log(&governed).expect("governed");
    }
    for cgroup in ["outside/x.service", "by-nothing"] {
        let governed = format!("cgroup=\"{}\"", s.cgroups.path(cgroup));
        assert!(!s.manager.log().contains(&governed), "{}", s.manager.log());
    }
    // What was found later is governed as well as what was found at once.
    let seen = text(&s.psql("by-user", "DROP TABLE orders"));
    assert!(seen.contains("Interdict denied"), "{seen}");
    for child in &mut sleeping {
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
}
