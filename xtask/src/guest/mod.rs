//! A guest: this host's files under Debian's kernel, which has what this host's may lack (BPF LSM).
//!
//! QEMU without hardware's help (TCG), so that it runs wherever tests do: some five seconds until the job starts. The
//! root file system is this host's own over 9p, read only, with a layer in memory on top: whatever was built here runs
//! there from the same path, and nothing that it writes comes back. Only what it prints does. Or it is a Debian of its
//! own with systemd, in which the repository lies at its path.

mod debian;
mod initrd;
mod kernel;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::shell::{command, say, target, tools};

const QEMU: &str = "qemu-system-x86_64";
/// What the guest says last, before the exit status.
const ENDED: &str = "The guest's job ended with ";

/// What runs in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// This host's files, and nothing but the job.
    Host,
    /// A Debian with systemd, and the job as one of its units.
    Debian,
}

/// What is done in a guest.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [String],
    /// Where.
    pub(crate) system: System,
    /// Variables, besides the usual ones.
    pub(crate) variables: &'a [(&'a str, String)],
    /// How long it may take from power-on to power-off.
    pub(crate) patience: Duration,
}

/// Why there can be no guest here; `None` where there can.
pub(crate) fn impossible() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("the guest is for x86-64 hosts".into());
    }
    if !setup::there(QEMU) {
        return Some(format!("there is no {QEMU} (cargo xtask setup)"));
    }
    if !setup::is_root() {
        return Some("it needs root, to read every file of this host".into());
    }
    kernel::kernel()
        .err()
        .map(|error| format!("Debian's kernel cannot be had: {error:#}"))
}

/// Runs a command line in a guest, for people.
pub(crate) fn shell(words: &[String], system: System) -> Result<()> {
    if let Some(why) = impossible() {
        bail!("no guest here: {why}");
    }
    let job = Job {
        command: words,
        system,
        variables: &[],
        patience: Duration::from_secs(3600),
    };
    match run(&job)? {
        0 => Ok(()),
        status => bail!("it ended with {status}"),
    }
}

/// Boots, does the job, prints what it prints, powers off. The job's exit status.
pub(crate) fn run(job: &Job<'_>) -> Result<i32> {
    listen(job, &mut |_line| {})
}

/// As [`run`]; each line that it prints is told to `hear` too.
pub(crate) fn listen(job: &Job<'_>, hear: &mut dyn FnMut(&str)) -> Result<i32> {
    let kernel = kernel::kernel()?;
    let place = target().join("guest").join(std::process::id().to_string());
    std::fs::create_dir_all(&place)?;
    let initrd = place.join("initrd");
    std::fs::write(&initrd, initrd::archive(&kernel, &script(job)?, job.system)?)?;
    let console = place.join("console");
    let root = match job.system {
        System::Host => PathBuf::from("/"),
        System::Debian => debian::debian()?,
    };
    let machine = Machine {
        image: &kernel.image,
        initrd: &initrd,
        console: &console,
        root: &root,
    };
    let status = boot(&machine, job, hear).with_context(|| {
        let text = std::fs::read_to_string(&console).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        format!("the guest's console ends with:\n{}", end.join("\n"))
    });
    std::fs::remove_dir_all(&place)?;
    status
}

/// What a guest is made of.
struct Machine<'a> {
    image: &'a Path,
    initrd: &'a Path,
    console: &'a Path,
    root: &'a Path,
}

fn boot(machine: &Machine<'_>, job: &Job<'_>, hear: &mut dyn FnMut(&str)) -> Result<i32> {
    let seconds = job.patience.as_secs().to_string();
    // Debian's own list of LSMs, with bpf at its end.
    let line = match job.system {
        System::Host => "console=ttyS0 quiet panic=-1",
        System::Debian => {
            // No log-in on the console: without udev it would be waited for.
            "console=ttyS0 quiet panic=-1 systemd.show_status=false \
             systemd.wants=guest-job.service systemd.mask=serial-getty@ttyS0.service"
        }
    };
    let mut qemu = command("timeout", &["--kill-after=5", &seconds, QEMU]);
    qemu.args([
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-monitor",
        "none",
    ])
    .args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "2048",
    ])
    .arg("-kernel")
    .arg(machine.image)
    .arg("-initrd")
    .arg(machine.initrd)
    .args(["-append", line])
    .arg("-serial")
    .arg(format!("file:{}", machine.console.display()))
    .args(["-device", "virtio-serial-pci"])
    .args(["-chardev", "file,id=out,path=/dev/stdout"])
    .args(["-device", "virtserialport,chardev=out,name=out"])
    .args(files("root", machine.root))
    .args(files("files", Path::new("/")))
    .stdin(Stdio::null())
    .stdout(Stdio::piped());
    let mut child = qemu.spawn().with_context(|| format!("{qemu:?}"))?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).split(b'\n');
    let mut ended = None;
    for line in lines {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match line.strip_prefix(ENDED) {
            Some(status) => ended = status.trim().parse().ok(),
            None => {
                say(&line);
                hear(&line);
            }
        }
    }
    let status = child.wait()?;
    ensure!(
        status.code() != Some(124),
        "the guest was not done after {seconds} s"
    );
    ensure!(status.success(), "{QEMU} ended with {status}");
    ended.context("the guest ended before its job")
}

/// A folder of this host that the guest can mount, read only.
fn files(tag: &str, path: &Path) -> [String; 4] {
    // A comma ends a value.
    let path = path.display().to_string().replace(',', ",,");
    let readonly = "readonly=on,security_model=passthrough,multidevs=remap";
    [
        "-fsdev".into(),
        format!("local,id={tag},path={path},{readonly}"),
        "-device".into(),
        format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
}

/// What the guest does once it sees this host's files.
fn script(job: &Job<'_>) -> Result<String> {
    let here = std::env::current_dir()?;
    let mut text = String::from(
        "exec </dev/null >/dev/vport0p1 2>&1\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         echo >/proc/sys/kernel/modprobe\n\
         ip link set lo up\n",
    );
    let given = [
        (
            "INTERDICT_BIN",
            target().join("debug/interdict").display().to_string(),
        ),
        ("INTERDICT_TOOLS", tools().display().to_string()),
    ];
    for (name, value) in given.iter().chain(job.variables) {
        writeln!(text, "export {name}={}", quoted(value))?;
    }
    writeln!(text, "cd {}", quoted(&here.display().to_string()))?;
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    writeln!(text, "{}", words.join(" "))?;
    writeln!(text, "echo \"{ENDED}$?\"")?;
    text.push_str("/run/guest/busybox poweroff -f\n");
    Ok(text)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_as_they_are() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
