//! The hooks, one by one: how each is attached, and what is lost without it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
    ProgramError, SockOps,
};

use super::btf::Types;
use super::cgroup::RunCgroup;
use super::error::GuardError;
use super::hooks::{Features, chain, load};
use super::lsm;

/// Where a program is attached.
#[derive(Debug, Clone, Copy)]
enum Point {
    Address,
    SockCreate,
    SockOps,
    Egress,
    Ingress,
    Tracepoint(&'static str),
}

/// One program.
#[derive(Debug)]
pub(super) struct Hook {
    /// The program's name in the object.
    pub(super) name: &'static str,
    point: Point,
    /// Whether nothing is governed without it.
    pub(super) required: bool,
    /// What a process could then do.
    pub(super) without: &'static str,
}

const fn required(name: &'static str, point: Point, without: &'static str) -> Hook {
    Hook {
        name,
        point,
        required: true,
        without,
    }
}

const fn optional(name: &'static str, point: Point, without: &'static str) -> Hook {
    Hook {
        required: false,
        ..required(name, point, without)
    }
}

use Point::{Address, Egress, Ingress, SockCreate, Tracepoint};

/// Every program, in the order in which they are attached.
pub(super) const HOOKS: [Hook; 17] = [
    required(
        "on_connect4",
        Address,
        "IPv4 connections go where the process wants",
    ),
    required(
        "on_connect6",
        Address,
        "IPv6 connections go where the process wants",
    ),
    required(
        "on_sendmsg4",
        Address,
        "IPv4 datagrams go where the process wants",
    ),
    required(
        "on_sendmsg6",
        Address,
        "IPv6 datagrams go where the process wants",
    ),
    required(
        "on_recvmsg4",
        Address,
        "answers to questions for names come from the agent, and programs drop them",
    ),
    required(
        "on_recvmsg6",
        Address,
        "answers to questions for names come from the agent, and programs drop them",
    ),
    required("on_bind4", Address, "the process can take the agent's ports"),
    required("on_bind6", Address, "the process can take the agent's ports"),
    required(
        "on_getpeername4",
        Address,
        "the process sees the agent in place of its peer",
    ),
    required(
        "on_getpeername6",
        Address,
        "the process sees the agent in place of its peer",
    ),
    required(
        "on_sock_create",
        SockCreate,
        "raw sockets, ping, SCTP and MPTCP leave unjudged",
    ),
    required(
        "on_sock_ops",
        Point::SockOps,
        "the agent does not know what a connection was meant for",
    ),
    required(
        "on_question",
        Egress,
        "the agent does not know whose question for a name a datagram is: no name is resolved",
    ),
    optional(
        "on_egress",
        Egress,
        "packets are not looked at: source routes and routing headers lead past the agent",
    ),
    required(
        "on_ingress",
        Ingress,
        "whoever is outside can connect to the process, and be answered",
    ),
    optional(
        "on_fork",
        Tracepoint("sched_process_fork"),
        "labels are not inherited; the cgroup still governs",
    ),
    optional(
        "on_exit",
        Tracepoint("sched_process_exit"),
        "labels outlive their process; the cgroup still governs",
    ),
];

impl Hook {
    /// Whether it is attached to a cgroup; else it sees the whole host, and goes with the agent.
    pub(super) const fn is_of_cgroup(&self) -> bool {
        match self.point {
            Address | SockCreate | Point::SockOps | Egress | Ingress => true,
            Tracepoint(_) => false,
        }
    }

    /// Whether it only looks at packets of what other hooks have judged.
    pub(super) fn is_backstop(&self) -> bool {
        self.name == "on_egress"
    }

    /// Loads the program and attaches it; pinned where there is a place for it, else for as long as `hooks` lives.
    pub(super) fn attach(
        &self,
        hooks: &mut Ebpf,
        types: &Types,
        cgroup: BorrowedFd<'_>,
        pin: Option<&Path>,
    ) -> Result<(), GuardError> {
        self.load(hooks, types)?;
        self.link(hooks, cgroup, pin)
    }

    /// Loads the program.
    pub(super) fn load(&self, hooks: &mut Ebpf, types: &Types) -> Result<(), GuardError> {
        let name = self.name;
        let failed = |e: ProgramError| refused(name, &e);
        match self.point {
            Address => program::<CgroupSockAddr>(hooks, name)?.load().map_err(failed),
            SockCreate => program::<CgroupSock>(hooks, name)?.load().map_err(failed),
            Point::SockOps => program::<SockOps>(hooks, name)?.load().map_err(failed),
            Egress | Ingress => program::<CgroupSkb>(hooks, name)?.load().map_err(failed),
            Tracepoint(event) => {
                let btf = types.btf.as_ref().ok_or_else(|| GuardError::Hook {
                    hook: name,
                    reason: "the kernel's types cannot be read".into(),
                })?;
                let hook: &mut BtfTracePoint = program(hooks, name)?;
                hook.load(event, btf).map_err(failed)
            }
        }
    }

