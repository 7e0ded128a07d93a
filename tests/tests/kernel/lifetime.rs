//! From the launch of a process to its end, and to the end of the agent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use interdict::guard::{GuardError, Identity, LaunchSpec, RunCgroup, launch};
use interdict_tests::cgroup::wait_unpopulated;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::world::{PATIENCE, World, governed, pins_of, python, script};

pub(crate) fn labels_are_inherited() -> Result<()> {
    governed(&[], async |world| {
        let mut program = world.start(
            "hear()\n\
             if os.fork() == 0:\n\
             \x20   os.setsid()\n\
             \x20   if os.fork() == 0:\n\
             \x20       say(os.getpid()); hear()\n\
             \x20   else: os.wait()\n\
             else: os.wait()",
        )?;
        let pid = program.pid();
        world.guard.label(pid, 7)?;
        program.tell("fork").await?;
        let grandchild: u32 = program.line().await?.parse()?;
        ensure!(grandchild != pid, "no fork");
        ensure!(
            world.guard.label_of(grandchild) == Some(7),
            "{:?}",
            world.guard.label_of(grandchild)
        );
        ensure!(
            world.guard.label_of(std::process::id()).is_none(),
            "the test itself has a label"
        );
        program.tell("end").await?;
        program.finish().await?;
        for pid in [pid, grandchild] {
            ensure!(
                world.guard.label_of(pid).is_none(),
                "a label outlived its process"
            );
        }
        Ok(())
    })
}

/// A process is more than its first thread.
pub(crate) fn a_label_outlives_the_main_thread() -> Result<()> {
    governed(&[], async |world| {
        let mut program = world.start(
            "import threading\n\
             def late():\n\
             \x20   stat = '/proc/self/task/%d/stat' % os.getpid()\n\
             \x20   while open(stat).read().rsplit(')', 1)[1][1] != 'Z': pass\n\
             \x20   say('late'); hear()\n\
             hear(); threading.Thread(target=late).start()\n\
             libc.syscall(60 if os.uname().machine == 'x86_64' else 93, 0)",
        )?;
        let pid = program.pid();
        world.guard.label(pid, 7)?;
        program.tell("go").await?;
        ensure!(program.line().await? == "late", "no second thread");
        let label = world.guard.label_of(pid);
        ensure!(label == Some(7), "the label went with the main thread: {label:?}");
        program.tell("end").await?;
        program.finish().await?;
        let label = world.guard.label_of(pid);
        ensure!(label.is_none(), "the label outlived its process: {label:?}");
        Ok(())
    })
}

fn spec(command: Vec<OsString>, identity: Option<Identity>) -> LaunchSpec {
    LaunchSpec {
        command,
        identity,
        set: vec![("INTERDICT_TEST_SET".into(), "yes".into())],
        removed: vec!["PATH".into()],
        trust: None,
        descriptors: None,
        hide: Vec::new(),
        show: Vec::new(),
    }
}

async fn status_of(
    world: &mut World,
    command: Vec<OsString>,
    identity: Option<Identity>,
) -> Result<Option<i32>> {
    let mut launched = launch(&mut world.guard, &world.cgroup, spec(command, identity)).await?;
    let status = tokio::time::timeout(PATIENCE, launched.child.wait())
        .await
        .context("it does not end")??;
    Ok(status.code())
}

