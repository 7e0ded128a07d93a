//! `cargo xtask bench kernel`: what `connect()` costs ungoverned, direct and redirected, beside a REDIRECT of nftables
//! to the same proxy; and what each hook costs. In a network namespace of its own; rounds are interleaved.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use interdict::config::{NetworkRule, NetworkVerdict};
use interdict::guard::{Cost, FlowSource, Guard, RunCgroup, count_costs};
use interdict::model::{FlowKey, ListenerAddr, NetnsCookie, PeerAddr};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};

const ROUNDS: usize = 9;
const CONNECTS: usize = 2000;
/// An address of the namespace's own that is not its loopback.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// A server that is reached as it is, the same for the governed client, what nftables redirects, what the hooks redirect.
const PORTS: [u16; 4] = [7000, 7001, 7002, 7003];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is = |word: &str| arguments.iter().any(|a| a == word);
    if is("__client") {
        return client();
    }
    if is("__inside") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(inside(is("--json")));
    }
    let mut again = Command::new("unshare");
    again.arg("--net").arg(std::env::current_exe()?).arg("__inside");
    let status = again.args(&arguments).status().context("unshare")?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Connects as often as it is told, to where it is told; says how long one took, in nanoseconds.
fn client() -> Result<()> {
    for line in std::io::stdin().lines() {
        let address: SocketAddr = line?.trim().parse()?;
        let mut took = Vec::with_capacity(CONNECTS);
        for _ in 0..CONNECTS {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            // No port waits in TIME_WAIT.
            socket.set_linger(Some(Duration::ZERO))?;
            let begun = Instant::now();
            socket.connect(&address.into())?;
            took.push(begun.elapsed());
        }
        took.sort();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        println!("{}", median.as_nanos());
    }
    Ok(())
}

/// A client process.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(procs: Option<&Path>) -> Result<Self> {
        let me = std::env::current_exe()?;
        let mut command = match procs {
            Some(procs) => {
                let mut shell = Command::new("/bin/sh");
                shell
                    .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
                    .arg(procs)
                    .arg(me);
                shell
            }
            None => Command::new(me),
        };
        let mut child = command
            .arg("__client")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, input, output })
    }

    /// The median of one round.
    fn connect(&mut self, port: u16) -> Result<f64> {
        writeln!(self.input, "{HERE}:{port}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn end(mut self) -> Result<ExitStatus> {
        drop(self.input);
        Ok(self.child.wait()?)
    }
}

async fn inside(machine: bool) -> Result<()> {
    for arguments in ["link set lo up", &format!("address add {HERE}/32 dev lo")] {
        let status = Command::new("ip").args(arguments.split(' ')).status()?;
        ensure!(status.success(), "ip {arguments}: {status}");
    }
    let cgroup = RunCgroup::create()?;
    let mut guard = Guard::attach(&cgroup, &[])?;
    let direct = NetworkRule {
        ip: HERE.into(),
        bits: 32,
        port: PORTS.get(1).copied(),
        verdict: NetworkVerdict::Direct,
    };
    guard.take_rules().context("rules")?.replace(&[direct], &[])?;
    let mut tasks = tokio::task::JoinSet::new();
    for port in PORTS.into_iter().take(2) {
        let server = TcpSocket::new_v4()?;
        server.bind((HERE, port).into())?;
        // Room for a whole round, as the agent's listeners have: a full queue would cost a second a connect.
        let server = server.listen(4096)?;
        tasks.spawn(async move { while server.accept().await.is_ok() {} });
    }
    let listeners = guard.take_listeners();
    let proxy = listeners.first().context("no listener")?.1.0.port();
    for (socket, address) in listeners {
        let listener = TcpListener::from_std(socket)?;
        tasks.spawn(proxy_at(listener, address, guard.netns(), guard.flows()));
    }
    let procs = cgroup.procs();
    let measured = tokio::task::spawn_blocking(move || measure(&procs, proxy)).await??;
    // Measuring costs something itself: it has a round of its own.
    let counting = count_costs()?;
    let (before, procs) = (guard.costs()?, cgroup.procs());
    tokio::task::spawn_blocking(|| one_round(None, &PORTS[..1])).await??;
    let between = guard.costs()?;
    tokio::task::spawn_blocking(move || one_round(Some(&procs), &[PORTS[1], PORTS[3]])).await??;
    let (beside, governed) = (calls(&before, &between), calls(&between, &guard.costs()?));
    drop(counting);
    report(&measured, &beside, &governed, machine);
    tasks.shutdown().await;
    // A process leaves its cgroup a little after it was waited for.
    cgroup.wait_empty().await?;
    drop(guard);
    Ok(())
}

