//! The backstop: what leaves the host when another hook was passed, and what must leave all the same.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::world::{Program, World, governed, pins_of};

/// As if the kernel had a way around `connect` and `sendmsg`: those two hooks are taken away, the backstop stays.
pub(crate) fn packets_past_the_other_hooks_stay() -> Result<()> {
    governed(&[], async |world| {
        take_away(world, &["on_connect4", "on_sendmsg4"])?;
        let said = world
            .run("attempt(lambda: socket(type=SOCK_DGRAM).sendto(b'x', ('198.51.100.9', 443)))")
            .await?;
        if said == "ENETUNREACH" {
            println!("SKIPPED the backstop: no route leaves this host");
            return Ok(());
        }
        ensure!(said == "EPERM", "{said}");
        let denial = world.denial().await?;
        ensure!(denial.hook == "egress", "{denial:?}");
        ensure!(
            denial.original.map(|o| o.0) == Some("198.51.100.9:443".parse()?),
            "{denial:?}"
        );
        // Nothing of a TCP connection leaves either: not even the first packet.
        let said = world
            .run("s = socket(); s.settimeout(0.5); attempt(lambda: s.connect(('198.51.100.9', 443))); say('end')")
            .await?;
        ensure!(said.ends_with("end") && !said.starts_with("OK"), "{said}");
        let denial = world.denial().await?;
        ensure!(denial.hook == "egress", "{denial:?}");
        Ok(())
    })
}

fn take_away(world: &World, hooks: &[&str]) -> Result<()> {
    let procs = world.cgroup.procs();
    let run = procs.parent().and_then(Path::parent).context("path")?;
    let pins = pins_of(run).into_iter().find(|p| p.exists()).context("pins")?;
    for hook in hooks {
        std::fs::remove_file(pins.join(hook))?;
    }
    Ok(())
}

/// A governed server in a network namespace of its own, a client in another, a cable between them.
pub(crate) fn answers_leave() -> Result<()> {
    governed(&[], async |world| {
        let mut server = world.start(
            "libc.unshare(0x40000000); say('ready'); hear()\n\
             s = socket(); s.bind(('0.0.0.0', 7000)); s.listen(); say('listening')\n\
             c, _ = s.accept(); say(c.recv(9)); c.sendall(b'x' * 100000); c.close(); say('answered')\n\
             u = socket(type=SOCK_DGRAM); attempt(lambda: u.sendto(b'x', ('10.77.0.2', 9)))",
        )?;
        let mut client = Program::start(
            None,
            "libc.unshare(0x40000000); say('ready'); hear()\n\
             c = socket(); c.settimeout(5); c.connect(('10.77.0.1', 7000)); c.sendall(b'hello')\n\
             n = 0\n\
             while (b := c.recv(65536)): n += len(b)\n\
             say(n)",
        )?;
        ensure!(server.line().await? == "ready" && client.line().await? == "ready");
        if let Err(error) = cable(server.pid(), client.pid()) {
            println!("SKIPPED answers to another namespace: {error:#}");
            return Ok(());
        }
        server.tell("go").await?;
        ensure!(server.line().await? == "listening");
        client.tell("go").await?;
        ensure!(server.line().await? == "b'hello'");
        ensure!(client.finish().await? == "100000", "the answer did not arrive");
        let said = server.finish().await?;
        ensure!(said == "answered\nEPERM", "{said}");
        Ok(())
    })
}

fn cable(server: u32, client: u32) -> Result<()> {
    let inside = |pid: u32, arguments: &str| -> Result<()> {
        let output = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n", "ip"])
            .args(arguments.split(' '))
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
        Ok(())
    };
    inside(
        server,
        &format!("link add v0 type veth peer name v0 netns {client}"),
    )?;
    for (pid, address) in [(server, "10.77.0.1/24"), (client, "10.77.0.2/24")] {
        inside(pid, &format!("address add {address} dev v0"))?;
        inside(pid, "link set v0 up")?;
    }
    Ok(())
}
