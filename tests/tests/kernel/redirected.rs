//! What is redirected: with the destination that was meant, and by the process that meant it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use interdict::guard::Flow;
use interdict_tests::escape::HOSTILE;
use tokio::io::AsyncReadExt as _;

use crate::world::{Program, World, governed};

/// A program that ends with a connected `s`, and where it meant to go.
const CONNECTS: &[(&str, &str, &str)] = &[
    (
        "v4",
        "s = socket(); s.connect(('10.9.9.9', 5432))",
        "10.9.9.9:5432",
    ),
    (
        "v6",
        "s = socket(AF_INET6); s.connect(('2001:db8::7', 5432))",
        "[2001:db8::7]:5432",
    ),
    (
        "v4-mapped",
        "s = socket(AF_INET6); s.connect(('::ffff:10.9.9.9', 443))",
        "10.9.9.9:443",
    ),
    (
        "unspecified",
        "s = socket(); s.connect(('0.0.0.0', 9))",
        "0.0.0.0:9",
    ),
    (
        "loopback",
        "s = socket(); s.connect(('127.0.0.1', 9))",
        "127.0.0.1:9",
    ),
    (
        "metadata",
        "s = socket(); s.connect(('169.254.169.254', 80))",
        "169.254.169.254:80",
    ),
    (
        "TCP to port 53",
        "s = socket(); s.connect(('10.9.9.9', 53))",
        "10.9.9.9:53",
    ),
    (
        "non-blocking",
        "import select; s = socket(); s.setblocking(False)\n\
         assert s.connect_ex(('10.9.9.9', 80)) == errno.EINPROGRESS\n\
         assert select.select([], [s], [], 5)[1]\n\
         assert s.getsockopt(SOL_SOCKET, SO_ERROR) == 0\n\
         s.setblocking(True)",
        "10.9.9.9:80",
    ),
    (
        "bound",
        "s = socket(); s.bind(('127.0.0.2', 0)); s.connect(('10.9.9.9', 81))",
        "10.9.9.9:81",
    ),
    (
        "bound to a device",
        "name = [n for _, n in if_nameindex() if n != 'lo'][0].encode()\n\
         s = socket(); s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, name); s.connect(('10.9.9.9', 82))",
        "10.9.9.9:82",
    ),
    (
        "fast open by sendto",
        "s = socket(); s.sendto(b'x', MSG_FASTOPEN, ('10.9.9.9', 83))",
        "10.9.9.9:83",
    ),
    (
        "fast open by option",
        "s = socket(); s.setsockopt(IPPROTO_TCP, 30, 1); s.connect(('10.9.9.9', 84)); s.send(b'x')",
        "10.9.9.9:84",
    ),
];

pub(crate) fn every_kind_of_connect() -> Result<()> {
    governed(&[], async |world| {
        for (name, connect, meant) in CONNECTS {
            check(world, connect, meant).await.context(*name)?;
        }
        Ok(())
    })
}

async fn check(world: &mut World, connect: &str, meant: &str) -> Result<()> {
    let mut program = world.start(&format!(
        "{connect}\nsay(*s.getpeername()[:2]); attempt(lambda: s.recv(1))"
    ))?;
    let (stream, flow) = world.accept().await?;
    let meant: SocketAddr = meant.parse()?;
    ensure!(flow.original.0 == meant, "the original is {}", flow.original);
    ensure!(world.guard.flow_count() == 0, "flows are left");
    let said = program.line().await?;
    let (ip, port) = said.split_once(' ').context("a peer name")?;
    let seen = SocketAddr::new(ip.parse()?, port.parse()?);
    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
    ensure!(seen == meant, "the process sees the peer {seen}");
    check_process(world, &flow, program.pid())?;
    drop(stream);
    program.finish().await?;
    Ok(())
}

fn check_process(world: &World, flow: &Flow, pid: u32) -> Result<()> {
    let process = &flow.process;
    let workload = world.cgroup.procs();
    let workload = std::fs::metadata(workload.parent().context("path")?)?;
    ensure!(process.tgid == pid, "the process is {}, not {pid}", process.tgid);
    ensure!((process.uid, process.gid) == (0, 0), "uid and gid: {process:?}");
    ensure!(process.comm.starts_with("python"), "comm: {process:?}");
    ensure!(
        process.cgroup == workload.ino(),
        "cgroup {} of {process:?}",
        workload.ino()
    );
    ensure!(process.netns == world.guard.netns(), "namespace: {process:?}");
    ensure!(
        process.start_ns > 0 && process.exe.inode > 0,
        "not enriched: {process:?}"
    );
    let file = std::fs::metadata(&process.exe.path)?;
    ensure!(
        (file.dev(), file.ino()) == (process.exe.device, process.exe.inode),
        "executable: {process:?}"
    );
    Ok(())
}

