//! The hooks of BPF LSM: what no cgroup hook sees (`BPF_LSM_CGROUP`, Linux 6.0, where `bpf` is in the kernel's list of
//! LSMs). All are optional, each for itself; without them the run is as safe as `Features` says.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;

use aya::maps::{HashMap as KernelMap, MapData, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::{LsmCgroup, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use interdict_lsm::{Event, Hook, NAME, Offsets, UNKNOWN};

use super::attach::HookState;
use super::btf::Types;
use super::cgroup::RunCgroup;
use super::denials::Denial;
use super::error::GuardError;
use super::hooks::{chain, map_error, take};
use super::object::LSM_OBJECT;
use super::pins::Pins;
use super::process::enrich;
use super::supervise::family;

/// Where the kernel says which LSMs are active (securityfs).
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// One program.
#[derive(Debug)]
struct LsmHook {
    /// The program's name in the object.
    program: &'static str,
    /// The kernel's name of the hook.
    hook: &'static str,
    /// Fields that it reads.
    fields: &'static [&'static [&'static str]],
    /// What a process could do without it.
    without: &'static str,
}

/// From a cgroup up to the run's.
const UPWARDS: &[&str] = &[
    "cgroup.self",
    "cgroup_subsys_state.parent",
    "cgroup.kn",
    "kernfs_node.id",
];
const TASK: &[&str] = &["task_struct.cgroups", "css_set.dfl_cgrp"];
const SOCK: &[&str] = &["sock.sk_cgrp_data", "sock_cgroup_data.cgroup"];
const SOCKET: &[&str] = &["socket.sk"];
const UNIX_NAME: &[&str] = &["unix_sock.addr", "unix_address.len", "unix_address.name"];
const FILE: &[&str] = &["file.f_inode", "file.f_mode", "file.private_data", "inode.i_mode"];
const FILE_SYSTEM: &[&str] = &["inode.i_sb", "super_block.s_magic"];

/// Every program. The kernel has room for ten different hooks of this kind on a host, so those that close the most come
/// first.
const HOOKS: [LsmHook; 10] = [
    LsmHook {
        program: "on_unix_stream_connect",
        hook: "unix_stream_connect",
        fields: &[UPWARDS, SOCK, UNIX_NAME],
        without: "it can talk to local daemons over Unix sockets",
    },
    LsmHook {
        program: "on_file_receive",
        hook: "file_receive",
        fields: &[UPWARDS, SOCK, SOCKET, FILE],
        without: "it can use a connected socket that an ungoverned process hands to it",
    },
    LsmHook {
        program: "on_ptrace_access_check",
        hook: "ptrace_access_check",
        fields: &[UPWARDS, TASK],
        without: "it can take hold of ungoverned processes of its user, where Landlock does not forbid it",
    },
    LsmHook {
        program: "on_socket_create",
        hook: "socket_create",
        fields: &[],
        without: "sockets of other families are left to the system call filter",
    },
    LsmHook {
        program: "on_unix_may_send",
        hook: "unix_may_send",
        fields: &[UPWARDS, SOCK, SOCKET, UNIX_NAME],
        without: "it can send datagrams to local daemons over Unix sockets",
    },
    LsmHook {
        program: "on_file_open",
        hook: "file_open",
        fields: &[FILE, FILE_SYSTEM],
        without: "as root it can leave its cgroup",
    },
    LsmHook {
        program: "on_bpf",
        hook: "bpf",
        fields: &[],
        without: "bpf() is left to the system call filter",
    },
    LsmHook {
        program: "on_task_alloc",
        hook: "task_alloc",
        fields: &[],
        without: "as root it can start processes in another cgroup",
    },
    LsmHook {
        program: "on_task_kill",
        hook: "task_kill",
        fields: &[UPWARDS, TASK],
        without: "it can signal ungoverned processes of its user, where Landlock does not forbid it",
    },
    LsmHook {
        program: "on_inode_unlink",
        hook: "inode_unlink",
        fields: &[FILE_SYSTEM],
        without: "as root it can take the hooks' pins away",
    },
];

/// The programs that are attached, for as long as it lives (pinned ones for longer).
pub(super) struct Lsm {
    _programs: Ebpf,
    allowed: KernelMap<MapData, [u8; NAME], u8>,
}

/// Where they tell what they denied.
pub(super) struct LsmDenials {
    pub(super) ring: RingBuf<MapData>,
    pub(super) lost: PerCpuArray<MapData, u64>,
}

impl Lsm {
    /// Lets the processes of the run use these Unix sockets of others: the path that the daemon bound, or `@name` for an
    /// abstract one, as `ss -xl` shows them.
    pub(super) fn allow(&mut self, names: &[String]) -> Result<(), GuardError> {
        for name in names {
            self.allowed
                .insert(key(name), 1, 0)
                .map_err(|e| map_error("ALLOWED", &e))?;
        }
        Ok(())
    }
}

/// `sun_path`, NUL-padded; of a longer name only what a socket could have.
fn key(name: &str) -> [u8; NAME] {
    let mut key = [0; NAME];
    for (to, from) in key.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    if let (Some(first), true) = (key.first_mut(), name.starts_with('@')) {
        *first = 0;
    }
    key
}

/// Whether BPF LSM is active; else what is there.
///
/// # Errors
/// What is found in its place.
pub fn lsm_is_active() -> Result<String, String> {
    match fs::read_to_string(ACTIVE) {
        Ok(list) if list.trim().split(',').any(|name| name == "bpf") => Ok(list.trim().to_owned()),
        Ok(list) => Err(format!("not active ({})", list.trim())),
        Err(error) => Err(format!("not known: {ACTIVE}: {error}")),
    }
}

/// Attaches what this kernel takes, and says what became of each. `None` where BPF LSM is not active.
pub(super) fn attach(
    cgroup: &RunCgroup,
    pins: Option<&Pins>,
    types: &Types,
) -> Result<Option<(Lsm, LsmDenials, Vec<HookState>)>, GuardError> {
    if lsm_is_active().is_err() {
        return Ok(None);
    }
    let Some(btf) = &types.btf else { return Ok(None) };
    let found = fields(types);
    let mut programs = load(cgroup, &found, btf)?;
    let states = HOOKS
        .iter()
        .map(|hook| HookState {
            name: hook.program,
            required: false,
            without: hook.without,
            taken: hook.attach(&mut programs, &found, btf, cgroup, pins),
        })
        .collect();
    let denials = LsmDenials {
        ring: take(&mut programs, "DENIED")?,
        lost: take(&mut programs, "LOST")?,
    };
    let allowed = take(&mut programs, "ALLOWED")?;
    let lsm = Lsm {
        _programs: programs,
        allowed,
    };
    Ok(Some((lsm, denials, states)))
}

impl LsmHook {
    fn attach(
        &self,
        programs: &mut Ebpf,
        found: &BTreeMap<&'static str, u32>,
        btf: &Btf,
        cgroup: &RunCgroup,
        pins: Option<&Pins>,
    ) -> Result<(), GuardError> {
        let refused = |reason: String| GuardError::Hook {
            hook: self.program,
            reason,
        };
        let failed = |error: ProgramError| refused(chain(&error));
        let unknown = self
            .fields
            .iter()
            .copied()
            .flatten()
            .find(|name| !found.contains_key(*name));
        if let Some(field) = unknown {
            return Err(refused(format!("this kernel does not say where {field} is")));
        }
        let program = programs.program_mut(self.program);
        let program: &mut LsmCgroup = program
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| refused("the object does not hold it".into()))?;
        program.load(self.hook, btf).map_err(failed)?;
        let link = program.attach(cgroup.directory().as_fd()).map_err(failed)?;
        if let Some(pins) = pins {
            let link: FdLink = program.take_link(link).map_err(failed)?.into();
            let pinned = link.pin(pins.path(self.program));
            let _pinned = pinned.map_err(|error| refused(chain(&error)))?;
        }
        Ok(())
    }
}

fn load(cgroup: &RunCgroup, found: &BTreeMap<&'static str, u32>, btf: &Btf) -> Result<Ebpf, GuardError> {
    let at = |name| found.get(name).copied().unwrap_or(UNKNOWN);
    let offsets = [
        at("task_struct.cgroups"),
        at("css_set.dfl_cgrp"),
        at("cgroup.self"),
        at("cgroup_subsys_state.parent"),
        at("cgroup.kn"),
        at("kernfs_node.id"),
        at("socket.sk"),
        at("sock.sk_cgrp_data"),
        at("sock_cgroup_data.cgroup"),
        at("unix_sock.addr"),
        at("unix_address.len"),
        at("unix_address.name"),
        at("file.f_inode"),
        at("file.f_mode"),
        at("file.private_data"),
        at("inode.i_mode"),
        at("inode.i_sb"),
        at("super_block.s_magic"),
    ];
    const { assert!(size_of::<Offsets>() == size_of::<[u32; 18]>()) };
    let run = cgroup.id()?;
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("RUN", &run, true)
        .load(LSM_OBJECT)
        .map_err(|error| GuardError::Object(chain(&error)))
}

/// Every field that the kernel says the place of.
fn fields(types: &Types) -> BTreeMap<&'static str, u32> {
    let all = [UPWARDS, TASK, SOCK, SOCKET, UNIX_NAME, FILE, FILE_SYSTEM];
    let names: Vec<&'static str> = all.into_iter().flatten().copied().collect();
    let wanted: Vec<(&str, &str)> = names.iter().filter_map(|name| name.split_once('.')).collect();
    let found = types.offsets(&wanted);
    names
        .into_iter()
        .zip(found)
        .filter_map(|(name, offset)| Some((name, offset?)))
        .collect()
}

/// What a program told.
pub(super) fn read(bytes: &[u8]) -> Option<Denial> {
    let event = parse(bytes)?;
    let (hook, reason) = told(&event)?;
    let identity = interdict_ebpf::Identity {
        tgid: event.tgid,
        uid: event.uid,
        gid: event.gid,
        cgroup: event.cgroup,
        comm: event.comm,
        ..interdict_ebpf::Identity::default()
    };
    Some(Denial {
        hook,
        process: enrich(&identity),
        original: None,
        reason,
    })
}

fn told(event: &Event) -> Option<(&'static str, String)> {
    let is = |hook: Hook| event.hook == hook as u32;
    Some(if is(Hook::SocketCreate) {
        let family = family(event.number);
        (
            "lsm socket_create",
            format!("a {family} socket cannot be governed"),
        )
    } else if is(Hook::UnixStreamConnect) {
        ("lsm unix_stream_connect", to_unix(event))
    } else if is(Hook::UnixMaySend) {
        ("lsm unix_may_send", to_unix(event))
    } else if is(Hook::FileReceive) {
        let why = "a socket would be taken over from a process outside the run";
        ("lsm file_receive", why.into())
    } else if is(Hook::PtraceAccessCheck) {
        let why = "a process outside the run would be looked into or taken hold of";
        ("lsm ptrace_access_check", why.into())
    } else if is(Hook::TaskKill) {
        let why = format!("signal {} to a process outside the run", event.number);
        ("lsm task_kill", why)
    } else if is(Hook::Bpf) {
        (
            "lsm bpf",
            "a governed process gives the kernel no programs".into(),
        )
    } else if is(Hook::FileOpen) {
        ("lsm file_open", "a governed process changes no cgroup".into())
    } else if is(Hook::TaskAlloc) {
        let why = "a process would start in another cgroup (CLONE_INTO_CGROUP)";
        ("lsm task_alloc", why.into())
    } else if is(Hook::InodeUnlink) {
        ("lsm inode_unlink", "a pin in bpffs would be taken away".into())
    } else {
        return None;
    })
}

/// Names are a daemon's own, and shown without what a terminal would obey.
fn to_unix(event: &Event) -> String {
    let length = usize::try_from(event.name_len).unwrap_or(0).min(NAME);
    let name = event.name.get(..length).unwrap_or_default();
    let shown = match name.split_first() {
        None => "without a name".to_owned(),
        Some((0, rest)) => format!("@{}", rest.escape_ascii()),
        Some(_) => {
            let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
            path.escape_ascii().to_string()
        }
    };
    format!("the Unix socket {shown} is of a process outside the run")
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let mut rest = bytes;
    let mut word = || take_bytes(&mut rest).map(u32::from_ne_bytes);
    let [tgid, uid, gid, hook, number, name_len] = [word()?, word()?, word()?, word()?, word()?, word()?];
    Some(Event {
        tgid,
        uid,
        gid,
        hook,
        number,
        name_len,
        cgroup: take_bytes(&mut rest).map(u64::from_ne_bytes)?,
        comm: take_bytes(&mut rest)?,
        name: take_bytes(&mut rest)?,
        pad: take_bytes(&mut rest)?,
    })
}

fn take_bytes<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_sockets_are_bound_to() {
        assert!(key("/run/x").starts_with(b"/run/x\0"));
        assert!(key("@x").starts_with(b"\0x\0"));
        assert_eq!(key(&"a".repeat(200)), [b'a'; NAME]);
    }

    #[test]
    fn an_event_reads_back_and_a_torn_one_does_not() {
        let mut bytes = Vec::new();
        for word in [7u32, 8, 9, 2, 0, 3] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(b"me\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(key("@\x1bx"));
        bytes.extend([0; 4]);
        assert_eq!(bytes.len(), size_of::<Event>());
        let denial = read(&bytes).expect("an event");
        assert_eq!(denial.hook, "lsm unix_stream_connect");
        assert!(denial.reason.contains("@\\x1bx"), "{}", denial.reason);
        for end in 0..bytes.len() {
            assert_eq!(read(bytes.get(..end).expect("shorter")), None);
        }
    }

    #[test]
    fn every_field_is_one_of_a_structure() {
        let fields = HOOKS
            .iter()
            .flat_map(|hook| hook.fields.iter().copied().flatten());
        assert!(fields.clone().all(|name| name.split_once('.').is_some()));
        let Ok(_) = fs::metadata("/sys/kernel/btf/vmlinux") else {
            return;
        };
        let found = super::fields(&Types::read());
        let missing: Vec<_> = fields.filter(|name| !found.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
