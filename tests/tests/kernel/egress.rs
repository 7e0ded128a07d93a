//! The backstop: what leaves the host when another hook was passed, and what must leave all the same.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::world::{World, governed, pins_of};

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

/// A cable between the namespaces of two processes: 10.77.0.1 and fd77::1 at the first, 10.77.0.2 and fd77::2 at the other.
pub(crate) fn cable(server: u32, client: u32) -> Result<()> {
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
    for (pid, host) in [(server, 1), (client, 2)] {
        inside(pid, "link set lo up")?;
        inside(pid, &format!("address add 10.77.0.{host}/24 dev v0"))?;
        inside(pid, &format!("address add fd77::{host}/64 dev v0 nodad"))?;
        inside(pid, "link set v0 up")?;
    }
    Ok(())
}