    /// Attaches the loaded program, to as many cgroups as one likes.
    pub(super) fn link(
        &self,
        hooks: &mut Ebpf,
        at: BorrowedFd<'_>,
        pin: Option<&Path>,
    ) -> Result<(), GuardError> {
        let (name, mode) = (self.name, CgroupAttachMode::Single);
        let failed = |e: ProgramError| refused(name, &e);
        match self.point {
            Address => {
                let hook: &mut CgroupSockAddr = program(hooks, name)?;
                let id = hook.attach(at, mode).map_err(failed)?;
                keep(pin, name, || hook.take_link(id).map(TryInto::try_into))
            }
            SockCreate => {
                let hook: &mut CgroupSock = program(hooks, name)?;
                let id = hook.attach(at, mode).map_err(failed)?;
                keep(pin, name, || hook.take_link(id).map(TryInto::try_into))
            }
            Point::SockOps => {
                let hook: &mut SockOps = program(hooks, name)?;
                let id = hook.attach(at, mode).map_err(failed)?;
                keep(pin, name, || hook.take_link(id).map(TryInto::try_into))
            }
            Egress | Ingress => {
                let hook: &mut CgroupSkb = program(hooks, name)?;
                let way = if matches!(self.point, Ingress) {
                    CgroupSkbAttachType::Ingress
                } else {
                    CgroupSkbAttachType::Egress
                };
                let id = hook.attach(at, way, mode).map_err(failed)?;
                keep(pin, name, || hook.take_link(id).map(TryInto::try_into))
            }
            // Of no cgroup: it goes with the agent, and labels with it.
            Tracepoint(_) => {
                let hook: &mut BtfTracePoint = program(hooks, name)?;
                hook.attach().map(|_link| ()).map_err(failed)
            }
        }
    }
}

/// Pins a link. A kernel without links for cgroups (before 5.7) cannot keep the guard, and is refused.
fn keep(
    pin: Option<&Path>,
    name: &'static str,
    link: impl FnOnce() -> Result<Result<FdLink, LinkError>, ProgramError>,
) -> Result<(), GuardError> {
    let Some(pin) = pin else { return Ok(()) };
    let link = link()
        .map_err(|e| refused(name, &e))?
        .map_err(|e| refused(name, &e))?;
    let _pinned = link.pin(pin).map_err(|e| refused(name, &e))?;
    Ok(())
}

fn program<'a, P>(hooks: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, GuardError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let missing = || GuardError::Hook {
        hook: name,
        reason: "the object does not hold it".into(),
    };
    hooks
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(missing)
}

fn refused(hook: &'static str, error: &dyn std::error::Error) -> GuardError {
    GuardError::Hook {
        hook,
        reason: chain(error),
    }
}

/// What became of one hook.
#[derive(Debug)]
pub struct HookState {
    /// Its name.
    pub name: &'static str,
    /// Whether nothing is governed without it.
    pub required: bool,
    /// What a process could do without it.
    pub without: &'static str,
    /// Whether this kernel takes it.
    pub taken: Result<(), GuardError>,
}

/// Tries every hook on a cgroup that is made for it and taken away again. Also returns what else was found missing.
///
/// # Errors
/// Where there is no cgroup to try on, or the kernel refuses the object as a whole.
pub fn probe() -> Result<(Vec<HookState>, Features), GuardError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot);
    }
    let cgroup = RunCgroup::create()?;
    let mut features = Features::standing();
    let types = Types::read();
    let mut hooks = load(&mut features, &types, &[])?;
    let states = HOOKS.iter().map(|hook| HookState {
        name: hook.name,
        required: hook.required,
        without: hook.without,
        taken: hook.attach(&mut hooks, &types, cgroup.directory(), None),
    });
    let mut states: Vec<HookState> = states.collect();
    if let Some((_attached, _told, beyond)) = lsm::attach(&cgroup, None, &types)? {
        let taken = |name: &str| beyond.iter().any(|hook| hook.name == name && hook.taken.is_ok());
        features.close(taken);
        states.extend(beyond);
    }
    Ok((states, features))
}
