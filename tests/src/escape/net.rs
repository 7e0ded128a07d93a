//! Two network namespaces with a cable between them, and eyes at both ends.
//!
//! The agent and everything hostile live in the first. Whatever reaches the second has got out, and so has whatever
//! reaches a port on the first one's loopback that is not the agent's.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const CAPTURE: &str = include_str!("capture.py");
/// The system's own: every user can run it.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// A process that is told something a line at a time, and answers each with a line.
pub(super) struct Told {
    pub(super) child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Told {
    /// Starts it and waits for its first line, `ready`.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut told = Self { child, input, output };
        let first = told.line().with_context(|| format!("{command:?}"))?;
        ensure!(first == "ready", "{command:?} said {first:?}");
        Ok(told)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.output.next().context("it ended")??)
    }

    /// Tells it something; its answer.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        let input = self.input.as_mut().context("it was told to end")?;
        writeln!(input, "{line}")?;
        self.line()
    }

    /// Nothing more will be told. What it still says is dropped.
    pub(super) fn close(&mut self) {
        self.input = None;
        while self.output.next().is_some_and(|line| line.is_ok()) {}
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.input = None;
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Both namespaces. They go with it.
pub(super) struct Net {
    inside: Told,
    outside: Told,
}

impl Net {
    /// Makes them.
    pub(super) fn new() -> Result<Self> {
        let eyes = |place: &str| {
            let mut command = Command::new("unshare");
            command.args(["--net", PYTHON, "-u", "-c", CAPTURE, place]);
            Told::start(command)
        };
        let (inside, outside) = (eyes("inside")?, eyes("outside")?);
        let net = Self { inside, outside };
        net.cable()?;
        Ok(net)
    }

    fn cable(&self) -> Result<()> {
        let (inside, outside) = (self.inside.pid(), self.outside.pid());
        let peer = format!("link add v0 type veth peer name v0 netns {outside}");
        let table = [
            (inside, peer.as_str()),
            (inside, "link set lo up"),
            (inside, "address add 10.77.0.1/24 broadcast 10.77.0.255 dev v0"),
            (inside, "address add fd77::1/64 dev v0 nodad"),
            (inside, "link set v0 up"),
            (outside, "link set lo up"),
            (outside, "address add 10.77.0.2/24 dev v0"),
            (outside, "address add fd77::2/64 dev v0 nodad"),
            (outside, "link set v0 up"),
            (inside, "route add default via 10.77.0.2"),
            (inside, "-6 route add default via fd77::2"),
            // The other end answers for every address.
            (outside, "route add local default dev lo"),
            (outside, "-6 route add local default dev lo"),
            (outside, "-6 route add fd77::1 dev v0 table local"),
        ];
        for (pid, arguments) in table {
            let output = Command::new("nsenter")
                .args(["-t", &pid.to_string(), "-n", "ip"])
                .args(arguments.split(' '))
                .output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
        }
        Ok(())
    }

    /// A command in the first namespace.
    pub(super) fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.inside.pid().to_string(), "-n"]);
        command
    }

    /// Somebody who lives in the second.
    pub(super) fn outsider(&self) -> u32 {
        self.outside.pid()
    }

    /// Somebody outside connects to this port, for as long as an attempt takes.
    pub(super) fn knock(&mut self, port: u16) -> Result<()> {
        let said = self.outside.ask(&format!("knock {port}"))?;
        ensure!(said == "knocking", "{said}");
        Ok(())
    }

    /// What has got out since the last look.
    pub(super) fn escaped(&mut self, port: u16) -> Result<Vec<String>> {
        let mut seen: Vec<String> = Vec::new();
        for eyes in [&mut self.outside, &mut self.inside] {
            seen.extend(serde_json::from_str::<Vec<String>>(
                &eyes.ask(&port.to_string())?,
            )?);
        }
        Ok(seen)
    }
}
