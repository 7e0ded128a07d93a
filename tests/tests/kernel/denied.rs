//! What is denied, and that it is reported.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::world::{World, governed, run_blocking};

/// An attempt, the hook that denies it, and where it meant to go.
const DENIED: &[(&str, &str, &str, Option<&str>)] = &[
    (
        "UDP",
        "lambda: socket(type=SOCK_DGRAM).sendto(b'x', ('10.9.9.9', 443))",
        "sendmsg",
        Some("10.9.9.9:443"),
    ),
    (
        "connected UDP",
        "lambda: socket(type=SOCK_DGRAM).connect(('10.9.9.9', 443))",
        "connect",
        Some("10.9.9.9:443"),
    ),
    (
        "UDP, v6",
        "lambda: socket(AF_INET6, SOCK_DGRAM).sendto(b'x', ('2001:db8::7', 54))",
        "sendmsg",
        Some("[2001:db8::7]:54"),
    ),
    (
        "UDP, v4-mapped",
        "lambda: socket(AF_INET6, SOCK_DGRAM).sendto(b'x', ('::ffff:10.9.9.9', 54))",
        "sendmsg",
        Some("10.9.9.9:54"),
    ),
    (
        "UDP, broadcast",
        "lambda: socket(type=SOCK_DGRAM).sendto(b'x', ('255.255.255.255', 9))",
        "sendmsg",
        Some("255.255.255.255:9"),
    ),
    (
        "raw",
        "lambda: socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)",
        "sock_create",
        None,
    ),
    (
        "raw TCP",
        "lambda: socket(AF_INET, SOCK_RAW, IPPROTO_TCP)",
        "sock_create",
        None,
    ),
    (
        "raw, v6",
        "lambda: socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6)",
        "sock_create",
        None,
    ),
    (
        "another network namespace",
        "lambda: libc.unshare(0x40000000) or socket().connect(('10.9.9.9', 443))",
        "connect",
        Some("10.9.9.9:443"),
    ),
];

/// Protocols that the kernel may not have, or refuse for a reason of its own before a hook is asked.
const NEVER: &[(&str, &str)] = &[
    ("ping", "lambda: socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)"),
    ("ping, v6", "lambda: socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6)"),
    ("MPTCP", "lambda: socket(AF_INET, SOCK_STREAM, 262)"),
    ("SCTP", "lambda: socket(AF_INET, SOCK_STREAM, 132)"),
    (
        "SCTP, one to many",
        "lambda: socket(AF_INET, SOCK_SEQPACKET, 132)",
    ),
    ("UDP-Lite", "lambda: socket(AF_INET, SOCK_DGRAM, 136)"),
    ("DCCP", "lambda: socket(AF_INET, 6, 33)"),
    ("L2TP", "lambda: socket(AF_INET, SOCK_DGRAM, 115)"),
];

pub(crate) fn what_cannot_be_redirected() -> Result<()> {
    governed(&[], async |world| {
        for (name, attempt, hook, meant) in DENIED {
            check(world, attempt, hook, *meant).await.context(*name)?;
        }
        for (name, attempt) in NEVER {
            let said = world.run(&format!("attempt({attempt})")).await?;
            ensure!(said != "OK", "{name} is possible");
        }
        ensure!(world.guard.flow_count() == 0, "flows are left");
        Ok(())
    })
}

async fn check(world: &mut World, attempt: &str, hook: &str, meant: Option<&str>) -> Result<()> {
    let program = world.start(&format!("attempt({attempt})"))?;
    let pid = program.pid();
    let said = program.finish().await?;
    ensure!(said == "EPERM", "the attempt got {said}");
    let denial = world.denial().await?;
    ensure!(denial.hook == hook, "{denial:?}");
    ensure!(
        denial.process.tgid == pid && denial.process.comm.starts_with("python"),
        "{denial:?}"
    );
    let meant: Option<SocketAddr> = meant.map(str::parse).transpose()?;
    ensure!(denial.original.map(|o| o.0) == meant, "{denial:?}");
    Ok(())
}

/// Not on any address, and not after the agent has let go of them either.
pub(crate) fn the_agents_ports() -> Result<()> {
    governed(&[], async |world| {
        let ports: Vec<u16> = world.listeners.iter().map(|(_, a)| a.0.port()).collect();
        ensure!(ports.len() == 8, "{ports:?}");
        for port in &ports {
            let connect = format!("lambda: socket().connect(('127.0.0.1', {port}))");
            check(world, &connect, "connect", Some(&format!("127.0.0.1:{port}"))).await?;
        }
        world.listeners.clear();
        for port in ports {
            for (family, ip) in [
                ("AF_INET", "127.0.0.1"),
                ("AF_INET", "0.0.0.0"),
                ("AF_INET6", "::1"),
            ] {
                let bind = format!("lambda: socket({family}).bind(('{ip}', {port}))");
                let meant = format!("{}", SocketAddr::new(ip.parse()?, port));
                check(world, &bind, "bind", Some(&meant)).await?;
            }
        }
        let said = world
            .run("attempt(lambda: socket().bind(('127.0.0.1', 0)))")
            .await?;
        ensure!(said == "OK", "other ports: {said}");
        Ok(())
    })
}

pub(crate) fn everything_while_the_agent_hangs() -> Result<()> {
    let resolver: SocketAddr = "127.99.53.53:53".parse()?;
    governed(&[resolver], async |world| {
        let procs = world.cgroup.procs();
        // The whole runtime stands still, and with it the heartbeat: there is no event to wait for.
        std::thread::sleep(Duration::from_millis(3_200));
        let said = run_blocking(
            &procs,
            "attempt(lambda: socket().connect(('10.9.9.9', 1)))\n\
             attempt(lambda: socket(type=SOCK_DGRAM).sendto(b'x', ('127.99.53.53', 53)))",
        )?;
        ensure!(said == "EPERM\nEPERM", "{said}");
        for hook in ["connect", "sendmsg"] {
            let denial = world.denial().await?;
            ensure!(
                denial.hook == hook && denial.reason.contains("alive"),
                "{denial:?}"
            );
        }
        // And it comes back with the agent.
        let program = world.start("s = socket(); s.connect(('10.9.9.9', 1)); s.recv(1)")?;
        drop(world.accept().await?);
        program.finish().await?;
        Ok(())
    })
}

/// More denials than the ring holds: every attempt is denied all the same, and the lost reports are counted.
pub(crate) fn a_flood_is_counted() -> Result<()> {
    governed(&[], async |world| {
        let said = world
            .run(
                "u = socket(type=SOCK_DGRAM); denied = 0\n\
                 for i in range(10000):\n\
                 \x20   try: u.sendto(b'x', ('10.9.9.9', 443))\n\
                 \x20   except PermissionError: denied += 1\n\
                 say(denied)",
            )
            .await?;
        ensure!(said == "10000", "{said}");
        let counters = world.guard.counters()?;
        ensure!(counters.denials_lost > 0, "{counters:?}");
        let mut reported = 0;
        while reported + counters.denials_lost < 10_000 {
            world.denial().await?;
            reported += 1;
        }
        Ok(())
    })
}
