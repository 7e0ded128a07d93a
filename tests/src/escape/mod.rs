//! The escape suite: hostile programs under a real agent, and proof of what became of each.
//!
//! Every program runs once without an agent, so that an attempt that cannot work at all is not taken for one that was
//! stopped; then governed, with the agent well, killed and stopped. What counts is not what the program is told but
//! what arrives at the other end of a cable.

mod net;
mod report;
mod vectors;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Ended, ended};
use crate::cgroup;
use crate::tools::binary;

use net::{Net, PYTHON, Told};

pub use report::{Row, Summary, summary, table, unexpected};
pub use vectors::{Expect, VECTORS, Vector, Who};

/// What every hostile program begins with.
pub const HOSTILE: &str = include_str!("hostile.py");
const RUNNER: &str = include_str!("runner.py");
const DONOR: &str = include_str!("donor.py");
/// Opens a connected socket as descriptor 9, which is inherited, and becomes the command.
const LEAK: &str = "import os, sys; from socket import *\n\
    s = socket(type=SOCK_DGRAM); s.connect(('198.51.100.9', 19999)); os.dup2(s.fileno(), 9, True)\n\
    os.execvp(sys.argv[1], sys.argv[1:])";
/// How long after an attempt its record may be written, in nanoseconds.
const WRITTEN: i64 = 200_000_000;
/// How long an attempt may take, in seconds.
const PATIENCE: u32 = 2;

/// How the agent is while the programs try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// There is none: what works at all.
    Free,
    /// As it should be.
    Alive,
    /// `kill -9`.
    Killed,
    /// `kill -STOP`.
    Stopped,
}

impl Setting {
    /// Every program in every setting has a port of its own, so that records and packets name it.
    const fn ports(self) -> u16 {
        match self {
            Self::Free => 20_000,
            Self::Alive => 21_000,
            Self::Killed => 22_000,
            Self::Stopped => 23_000,
        }
    }
}

#[derive(Serialize)]
struct Order<'a> {
    port: u16,
    program: &'a str,
    seconds: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    /// The program.
    pub pid: u64,
    /// What it said: `OK`, or the name of the error.
    pub said: String,
    began: i64,
    ended: i64,
    #[serde(skip)]
    port: u16,
    /// What got out.
    #[serde(skip)]
    pub escaped: Vec<String>,
}

impl Attempt {
    /// Whether the record is of this attempt. The packet hook cannot name a process: with `unnamed`, its records of the
    /// same time are this attempt's.
    fn is_in(&self, record: &Value, unnamed: bool) -> bool {
        let pid = record["pid"].as_u64().unwrap_or(0);
        let port = format!(":{}", self.port);
        let meant = record["original"].as_str().is_some_and(|o| o.ends_with(&port));
        let within = record["ts_ns"]
            .as_i64()
            .is_some_and(|at| (self.began..=self.ended + WRITTEN).contains(&at));
        pid == self.pid || meant || (unnamed && pid == 0 && record["kind"] == "kernel.denied" && within)
    }

    /// The first record that tells of its denial.
    #[must_use]
    pub fn denial<'a>(&self, vector: &Vector, records: &'a [Value]) -> Option<&'a Value> {
        let unnamed = vector.expect == Expect::Recorded;
        let denies = |r: &&Value| r["kind"] == "kernel.denied" || r["verdict"] == "refused";
        records.iter().filter(denies).find(|r| self.is_in(r, unnamed))
    }
}

/// The whole world of the suite.
pub struct Suite {
    net: Net,
    donor: Told,
    dir: tempfile::TempDir,
}

