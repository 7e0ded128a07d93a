//! The drop-in that makes a systemd unit a governed one: it starts after the agent and ends with it, trusts the agent's CA,
//! and cannot do what no network hook sees (what the launcher of `run` closes itself, systemd closes here).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::guard::system_bundles;

use super::environment::{BUNDLE_VARIABLES, EXTRA_VARIABLES};

/// The first words of a drop-in of ours: another file is never overwritten or removed.
const MARK: &str = "# Written by `interdict systemd govern`";
/// Its name in the unit's drop-in directory.
const NAME: &str = "50-interdict.conf";
/// Where unit files are (systemd.unit(5)), the first one first.
const UNIT_DIRS: [&str; 6] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator",
];
/// Sockets of daemons that reach the network, or start processes, for whoever asks.
const DAEMONS: [&str; 14] = [
    "/run/docker.sock",
    "/run/docker",
    "/run/containerd",
    "/run/crio",
    "/run/podman",
    "/run/lxd.socket",
    "/run/libvirt",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/avahi-daemon/socket",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    "/run/cups/cups.sock",
];
/// Without these a host does not boot, or nobody can log in any more.
const ESSENTIAL: [&str; 8] = [
    "systemd-",
    "dbus",
    "ssh",
    "getty",
    "serial-getty",
    "NetworkManager",
    "networking",
    "user@",
];

/// Which unit, and how.
#[derive(Debug, Clone)]
pub struct GovernSpec {
    /// The unit's name, `.service` included or not.
    pub unit: String,
    /// The file system that is changed: `/`, or that of an image.
    pub root: PathBuf,
    /// The agent's state directory on that system.
    pub state_dir: PathBuf,
    /// The slice to put it into.
    pub slice: Option<String>,
    /// Sockets that stay reachable.
    pub allowed: Vec<PathBuf>,
    /// Also units that a host needs, and ones that are not there yet.
    pub force: bool,
}

/// A drop-in that was not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropIn {
    /// The unit's whole name.
    pub unit: String,
    /// Where it belongs.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
    /// What somebody should know.
    pub notes: Vec<String>,
}

/// Why a unit is not governed.
#[derive(Debug, thiserror::Error)]
pub enum GovernError {
    /// No name of a unit.
    #[error("{0:?} is no name of a unit: write one such as mcp-server.service")]
    NoName(String),
    /// A unit that is no service.
    #[error("{unit} is a {kind}, which has no processes of its own: govern the service that it starts")]
    NoService {
        /// Which.
        unit: String,
        /// What it is.
        kind: String,
    },
    /// The agent itself.
    #[error("{0} is the agent: it cannot be governed by itself")]
    Itself(String),
    /// A unit that the host needs.
    #[error("{0} is needed to boot or to log in: if it really is to be governed, say --force")]
    Essential(String),
    /// No such unit.
    #[error(
        "there is no unit {unit} below {root}: check its name (`systemctl list-unit-files`), or say --force"
    )]
    Missing {
        /// Which.
        unit: String,
        /// Where.
        root: String,
    },
    /// A masked unit.
    #[error("{0} is masked, it never starts: `systemctl unmask {0}` first")]
    Masked(String),
    /// No name of a slice.
    #[error("{0:?} is no name of a slice: write one such as agents.slice")]
    NoSlice(String),
    /// A socket that is no path.
    #[error("{0} is no absolute path of a socket that would be closed; closed are {known}", known = DAEMONS.join(", "))]
    NoSocket(String),
    /// A file that somebody else wrote.
    #[error("{0} was not written by this command: it is left alone")]
    Foreign(String),
    /// It is not governed.
    #[error("{0} is not governed: there is no {NAME} for it")]
    NotGoverned(String),
    /// The file system.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the drop-in of a unit; nothing is written.
///
/// # Errors
/// Where the unit cannot or should not be governed.
pub fn drop_in(spec: &GovernSpec) -> Result<DropIn, GovernError> {
    let unit = service_name(&spec.unit)?;
    let essential = ESSENTIAL.iter().any(|prefix| {
        unit.strip_prefix(prefix)
            .is_some_and(|rest| prefix.ends_with(['-', '@']) || rest.starts_with(['.', '@', '-', 'd']))
    });
    if essential && !spec.force {
        return Err(GovernError::Essential(unit));
    }
    let written = read_unit(&spec.root, &unit, spec.force)?;
    if let Some(slice) = &spec.slice
        && !(slice.ends_with(".slice") && is_unit_name(slice))
    {
        return Err(GovernError::NoSlice(slice.clone()));
    }
    for socket in &spec.allowed {
        if !DAEMONS.iter().any(|known| Path::new(known) == socket) {
            return Err(GovernError::NoSocket(socket.display().to_string()));
        }
    }
    let path = place(&spec.root, &unit);
    ours_or_none(&path)?;
    Ok(DropIn {
        text: text(spec, &unit, &written),
        notes: notes(&unit, &written),
        unit,
        path,
    })
}

