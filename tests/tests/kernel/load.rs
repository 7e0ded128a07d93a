//! Many connections of one governed process: none is lost, none is taken for another, nothing is left behind.
//!
//! `INTERDICT_FULL=1` asks for the time and rate that are promised; without it the rate is tried for two seconds only,
//! and a busy machine may be slower.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use interdict::guard::FlowSource;
use interdict::model::{FlowKey, ListenerAddr, NetnsCookie, PeerAddr};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::{World, governed};

/// Connections that are open at the same time.
const AT_ONCE: usize = 10_000;
/// New connections a second.
const RATE: usize = 2_000;

/// The program's words: where number `i` goes, and a connection that says so.
const CLIENT: &str = r"
import resource, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
def place(i): return ('10.%d.%d.%d' % (1 + i // 62500, i // 250 % 250, 1 + i % 250), 1000 + i % 60000)
def begin(i):
    s = socket(); s.settimeout(20); s.connect(place(i))
    s.sendall(b'%s:%d\n' % (place(i)[0].encode(), place(i)[1]))
    return s
def echoed(i, s):
    said = b''
    while not said.endswith(b'\n'):
        part = s.recv(64)
        if not part: return False
        said += part
    return said == b'%s:%d\n' % (place(i)[0].encode(), place(i)[1])
";

fn full() -> bool {
    std::env::var("INTERDICT_FULL").is_ok_and(|value| value == "1")
}

/// What the agents's side saw.
#[derive(Default)]
struct Seen {
    echoed: AtomicUsize,
    strangers: AtomicUsize,
    mixed_up: AtomicUsize,
}

/// As many descriptors as this process may have.
fn room() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let enough = limit.current.is_none_or(|most| most > AT_ONCE as u64 + 1000);
    ensure!(enough, "descriptors: {:?}", limit.current);
    Ok(())
}

/// Echoes to each connection where it was meant for, as the kernel knows it.
fn echo(world: &mut World) -> (JoinSet<()>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let mut tasks = JoinSet::new();
    for (listener, address) in world.listeners.drain(..) {
        let flows = world.guard.flows();
        let (netns, seen) = (world.guard.netns(), Arc::clone(&seen));
        tasks.spawn(accept(listener, address, netns, flows, seen));
    }
    (tasks, seen)
}

async fn accept(
    listener: TcpListener,
    address: ListenerAddr,
    netns: NetnsCookie,
    flows: Arc<dyn FlowSource>,
    seen: Arc<Seen>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        let key = FlowKey {
            netns,
            peer: PeerAddr(peer),
            listener: address,
        };
        match flows.take(&key, stream.as_fd()) {
            Some(flow) => {
                connections.spawn(serve(stream, flow.original.0, Arc::clone(&seen)));
            }
            None => {
                seen.strangers.fetch_add(1, Ordering::Relaxed);
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, original: SocketAddr, seen: Arc<Seen>) {
    let mut stream = BufReader::new(stream);
    let mut said = String::new();
    if stream.read_line(&mut said).await.is_err() || said.trim() != original.to_string() {
        seen.mixed_up.fetch_add(1, Ordering::Relaxed);
    }
    let answer = format!("{original}\n");
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        seen.echoed.fetch_add(1, Ordering::Relaxed);
    }
    // Until the process closes: it wants all of them open at once.
    let _closed = stream.read(&mut [0; 1]).await;
}

fn judge(world: &World, seen: &Seen, expected: usize) -> Result<()> {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    ensure!(count(&seen.mixed_up) == 0, "{} mixed up", count(&seen.mixed_up));
    ensure!(
        count(&seen.strangers) == 0,
        "{} without a flow",
        count(&seen.strangers)
    );
    ensure!(
        count(&seen.echoed) == expected,
        "{} of {expected} arrived",
        count(&seen.echoed)
    );
    let counters = world.guard.counters()?;
    ensure!(counters.flows_full == 0, "{counters:?}");
    ensure!(counters.redirected == expected as u64, "{counters:?}");
    ensure!(
        world.guard.flow_count() == 0,
        "{} flows are left",
        world.guard.flow_count()
    );
    Ok(())
}

pub(crate) fn ten_thousand_at_once() -> Result<()> {
    room()?;
    governed(&[], async |world| {
        let (tasks, seen) = echo(world);
        let said = world
            .run(&format!(
                "{CLIENT}\n\
                 open = [begin(i) for i in range({AT_ONCE})]\n\
                 say(sum(echoed(i, s) for i, s in enumerate(open)))"
            ))
            .await?;
        ensure!(
            said == AT_ONCE.to_string(),
            "{said} of {AT_ONCE} echoes were right"
        );
        judge(world, &seen, AT_ONCE)?;
        drop(tasks);
        Ok(())
    })
}

pub(crate) fn two_thousand_a_second() -> Result<()> {
    room()?;
    let seconds = if full() { 10 } else { 2 };
    let count = RATE * seconds;
    governed(&[], async |world| {
        let (tasks, seen) = echo(world);
        let said = world
            .run(&format!(
                "{CLIENT}\n\
                 right, waiting, begun = 0, [], time.monotonic()\n\
                 for i in range({count}):\n\
                 \x20   early = begun + i / {RATE} - time.monotonic()\n\
                 \x20   if early > 0: time.sleep(early)\n\
                 \x20   waiting.append((i, begin(i)))\n\
                 \x20   if len(waiting) == 200: right += sum(echoed(*w) for w in waiting); waiting = []; say('…')\n\
                 right += sum(echoed(*w) for w in waiting)\n\
                 say(right, int({count} / (time.monotonic() - begun)))"
            ))
            .await?;
        let said = said.lines().last().unwrap_or_default();
        let (right, rate) = said.split_once(' ').context("two numbers")?;
        ensure!(right == count.to_string(), "{right} of {count} echoes were right");
        let rate: usize = rate.parse()?;
        let least = if full() { RATE * 95 / 100 } else { RATE / 4 };
        ensure!(rate >= least, "{rate} new connections a second");
        println!("    {rate} new connections a second");
        judge(world, &seen, count)?;
        drop(tasks);
        Ok(())
    })
}
