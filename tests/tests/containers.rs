//! Real containers (runc) under `interdict serve`: network namespaces of their own, with the loopback only and with a cable.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use interdict_tests::container::Container;
use interdict_tests::service::{Cgroups, Manager};
use interdict_tests::world::{World, kinds, world};
use rustix::process::Signal;
use serde_json::json;

/// In the order of dropping: the agent before its cgroups.
struct Served {
    manager: Manager,
    cgroups: Cgroups,
    w: World,
}

fn served(test: &str, more: &str) -> Option<Served> {
    assert!(
        Path::new("/usr/sbin/runc").exists() || std::env::var_os("CI").is_none(),
        "{test} needs runc (cargo xtask setup)"
    );
    let cgroups = Cgroups::make().expect("cgroups");
    let w = world(test, &more.replace("{root}", &cgroups.path("")))?;
    let mut manager = Manager::new(&w.agent.config()).expect("manager");
    manager.start().expect("ready");
    Some(Served { manager, cgroups, w })
}

/// What a container tries beside its client; each line says what became of it.
const TRIES: &str = r"
import socket, errno, sys
def attempt(what, work):
    try: work(); print(what, 'DONE', flush=True)
    except OSError as e: print(what, errno.errorcode.get(e.errno, e), flush=True)
def talk(to):
    s = socket.create_connection((to, int(sys.argv[2])), 5); s.sendall(b'x'); assert not s.recv(1), 'an answer'
attempt('tcp', lambda: talk(sys.argv[1]))
u = socket.socket(type=socket.SOCK_DGRAM)
attempt('udp', lambda: u.sendto(b'x', (sys.argv[1], 9)))
attempt('raw', lambda: socket.socket(type=socket.SOCK_RAW, proto=1))
attempt('ping', lambda: socket.socket(type=socket.SOCK_DGRAM, proto=1))
";

