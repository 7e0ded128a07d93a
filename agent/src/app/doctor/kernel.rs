//! Every hook and every feature of the kernel.

use std::fs;
use std::path::Path;

use crate::config::DAEMONS;
use crate::guard::{GuardError, HookOrder, bpffs, has_domains, lsm_is_active, probe, programs_of_host};

use super::Check;

/// The oldest kernel that can be used, and the first that has everything.
const FLOOR: (u32, u32) = (5, 15);
const WHOLE: (u32, u32) = (6, 1);

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![
        version(),
        btf(),
        lsm(),
        ptrace(),
        bpf(),
        abi(),
        others(),
        daemons(),
    ];
    hooks(&mut checks);
    checks
}

fn version() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next());
    // `6.1-rc1` ends the second number early.
    let minor = minor.unwrap_or_else(|| {
        let second = release.split('.').nth(1).unwrap_or_default();
        let digits: String = second.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    });
    match (major, minor) {
        found if found >= WHOLE => Check::available("kernel", "version", release),
        found if found >= FLOOR => Check::limited("kernel", "version", release)
            .open("features that came with Linux 6.1 are missing; each is named below")
            .next("boot Linux 6.1 or newer"),
        _ => Check::missing("kernel", "version", release)
            .open("nothing can be governed")
            .next("boot Linux 5.15 or newer; 6.1 has everything"),
    }
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path) {
        Ok(_) => Check::available("kernel", "BTF", path),
        Err(error) => Check::missing("kernel", "BTF", format!("{path}: {error}"))
            .open("nothing can be governed: socket storage needs it")
            .next("boot a kernel with CONFIG_DEBUG_INFO_BTF=y (every current distribution's)"),
    }
}

fn lsm() -> Check {
    match lsm_is_active() {
        Ok(list) => Check::available("kernel", "BPF LSM", format!("active ({list})")),
        Err(found) => Check::limited("kernel", "BPF LSM", found)
            .open("what the lines `beyond the hooks` say")
            .next("add bpf to the list in lsm= on the kernel's command line (CONFIG_BPF_LSM), or do what those lines say"),
    }
}

