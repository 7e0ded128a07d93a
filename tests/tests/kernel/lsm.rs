//! What only BPF LSM sees, where it is active (`cargo xtask escape --vm`). No system call filter is installed here and
//! there is no Landlock domain: what is denied, these hooks deny.

use std::path::Path;

use anyhow::{Result, ensure};
use interdict::guard::lsm_is_active;

use crate::world::{Program, World, governed, pins_of};

/// An attempt and the hook that denies it. `OUT` is a process outside.
const DENIED: &[(&str, &str)] = &[
    ("lambda: socket(AF_PACKET, SOCK_RAW)", "lsm socket_create"),
    ("lambda: socket(AF_VSOCK, SOCK_STREAM)", "lsm socket_create"),
    ("lambda: socket(38, SOCK_SEQPACKET)", "lsm socket_create"),
    ("lambda: os.kill(OUT, 0)", "lsm task_kill"),
    (
        "lambda: open('/proc/%d/mem' % OUT, 'r+b')",
        "lsm ptrace_access_check",
    ),
    (
        "lambda: open('/proc/%d/environ' % OUT, 'rb').read()",
        "lsm ptrace_access_check",
    ),
    (
        "lambda: os.readlink('/proc/%d/fd/0' % OUT)",
        "lsm ptrace_access_check",
    ),
    (
        "lambda: call(438, os.pidfd_open(OUT), 0, 0)",
        "lsm ptrace_access_check",
    ),
    (
        "lambda: check(libc.ptrace(16, OUT, None, None))",
        "lsm ptrace_access_check",
    ),
    (
        "lambda: call(BPF, 11, ctypes.create_string_buffer(128), 128)",
        "lsm bpf",
    ),
    ("lambda: open(CGROUP + '/cgroup.procs', 'w')", "lsm file_open"),
    ("lambda: clone_into(CGROUP)", "lsm task_alloc"),
    ("lambda: os.unlink(PIN)", "lsm inode_unlink"),
];

/// What the attempts use.
const TOOLS: &str = r"
BPF, CLONE3 = (321 if os.uname().machine == 'x86_64' else 280), 435
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), 'failed')
    return result
def call(number, *arguments): return check(libc.syscall(ctypes.c_long(number), *arguments))
def clone_into(cgroup):
    there = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    arguments = struct.pack('=11Q', 1 << 33, 0, 0, 0, 17, 0, 0, 0, 0, 0, there)
    if call(CLONE3, ctypes.create_string_buffer(arguments, 88), 88) == 0: os._exit(0)
";

/// Whether there is anything to test; says so where not.
fn is_active(test: &str) -> bool {
    match lsm_is_active() {
        Ok(_) => true,
        Err(why) => {
            println!("SKIPPED {test}: BPF LSM is {why} (cargo xtask escape --vm has a kernel with it)");
            false
        }
    }
}

/// A program outside that says its process id first.
async fn outside(program: &str) -> Result<(Program, String)> {
    let mut outside = Program::start(None, program)?;
    let pid = outside.line().await?;
    Ok((outside, pid))
}

/// Every attempt fails with EPERM (EACCES where procfs says so), and is told.
pub(crate) fn what_no_other_hook_sees() -> Result<()> {
    if !is_active("what_no_other_hook_sees") {
        return Ok(());
    }
    governed(&[], async |world| {
        let (free, pid) = outside("say(os.getpid())\nhear()").await?;
        let run = world.cgroup.procs();
        let run = run.parent().and_then(Path::parent).unwrap_or(&run).to_owned();
        let [pins, _] = pins_of(&run);
        let top = run.ancestors().nth(2).unwrap_or(&run).display().to_string();
        for (attempt, hook) in DENIED {
            let program = format!(
                "{TOOLS}\nOUT, CGROUP, PIN = {pid}, {top:?}, {:?}\nattempt({attempt})",
                pins.join("on_connect4").display().to_string()
            );
            let said = world.run(&program).await?;
            ensure!(said == "EPERM" || said == "EACCES", "{attempt}: {said}");
            expect(world, hook, attempt).await?;
        }
        ensure!(pins.join("on_connect4").exists(), "the pin is gone");
        drop(free);
        Ok(())
    })
}

/// The next denials tell of `hook`; others of the same attempt may come before.
async fn expect(world: &mut World, hook: &str, attempt: &str) -> Result<()> {
    let denial = world.denial().await?;
    ensure!(denial.hook == hook, "{attempt}: {denial:?}");
    ensure!(denial.process.tgid > 0, "{attempt}: nobody: {denial:?}");
    Ok(())
}

