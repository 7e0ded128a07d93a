//! The agent is killed under load: nothing that was acknowledged is lost, nothing was done unrecorded, nothing escapes.
#![expect(
    clippy::expect_used,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "in a test, that is the failure"
)]

use std::io::{BufRead, BufReader};
use std::time::Duration;

use interdict_tests::python;
use interdict_tests::world::{kinds, world};

/// Moments that differ from run to run; `INTERDICT_SEED` repeats those of one.
fn moments() -> impl Fn(u64) -> u64 {
    let seed: u64 = std::env::var("INTERDICT_SEED").map_or_else(
        |_unset| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
        |seed| seed.parse().expect("INTERDICT_SEED is a number"),
    );
    eprintln!("moments of INTERDICT_SEED={seed}");
    // SplitMix64 (Steele, Lea, Flood 2014): enough to spread moments.
    move |n| {
        let mixed = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[test]
fn when_the_agent_is_killed_nothing_is_lost_and_nothing_escapes() {
    let Some(w) = world("when_the_agent_is_killed", "") else {
        return;
    };
    let rounds: u64 = 50;
    let moment = moments();
    let python = python().display().to_string();
    let agent = w.agent.as_caller();
    let script = r#"
import psycopg, socket, sys, time
n = int(sys.argv[1])
try:
    with psycopg.connect("sslmode=verify-full", autocommit=True) as c:
        for i in range(100000):
            c.execute(f"SELECT {n} AS round, {i} AS step")
            print(f"done {n} {i}", flush=True)
except psycopg.Error:
    pass
time.sleep(0.05)
for family, address in ((socket.AF_INET, ("127.0.0.1", int(sys.argv[2]))), (socket.AF_INET6, ("::ffff:127.0.0.1", int(sys.argv[2])))):
    try:
        s = socket.socket(family); s.settimeout(5); s.connect(address); s.send(b"x"); s.recv(1)
        print("ESCAPED", flush=True)
    except OSError:
        print("closed", flush=True)
"#;
    let outside = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = outside.local_addr().expect("address").port().to_string();
    let mut told = Vec::new();
    for round in 0..rounds {
        let number = round.to_string();
        let mut child = agent
            .start(Some(&w.alice), &[&python, "-c", script, &number, &port])
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        // Somewhere within the load: a different moment each time.
        for _ in 0..=moment(2 * round) % 40 {
            told.push(lines.next().expect("a line").expect("text"));
        }
        std::thread::sleep(Duration::from_micros(moment(2 * round + 1) % 3000));
        child.kill().expect("killed");
        child.wait().expect("ended");
        for line in lines.map_while(Result::ok) {
            assert_ne!(line, "ESCAPED", "round {round}");
            told.push(line);
        }
    }
    assert_eq!(
        told.iter().filter(|line| *line == "closed").count(),
        2 * usize::try_from(rounds).expect("small")
    );
    outside.set_nonblocking(true).expect("non-blocking");
    assert!(outside.accept().is_err(), "somebody came through");
    // The next agent seals what the dead ones left, and removes their pins and cgroups.
    assert_eq!(agent.psql(Some(&w.alice), "SELECT 1").expect("run").status, 0);
    agent.verify().expect("verified");
    let records = agent.records().expect("records");
    let recorded: std::collections::HashSet<String> = kinds(&records, "operation")
        .filter_map(|r| r["text"].as_str().map(str::to_owned))
        .collect();
    let text = |n: &str, i: &str| format!("SELECT {n} AS round, {i} AS step");
    for line in &told {
        if let ["done", n, i] = line.split(' ').collect::<Vec<_>>().as_slice() {
            assert!(
                recorded.contains(&text(n, i)),
                "{line} was answered and is not recorded"
            );
        }
    }
    for line in w
        .database
        .log()
        .expect("log")
        .lines()
        .filter(|l| l.contains("AS round"))
    {
        let at = line.find("SELECT").expect("a statement");
        assert!(
            recorded.contains(line[at..].trim()),
            "the server saw what no record has: {line}"
        );
    }
    let pins = std::path::Path::new("/run/interdict/bpf/interdict");
    let left: Vec<_> = std::fs::read_dir(pins)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    let dead = left.iter().filter(|name| {
        let pid = name
            .to_str()
            .and_then(|n| n.split('-').nth(1))
            .unwrap_or_default();
        !std::path::Path::new("/proc").join(pid).exists()
    });
    assert_eq!(dead.count(), 0, "{left:?}");
}
