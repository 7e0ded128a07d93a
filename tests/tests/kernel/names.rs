//! Questions to servers of names: they come to the agent, which knows whose they are and whom they were meant for, and
//! the process takes its answers for the server's.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use interdict::guard::Flow;
use interdict::model::{FlowKey, ListenerAddr, PeerAddr};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::world::{PATIENCE, World, first, governed};

/// The agent's sockets for questions.
struct Sockets(Vec<(UdpSocket, ListenerAddr)>);

/// A question that arrived.
struct Asked<'a> {
    socket: &'a UdpSocket,
    peer: SocketAddr,
    bytes: Vec<u8>,
    flow: Option<Flow>,
}

impl Asked<'_> {
    async fn answer(&self, text: &[u8]) -> Result<()> {
        self.socket.send_to(text, self.peer).await?;
        Ok(())
    }
}

impl Sockets {
    fn of(world: &mut World) -> Result<Self> {
        let sockets: std::io::Result<Vec<_>> = world
            .guard
            .take_dns()
            .into_iter()
            .map(|(socket, address)| Ok((UdpSocket::from_std(socket)?, address)))
            .collect();
        let sockets = sockets?;
        ensure!(sockets.len() == 16, "{} sockets", sockets.len());
        Ok(Self(sockets))
    }

    async fn next(&self, world: &World) -> Result<Asked<'_>> {
        let receiving = self.0.iter().map(|(socket, address)| {
            Box::pin(async move {
                let mut buffer = vec![0; 512];
                let (length, peer) = socket.recv_from(&mut buffer).await?;
                buffer.truncate(length);
                Ok::<_, std::io::Error>((socket, address, peer, buffer))
            })
        });
        let received = timeout(PATIENCE, first(receiving))
            .await
            .context("nobody asked")?;
        let ((socket, address, peer, bytes), ()) = received?;
        let key = FlowKey {
            netns: world.guard.netns(),
            peer: PeerAddr(peer),
            listener: *address,
        };
        let id = bytes.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
        let flow = world.guard.datagrams().take(&key, id, socket.as_fd());
        ensure!(
            world.guard.datagrams().take(&key, id, socket.as_fd()).is_none(),
            "the flow was given out twice"
        );
        Ok(Asked {
            socket,
            peer,
            bytes,
            flow,
        })
    }
}

/// A way to ask, what comes of it, and the server that was meant.
const WAYS: &[(&str, &str, &str)] = &[
    (
        "u = socket(type=SOCK_DGRAM); u.sendto(b'one', ('127.99.53.53', 53)); say(u.recvfrom(9))",
        "(b'ok', ('127.99.53.53', 53))",
        "127.99.53.53:53",
    ),
    (
        "u = socket(AF_INET6, SOCK_DGRAM); u.sendto(b'one', ('::ffff:127.99.53.53', 53)); say(u.recvfrom(9)[1][:2])",
        "('::ffff:127.99.53.53', 53)",
        "127.99.53.53:53",
    ),
    (
        "u = socket(AF_INET6, SOCK_DGRAM); u.sendto(b'one', ('2001:db8::53', 53)); say(u.recvfrom(9)[1][:2])",
        "('2001:db8::53', 53)",
        "[2001:db8::53]:53",
    ),
    (
        "u = socket(type=SOCK_DGRAM); u.connect(('10.9.9.9', 53)); u.send(b'one'); say(u.recvfrom(9), u.getpeername())",
        "(b'ok', ('10.9.9.9', 53)) ('10.9.9.9', 53)",
        "10.9.9.9:53",
    ),
    (
        "u = socket(AF_INET6, SOCK_DGRAM); u.connect(('2001:db8::53', 53)); u.send(b'one'); say(u.recvfrom(9)[1][:2], u.getpeername()[:2])",
        "('2001:db8::53', 53) ('2001:db8::53', 53)",
        "[2001:db8::53]:53",
    ),
    (
        "u = socket(type=SOCK_DGRAM); u.bind(('127.0.0.7', 0)); u.sendto(b'one', ('10.9.9.9', 53)); say(u.recvfrom(9)[1])",
        "('10.9.9.9', 53)",
        "10.9.9.9:53",
    ),
    (
        "u = socket(type=SOCK_DGRAM); u.connect(('10.9.9.8', 53)); disconnect(u); u.sendto(b'one', ('10.9.9.9', 53)); say(u.recvfrom(9)[1])",
        "('10.9.9.9', 53)",
        "10.9.9.9:53",
    ),
    (
        "u = socket(type=SOCK_DGRAM); u.connect(('10.9.9.8', 53)); u.connect(('10.9.9.9', 53)); u.send(b'one'); say(u.recv(9))",
        "b'ok'",
        "10.9.9.9:53",
    ),
];