/// Unix sockets of others are closed unless they are allowed by name; those of the run are open.
pub(crate) fn unix_sockets_of_others() -> Result<()> {
    if !is_active("unix_sockets_of_others") {
        return Ok(());
    }
    governed(&[], async |world| {
        let dir = tempfile::tempdir()?;
        let place = dir.path().display();
        let daemon = "doors = []\n\
            for kind, name in ((SOCK_STREAM, PLACE + '/s'), (SOCK_DGRAM, PLACE + '/d'), (SOCK_STREAM, '\\0' + PLACE)):\n\
            \x20   s = socket(AF_UNIX, kind); s.bind(name); doors.append(s)\n\
            \x20   if kind == SOCK_STREAM: s.listen()\n\
            say(os.getpid())\nhear()";
        let (daemon, _) = outside(&format!("PLACE = '{place}'\n{daemon}")).await?;
        let tries = [
            (
                format!("lambda: socket(AF_UNIX).connect('{place}/s')"),
                "lsm unix_stream_connect",
                format!("{place}/s"),
            ),
            (
                format!("lambda: socket(AF_UNIX).connect('\\0{place}')"),
                "lsm unix_stream_connect",
                format!("@{place}"),
            ),
            (
                format!("lambda: socket(AF_UNIX, SOCK_DGRAM).sendto(b'x', '{place}/d')"),
                "lsm unix_may_send",
                format!("{place}/d"),
            ),
            (
                format!("lambda: socket(AF_UNIX, SOCK_DGRAM).connect('{place}/d')"),
                "lsm unix_may_send",
                format!("{place}/d"),
            ),
        ];
        for (attempt, hook, name) in &tries {
            let said = world.run(&format!("attempt({attempt})")).await?;
            ensure!(said == "EPERM", "{attempt}: {said}");
            let denial = world.denial().await?;
            ensure!(
                denial.hook == *hook && denial.reason.contains(name),
                "{attempt}: {denial:?}"
            );
        }
        let among = "a = socket(AF_UNIX); a.bind('\\0inside-' + str(os.getpid())); a.listen()\n\
            attempt(lambda: socket(AF_UNIX).connect(a.getsockname()))\n\
            x, y = socketpair(); x.send(b'1')\n\
            send_fds(x, [b'f'], [a.fileno()]); y.recv(1); attempt(lambda: recv_fds(y, 16, 1)[1][0])";
        let said = world.run(among).await?;
        ensure!(said == "OK\nOK", "among themselves: {said}");
        let names = [format!("{place}/s"), format!("@{place}"), format!("{place}/d")];
        world.guard.allow_unix(&names)?;
        for (attempt, _, _) in &tries {
            let said = world.run(&format!("attempt({attempt})")).await?;
            ensure!(said == "OK", "allowed, {attempt}: {said}");
        }
        drop(daemon);
        Ok(())
    })
}

/// A socket that was made outside does not come in; a file does.
pub(crate) fn passed_descriptors() -> Result<()> {
    if !is_active("passed_descriptors") {
        return Ok(());
    }
    governed(&[], async |world| {
        let inside = "a = socket(AF_UNIX); a.bind('\\0lsm-passed-' + str(os.getpid())); a.listen()\n\
            say(os.getpid()); peer, _ = a.accept()\n\
            for _ in range(2): say(len(recv_fds(peer, 16, 1)[1])); peer.sendall(b'x')";
        let mut inside = world.start(inside)?;
        let pid = inside.line().await?;
        let outside = format!(
            "s = socket(AF_UNIX); s.connect('\\0lsm-passed-{pid}')\n\
             u = socket(type=SOCK_DGRAM); send_fds(s, [b'x'], [u.fileno()]); s.recv(1)\n\
             send_fds(s, [b'x'], [os.open('/dev/null', os.O_RDONLY)]); s.recv(1)"
        );
        let outside = Program::start(None, &outside)?;
        let (socket, file) = (inside.line().await?, inside.line().await?);
        ensure!(
            (socket.as_str(), file.as_str()) == ("0", "1"),
            "{socket} sockets, {file} files came in"
        );
        outside.finish().await?;
        let denial = world.denial().await?;
        ensure!(denial.hook == "lsm file_receive", "{denial:?}");
        inside.finish().await.map(drop)
    })
}