#[test]
fn a_container_with_the_loopback_only_reaches_its_target_and_nothing_else() {
    let workload = "[[workload]]\nname = \"box\"\ncgroup = \"{root}box\"\nidentity_token_file = \"alice\"\n";
    let Some(mut s) = served("a_container_with_the_loopback_only", workload) else {
        return;
    };
    let state = s.w.agent.state();
    let port = s.w.database.port.to_string();
    let script = format!(
        "/usr/lib/postgresql/15/bin/psql -X -At -c 'SELECT email FROM customers ORDER BY id LIMIT 1' 2>&1; \
         python3 -c \"{TRIES}\" 198.51.100.9 443; echo end"
    );
    let container = Container::create(
        &s.cgroups.path("box"),
        &["/bin/sh", "-c", &script],
        &[(&state.join("ca"), "/interdict")],
        &[
            ("PGHOST", "localhost"),
            ("PGPORT", &port),
            ("PGDATABASE", "shop"),
            ("PGUSER", "anybody"),
            ("PGPASSWORD", "wrong"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/interdict/ca.pem"),
        ],
        &json!({}),
    )
    .expect("created");
    // Before its first instruction.
    s.manager.wait_for_log("box\" processes=").expect("governed");
    let said = container.run().expect("ran");
    assert!(said.starts_with("a***@"), "{said}");
    for denied in ["udp EPERM", "raw E", "ping E"] {
        assert!(said.contains(denied), "{denied}: {said}");
    }
    assert!(!said.contains("DONE") && said.ends_with("end\n"), "{said}");

    s.manager.signal(Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0);
    s.w.agent.verify().expect("verified");
    let records = s.w.agent.records().expect("records");
    let session = kinds(&records, "session.opened").next().expect("a session");
    assert_eq!(
        (&session["workload"], &session["principal"]),
        (&"box".into(), &"corp/alice".into())
    );
    let refused = |r: &serde_json::Value| r["original"] == "198.51.100.9:443" && r["verdict"] == "refused";
    assert!(kinds(&records, "operation").any(refused), "{said}");
    assert!(kinds(&records, "kernel.denied").any(|r| r["workload"] == "box"));
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().expect("ip");
    assert!(
        done.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The host's end of a cable to a container; it goes with this.
struct Cable(String);

impl Cable {
    /// 10.78.N.1 here, 10.78.N.2 there.
    fn plug(container: u32, number: u8) -> Self {
        let name = format!("itest{number}-{}", std::process::id() % 100_000);
        ip(&format!(
            "link add {name} type veth peer name eth0 netns {container}"
        ));
        let cable = Self(name);
        ip(&format!("addr add 10.78.{number}.1/24 dev {}", cable.0));
        ip(&format!("link set {} up", cable.0));
        let inside = |words: &str| {
            let done = Command::new("nsenter")
                .args(["-t", &container.to_string(), "-n", "ip"])
                .args(words.split(' '))
                .output()
                .expect("nsenter");
            assert!(
                done.status.success(),
                "{words}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        };
        inside(&format!("addr add 10.78.{number}.2/24 dev eth0"));
        inside("link set eth0 up");
        inside(&format!("route add default via 10.78.{number}.1"));
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

/// A target that is dialled from the container's own namespace sees its address, from the host's the host's; whatever is
/// no target is reached from neither.
fn with_a_cable(test: &str, number: u8, dial_from: &str, expected: &str) {
    // Nobody else's container has it.
    let label = format!("{}-{number}", std::process::id());
    let more = format!(
        "[[target]]\nname = \"mirror\"\nprotocol = \"http\"\naddresses = [\"10.78.{number}.1:8080\"]\ntls = \"disabled\"\n\
         [[workload]]\nname = \"box\"\ncontainer_label = \"interdict.test={label}\"\nidentity_token_file = \"alice\"\ndial_from = \"{dial_from}\"\n"
    );
    let Some(mut s) = served(test, &more) else { return };
    let script = format!(
        "curl -sS -m 10 http://10.78.{number}.1:8080/ 2>&1; echo; python3 -c \"{TRIES}\" 10.78.{number}.1 8081; echo end"
    );
    let container = Container::create(
        &s.cgroups.path("box"),
        &["/bin/sh", "-c", &script],
        &[],
        &[],
        &json!({"interdict.test": label}),
    )
    .expect("created");
    s.manager.wait_for_log("box\" processes=").expect("governed");
    let _cable = Cable::plug(container.pid().expect("a pid"), number);
    let address = format!("10.78.{number}.1");
    let target = TcpListener::bind((address.as_str(), 8080)).expect("listener");
    let other = TcpListener::bind((address.as_str(), 8081)).expect("listener");
    other.set_nonblocking(true).expect("non-blocking");
    let answering = std::thread::spawn(move || {
        let (mut stream, peer) = target.accept().expect("accepted");
        let _request = stream.read(&mut [0; 4096]).expect("read");
        // An address would be masked.
        let inside = peer.ip() == std::net::Ipv4Addr::new(10, 78, number, 2);
        let body = if inside {
            "from the container"
        } else {
            "from the host"
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let said = container.run().expect("ran");
    assert!(
        said.starts_with(&format!("{expected}\n")),
        "{said}\n{}",
        s.manager.log()
    );
    assert!(!said.contains("DONE") && said.ends_with("end\n"), "{said}");
    assert!(other.accept().is_err(), "what is no target was reached");
    answering.join().expect("answered");
    s.manager.signal(Signal::TERM).expect("sent");
    assert_eq!(s.manager.wait().expect("ended"), 0);
    s.w.agent.verify().expect("verified");
}

#[test]
fn a_target_is_dialled_from_the_containers_namespace() {
    with_a_cable("dialled_from_the_container", 1, "workload", "from the container");
}

#[test]
fn a_target_is_dialled_from_the_host() {
    with_a_cable("dialled_from_the_host", 2, "host", "from the host");
}

#[test]
fn a_process_that_leaves_its_namespace_finds_the_agent_in_the_new_one() {
    let workload = "[[workload]]\nname = \"box\"\ncgroup = \"{root}box\"\nidentity_token_file = \"alice\"\n";
    let Some(s) = served("a_process_that_leaves_its_namespace", workload) else {
        return;
    };
    s.cgroups.add("box").expect("made");
    s.manager.wait_for_log("box\" processes=").expect("governed");
    // Its loopback is down, and nobody listens there: the first try is denied, and tells the agent where it is.
    let script = "for i in 1 2 3 4 5 6 7 8 9; do psql -X -At -c 'SELECT 7' && exit; sleep 0.2; done";
    let mut command = s
        .cgroups
        .command("box", &["unshare", "--net", "sh", "-c", script]);
    let port = s.w.database.port.to_string();
    let bundle = s.w.agent.state().join("ca/bundle.pem").display().to_string();
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
        .envs([("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", bundle.as_str())]);
    let out = command.output().expect("ran");
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(
        said.trim(),
        "7",
        "{}\n{}",
        String::from_utf8_lossy(&out.stderr),
        s.manager.log()
    );
}

/// runc makes a container's path in every hierarchy of version 1 beside cgroup2, and leaves what is above it.
#[test]
fn no_hierarchy_keeps_what_a_test_made() {
    if !interdict_tests::can_govern("no_hierarchy_keeps") {
        return;
    }
    let cgroups = Cgroups::make().expect("cgroups");
    let container = Container::create(&cgroups.path("box/inner"), &["/bin/true"], &[], &[], &json!({}));
    drop(container.expect("created"));
    let made = cgroups.everywhere();
    assert!(!made.is_empty());
    drop(cgroups);
    let left: Vec<_> = made.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}
