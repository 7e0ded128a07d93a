//! Guard and proxy of the service are two processes: what the second may, and what becomes of workloads when either goes.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use interdict::guard::Standing;
use interdict_tests::agent::proxy_of;
use interdict_tests::service::{Cgroups, Manager};
use interdict_tests::tools::binary;
use interdict_tests::world::{World, kinds, world};
use rustix::process::{Pid, Signal, kill_process};

/// The one workload.
const MCP: &str = "[[workload]]\nname = \"mcp\"\ncgroup = \"{root}mcp\"\nidentity_token_file = \"alice\"\n";

/// What is in no other: where the agent itself is, nothing is governed.
const REST: &str = "[[workload]]\nname = \"rest\"\ncgroup = \"{root}*\"\n";

/// Connects when it is told to, and says what became of it.
const PROBE: &str = r#"
import errno, socket, sys
print('ready', flush=True)
for line in sys.stdin:
    word, port = line.split()
    s = socket.socket(); s.settimeout(20)
    try:
        s.connect(('127.0.0.1', int(port)))
        if word == 'hold': held = s
        else: s.send(b'x'); s.recv(1); print('ESCAPED', flush=True); continue
    except OSError as e:
        print(errno.errorcode.get(e.errno, 'TIMEOUT'), flush=True)
    else:
        print('connected', flush=True)
"#;

/// A serving agent, and a process in its workload's cgroup. In the order of dropping: the agent before its cgroups.
struct Served {
    probe: Child,
    input: std::process::ChildStdin,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
    manager: Manager,
    cgroups: Cgroups,
    outside: TcpListener,
    w: World,
}

fn served(test: &str) -> Option<Served> {
    with(test, "", |manager, _| manager.start().expect("ready"))
}