pub(crate) fn launched_as_somebody_else() -> Result<()> {
    // A descriptor without close-on-exec, as one that came from whoever started the agent.
    let leak = rustix::io::dup(std::fs::File::open("/dev/null")?)?;
    let result = governed(&[], async |world| {
        let nobody = Identity {
            uid: 65_534,
            gid: 65_533,
            groups: vec![65_533, 65_532],
        };
        let program = script(
            "import signal\n\
             status = dict(l.split(':', 1) for l in open('/proc/self/status'))\n\
             assert os.getresuid() == (65534,) * 3 and os.getresgid() == (65533,) * 3, os.getresuid()\n\
             assert sorted(os.getgroups()) == [65532, 65533], os.getgroups()\n\
             assert int(status['CapEff'], 16) == 0 and status['NoNewPrivs'].strip() == '1', status\n\
             assert int(status['SigBlk'], 16) == 0, status['SigBlk']\n\
             assert os.environ['INTERDICT_TEST_SET'] == 'yes' and 'PATH' not in os.environ\n\
             fds = [int(n) for n in os.listdir('/proc/self/fd')]\n\
             fds = [n for n in fds if os.path.exists('/proc/self/fd/%d' % n)]\n\
             assert max(fds) <= 2, fds\n\
             s = socket(); s.connect(('10.9.9.9', 1)); s.recv(1)",
        );
        let command = vec![python()?.into(), "-c".into(), program.into()];
        let mut launched = launch(&mut world.guard, &world.cgroup, spec(command, Some(nobody))).await?;
        ensure!(world.guard.label_of(launched.pid) == Some(1), "not labelled");
        let (stream, flow) = tokio::select! {
            accepted = world.accept() => accepted?,
            ended = launched.child.wait() => anyhow::bail!("it ended with {ended:?}"),
        };
        let process = &flow.process;
        ensure!((process.uid, process.gid) == (65_534, 65_533), "{process:?}");
        ensure!(process.tgid == launched.pid, "{process:?}");
        drop(stream);
        let status = launched.child.wait().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
    drop(leak);
    result
}

pub(crate) fn what_cannot_be_launched() -> Result<()> {
    governed(&[], async |world| {
        let table = [
            ("/no/such/command", 127),
            ("no-such-command", 127),
            ("/etc/passwd", 126),
            ("/", 126),
        ];
        for (command, expected) in table {
            let status = status_of(world, vec![command.into()], None).await?;
            ensure!(status == Some(expected), "{command}: {status:?}");
        }
        let empty = status_of(world, Vec::new(), None).await;
        ensure!(
            matches!(&empty, Ok(Some(127)))
                || empty
                    .as_ref()
                    .is_err_and(|e| e.downcast_ref::<GuardError>().is_some()),
            "{empty:?}"
        );
        Ok(())
    })
}

/// `kill -9` of the agent frees nobody; the next agent takes away what it left once it is empty.
pub(crate) fn a_killed_agent_leaves_the_guard() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = server.local_addr()?.port();
        let program = format!(
            "say('ready')\n\
             while hear() != 'end': attempt(lambda: socket().connect(('127.0.0.1', {port})))"
        );
        let mut agent = tokio::process::Command::new("/proc/self/exe")
            .arg("__agent")
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = agent.stdin.take().context("stdin")?;
        let mut output = BufReader::new(agent.stdout.take().context("stdout")?).lines();
        let procs = PathBuf::from(output.next_line().await?.context("the agent ended")?);
        let run = procs.parent().and_then(Path::parent).context("path")?.to_owned();
        ensure!(
            output.next_line().await?.as_deref() == Some("ready"),
            "the program did not start"
        );
        agent.start_kill()?;
        agent.wait().await?;
        // The ports are closed now; after three seconds without a heartbeat the hooks deny.
        for (pause, expected) in [(0, "ECONNREFUSED"), (3_200, "EPERM")] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            input.write_all(b"try\n").await?;
            let said = output.next_line().await?;
            ensure!(
                said.as_deref() == Some(expected),
                "{said:?} in place of {expected}"
            );
        }
        // While the process lives, another agent leaves its guard alone.
        drop(RunCgroup::create()?);
        ensure!(
            run.exists() && pins_of(&run).iter().any(|p| p.exists()),
            "the guard of a living process was removed"
        );
        input.write_all(b"end\n").await?;
        ensure!(output.next_line().await?.is_none(), "it does not end");
        wait_unpopulated(&run)?;
        let cgroup = RunCgroup::create()?;
        ensure!(
            !run.exists() && !pins_of(&run).iter().any(|p| p.exists()),
            "{} is left",
            run.display()
        );
        drop(cgroup);
        Ok(())
    })
}
