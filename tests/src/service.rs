//! `interdict serve` as a service manager starts it, and cgroups that a test makes for it to govern.

use std::collections::VecDeque;
use std::fs;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::binary;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cgroup of the test's own, with all below it; its processes end with it. Where hierarchies of version 1 are mounted beside
/// cgroup2, runc makes the same path in each of them, and takes away only what is lowest: the rest goes with this, too.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    mount: PathBuf,
    /// The same name in hierarchies of version 1.
    others: Vec<PathBuf>,
}

impl Cgroups {
    /// Makes it, with a name that nobody else has.
    ///
    /// # Errors
    /// Where there is no cgroup2 mount.
    pub fn make() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let cgroup2 = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4));
        let mount = PathBuf::from(cgroup2.context("no cgroup2 mount")?);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("interdict-test-{}-{number}", std::process::id());
        let root = mount.join(&name);
        fs::create_dir(&root)?;
        let old = mounts.lines().filter(|line| line.contains(" - cgroup "));
        let others = old.filter_map(|line| line.split(' ').nth(4));
        let others = others.map(|mount| Path::new(mount).join(&name)).collect();
        Ok(Self { root, mount, others })
    }

    /// Where cgroup2 is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Everything of it that there is, in any hierarchy.
    #[must_use]
    pub fn everywhere(&self) -> Vec<PathBuf> {
        let all = self.others.iter().chain([&self.root]);
        all.filter(|path| path.exists()).cloned().collect()
    }

    /// Its path below the mount, with `below` after it.
    #[must_use]
    pub fn path(&self, below: &str) -> String {
        let root = self.root.strip_prefix(&self.mount).unwrap_or(&self.root);
        root.join(below).display().to_string()
    }

    /// The directory of a cgroup below it.
    #[must_use]
    pub fn directory(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Makes a cgroup below it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, below: &str) -> Result<()> {
        Ok(fs::create_dir_all(self.root.join(below))?)
    }

    /// The id of a cgroup below it, as text.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn id(&self, below: &str) -> Result<String> {
        let meta = fs::metadata(self.root.join(below))?;
        Ok(std::os::unix::fs::MetadataExt::ino(&meta).to_string())
    }

    /// A command that joins `below` before it is anything else.
    #[must_use]
    pub fn command(&self, below: &str, words: &[&str]) -> Command {
        let procs = self.root.join(below).join("cgroup.procs");
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo 0 > "$0" && exec "$@""#])
            .arg(procs)
            .args(words)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _gone = fs::write(self.root.join("cgroup.kill"), "1");
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.everywhere();
            left.iter().for_each(|directory| remove(directory));
            if left.is_empty() || Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _busy = fs::remove_dir(directory);
}

/// What the service manager was given to keep.
#[derive(Debug)]
pub struct Kept {
    /// Under which name.
    pub name: String,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// A service manager for one service: hears it, keeps its descriptors, starts it again with them.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// What it keeps.
    pub kept: Vec<Kept>,
    /// What the agent is started with beside its configuration.
    pub more: Vec<String>,
    heard: VecDeque<String>,
    child: Option<Child>,
}