/// With `more` in the configuration, and `start` in the place of a start.
fn with(test: &str, more: &str, start: impl FnOnce(&mut Manager, &Cgroups)) -> Option<Served> {
    let cgroups = Cgroups::make().expect("cgroups");
    let more = format!("{more}{MCP}{REST}").replace("{root}", &cgroups.path(""));
    let w = world(test, &more)?;
    cgroups.add("mcp").expect("made");
    let mut manager = Manager::new(&w.agent.config()).expect("manager");
    start(&mut manager, &cgroups);
    let mut probe = cgroups
        .command("mcp", &["/usr/bin/python3", "-u", "-c", PROBE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let input = probe.stdin.take().expect("stdin");
    let mut output = BufReader::new(probe.stdout.take().expect("stdout")).lines();
    let first = output.next().and_then(Result::ok);
    assert_eq!(first.as_deref(), Some("ready"));
    let outside = TcpListener::bind("127.0.0.1:0").expect("listener");
    outside.set_nonblocking(true).expect("non-blocking");
    Some(Served {
        probe,
        input,
        output,
        manager,
        cgroups,
        outside,
        w,
    })
}

impl Served {
    fn ask(&mut self, word: &str) -> String {
        let port = self.outside.local_addr().expect("address").port();
        writeln!(self.input, "{word} {port}").expect("told");
        self.output.next().expect("a line").expect("text")
    }

    /// Asks until nothing is connected at all.
    fn until_denied(&mut self, word: &str) {
        let began = Instant::now();
        loop {
            let said = self.ask(word);
            assert_ne!(said, "ESCAPED");
            if said == "EPERM" {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{said} for too long");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn proxy(&self) -> Pid {
        let guard = self.manager.pid().expect("started").as_raw_nonzero().get();
        proxy_of(guard.unsigned_abs()).expect("a proxy")
    }

    fn psql(&self, sql: &str) -> String {
        let bundle = self.w.agent.state().join("ca/bundle.pem");
        let mut client = self.cgroups.command("mcp", &["psql", "-X", "-At", "-c", sql]);
        client
            .envs([
                ("PGHOST", "localhost"),
                ("PGUSER", "anybody"),
                ("PGPASSWORD", "wrong"),
            ])
            .envs([
                ("PGDATABASE", "shop"),
                ("PGSSLMODE", "verify-full"),
                ("HOME", "/nonexistent"),
            ])
            .env("PGPORT", self.w.database.port.to_string())
            .env("PGSSLROOTCERT", bundle);
        let Output { stdout, stderr, .. } = client.output().expect("psql");
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }

    /// Nobody came through, and what is recorded holds.
    fn end(mut self) {
        assert!(self.outside.accept().is_err(), "somebody came through");
        self.probe.kill().expect("killed");
        self.probe.wait().expect("ended");
        self.w.agent.verify().expect("verified");
    }
}

#[test]
fn the_proxy_of_the_service_has_nothing() {
    let Some(mut s) = served("the_proxy_of_the_service_has_nothing") else {
        return;
    };
    let proxy = s.proxy().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{proxy}/status")).expect("readable");
    let standing = Standing::read(&status).expect("understood");
    assert!(standing.is_lowly(), "{standing:?}");
    // The password is root's alone: the guard has opened it.
    let password = s.w.agent.config().with_file_name("password");
    let found = std::fs::metadata(password).expect("there");
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
    assert!(s.psql("SELECT email FROM customers LIMIT 1").contains("***"));
    for name in [
        "mask.key",
        "ca/authority.pem",
        "audit/signing.key",
        "approvals.db",
    ] {
        let meta = std::fs::metadata(s.w.agent.state().join(name)).expect(name);
        assert_eq!(meta.uid(), standing.uid, "{name}");
    }
    // The guard accepts nothing: those who listen for connections are the proxy (and the manager, which keeps them).
    let guard = s.manager.pid().expect("started").as_raw_nonzero();
    let fds = std::fs::read_dir(format!("/proc/{guard}/fd")).expect("the guard's descriptors");
    let links = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let tcp = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
    let listening = tcp.lines().filter(|line| line.contains(" 0A ")).filter(|line| {
        let inode = line.split_whitespace().nth(9);
        sockets.iter().any(|own| inode == Some(own))
    });
    assert_eq!(listening.count(), 0);
    let said = s.w.agent.interdict(&["doctor"]).expect("doctor").out;
    assert!(said.contains(&format!("proxy {proxy}")), "{said}");
    assert_ne!(s.ask("try"), "ESCAPED");
    // Asked to stop, it has its guard end both, in order.
    kill_process(s.proxy(), Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0, "{}", s.manager.log());
    let records = s.w.agent.records().expect("records");
    for kind in ["agent.started", "workload.governed", "agent.stopped"] {
        assert_eq!(kinds(&records, kind).count(), 1, "{kind}");
    }
    s.end();
}

/// A proxy as its unit starts it: in a cgroup of that name, as another user without any right.
fn proxy_in(cgroups: &Cgroups, cgroup: &str, link: &Path) -> Child {
    // By descriptor: directories above it may be closed to that user.
    let words = "exec 9<\"$0\" && exec setpriv --reuid nobody --regid nogroup --clear-groups --bounding-set -all \
                 --inh-caps -all --no-new-privs /proc/self/fd/9 __proxy-serve --link \"$1\"";
    let (program, link) = (binary().display().to_string(), link.display().to_string());
    cgroups.add(cgroup).expect("made");
    let mut command = cgroups.command(cgroup, &["sh", "-c", words, &program, &link]);
    command.stderr(Stdio::piped()).spawn().expect("started")
}

#[test]
fn a_proxy_of_another_unit_is_let_in_and_nobody_else() {
    let mut proxy = None;
    let unit = "interdict-proxy.service";
    let started = with(
        "a_proxy_of_another_unit",
        // The last workload would be the proxy too.
        "[agent]\nuser = \"nobody\"\n",
        |manager, cgroups| {
            let link = std::env::temp_dir().join(format!("interdict-link-{}", std::process::id()));
            manager.more = vec!["--link".into(), link.display().to_string()];
            manager.spawn().expect("started");
            let stranger = proxy_in(cgroups, "other.service", &link);
            let stranger = stranger.wait_with_output().expect("ended");
            let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
            assert!(
                !stranger.status.success() && said.contains("there is no guard"),
                "{said}"
            );
            manager.wait_for_log("was not let in").expect("refused");
            proxy = Some(proxy_in(cgroups, unit, &link));
            manager.wait_for("READY=1").expect("ready");
            assert!(!link.exists(), "the door stays open");
        },
    );
    let (Some(mut s), Some(mut proxy)) = (started, proxy) else {
        return;
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id())).expect("readable");
    let standing = Standing::read(&status).expect("understood");
    assert!(standing.is_lowly(), "{standing:?}");
    assert_eq!(s.psql("SELECT 1"), "1\n");
    s.manager
        .wait_for_log("the agent itself is in it")
        .expect("left alone");
    // Neither is the other's child; each ends when the other does.
    proxy.kill().expect("killed");
    proxy.wait().expect("ended");
    assert_ne!(s.manager.wait().expect("ended"), 0);
    assert_eq!(s.ask("try"), "EPERM");
    s.manager.spawn().expect("started");
    let link = std::path::PathBuf::from(s.manager.more.last().expect("a link"));
    let mut proxy = proxy_in(&s.cgroups, unit, &link);
    s.manager.wait_for("READY=1").expect("ready");
    assert_eq!(s.psql("SELECT 1"), "1\n");
    s.manager.signal(Signal::KILL).expect("sent");
    s.manager.wait().expect("ended");
    assert!(!proxy.wait().expect("ended").success());
    s.until_denied("hold");
    s.manager.spawn().expect("started");
    let mut proxy = proxy_in(&s.cgroups, unit, &link);
    s.manager.wait_for("READY=1").expect("ready");
    s.manager.signal(Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0, "{}", s.manager.log());
    assert!(proxy.wait().expect("ended").success());
    s.end();
}

#[test]
fn a_killed_proxy_leaves_nothing_connected_until_both_are_started_again() {
    let Some(mut s) = served("a_killed_proxy_of_the_service") else {
        return;
    };
    kill_process(s.proxy(), Signal::KILL).expect("killed");
    // The guard closes the hooks before it ends, and does not wait for a heartbeat to be missed.
    assert_ne!(s.manager.wait().expect("ended"), 0);
    assert!(
        s.manager.log().contains("the proxy has ended"),
        "{}",
        s.manager.log()
    );
    assert_eq!(s.ask("try"), "EPERM");
    assert_ne!(s.psql("SELECT 1"), "1\n");
    s.manager.start().expect("ready");
    assert_eq!(s.psql("SELECT 1"), "1\n");
    assert_ne!(s.ask("try"), "ESCAPED");
    s.end();
}

#[test]
fn a_killed_guard_takes_the_services_proxy_with_it() {
    let Some(mut s) = served("a_killed_guard_of_the_service") else {
        return;
    };
    let proxy = format!("/proc/{}/stat", s.proxy().as_raw_nonzero());
    s.manager.signal(Signal::KILL).expect("sent");
    s.manager.wait().expect("ended");
    let deadline = Instant::now() + Duration::from_secs(5);
    // A process that nobody waits for yet is a zombie.
    while std::fs::read_to_string(&proxy).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the proxy lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The manager keeps the listeners: who comes in the first seconds waits in vain.
    s.until_denied("hold");
    assert_eq!(s.ask("try"), "EPERM");
    // What the killed ones left is sealed by those after them.
    s.manager.start().expect("ready");
    assert_eq!(s.psql("SELECT 1"), "1\n");
    s.end();
}

#[test]
fn a_stopped_proxy_of_the_service_stops_everything() {
    let Some(mut s) = served("a_stopped_proxy_of_the_service") else {
        return;
    };
    kill_process(s.proxy(), Signal::STOP).expect("stopped");
    assert_eq!(s.ask("hold"), "connected", "the kernel accepts for it");
    s.until_denied("hold");
    // The watchdog is not told either: a service manager would start both again.
    s.manager.listen().expect("heard");
    s.manager.forget_heard();
    std::thread::sleep(Duration::from_millis(1500));
    s.manager.listen().expect("heard");
    assert!(!s.manager.has_heard("WATCHDOG=1"));
    kill_process(s.proxy(), Signal::CONT).expect("continued");
    s.manager.wait_for("WATCHDOG=1").expect("alive");
    let deadline = Instant::now() + Duration::from_secs(10);
    while s.psql("SELECT 1") != "1\n" {
        assert!(Instant::now() < deadline, "nothing is connected again");
    }
    s.manager.signal(Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0, "{}", s.manager.log());
    let records = s.w.agent.records().expect("records");
    let why = |r: &&serde_json::Value| r["reason"].as_str().is_some_and(|why| why.contains("not alive"));
    assert!(kinds(&records, "kernel.denied").any(|r| why(&r)), "{records:?}");
    s.end();
}
