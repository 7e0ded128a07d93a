//! A governed cgroup with an agent's listeners, and Python programs inside and outside of it.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use interdict::guard::{Denial, Denials, Flow, Guard, RunCgroup};
use interdict::model::{FlowKey, ListenerAddr, PeerAddr};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What every program starts with: `connect`, and the exit for a refused attempt.
const PRELUDE: &str = r#"
import ctypes, errno, os, socket, struct, sys
from socket import *
libc = ctypes.CDLL(None, use_errno=True)
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
def attempt(action):
    try:
        action()
    except OSError as e:
        say(errno.errorcode.get(e.errno, str(e.errno)))
    else:
        say('OK')
def disconnect(s):
    if libc.connect(s.fileno(), struct.pack('=H14x', 0), 16): raise OSError(ctypes.get_errno(), 'AF_UNSPEC')
"#;

/// Whether the kernel half can be tested here.
pub(crate) fn possible() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "not root");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("no CapEff")?;
    let capabilities = u64::from_str_radix(effective.trim(), 16)?;
    // capabilities(7): CAP_SYS_ADMIN, or CAP_BPF with CAP_NET_ADMIN.
    let (admin, net, bpf) = (1 << 21, 1 << 12, 1 << 39);
    ensure!(
        capabilities & admin != 0 && capabilities & net != 0 && capabilities & bpf != 0,
        "root without CAP_BPF, CAP_NET_ADMIN or CAP_SYS_ADMIN"
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(mounts.contains(" - cgroup2 "), "no cgroup2 mount");
    python().map(|_| ())
}

/// Runs `test` in a world of its own, and takes the world down whatever the test says.
pub(crate) fn governed(
    resolvers: &[SocketAddr],
    test: impl AsyncFnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    // One thread: a test that blocks it holds up the heartbeat too, as an agent that hangs does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut world = World::new(resolvers)?;
        let result = timeout(3 * PATIENCE, test(&mut world))
            .await
            .context("the test took too long");
        let ended = world.end().await;
        result??;
        ended
    })
}

pub(crate) struct World {
    pub(crate) guard: Guard,
    pub(crate) listeners: Vec<(TcpListener, ListenerAddr)>,
    denials: Denials,
    // Last: the hooks go first.
    pub(crate) cgroup: RunCgroup,
}

impl World {
    pub(crate) fn new(resolvers: &[SocketAddr]) -> Result<Self> {
        let cgroup = RunCgroup::create()?;
        let mut guard = Guard::attach(&cgroup, resolvers)?;
        let missing = &guard.features().missing;
        ensure!(
            missing.iter().all(|(hook, _)| !hook.starts_with("on_")),
            "missing hooks: {missing:?}"
        );
        let listeners: std::io::Result<Vec<_>> = guard
            .take_listeners()
            .into_iter()
            .map(|(socket, address)| Ok((TcpListener::from_std(socket)?, address)))
            .collect();
        let denials = guard.take_denials().context("denials")?;
        Ok(Self {
            guard,
            listeners: listeners?,
            denials,
            cgroup,
        })
    }

    /// Starts a program in the governed cgroup.
    pub(crate) fn start(&self, program: &str) -> Result<Program> {
        Program::start(Some(&self.cgroup.procs()), program)
    }

    /// What a program in the governed cgroup printed until its end.
    pub(crate) async fn run(&self, program: &str) -> Result<String> {
        self.start(program)?.finish().await
    }

    /// The next connection, and what the kernel knows about it. The flow is gone afterwards.
    pub(crate) async fn accept(&self) -> Result<(TcpStream, Flow)> {
        let accepting = self.listeners.iter().map(|(listener, address)| {
            Box::pin(async move {
                listener
                    .accept()
                    .await
                    .map(|(stream, peer)| (stream, peer, *address))
            })
        });
        let ((stream, peer, listener), _) = timeout(PATIENCE, first(accepting))
            .await
            .context("nobody connected")??;
        let key = FlowKey {
            netns: self.guard.netns(),
            peer: PeerAddr(peer),
            listener,
        };
        let flows = self.guard.flows();
        let flow = flows
            .take(&key, stream.as_fd())
            .with_context(|| format!("no flow for {key:?}"))?;
        ensure!(
            flows.take(&key, stream.as_fd()).is_none(),
            "the flow was given out twice"
        );
        Ok((stream, flow))
    }