impl Manager {
    /// A manager for an agent with the configuration `config`; its log goes to a file beside that.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(config: &Path) -> Result<Self> {
        let path = config.with_extension("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self {
            socket,
            path,
            config: config.to_owned(),
            log: config.with_extension("log"),
            kept: Vec::new(),
            more: Vec::new(),
            heard: VecDeque::new(),
            child: None,
        })
    }

    /// Starts the agent, with what is kept, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become ready; with its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_for("READY=1")
    }

    /// Starts the agent, with what is kept.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let names: Vec<&str> = self.kept.iter().map(|kept| kept.name.as_str()).collect();
        // As the manager does it: the descriptors from 3 on, the number of the process that they are for. A shell says both,
        // as this harness has no code between fork and exec. It takes descriptors to 9 only, so Python moves them.
        let moves: Vec<String> = self
            .kept
            .iter()
            .map(|k| k.descriptor.as_raw_fd().to_string())
            .collect();
        let script = "import os, sys, fcntl\n\
                      given = [int(n) for n in sys.argv[2].split(',') if n]\n\
                      high = [fcntl.fcntl(n, fcntl.F_DUPFD, 200) for n in given]\n\
                      for at, n in enumerate(high):\n    os.dup2(n, 3 + at, inheritable=True)\n    os.close(n)\n\
                      os.environ['LISTEN_PID'] = str(os.getpid())\n\
                      os.closerange(3 + len(given), 1024)\n\
                      os.execv(sys.argv[1], [sys.argv[1], 'serve', '--config'] + sys.argv[3:])\n";
        for kept in &self.kept {
            rustix::io::fcntl_setfd(&kept.descriptor, rustix::io::FdFlags::empty())?;
        }
        let child = Command::new("/usr/bin/python3")
            .args(["-c", script])
            .arg(binary())
            .arg(moves.join(","))
            .arg(&self.config)
            .args(&self.more)
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", self.kept.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("FDSTORE", "512")
            .env("WATCHDOG_USEC", "1000000")
            .env("INTERDICT_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        for kept in &self.kept {
            rustix::io::fcntl_setfd(&kept.descriptor, rustix::io::FdFlags::CLOEXEC)?;
        }
        self.child = Some(child?);
        Ok(())
    }

    /// Waits until the agent says `word`, keeping what it gives to be kept meanwhile.
    ///
    /// # Errors
    /// Where it does not, or ends before.
    pub fn wait_for(&mut self, word: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.heard.iter().position(|said| said.contains(word)) {
                self.heard.drain(..=at);
                return Ok(());
            }
            self.listen()?;
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if (ended && self.heard.is_empty()) || Instant::now() > until {
                bail!("the agent did not say {word}: {}", self.log());
            }
        }
    }

    /// Hears what was said until now.
    ///
    /// # Errors
    /// The socket's.
    pub fn listen(&mut self) -> Result<()> {
        loop {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let length = match got {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let said = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
            let name = said
                .lines()
                .find_map(|l| l.strip_prefix("FDNAME="))
                .unwrap_or_default();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.kept.extend(descriptors.map(|descriptor| Kept {
                        name: name.to_owned(),
                        descriptor,
                    }));
                }
            }
            if said.contains("FDSTOREREMOVE=1") {
                self.kept.retain(|kept| kept.name != name);
            }
            self.heard.push_back(said);
        }
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// What was said until now is as if it had not been.
    pub fn forget_heard(&mut self) {
        self.heard.clear();
    }

    /// Whether the agent has said `word`.
    #[must_use]
    pub fn has_heard(&self, word: &str) -> bool {
        self.heard.iter().any(|said| said.contains(word))
    }

    /// The agent's process: its guard.
    ///
    /// # Errors
    /// Where it was not started.
    pub fn pid(&self) -> Result<Pid> {
        let id = self.child.as_ref().context("not started")?.id();
        i32::try_from(id).ok().and_then(Pid::from_raw).context("a pid")
    }

    /// Waits until the agent has ended; its exit status, -1 for a signal.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn wait(&mut self) -> Result<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            // As a manager does: what is not heard would hold up whoever says it.
            self.listen()?;
            let child = self.child.as_mut().context("not started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                self.listen()?;
                return Ok(status.code().unwrap_or(-1));
            }
            ensure!(Instant::now() < until, "the agent does not end: {}", self.log());
        }
    }

    /// What the agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        let read = fs::File::open(&self.log).and_then(|mut log| log.read_to_string(&mut text));
        read.map_or_else(|error| error.to_string(), |_length| text)
    }

    /// Waits until the log holds `text`.
    ///
    /// # Errors
    /// Where it does not.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            ensure!(
                Instant::now() < until,
                "the log does not say {text:?}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// `interdict serve --release`.
    ///
    /// # Errors
    /// Where it fails.
    pub fn release(&self) -> Result<String> {
        let out = Command::new(binary())
            .args(["serve", "--release", "--config"])
            .arg(&self.config)
            .output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _ended = child.wait();
        }
        let _released = self.release();
    }
}