fn ptrace() -> Check {
    if has_domains() {
        return Check::available("kernel", "Landlock", "a run gets a domain of its own");
    }
    if lsm_is_active().is_ok() {
        let found = "no domains; BPF LSM does their work (its hooks are below)";
        return Check::available("kernel", "Landlock", found);
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    match scope.as_deref().map(str::trim) {
        Some(scope @ ("1" | "2" | "3")) => {
            Check::available("kernel", "ptrace", format!("ptrace_scope {scope}"))
        }
        found => Check::limited(
            "kernel",
            "Landlock",
            format!("no domains, ptrace_scope {}", found.unwrap_or("absent")),
        )
        .open("a process can write into the memory of free processes of the same user, and reach abstract Unix sockets")
        .next("boot Linux 6.12 or newer, give the command a user of its own, or set kernel.yama.ptrace_scope=1"),
    }
}

fn bpf() -> Check {
    let setting = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap_or_default();
    match setting.trim() {
        "0" => Check::limited("kernel", "unprivileged bpf()", "allowed")
            .open("any user can load programs; those cannot undo the hooks")
            .next("set kernel.unprivileged_bpf_disabled=2"),
        other => Check::available("kernel", "unprivileged bpf()", format!("disabled ({other})")),
    }
}

/// Programs of another ABI have other numbers for the same system calls: the filter of a run ends them.
fn abi() -> Check {
    const LOADERS: [&str; 3] = [
        "/lib/ld-linux.so.2",
        "/lib/ld-musl-i386.so.1",
        "/lib/ld-linux-armhf.so.3",
    ];
    let name = "32-bit programs";
    let told = "they end at their first system call in `interdict run` (SIGSYS, exit status 159)";
    match LOADERS.into_iter().find(|path| Path::new(path).exists()) {
        None => Check::available("kernel", name, format!("{told}; no loader for any is installed here")),
        Some(loader) => Check::limited("kernel", name, format!("{loader} is installed; {told}"))
            .next("use 64-bit builds of what is governed; `interdict serve` puts no such filter around its workloads"),
    }
}

/// Programs of others run after the agent's: the kernel runs those of a cgroup before those above it.
fn others() -> Check {
    let name = "order of hooks";
    let programs = match programs_of_host() {
        Ok(programs) => programs,
        Err(error) => {
            return Check::limited("kernel", name, format!("the kernel does not say it: {error}"))
                .next("run `sudo interdict doctor`");
        }
    };
    if programs.is_empty() {
        return Check::available(
            "kernel",
            name,
            "nobody else has programs on all cgroups of this host",
        );
    }
    let listed: Vec<String> = programs
        .iter()
        .map(|(place, names)| format!("{place}: {}", names.join(", ")))
        .collect();
    let found = format!(
        "others' programs run after the agent's, and before its look at packets ({})",
        listed.join("; ")
    );
    let rewrites = |(place, _): &HookOrder| place.starts_with("connect") || place.starts_with("sendmsg");
    let check = Check::available("kernel", name, found);
    if !programs.iter().any(rewrites) {
        return check;
    }
    check.next(
        "where they translate addresses of services (Cilium does), name in a direct [[network]] what is translated to, too; targets need nothing: the agent's own connections are translated",
    )
}

fn daemons() -> Check {
    let there: Vec<&str> = DAEMONS
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    let found = if there.is_empty() {
        "none of the known ones runs here".to_owned()
    } else {
        format!("{}: hidden from a run", there.join(", "))
    };
    Check::available("kernel", "daemons with network", found)
}

fn hooks(checks: &mut Vec<Check>) {
    match bpffs() {
        Ok(path) => checks.push(Check::available("kernel", "bpffs", path.display().to_string())),
        Err(error) => checks.push(
            Check::missing("kernel", "bpffs", error.to_string())
                .open("the hooks would go with the agent: nothing is governed")
                .next("mount -t bpf bpf /sys/fs/bpf"),
        ),
    }
    let (states, features) = match probe() {
        Ok(found) => found,
        Err(error) => {
            let next = match &error {
                GuardError::NotRoot => "run `sudo interdict doctor`",
                GuardError::NoCgroup2 => "mount -t cgroup2 none /sys/fs/cgroup/unified",
                GuardError::Kernel { .. }
                | GuardError::Object(_)
                | GuardError::Hook { .. }
                | GuardError::Map { .. }
                | GuardError::Listen { .. }
                | GuardError::Link(_)
                | GuardError::Refused(_)
                | GuardError::Launch { .. } => {
                    "the line says what the kernel refuses; Linux 6.1 takes every hook"
                }
            };
            let check = Check::missing("hook", "all", error.to_string());
            checks.push(check.open("nothing can be governed").next(next));
            return;
        }
    };
    checks.push(Check::available(
        "kernel",
        "cgroup2",
        "a run's cgroup can be made",
    ));
    for state in states {
        checks.push(match state.taken {
            Ok(()) => Check::available("hook", state.name, "attached"),
            Err(error) if state.required => Check::missing("hook", state.name, error.to_string())
                .open(state.without)
                .next("boot Linux 6.1 or newer"),
            Err(error) => Check::limited("hook", state.name, error.to_string())
                .open(state.without)
                .next("boot Linux 6.1 or newer"),
        });
    }
    for (name, lost) in features.missing {
        let check = Check::limited("hook", name, "its kernel structure is not as expected");
        checks.push(check.open(lost).next("report this kernel's version"));
    }
    for (open, next) in features.open {
        let check = Check::limited("kernel", "beyond the hooks", "no hook closes it here");
        checks.push(check.open(open).next(next));
    }
}