impl Suite {
    /// Sets it up.
    ///
    /// # Errors
    /// Where namespaces cannot be made.
    pub fn new() -> Result<Self> {
        let net = Net::new()?;
        let dir = tempfile::tempdir()?;
        let place = dir.path().join("donor");
        std::fs::create_dir(&place)?;
        for path in [dir.path(), &place] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(path, open)?;
        }
        let mut command = net.inside();
        command
            .args(SETPRIV)
            .args([PYTHON, "-u", "-c", DONOR])
            .arg(&place);
        let donor = Told::start(command)?;
        Ok(Self { net, donor, dir })
    }

    fn donor(&self) -> PathBuf {
        self.dir.path().join("donor")
    }

    /// Where the agent keeps its records in this setting.
    fn state(&self, setting: Setting, who: Who) -> PathBuf {
        self.dir.path().join(format!("{setting:?}-{who:?}"))
    }

    /// Tries every program of `who` in the setting; in the order of [`VECTORS`].
    ///
    /// # Errors
    /// Where the agent does not start, or anything around the programs fails.
    pub fn try_all(&mut self, setting: Setting, who: Who) -> Result<Vec<(&'static Vector, Attempt)>> {
        let mut runner = Told::start(self.runner(setting, who)?)?;
        let agent = pid(&runner)?;
        match setting {
            Setting::Free | Setting::Alive => {}
            Setting::Killed => {
                runner.child.kill()?;
                runner.child.wait()?;
                self.until_denied(&mut runner)?;
            }
            Setting::Stopped => {
                kill_process(agent, Signal::STOP)?;
                self.until_denied(&mut runner)?;
            }
        }
        let mut attempts = Vec::new();
        for (at, vector) in VECTORS.iter().enumerate().filter(|(_, v)| v.who == who) {
            let port = setting.ports() + u16::try_from(at)?;
            if vector.program.contains(".accept()") {
                self.net.knock(port)?;
            }
            let attempt = self
                .attempt(&mut runner, port, vector.program)
                .with_context(|| format!("{setting:?}: {}", vector.name))?;
            attempts.push((vector, attempt));
        }
        if setting == Setting::Stopped {
            kill_process(agent, Signal::CONT)?;
        }
        runner.close();
        if setting == Setting::Killed {
            cgroup::take_away(agent)?;
        } else {
            runner.child.wait()?;
        }
        Ok(attempts)
    }

    /// The hooks deny everything some seconds after the last sign of the agent.
    fn until_denied(&mut self, runner: &mut Told) -> Result<()> {
        let program = "until = time.monotonic() + 6\n\
            while time.monotonic() < until:\n\
            \x20   try: tcp().connect((V4, PORT))\n\
            \x20   except PermissionError: break\n\
            \x20   except OSError: pass\n\
            \x20   time.sleep(0.05)\n\
            else: print('ESCAPED')";
        let attempt = self.attempt(runner, 19_000, program)?;
        ensure!(
            attempt.escaped.is_empty() && attempt.said == "OK",
            "the hooks did not close: {attempt:?}"
        );
        Ok(())
    }

    fn attempt(&mut self, runner: &mut Told, port: u16, program: &str) -> Result<Attempt> {
        let seconds = if port == 19_000 { 8 } else { PATIENCE };
        let order = Order {
            port,
            program,
            seconds,
        };
        let answer = runner.ask(&serde_json::to_string(&order)?)?;
        let mut attempt: Attempt =
            serde_json::from_str(&answer).with_context(|| format!("the runner said {answer:?}"))?;
        attempt.port = port;
        attempt.escaped = self.net.escaped(port)?;
        if attempt.said.contains("ESCAPED") {
            attempt.escaped.push(attempt.said.replace('\n', " "));
        }
        Ok(attempt)
    }

    fn runner(&self, setting: Setting, who: Who) -> Result<Command> {
        let mut command = self.net.inside();
        command.args([PYTHON, "-c", LEAK]);
        if setting == Setting::Free {
            if who == Who::User {
                command.args(SETPRIV);
            }
        } else {
            let agent = binary();
            ensure!(
                agent.exists(),
                "the agent is not built: cargo build --package interdict"
            );
            let user = if who == Who::User { "nobody" } else { "root" };
            let config = self.dir.path().join("interdict.toml");
            let hidden = self.donor().join("hidden");
            std::fs::write(&config, format!("[unix]\nhide = [{hidden:?}]\n"))?;
            command.arg(agent).args(["run", "--user", user, "--config"]);
            command.arg(config).arg("--state-dir");
            command.arg(self.state(setting, who)).arg("--");
        }
        command.args([PYTHON, "-u", "-c", &format!("{HOSTILE}\n{RUNNER}")]);
        command
            .env("PORT", "0")
            .current_dir("/")
            .env("DONOR", self.donor())
            .env("DONOR_PID", self.donor.pid().to_string())
            .env("OTHER_PID", self.net.outsider().to_string())
            .env("AGENT_PID", std::process::id().to_string())
            .env("INTERDICT_LOG", "error");
        Ok(command)
    }

    /// The records of the agent of this setting.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn records(&self, setting: Setting, who: Who) -> Result<Vec<Value>> {
        let dir = self.state(setting, who).join("audit");
        let Ended { status, out, err } = ended(
            &Command::new(binary())
                .args(["sessions", "show", "--json", "--dir"])
                .arg(&dir)
                .output()?,
        );
        ensure!(status == 0, "{err}");
        out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// Becomes nobody, with nothing.
const SETPRIV: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn pid(told: &Told) -> Result<Pid> {
    Pid::from_raw(i32::try_from(told.pid())?).context("pid")
}

/// Tries everything in every setting.
///
/// # Errors
/// Where the suite itself cannot be run.
pub fn run() -> Result<Vec<Row>> {
    let mut suite = Suite::new()?;
    let mut rows = Vec::new();
    for who in [Who::User, Who::Root] {
        let free = suite.try_all(Setting::Free, who)?;
        let alive = suite.try_all(Setting::Alive, who)?;
        let killed = suite.try_all(Setting::Killed, who)?;
        let stopped = suite.try_all(Setting::Stopped, who)?;
        let records = suite.records(Setting::Alive, who)?;
        // What the hooks denied meanwhile waits for the agent to go on.
        let late = suite.records(Setting::Stopped, who)?;
        let told = |r: &Value| r["reason"].as_str().is_some_and(|why| why.contains("not alive"));
        ensure!(
            late.iter().any(|r| r["kind"] == "kernel.denied" && told(r)),
            "what was denied while the agent was stopped was not recorded afterwards"
        );
        for (((one, two), three), four) in free.iter().zip(&alive).zip(&killed).zip(&stopped) {
            rows.push(Row::new(one.0, [&one.1, &two.1, &three.1, &four.1], &records));
        }
    }
    Ok(rows)
}
