//! Guard and proxy are two processes: what the second may, and what becomes of a run when either goes.
#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "in a test, that is the failure; and figures are told"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interdict::guard::Standing;
use interdict_tests::agent::proxy_of;
use interdict_tests::cgroup;
use interdict_tests::tools::binary;
use interdict_tests::world::{World, kinds, world};
use rustix::process::{Pid, Signal, kill_process};

/// Connects when it is told to, and says what became of it. It does not end when it is asked to.
const PROBE: &str = r#"
import errno, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
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

struct Probe {
    agent: Child,
    input: std::process::ChildStdin,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
    proxy: Pid,
}

impl Probe {
    fn start(w: &World) -> Self {
        let python = "/usr/bin/python3";
        let began = Instant::now();
        let mut agent = w
            .agent
            .start(Some(&w.alice), &[python, "-u", "-c", PROBE])
            .expect("started");
        let input = agent.stdin.take().expect("stdin");
        let mut output = BufReader::new(agent.stdout.take().expect("stdout")).lines();
        let first = output.next().and_then(Result::ok);
        let mut said = || agent.stderr.take().map(std::io::read_to_string);
        assert_eq!(first.as_deref(), Some("ready"), "{:?}", said());
        eprintln!("a governed command began after {:?}", began.elapsed());
        let proxy = proxy_of(agent.id()).expect("a proxy");
        Self {
            agent,
            input,
            output,
            proxy,
        }
    }

    fn ask(&mut self, word: &str, port: u16) -> String {
        writeln!(self.input, "{word} {port}").expect("told");
        self.output.next().expect("a line").expect("text")
    }

    /// Asks until nothing is connected at all.
    fn until_denied(&mut self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(8);
        loop {
            let said = self.ask("try", port);
            assert_ne!(said, "ESCAPED");
            if said == "EPERM" {
                return;
            }
            assert!(Instant::now() < deadline, "{said} for too long");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn outside() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    listener.set_nonblocking(true).expect("non-blocking");
    let port = listener.local_addr().expect("address").port();
    (listener, port)
}

#[test]
fn the_proxy_has_nothing_and_its_records_are_its_own() {
    let Some(w) = world("the_proxy_has_nothing", "") else {
        return;
    };
    let mut probe = Probe::start(&w);
    let status = std::fs::read_to_string(format!("/proc/{}/status", probe.proxy.as_raw_nonzero()));
    let standing = Standing::read(&status.expect("readable")).expect("understood");
    assert!(standing.is_lowly(), "{standing:?}");
    let uid = standing.uid;
    for name in [
        "mask.key",
        "ca/authority.pem",
        "audit/signing.key",
        "approvals.db",
    ] {
        let meta = std::fs::metadata(w.agent.state().join(name)).expect(name);
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), uid, "{name}");
    }
    // The guard has kept no listener: the ports are the proxy's alone, and close with it.
    let fds = std::fs::read_dir(format!("/proc/{}/fd", probe.agent.id())).expect("the guard's descriptors");
    let links = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let sockets: Vec<String> = links
        .map(|link| link.display().to_string())
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tcp = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
    let listening = tcp.lines().filter(|line| line.contains(" 0A ")).filter(|line| {
        sockets
            .iter()
            .any(|inode| line.split_whitespace().nth(9) == Some(inode))
    });
    assert_eq!(listening.count(), 0);
    let (_outside, port) = outside();
    assert_ne!(probe.ask("try", port), "ESCAPED");
    drop(probe.input);
    assert!(probe.agent.wait().expect("ended").success());
    w.agent.verify().expect("verified");
    let records = w.agent.records().expect("records");
    for kind in ["agent.started", "run.started", "run.ended", "agent.stopped"] {
        assert_eq!(kinds(&records, kind).count(), 1, "{kind}");
    }
}

#[test]
fn a_killed_proxy_leaves_nothing_connected() {
    let Some(w) = world("a_killed_proxy", "") else {
        return;
    };
    let mut probe = Probe::start(&w);
    let (listener, port) = outside();
    kill_process(probe.proxy, Signal::KILL).expect("killed");
    // At once the ports are closed, and soon everything is denied.
    assert!(["ECONNREFUSED", "EPERM", "ECONNRESET"].contains(&probe.ask("try", port).as_str()));
    probe.until_denied(port);
    let agent = Pid::from_raw(i32::try_from(probe.agent.id()).expect("small")).expect("a pid");
    let ended = probe.agent.wait_with_output_within();
    assert!(!ended.0, "an agent without its proxy ends with an error");
    assert!(ended.1.contains("the proxy has ended"), "{}", ended.1);
    // The command did not end: it stays denied without any agent.
    writeln!(probe.input, "try {port}").expect("told");
    assert_eq!(probe.output.next().expect("a line").expect("text"), "EPERM");
    drop(probe.input);
    assert!(probe.output.next().is_none());
    assert!(listener.accept().is_err(), "somebody came through");
    cgroup::take_away(agent).expect("taken away");
    let again = w.agent.psql(Some(&w.alice), "SELECT 1").expect("run");
    assert_eq!(again.status, 0, "{}", again.err);
    w.agent.verify().expect("verified");
}