/// A launched process may not have io_uring; the hooks see it all the same, for kernels that cannot stop it.
pub(crate) fn io_uring_goes_through_the_hooks() -> Result<()> {
    governed(&[], async |world| {
        let with = |program: &str| format!("os.environ['PORT'] = '9'\n{HOSTILE}\n{program}");
        let table = [
            (
                "s = tcp(); Uring().connect(s, sa4('10.9.9.9', 85)); s.recv(1)",
                "10.9.9.9:85",
            ),
            (
                "s = tcp(AF_INET6); Uring().connect(s, sa6('2001:db8::7', 85)); s.recv(1)",
                "[2001:db8::7]:85",
            ),
            (
                "u = Uring(); s = socket(fileno=u.submit(45, AF_INET, SOCK_STREAM, 0, 0))\n\
                 u.connect(s, sa4('10.9.9.9', 86)); s.recv(1)",
                "10.9.9.9:86",
            ),
        ];
        for (program, meant) in table {
            let program = world.start(&with(program))?;
            let (stream, flow) = world.accept().await.context(meant)?;
            ensure!(flow.original.0 == meant.parse()?, "{flow:?}");
            drop(stream);
            program.finish().await?;
        }
        let said = world
            .run(&with(
                "attempt(lambda: Uring().sendto(udp(), MARK, sa4('10.9.9.9', 443)))",
            ))
            .await?;
        ensure!(said == "EPERM", "{said}");
        let denial = world.denial().await?;
        ensure!(denial.hook == "sendmsg", "{denial:?}");
        Ok(())
    })
}

pub(crate) fn a_socket_can_connect_again() -> Result<()> {
    governed(&[], async |world| {
        let mut program = world.start(
            "s = socket()\n\
             s.connect(('10.9.9.1', 1)); hear()\n\
             disconnect(s); s.connect(('10.9.9.2', 2)); say(*s.getpeername())\n\
             attempt(lambda: s.connect(('10.9.9.3', 3))); say(*s.getpeername())",
        )?;
        let (first, flow) = world.accept().await?;
        ensure!(flow.original.0 == "10.9.9.1:1".parse()?, "{flow:?}");
        program.tell("go").await?;
        let (second, flow) = world.accept().await?;
        ensure!(flow.original.0 == "10.9.9.2:2".parse()?, "{flow:?}");
        let said = program.finish().await?;
        // A connected socket cannot connect, and trying does not change what it is told.
        ensure!(said == "10.9.9.2 2\nEISCONN\n10.9.9.2 2", "{said}");
        ensure!(world.guard.flow_count() == 0, "flows are left");
        drop((first, second));
        Ok(())
    })
}

/// Four processes, fifty connections each, all at the same time: none is taken for another.
pub(crate) fn each_connection_is_its_own() -> Result<()> {
    governed(&[], async |world| {
        const EACH: usize = 50;
        let program = |n: usize| {
            format!(
                "open = []\n\
                 for i in range({EACH}):\n\
                 \x20   s = socket(); s.connect(('10.{n}.1.%d' % i, 1000 + i)); open.append(s)\n\
                 \x20   s.send(b'%d 10.{n}.1.%d:%d\\n' % (os.getpid(), i, 1000 + i)); s.shutdown(SHUT_WR)\n\
                 for s in open: s.recv(1)"
            )
        };
        let programs = (1..5)
            .map(|n| world.start(&program(n)))
            .collect::<Result<Vec<Program>>>()?;
        let mut seen = HashSet::new();
        for _ in 0..EACH * programs.len() {
            let (mut stream, flow) = world.accept().await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            let known = format!("{} {}\n", flow.process.tgid, flow.original);
            ensure!(
                said == known,
                "the process says {said:?}, the kernel says {known:?}"
            );
            ensure!(seen.insert(known), "twice: {said:?}");
        }
        for program in programs {
            program.finish().await?;
        }
        ensure!(world.guard.flow_count() == 0, "flows are left");
        Ok(())
    })
}

pub(crate) fn a_failed_connect_leaves_no_flow() -> Result<()> {
    governed(&[], async |world| {
        world.listeners.clear();
        let said = world
            .run(
                "attempt(lambda: socket().connect(('10.9.9.9', 1)))\n\
                 attempt(lambda: socket(AF_INET6).connect(('2001:db8::7', 1)))\n\
                 attempt(lambda: socket(AF_INET6).connect(('::ffff:10.9.9.9', 1)))",
            )
            .await?;
        ensure!(said == "ECONNREFUSED\nECONNREFUSED\nECONNREFUSED", "{said}");
        ensure!(world.guard.flow_count() == 0, "flows are left");
        Ok(())
    })
}

pub(crate) fn others_are_left_alone() -> Result<()> {
    governed(&[], async |_world| {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = server.local_addr()?.port();
        let outside = Program::start(
            None,
            &format!(
                "s = socket(); s.connect(('127.0.0.1', {port})); say(*s.getpeername())\n\
                 u = socket(type=SOCK_DGRAM); u.sendto(b'x', ('127.0.0.1', {port})); say('sent')"
            ),
        )?;
        let (_stream, _) = tokio::time::timeout(crate::world::PATIENCE, server.accept()).await??;
        let said = outside.finish().await?;
        ensure!(said == format!("127.0.0.1 {port}\nsent"), "{said}");
        Ok(())
    })
}
