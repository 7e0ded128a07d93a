//! Real containers (runc), with a network namespace of their own and the host's programs mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

/// A container; it ends with this.
#[derive(Debug)]
pub struct Container {
    dir: tempfile::TempDir,
    name: String,
}

impl Container {
    /// Makes a container that will run `words`, in the cgroup `cgroup` (below the cgroup2 mount), with `/usr` and `mounts`
    /// read-only. Its processes are there already, in their namespaces; what they shall run is not.
    ///
    /// # Errors
    /// Where runc does not make it.
    pub fn create(
        cgroup: &str,
        words: &[&str],
        mounts: &[(&Path, &str)],
        environment: &[(&str, &str)],
        annotations: &Value,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("interdict-{}-{number}", std::process::id());
        let root = dir.path().join("rootfs");
        for below in ["usr", "proc", "dev", "tmp", "etc", "run"] {
            fs::create_dir_all(root.join(below))?;
        }
        // What a static shell needs is there even without `/usr`.
        fs::create_dir(root.join("box"))?;
        fs::copy("/bin/busybox", root.join("box/busybox"))?;
        for (link, to) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/sbin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            std::os::unix::fs::symlink(to, root.join(link))?;
        }
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        let container = Self { dir, name };
        let made = container.runc(&["spec"]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = container.dir.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = words.into();
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let path = ["PATH=/usr/bin:/usr/sbin".to_owned()];
        spec["process"]["env"] = path.into_iter().chain(variables).collect::<Vec<_>>().into();
        spec["linux"]["cgroupsPath"] = format!("/{cgroup}").into();
        spec["annotations"] = annotations.clone();
        let bind = |from: &Path, to: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "ro"]});
        let all = spec["mounts"].as_array_mut().context("mounts")?;
        all.push(bind(Path::new("/usr"), "/usr"));
        for (from, to) in mounts {
            all.push(bind(from, to));
        }
        fs::write(&file, serde_json::to_vec(&spec)?)?;
        let out = fs::File::create(container.output())?;
        let made = container
            .runc(&["create", "--bundle"])
            .arg(container.dir.path())
            .arg(&container.name)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        ensure!(made.success(), "runc create: {}", container.said());
        Ok(container)
    }

    /// The number of its first process.
    ///
    /// # Errors
    /// Where it has none.
    pub fn pid(&self) -> Result<u32> {
        let state = self.runc(&["state"]).arg(&self.name).output()?;
        let state: Value = serde_json::from_slice(&state.stdout)?;
        let pid = state["pid"].as_u64().context("a pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// Lets it run.
    ///
    /// # Errors
    /// Where it does not begin.
    pub fn start(&self) -> Result<()> {
        let started = self.runc(&["start"]).arg(&self.name).output()?;
        ensure!(
            started.status.success(),
            "{}",
            String::from_utf8_lossy(&started.stderr)
        );
        Ok(())
    }

    /// Lets it run, waits until it has ended, and returns what it said.
    ///
    /// # Errors
    /// Where it takes more than 30 seconds.
    pub fn run(&self) -> Result<String> {
        let pid = i32::try_from(self.pid()?)
            .ok()
            .and_then(Pid::from_raw)
            .context("a pid")?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        self.start()?;
        let limit = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))?;
        ensure!(ended == 1, "it does not end: {}", self.said());
        Ok(self.said())
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.output()).unwrap_or_default()
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("output")
    }

    fn runc(&self, words: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.args(words).current_dir(self.dir.path());
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone = self.runc(&["delete", "--force"]).arg(&self.name).output();
    }
}