#[test]
fn a_killed_guard_takes_its_proxy_with_it() {
    let Some(w) = world("a_killed_guard", "") else {
        return;
    };
    let mut probe = Probe::start(&w);
    let (listener, port) = outside();
    let agent = Pid::from_raw(i32::try_from(probe.agent.id()).expect("small")).expect("a pid");
    probe.agent.kill().expect("killed");
    probe.agent.wait().expect("ended");
    let proxy = format!("/proc/{}/stat", probe.proxy.as_raw_nonzero());
    let deadline = Instant::now() + Duration::from_secs(5);
    // A process that nobody waits for yet is a zombie.
    while std::fs::read_to_string(&proxy).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the proxy lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(probe.ask("try", port), "ESCAPED");
    probe.until_denied(port);
    drop(probe.input);
    assert!(probe.output.next().is_none());
    assert!(listener.accept().is_err(), "somebody came through");
    cgroup::take_away(agent).expect("taken away");
}

#[test]
fn a_stopped_proxy_stops_everything() {
    let Some(w) = world("a_stopped_proxy", "") else {
        return;
    };
    let mut probe = Probe::start(&w);
    let (listener, port) = outside();
    kill_process(probe.proxy, Signal::STOP).expect("stopped");
    // The heartbeat is that of both: without the proxy's it ends.
    assert_eq!(probe.ask("hold", port), "connected", "the kernel accepts for it");
    let deadline = Instant::now() + Duration::from_secs(10);
    while probe.ask("hold", port) != "EPERM" {
        assert!(Instant::now() < deadline, "the hooks did not close");
        std::thread::sleep(Duration::from_millis(100));
    }
    kill_process(probe.proxy, Signal::CONT).expect("continued");
    assert!(listener.accept().is_err(), "somebody came through");
    drop(probe.input);
    assert!(probe.agent.wait().expect("ended").success());
    let records = w.agent.records().expect("records");
    let why = |r: &&serde_json::Value| r["reason"].as_str().is_some_and(|why| why.contains("not alive"));
    assert!(kinds(&records, "kernel.denied").any(|r| why(&r)), "{records:?}");
    w.agent.verify().expect("verified");
}

#[test]
fn what_a_proxy_that_was_taken_over_cannot_do() {
    if !interdict_tests::can_govern("what_a_proxy_cannot_do") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(dir.path(), open(0o755)).expect("opened");
    let (state, free) = (dir.path().join("state"), dir.path().join("free"));
    for place in [&state, &free] {
        std::fs::create_dir(place).expect("made");
        std::fs::set_permissions(place, open(0o777)).expect("opened");
    }
    std::fs::write(free.join("readable"), "x").expect("written");
    let (_listener, port) = outside();
    let out = Command::new(env!("CARGO_BIN_EXE_lowly"))
        .args([&state, &free])
        .arg(port.to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("lowly: true"), "{said}");
    if !said.contains("whole: true") {
        eprintln!("PARTLY SKIPPED: this kernel has no whole Landlock domains");
        return;
    }
    let mut refused = 0;
    for line in said.lines().skip(2) {
        let fine = line.ends_with(": OK");
        assert_eq!(!line.starts_with('!'), fine, "{line}\n{said}");
        refused += usize::from(!fine);
    }
    assert!(refused >= 14, "{said}");
    let help = Command::new(binary())
        .arg("__proxy")
        .args(["--", "true"])
        .output();
    assert!(!help.expect("run").status.success(), "a proxy without a guard");
}

/// The end of an agent that is still held by its pipes.
trait Within {
    fn wait_with_output_within(&mut self) -> (bool, String);
}

impl Within for Child {
    fn wait_with_output_within(&mut self) -> (bool, String) {
        let status = self.wait().expect("ended");
        let mut pipe = self.stderr.take().expect("stderr");
        // What is left of the run holds the pipe too: what is in it is all there is.
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).expect("non-blocking");
        let mut said = Vec::new();
        let _would_block = std::io::Read::read_to_end(&mut pipe, &mut said);
        (status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}
