//! Giving authority up: the proxy becomes another user without capabilities, in a Landlock domain and under a system call
//! filter (capabilities(7), landlock(7), seccomp(2)). From one thread, before anything from outside is read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::proxy_filter;

/// What the proxy reads beside what its guard opens for it: names, roots, libraries that the resolver loads.
const READ: [&str; 13] = [
    "/etc",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/usr/share/zoneinfo",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/dev/null",
    "/dev/urandom",
    "/run/systemd/resolve",
    // Which pod a cgroup is in.
    "/sys/fs/cgroup",
];
/// Variables that name further roots (rustls-native-certs, as OpenSSL).
const ROOT_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Whom the proxy becomes, and what it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowly {
    /// User.
    pub uid: u32,
    /// Group; it has no other.
    pub gid: u32,
    /// Directories with all below them: the state and the records.
    pub writable: Vec<PathBuf>,
}

/// Why authority could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct UnprivilegedError {
    what: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> UnprivilegedError {
    move |error| UnprivilegedError {
        what,
        source: error.into(),
    }
}

/// What a process may do, as the kernel says (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// User.
    pub uid: u32,
    /// Effective, permitted and bounding capabilities, together.
    pub capabilities: u64,
    /// Whether set-user-id programs give it nothing.
    pub no_new_privs: bool,
    /// Whether a system call filter is installed.
    pub filtered: bool,
}

impl Standing {
    /// Of this process.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn own() -> io::Result<Self> {
        Self::read(&fs::read_to_string("/proc/self/status")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// From the text of `/proc/PID/status`.
    #[must_use]
    pub fn read(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()
        };
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            uid: field("Uid:")?.parse().ok()?,
            capabilities: set("CapEff:")? | set("CapPrm:")? | set("CapBnd:")? | set("CapAmb:")?,
            no_new_privs: field("NoNewPrivs:")? == "1",
            filtered: field("Seccomp:")? == "2",
        })
    }

    /// Whether nothing is left that could be given up.
    #[must_use]
    pub const fn is_lowly(&self) -> bool {
        self.uid != 0 && self.capabilities == 0 && self.no_new_privs && self.filtered
    }
}

/// Gives up everything, for good; whether the Landlock domain is whole (Linux 6.12 has all of it; an older kernel restricts
/// as much as it knows, and one without Landlock nothing).
///
/// # Errors
/// Where anything but the domain cannot be given up: then nothing must be served.
pub fn give_up(lowly: &Lowly) -> Result<bool, UnprivilegedError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(failed("core dumps cannot be switched off"))?;
    let before = Standing::own().map_err(failed("its own standing cannot be read"))?;
    if before.capabilities != 0 || before.uid == 0 {
        become_lowly(lowly)?;
    } else if before.uid != lowly.uid {
        // Whoever started it has taken everything away already, and made it somebody else.
        return Err(UnprivilegedError {
            what: "another user was expected",
            source: io::Error::other(format!("it runs as {}, and is to be {}", before.uid, lowly.uid)),
        });
    }
    // After the change of user, which makes it depend on a setting of the host.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("it cannot be kept from being traced"))?;
    // Likewise: the change of user takes it back.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("it cannot end with its guard"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("new privileges cannot be given up"))?;
    let whole = domain(&lowly.writable).map_err(|error| UnprivilegedError {
        what: "no Landlock domain",
        source: io::Error::other(error),
    })?;
    proxy_filter::install().map_err(failed("no system call filter"))?;
    let standing = Standing::own().map_err(failed("its own standing cannot be read"))?;
    if standing.is_lowly() {
        return Ok(whole);
    }
    Err(UnprivilegedError {
        what: "some authority is left",
        source: io::Error::other(format!("{standing:?}")),
    })
}

fn become_lowly(lowly: &Lowly) -> Result<(), UnprivilegedError> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(failed("the bounding set cannot be emptied")(error)),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(failed("the ambient set cannot be emptied"))?;
    let (uid, gid) = (Uid::from_raw(lowly.uid), Gid::from_raw(lowly.gid));
    setgroups(&[]).map_err(failed("groups cannot be given up"))?;
    setresgid(gid, gid, gid).map_err(failed("the group cannot be changed"))?;
    setresuid(uid, uid, uid).map_err(failed("the user cannot be changed"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capabilities cannot be given up"))
}

/// Files to be read and written, nobody outside to be signalled.
fn domain(writable: &[PathBuf]) -> Result<bool, RulesetError> {
    let abi = ABI::V6;
    let never: BitFlags<AccessFs> = AccessFs::Execute
        | AccessFs::MakeBlock
        | AccessFs::MakeChar
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::MakeSym
        | AccessFs::IoctlDev;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(abi) & !never;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(readable(), read))?
        .add_rules(path_beneath_rules(writable, write))?
        .restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

fn readable() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = READ.into_iter().map(PathBuf::from).collect();
    paths.push(format!("/proc/{}", std::process::id()).into());
    paths.extend(
        ROOT_VARIABLES
            .iter()
            .filter_map(std::env::var_os)
            .map(PathBuf::from),
    );
    // The resolver's file may be a link; whoever writes it may put another in its place.
    let resolver = Path::new("/etc/resolv.conf").canonicalize();
    paths.extend(resolver.ok().and_then(|path| path.parent().map(Path::to_owned)));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tinterdict\nUid:\t65210\t65210\t65210\t65210\nCapInh:\t0000000000000000\n\
                      CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
                      CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";
        let lowly = Standing::read(status).expect("read");
        assert!(lowly.is_lowly(), "{lowly:?}");
        for (from, to) in [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001"),
            ("Uid:\t65210", "Uid:\t0"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
        ] {
            let more = Standing::read(&status.replace(from, to)).expect("read");
            assert!(!more.is_lowly(), "{to}");
        }
        assert!(Standing::own().is_ok());
        assert_eq!(Standing::read("Uid:\t1\n"), None);
    }
}