/// What a proxy does at least: finds out where the connection was meant for, either way.
async fn proxy_at(
    listener: TcpListener,
    address: ListenerAddr,
    netns: NetnsCookie,
    flows: Arc<dyn FlowSource>,
) {
    while let Ok((stream, peer)) = listener.accept().await {
        let key = FlowKey {
            netns,
            peer: PeerAddr(peer),
            listener: address,
        };
        if flows.take(&key, stream.as_fd()).is_none() {
            // A connection that was reset already has none.
            let _original = socket2::SockRef::from(&stream).original_dst_v4();
        }
    }
}

/// The four ways, interleaved; nanoseconds for each round.
fn measure(procs: &Path, proxy: u16) -> Result<[Vec<f64>; 4]> {
    let (mut free, mut governed) = (Client::start(None)?, Client::start(Some(procs))?);
    let mut took: [Vec<f64>; 4] = Default::default();
    for round in 0..=ROUNDS {
        let plain = free.connect(PORTS[0])?;
        let direct = governed.connect(PORTS[1])?;
        let redirected = governed.connect(PORTS[3])?;
        // Only while it is measured: its tables slow down everything in the namespace.
        nft(&format!(
            "table ip bench {{ chain out {{ type nat hook output priority -100; tcp dport {} redirect to :{proxy}; }}; }}",
            PORTS[2]
        ))?;
        let nftables = free.connect(PORTS[2])?;
        nft("delete table ip bench")?;
        // The first one warms up.
        if round > 0 {
            for (all, one) in took.iter_mut().zip([plain, direct, nftables, redirected]) {
                all.push(one);
            }
        }
    }
    ensure!(
        free.end()?.success() && governed.end()?.success(),
        "a client failed"
    );
    Ok(took)
}

fn one_round(procs: Option<&Path>, ports: &[u16]) -> Result<()> {
    let mut client = Client::start(procs)?;
    for port in ports {
        client.connect(*port)?;
    }
    ensure!(client.end()?.success(), "the client failed");
    Ok(())
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft")?;
    child.stdin.take().context("stdin")?.write_all(rules.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}: {rules}");
    Ok(())
}

/// Calls, and nanoseconds for each, of every hook that ran in between.
fn calls(before: &[Cost], after: &[Cost]) -> BTreeMap<String, (u64, f64)> {
    let mut calls = BTreeMap::new();
    for now in after {
        let Some(then) = before.iter().find(|cost| cost.hook == now.hook) else {
            continue;
        };
        let count = now.calls.saturating_sub(then.calls);
        if let Ok(divisor) = u32::try_from(count)
            && let Some(each) = now.time.saturating_sub(then.time).checked_div(divisor)
        {
            calls.insert(now.hook.clone(), (count, each.as_secs_f64() * 1e9));
        }
    }
    calls
}

fn report(
    took: &[Vec<f64>; 4],
    beside: &BTreeMap<String, (u64, f64)>,
    governed: &BTreeMap<String, (u64, f64)>,
    machine: bool,
) {
    let names = ["ungoverned", "direct", "nftables", "redirected"];
    for (name, all) in names.iter().zip(took) {
        let (low, high) = all
            .iter()
            .fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        println!(
            "{name:>12}: median {:.1} µs a connect ({:.1} to {:.1})",
            median(all) / 1e3,
            low / 1e3,
            high / 1e3
        );
    }
    println!("\nhooks, while {CONNECTS} connections were made by a process beside:");
    print_calls(beside);
    println!("hooks, while {CONNECTS} direct and {CONNECTS} redirected connections were made:");
    print_calls(governed);
    let [plain, direct, nftables, redirected] = took.each_ref().map(|all| median(all));
    // As in the other benchmarks: how much of the other's rate is left; more is better.
    let ratios = json!({
        "direct_vs_ungoverned": round2(plain / direct),
        "redirect_vs_nftables": round2(nftables / redirected),
    });
    let each: BTreeMap<&String, f64> = governed
        .iter()
        .map(|(hook, (_, ns))| (hook, ns.round()))
        .collect();
    if machine {
        println!(
            "{}",
            json!({"bench": "kernel", "ratios": ratios, "hook_ns": each})
        );
    } else {
        println!("{ratios:#}");
    }
}

fn print_calls(calls: &BTreeMap<String, (u64, f64)>) {
    if calls.is_empty() {
        println!("  none ran");
    }
    for (hook, (count, each)) in calls {
        println!("  {hook:<16} {count:>7} calls, {each:>6.0} ns each");
    }
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn round2(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}
