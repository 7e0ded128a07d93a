//! Who connects to a governed process from outside: nobody, unless it is allowed.

use anyhow::{Result, ensure};
use interdict::config::InboundRule;

use crate::egress::cable;
use crate::world::{Program, governed};

/// A network namespace that nobody governed made: else the hooks would drop what its kernel says to its neighbours.
const HOLDER: &str = "libc.unshare(0x40000000); say('ready'); hear()";

/// A server for each family and port, in the namespace of the process that it is told. Then it tries to send what nobody asked for.
const SERVER: &str = "import select\n\
    if libc.setns(os.open('/proc/%s/ns/net' % hear(), os.O_RDONLY), 0x40000000): raise OSError(ctypes.get_errno(), 'setns')\n\
    all = []\n\
    for family, ip in ((AF_INET, '0.0.0.0'), (AF_INET6, '::')):\n\
    \x20   for port in (7000, 7001):\n\
    \x20       s = socket(family); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)\n\
    \x20       if family == AF_INET6: s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)\n\
    \x20       s.bind((ip, port)); s.listen(); all.append(s)\n\
    say('listening')\n\
    done = False\n\
    while not done:\n\
    \x20   for s in select.select(all + [sys.stdin], [], [])[0]:\n\
    \x20       if s is sys.stdin: done = True; break\n\
    \x20       c, _ = s.accept(); c.sendall(b'x' * 100000); c.close()\n\
    u = socket(type=SOCK_DGRAM); attempt(lambda: u.sendto(b'x', ('10.77.0.2', 9)))";

/// Who connects how, to where, and how much comes.
const CLIENT: &str = "libc.unshare(0x40000000); say('ready'); hear()\n\
    def get(family, ip, port):\n\
    \x20   c = socket(family); c.settimeout(1.5)\n\
    \x20   try:\n\
    \x20       c.connect((ip, port)); n = 0\n\
    \x20       while (b := c.recv(65536)): n += len(b)\n\
    \x20       say(n)\n\
    \x20   except OSError as e: say(type(e).__name__)\n\
    get(AF_INET, '10.77.0.1', 7000); get(AF_INET, '10.77.0.1', 7001)\n\
    get(AF_INET6, 'fd77::1', 7000); get(AF_INET6, 'fd77::1', 7001)";

pub(crate) fn only_who_is_allowed() -> Result<()> {
    governed(&[], async |world| {
        let allow = |ip: &str, bits, port| -> Result<InboundRule> {
            Ok(InboundRule {
                ip: ip.parse()?,
                bits,
                port,
            })
        };
        let rules = [
            allow("10.77.0.0", 24, Some(7000))?,
            allow("fd77::2", 128, Some(7001))?,
            allow("192.0.2.0", 24, None)?,
        ];
        world.guard.allow_inbound(&rules)?;
        let mut server = world.start(SERVER)?;
        let mut client = Program::start(None, CLIENT)?;
        let mut holder = Program::start(None, HOLDER)?;
        ensure!(holder.line().await? == "ready" && client.line().await? == "ready");
        if let Err(error) = cable(holder.pid(), client.pid()) {
            println!("SKIPPED connections from another namespace: {error:#}");
            return Ok(());
        }
        server.tell(&holder.pid().to_string()).await?;
        ensure!(server.line().await? == "listening");
        client.tell("go").await?;
        let said = client.finish().await?;
        ensure!(said == "100000\nTimeoutError\nTimeoutError\n100000", "{said}");
        for meant in ["10.77.0.1:7001", "[fd77::1]:7000"] {
            let mut denial = world.denial().await?;
            // A client that hears nothing tries again.
            while denial.original.is_some_and(|o| o.to_string() != meant) {
                denial = world.denial().await?;
            }
            let from = if meant.starts_with('[') {
                "fd77::2"
            } else {
                "10.77.0.2"
            };
            ensure!(
                denial.hook == "ingress" && denial.reason.starts_with(&format!("{from} connected")),
                "{denial:?}"
            );
        }
        // From the same host, the namespace's own loopback, anybody may.
        let pid = holder.pid();
        let local = Program::start(
            None,
            &format!(
                "if libc.setns(os.open('/proc/{pid}/ns/net', os.O_RDONLY), 0x40000000): raise OSError(ctypes.get_errno(), 'setns')\n\
                 c = socket(); c.connect(('127.0.0.1', 7001)); say(len(c.recv(9)))"
            ),
        )?;
        ensure!(local.finish().await? == "9");
        server.tell("end").await?;
        let said = server.finish().await?;
        ensure!(said == "EPERM", "{said}");
        Ok(())
    })
}
