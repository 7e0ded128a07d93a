//! Many connections of one governed process through the whole agent: sessions, decisions, records. None is lost, none is
//! taken for another, and the log tells of each.
#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "in a test, that is the failure, and a loud line"
)]

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use interdict_tests::{Agent, Oidc, can_govern, python};

/// Connections that are open at the same time.
const AT_ONCE: usize = 10_000;
/// Addresses of the target: fewer ports are taken from each than there are.
const ADDRESSES: u8 = 4;

/// As many as the limit of descriptors here lets the agent carry: two each, and some for itself.
fn at_once() -> usize {
    let limit = interdict_tests::tools::raise_descriptors();
    let most = AT_ONCE.min(limit.saturating_sub(1000) / 2);
    if most < AT_ONCE {
        eprintln!(
            "NOT IN FULL: {limit} descriptors are allowed here: {most} connections in the place of {AT_ONCE}"
        );
    }
    most
}

/// Opens all connections, one after the other, then asks each which address it reached, and closes them.
const CLIENT: &str = r"
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
port, count, addresses = map(int, sys.argv[1:])
place = lambda i: '127.0.9.%d' % (1 + i % addresses)
def begin(i):
    s = socket.create_connection((place(i), port), 60)
    s.sendall(b'%d\n' % i)
    return s
def echoed(i, s):
    said = b''
    while not said.endswith(b'\n'):
        part = s.recv(64)
        if not part: return False
        said += part
    return said == b'%d %s\n' % (i, place(i).encode())
open = [begin(i) for i in range(count)]
print(sum(echoed(i, s) for i, s in enumerate(open)), flush=True)
";

/// Says to each connection what it said, and where it arrived; keeps it open until the other side closes.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(async move {
            use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
            listener.set_nonblocking(true).expect("non-blocking");
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let place = stream.local_addr().expect("address").ip();
                    let mut stream = tokio::io::BufReader::new(stream);
                    let mut said = String::new();
                    if stream.read_line(&mut said).await.is_ok() {
                        let answer = format!("{} {place}\n", said.trim_end());
                        let _gone = stream.write_all(answer.as_bytes()).await;
                        let _closed = stream.read(&mut [0; 1]).await;
                    }
                });
            }
        });
    });
}

fn policies(dir: &Path) -> std::path::PathBuf {
    let dir = dir.join("policies");
    std::fs::create_dir(&dir).expect("directory");
    let permit = "@id(\"echo\")\n@reason(\"The test's.\")\n\
                  permit (principal, action == Action::\"connect\", resource) when { resource.configured };\n";
    std::fs::write(dir.join("echo.cedar"), permit).expect("written");
    dir
}

#[test]
fn ten_thousand_connections_at_once_are_sessions_with_records() {
    if !can_govern("load") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("listener");
    let port = listener.local_addr().expect("address").port();
    let at_once = at_once();
    echo(listener);
    let issuer = Oidc::start().expect("issuer");
    let addresses: Vec<String> = (1..=ADDRESSES)
        .map(|n| format!("\"127.0.9.{n}:{port}\""))
        .collect();
    let config = format!(
        "[[target]]\nname = \"echo\"\nprotocol = \"opaque\"\nenvironment = \"test\"\naddresses = [{}]\n",
        addresses.join(", ")
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .with_policies(&policies(dir.path()))
        .as_caller();
    let token = agent
        .token("alice", &issuer.token("alice", &[], 3600))
        .expect("token");
    let (python, count) = (python().display().to_string(), at_once.to_string());
    let (port, addresses) = (port.to_string(), ADDRESSES.to_string());
    let command = [python.as_str(), "-c", CLIENT, &port, &count, &addresses];
    let mut run = agent.start(Some(&token), &command).expect("started");
    let mut said = String::new();
    BufReader::new(run.stdout.take().expect("stdout"))
        .read_line(&mut said)
        .expect("read");
    let ended = run.wait_with_output().expect("ended");
    let complaints = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(said.trim(), count, "{complaints}");

    agent.verify().expect("the log");
    let records = agent.records().expect("records");
    let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).count();
    assert_eq!(
        (of("session.opened"), of("operation"), of("session.closed")),
        (at_once, at_once, at_once),
        "{complaints}"
    );
}
