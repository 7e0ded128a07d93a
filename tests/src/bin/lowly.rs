//! A proxy that was taken over: gives authority up as the agent's does, then tries what it must not be able to. Prints a line
//! for each attempt: its name, and `OK` or the error.
#![expect(clippy::print_stdout, reason = "a test program reports")]

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use interdict::guard::{Lowly, Standing, give_up};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Pid, Signal, getppid, kill_process};
use rustix::thread::UnshareFlags;

fn said<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) {
    match result {
        Ok(_) => println!("{name}: OK"),
        Err(error) => println!("{name}: {error}"),
    }
}

/// `lowly STATE FREE PORT`: may write below STATE, where everybody may write to FREE; PORT accepts.
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("STATE FREE PORT");
    let (state, free, port) = (
        PathBuf::from(next()?),
        PathBuf::from(next()?),
        next()?.parse::<u16>()?,
    );
    let lowly = Lowly {
        uid: 65_210,
        gid: 65_210,
        writable: vec![state.clone()],
    };
    println!("whole: {}", give_up(&lowly)?);
    println!("lowly: {}", Standing::own()?.is_lowly());

    // What it needs.
    said("write state", fs::write(state.join("mine"), "x"));
    said(
        "rename in state",
        fs::rename(state.join("mine"), state.join("ours")),
    );
    said("connect", TcpStream::connect(("127.0.0.1", port)));
    said("resolver", fs::read("/etc/hosts"));
    said("thread", io::Result::Ok(std::thread::spawn(|| ()).join().is_ok()));

    // What it must not.
    said("! shadow", fs::read("/etc/shadow"));
    said("! write elsewhere", fs::write(free.join("x"), "x"));
    said("! read elsewhere", fs::read(free.join("readable")));
    said("! run", Command::new("/bin/true").status());
    let parent = getppid().unwrap_or(Pid::INIT);
    said("! signal the guard", kill_process(parent, Signal::CONT));
    said("! signal init", kill_process(Pid::INIT, Signal::CONT));
    said("! become root", nix_root());
    said(
        "! packet socket",
        socket(AddressFamily::PACKET, SocketType::RAW, None),
    );
    said("! raw socket", socket(AddressFamily::INET, SocketType::RAW, None));
    said("! namespace", unshare());
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", parent.as_raw_nonzero()));
    said("! the guard's memory", memory);
    said(
        "! the guard's files",
        fs::read_dir(format!("/proc/{}/fd", parent.as_raw_nonzero())),
    );
    said("! bpf pins", fs::read_dir("/sys/fs/bpf"));
    said("! cgroups", fs::write("/sys/fs/cgroup/cgroup.procs", "0"));
    Ok(())
}

fn nix_root() -> rustix::io::Result<()> {
    rustix::thread::set_thread_uid(rustix::process::Uid::ROOT)
}

fn unshare() -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "the other one is unsafe for what it may do to threads; this one fails"
    )]
    Ok(rustix::thread::unshare(UnshareFlags::NEWUSER)?)
}
