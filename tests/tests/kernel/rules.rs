//! What the kernel decides by itself: direct, denied, and what stays redirected within.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use interdict::config::{NetworkRule, NetworkVerdict};
use interdict::guard::{HookOrder, order_at, programs_of_host};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket};

use crate::world::{PATIENCE, World, governed};

fn rule(ip: &str, bits: u8, port: Option<u16>, verdict: NetworkVerdict) -> Result<NetworkRule> {
    Ok(NetworkRule {
        ip: ip.parse()?,
        bits,
        port,
        verdict,
    })
}

async fn said_to(server: &TcpListener) -> Result<String> {
    let (mut stream, _) = tokio::time::timeout(PATIENCE, server.accept())
        .await
        .context("nobody connected")??;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

/// The longest prefix counts, then the port; targets are redirected wherever they lie.
pub(crate) fn networks_are_decided_in_the_kernel() -> Result<()> {
    use NetworkVerdict::{Deny, Direct, Redirect};
    governed(&[], async |world| {
        let mut rules = world.guard.take_rules().context("rules")?;
        let v4 = TcpListener::bind("127.0.0.5:0").await?;
        let v6 = TcpListener::bind("[::1]:0").await?;
        let (p4, p6) = (v4.local_addr()?.port(), v6.local_addr()?.port());
        let target: SocketAddr = "127.0.0.5:5432".parse()?;
        let networks = [
            rule("127.0.0.0", 8, None, Direct)?,
            rule("127.0.0.0", 8, Some(81), Deny)?,
            rule("127.0.0.6", 32, None, Redirect)?,
            rule("::1", 128, Some(p6), Direct)?,
            rule("10.9.0.0", 16, None, Deny)?,
        ];
        rules.replace(&networks, &[target])?;
        let direct = world.start(&format!(
            "s = socket(); s.connect(('127.0.0.5', {p4})); s.sendall(b'v4 %s' % s.getpeername()[0].encode()); s.close()\n\
             s = socket(AF_INET6); s.connect(('::1', {p6})); s.sendall(b'v6'); s.close()"
        ))?;
        ensure!(said_to(&v4).await? == "v4 127.0.0.5");
        ensure!(said_to(&v6).await? == "v6");
        direct.finish().await?;
        let udp = UdpSocket::bind("127.0.0.5:0").await?;
        let port = udp.local_addr()?.port();
        world
            .run(&format!(
                "socket(type=SOCK_DGRAM).sendto(b'hello', ('127.0.0.5', {port}))"
            ))
            .await?;
        let mut buffer = [0; 16];
        let length = tokio::time::timeout(PATIENCE, udp.recv(&mut buffer)).await??;
        ensure!(length == 5);
        for (address, denied) in [(("127.0.0.5", 81), true), (("10.9.9.9", 443), true)] {
            let (ip, port) = address;
            let said = world
                .run(&format!("attempt(lambda: socket().connect(('{ip}', {port})))"))
                .await?;
            ensure!((said == "EPERM") == denied, "{ip}:{port}: {said}");
            let denial = world.denial().await?;
            ensure!(denial.reason.contains("[[network]]"), "{denial:?}");
        }
        for meant in ["127.0.0.6:9", "127.0.0.5:5432"] {
            redirected(world, meant).await.context(meant)?;
        }
        // Rules that are gone leave nothing open.
        rules.replace(&[], &[])?;
        redirected(world, &format!("127.0.0.5:{p4}")).await?;
        ensure!(world.guard.flow_count() == 0, "flows are left");
        Ok(())
    })
}

async fn redirected(world: &World, meant: &str) -> Result<()> {
    let meant: SocketAddr = meant.parse()?;
    let program = world.start(&format!(
        "s = socket(); s.connect(('{}', {})); s.recv(1)",
        meant.ip(),
        meant.port()
    ))?;
    let (stream, flow) = world.accept().await?;
    ensure!(flow.original.0 == meant, "{flow:?}");
    drop(stream);
    program.finish().await?;
    Ok(())
}

/// Packets to a direct network leave the host; those to its neighbour do not.
pub(crate) fn direct_packets_leave() -> Result<()> {
    governed(&[], async |world| {
        let mut rules = world.guard.take_rules().context("rules")?;
        let direct = rule("198.51.100.8", 31, Some(443), NetworkVerdict::Direct)?;
        rules.replace(&[direct], &[])?;
        let send = |ip: &str, port: u16| {
            format!("attempt(lambda: socket(type=SOCK_DGRAM).sendto(b'x', ('{ip}', {port})))")
        };
        let said = world.run(&send("198.51.100.9", 443)).await?;
        if said == "ENETUNREACH" {
            println!("SKIPPED packets to a direct network: no route leaves this host");
            return Ok(());
        }
        ensure!(said == "OK", "{said}");
        for (ip, port) in [("198.51.100.9", 444), ("198.51.100.10", 443)] {
            let said = world.run(&send(ip, port)).await?;
            ensure!(said == "EPERM", "{ip}:{port}: {said}");
        }
        Ok(())
    })
}

/// What runs for a process, its own cgroup's programs first: the agent's, and after them whatever all cgroups have.
pub(crate) fn the_order_of_hooks_is_known() -> Result<()> {
    governed(&[], async |world| {
        let procs = world.cgroup.procs();
        let below = procs.parent().context("a directory")?;
        let orders = order_at(below)?;
        let others = programs_of_host()?;
        let at = |orders: &[HookOrder], place: &str| {
            let found = orders.iter().find(|(name, _)| *name == place);
            found.map(|(_, programs)| programs.clone()).unwrap_or_default()
        };
        for place in ["connect4", "connect6", "sendmsg4", "egress", "sock_create"] {
            let (own, host) = (at(&orders, place), at(&others, place));
            ensure!(own.len() > host.len(), "{place}: {own:?} {host:?}");
            ensure!(
                own.ends_with(&host),
                "{place}: the agent's come first: {own:?} {host:?}"
            );
        }
        Ok(())
    })
}