pub(crate) fn every_way_to_ask_a_server() -> Result<()> {
    let resolver: SocketAddr = "127.99.53.53:53".parse()?;
    governed(&[resolver], async |world| {
        let sockets = Sockets::of(world)?;
        for (program, expected, meant) in WAYS {
            let program_ = world.start(program)?;
            let pid = program_.pid();
            let asked = sockets.next(world).await.with_context(|| (*program).to_owned())?;
            ensure!(asked.bytes == b"one", "{program}: {:?}", asked.bytes);
            let flow = asked
                .flow
                .as_ref()
                .with_context(|| format!("{program}: no flow"))?;
            ensure!(flow.original.to_string() == *meant, "{program}: {flow:?}");
            ensure!(flow.process.tgid == pid, "{program}: {flow:?}");
            asked.answer(b"ok").await?;
            let said = program_.finish().await?;
            ensure!(said == *expected, "{program}: {said}");
        }
        Ok(())
    })
}

/// One socket that asks several resolvers the same question at once, as musl does, and one that asks too many others.
pub(crate) fn several_servers_at_once() -> Result<()> {
    let resolvers: Vec<SocketAddr> = ["10.9.9.1:53", "10.9.9.2:53", "10.9.9.3:53"]
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    governed(&resolvers.clone(), async |world| {
        let sockets = Sockets::of(world)?;
        let asking = world.start(
            "u = socket(type=SOCK_DGRAM)\n\
             for i in (1, 2, 3): u.sendto(b'same', ('10.9.9.%d' % i, 53))\n\
             for i in (1, 2, 3): say(u.recvfrom(9))",
        )?;
        for resolver in &resolvers {
            let asked = sockets.next(world).await?;
            let flow = asked.flow.as_ref().context("no flow")?;
            asked.answer(flow.original.0.ip().to_string().as_bytes()).await?;
            ensure!(resolvers.contains(&flow.original.0), "{resolver}: {flow:?}");
        }
        let said = asking.finish().await?;
        for resolver in &resolvers {
            let ip = resolver.ip();
            ensure!(said.contains(&format!("(b'{ip}', ('{ip}', 53))")), "{said}");
        }
        // Both in the same slot: the second waits for the first to be forgotten.
        let said = world
            .run(
                "u = socket(type=SOCK_DGRAM)\n\
                 attempt(lambda: u.sendto(b'xx', ('10.8.8.4', 53)))\n\
                 attempt(lambda: u.sendto(b'xx', ('10.8.8.8', 53)))\n\
                 attempt(lambda: u.sendto(b'xx', ('10.8.8.5', 53)))",
            )
            .await?;
        ensure!(said == "OK\nEPERM\nOK", "{said}");
        let denial = world.denial().await?;
        ensure!(
            denial.hook == "sendmsg" && denial.reason.contains("more servers"),
            "{denial:?}"
        );
        Ok(())
    })
}

/// What does not come from a governed process has no flow; and no governed process reaches the sockets themselves.
pub(crate) fn nobody_else_is_heard() -> Result<()> {
    governed(&[], async |world| {
        let sockets = Sockets::of(world)?;
        let (_, address) = sockets.0.first().context("a socket")?;
        let stranger = UdpSocket::bind("127.0.0.1:0").await?;
        stranger.send_to(b"hello", address.0).await?;
        let asked = sockets.next(world).await?;
        ensure!(asked.flow.is_none(), "{:?}", asked.flow);
        let port = address.0.port();
        for attempt in [
            format!("socket(type=SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"),
            format!("socket(type=SOCK_DGRAM).connect(('127.0.0.1', {port}))"),
            format!("socket(type=SOCK_DGRAM).bind(('127.0.0.1', {port}))"),
        ] {
            let said = world.run(&format!("attempt(lambda: {attempt})")).await?;
            ensure!(said == "EPERM", "{attempt}: {said}");
        }
        // Too short for an id: dropped before it arrives.
        let said = world
            .run("u = socket(type=SOCK_DGRAM); attempt(lambda: u.sendto(b'x', ('10.9.9.9', 53)))")
            .await?;
        ensure!(said == "EPERM", "{said}");
        Ok(())
    })
}