/// Writes it; whether anything changed.
///
/// # Errors
/// Where the file system refuses.
pub fn write(made: &DropIn) -> Result<bool, GovernError> {
    if fs::read_to_string(&made.path).is_ok_and(|there| there == made.text) {
        return Ok(false);
    }
    let failed = |source| GovernError::File {
        path: made.path.clone(),
        source,
    };
    let draft = made.path.with_extension("draft");
    made.path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .map_err(failed)?;
    fs::write(&draft, &made.text)
        .and_then(|()| fs::rename(&draft, &made.path))
        .map_err(failed)?;
    Ok(true)
}

/// Takes the drop-in of a unit away; where it was.
///
/// # Errors
/// Where there is none, or it is somebody else's.
pub fn remove(root: &Path, unit: &str) -> Result<PathBuf, GovernError> {
    let unit = service_name(unit)?;
    let path = place(root, &unit);
    if !path.exists() {
        return Err(GovernError::NotGoverned(unit));
    }
    ours_or_none(&path)?;
    take_away(&path)?;
    Ok(path)
}

/// Every drop-in of ours below `root`.
#[must_use]
pub fn drop_ins(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("etc/systemd/system"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path().join(NAME))
        .filter(|path| path.exists() && ours_or_none(path).is_ok())
        .collect();
    found.sort();
    found
}

/// Removes a drop-in, and its directory where nothing else is in it.
///
/// # Errors
/// Where the file system refuses.
pub fn take_away(path: &Path) -> Result<(), GovernError> {
    fs::remove_file(path).map_err(|source| GovernError::File {
        path: path.to_owned(),
        source,
    })?;
    if let Some(directory) = path.parent() {
        let _others = fs::remove_dir(directory);
    }
    Ok(())
}

fn place(root: &Path, unit: &str) -> PathBuf {
    root.join("etc/systemd/system")
        .join(format!("{unit}.d"))
        .join(NAME)
}