    pub(crate) async fn denial(&mut self) -> Result<Denial> {
        timeout(PATIENCE, self.denials.next())
            .await
            .context("no denial was reported")?
            .context("ring closed")
    }

    /// Ends what is left, takes everything down, and looks whether it is gone.
    async fn end(self) -> Result<()> {
        let procs = self.cgroup.procs();
        self.cgroup.kill();
        timeout(PATIENCE, self.cgroup.wait_empty())
            .await
            .context("processes would not end")??;
        drop(self);
        let run = procs.parent().and_then(Path::parent).context("path")?;
        ensure!(!run.exists(), "{} is still there", run.display());
        for pins in pins_of(run) {
            ensure!(!pins.exists(), "{} is still there", pins.display());
        }
        Ok(())
    }
}

/// Where the pins of a run may be.
pub(crate) fn pins_of(run: &Path) -> [PathBuf; 2] {
    let name = run.file_name().unwrap_or_default();
    ["/sys/fs/bpf", "/run/interdict/bpf"].map(|mount| Path::new(mount).join("interdict").join(name))
}

/// Whatever ends first.
pub(crate) async fn first<T, F>(futures: impl Iterator<Item = F>) -> std::io::Result<(T, ())>
where
    F: Future<Output = std::io::Result<T>> + Unpin,
{
    let mut futures: Vec<F> = futures.collect();
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(result) = std::pin::Pin::new(future).poll(context) {
                return std::task::Poll::Ready(result.map(|value| (value, ())));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// A running Python program.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    output: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// In the cgroup of `procs`, or where the test itself is.
    pub(crate) fn start(procs: Option<&Path>, program: &str) -> Result<Self> {
        let mut command = command(procs, program)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, input, output })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.output.next_line())
            .await
            .context("it says nothing")??;
        line.context("it has ended")
    }

    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Waits for its good end; all that it still prints.
    pub(crate) async fn finish(mut self) -> Result<String> {
        drop(self.input);
        let mut said = String::new();
        while let Some(line) = timeout(PATIENCE, self.output.next_line())
            .await
            .context("it does not end")??
        {
            said.push_str(&line);
            said.push('\n');
        }
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the program ended with {status}; it said: {said}");
        }
        Ok(said.trim_end().to_owned())
    }
}

/// A Python program as a command; the process id stays the same through every `exec`.
fn command(procs: Option<&Path>, program: &str) -> Result<Command> {
    let mut command = match procs {
        Some(procs) => {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
                .arg(procs)
                .arg(python()?);
            shell
        }
        None => Command::new(python()?),
    };
    command.arg("-c").arg(script(program));
    Ok(command)
}

/// The same, blocking the whole test program until it has ended: for an agent that hangs.
pub(crate) fn run_blocking(procs: &Path, program: &str) -> Result<String> {
    let mut command = command(Some(procs), program)?.into_std();
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

pub(crate) fn script(program: &str) -> String {
    format!("{PRELUDE}\n{program}")
}

/// The interpreter itself, not a wrapper around it; the system's, which every user can run, where there is one.
pub(crate) fn python() -> Result<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let system = PathBuf::from("/usr/bin/python3");
        let program = if system.exists() {
            system
        } else {
            PathBuf::from("python3")
        };
        let print = ["-c", "import os, sys; print(os.path.realpath(sys.executable))"];
        let output = std::process::Command::new(program).args(print).output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    PYTHON.get_or_init(find).as_deref().context("no python3")
}