fn ours_or_none(path: &Path) -> Result<(), GovernError> {
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(GovernError::Foreign(path.display().to_string())),
        Err(source) => Err(GovernError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// systemd.unit(5): letters, digits, `:-_.\` and `@`, at most 255.
fn is_unit_name(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    !text.is_empty() && text.len() <= 255 && !text.starts_with(['.', '@', '-']) && text.bytes().all(fine)
}

fn service_name(text: &str) -> Result<String, GovernError> {
    const OTHERS: [&str; 10] = [
        "socket",
        "timer",
        "path",
        "slice",
        "scope",
        "target",
        "mount",
        "automount",
        "swap",
        "device",
    ];
    if !is_unit_name(text) {
        return Err(GovernError::NoName(text.to_owned()));
    }
    let kind = text.rsplit_once('.').map(|(_, kind)| kind);
    if let Some(kind) = kind.filter(|kind| OTHERS.contains(kind)) {
        return Err(GovernError::NoService {
            unit: text.to_owned(),
            kind: kind.to_owned(),
        });
    }
    let name = if kind == Some("service") {
        text.to_owned()
    } else {
        format!("{text}.service")
    };
    if name == "interdict.service" || name.starts_with("interdict-") {
        return Err(GovernError::Itself(name));
    }
    Ok(name)
}

/// What the unit and its other drop-ins say, the last value of each key.
fn read_unit(root: &Path, unit: &str, force: bool) -> Result<BTreeMap<String, String>, GovernError> {
    // An instance is read from its template.
    let template = unit.split_once('@').map(|(name, _)| format!("{name}@.service"));
    let names: Vec<&str> = [Some(unit), template.as_deref()].into_iter().flatten().collect();
    let file = names
        .iter()
        .flat_map(|name| UNIT_DIRS.iter().map(move |dir| root.join(dir).join(name)))
        .find(|path| path.symlink_metadata().is_ok());
    let Some(file) = file else {
        return if force {
            Ok(BTreeMap::new())
        } else {
            Err(GovernError::Missing {
                unit: unit.to_owned(),
                root: root.display().to_string(),
            })
        };
    };
    let masked = fs::read_link(&file).is_ok_and(|to| to == Path::new("/dev/null"))
        || file.metadata().is_ok_and(|found| found.len() == 0);
    if masked {
        return Err(GovernError::Masked(unit.to_owned()));
    }
    let mut values = BTreeMap::new();
    let mut files = vec![file];
    for name in names {
        for dir in UNIT_DIRS {
            let entries = fs::read_dir(root.join(dir).join(format!("{name}.d")));
            let conf = entries.into_iter().flatten().flatten().map(|entry| entry.path());
            files.extend(conf.filter(|path| path.file_name().is_none_or(|n| n != NAME)));
        }
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=')
                && !line.starts_with(['#', ';'])
            {
                values.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    Ok(values)
}

/// Somebody who reads it should know why each line is there.
fn text(spec: &GovernSpec, unit: &str, written: &BTreeMap<String, String>) -> String {
    let mut out = format!(
        "{MARK} (interdict {}); `interdict systemd ungovern {unit}` removes it.\n\
         [Unit]\n\
         # Never without the agent, whole: it starts after guard and proxy, and ends with either.\n\
         BindsTo=interdict.service interdict-proxy.service\n\
         After=interdict.service interdict-proxy.service\n\
         \n[Service]\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |text: &str| {
        // Writing to a String does not fail.
        let _written = writeln!(out, "{text}");
    };
    if let Some(slice) = &spec.slice {
        line(&format!("Slice={slice}"));
    }
    line(
        "# What no network hook sees. A socket of another family, io_uring, another process' memory or descriptors:",
    );
    line("NoNewPrivileges=yes");
    if !written.contains_key("RestrictAddressFamilies") {
        line("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK");
    }
    line("RestrictNamespaces=~user net cgroup");
    line("SystemCallArchitectures=native");
    line(
        "SystemCallFilter=~bpf io_uring_setup io_uring_enter io_uring_register pidfd_getfd perf_event_open \
         process_vm_readv process_vm_writev ptrace setns",
    );
    line("SystemCallErrorNumber=EPERM");
    line(
        "CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_SYS_MODULE CAP_SYS_RAWIO CAP_NET_ADMIN CAP_NET_RAW \
         CAP_BPF CAP_PERFMON CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_KILL",
    );
    line("# Moving to a cgroup that nobody governs, or changing how the kernel works:");
    line("ProtectControlGroups=yes");
    line("ProtectKernelTunables=yes");
    line("ProtectKernelModules=yes");
    line("# Asking somebody else to connect: daemons that would. `--allow-socket` leaves one open.");
    for socket in DAEMONS {
        if !spec.allowed.iter().any(|allowed| Path::new(socket) == allowed) {
            line(&format!("InaccessiblePaths=-{socket}"));
        }
    }
    line("# The agent's records, keys and sockets of others:");
    line(&format!(
        "InaccessiblePaths=-{}/audit -{0}/ca/authority.pem -{0}/mask.key -{0}/approvals.db -{0}/usage.db -/etc/credstore -/etc/credstore.encrypted",
        spec.state_dir.display()
    ));
    line(
        "# The certificates that the agent shows: the system's roots and its own CA, where programs look for them.",
    );
    trust(spec, &mut line);
    out
}

fn trust(spec: &GovernSpec, line: &mut dyn FnMut(&str)) {
    let bundle = spec.state_dir.join("ca").join("bundle.pem");
    let places = system_bundles(&spec.root);
    for place in &places {
        line(&format!(
            "BindReadOnlyPaths={}:{}",
            bundle.display(),
            place.display()
        ));
    }
    let Some(place) = places.first() else {
        line("# (This system keeps no bundle of roots: nothing is covered.)");
        return;
    };
    for name in BUNDLE_VARIABLES.iter().chain(&EXTRA_VARIABLES) {
        line(&format!("Environment={name}={}", place.display()));
    }
}

fn notes(unit: &str, written: &BTreeMap<String, String>) -> Vec<String> {
    let mut notes = Vec::new();
    let user = written.get("User").map(String::as_str);
    let dynamic = written
        .get("DynamicUser")
        .is_some_and(|v| v == "yes" || v == "true" || v == "1");
    if matches!(user, None | Some("" | "root" | "0")) && !dynamic {
        notes.push(format!(
            "{unit} runs as root, and root can undo the guard: give it User= or DynamicUser=yes"
        ));
    }
    if written.contains_key("RestrictAddressFamilies") {
        notes.push(format!(
            "{unit} has RestrictAddressFamilies= of its own, which stays: it should name no more than AF_UNIX AF_INET AF_INET6 AF_NETLINK"
        ));
    }
    if written
        .get("PrivateNetwork")
        .is_some_and(|v| v == "yes" || v == "true")
    {
        notes.push(format!(
            "{unit} has PrivateNetwork=yes: it reaches nothing, with or without the agent"
        ));
    }
    notes
}
