//! Uninstalling, on a system of files that a test made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::uninstall::*;

fn system() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    };
    file("sys/fs/bpf/interdict/run-1-2/connect4", "");
    fs::create_dir_all(dir.path().join("sys/fs/cgroup/interdict/run-1-2/workload")).expect("made");
    file(
        "etc/systemd/system/a.service.d/50-interdict.conf",
        "# Written by `interdict systemd govern`\n",
    );
    file("etc/systemd/system/b.service.d/50-interdict.conf", "[Unit]\n");
    file("run/interdict/run-1.sock.left", "");
    file("state/ca/bundle.pem", "");
    file("state/ca/authority.pem", "");
    file("state/audit/signing.pub", "");
    file("elsewhere/log/1.seg", "");
    file("etc/interdict/interdict.toml", "");
    dir
}

fn spec(root: &Path, purge: bool, alive: Alive) -> UninstallSpec {
    let mut config = crate::config::defaults();
    config.state_dir = root.join("state");
    config.audit.dir = root.join("elsewhere/log");
    UninstallSpec {
        config,
        root: root.to_owned(),
        purge,
        alive,
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut open = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).expect("read").flatten().map(|e| e.path()) {
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path.strip_prefix(root).expect("below").to_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn what_agents_left_goes_and_the_rest_stays() {
    let system = system();
    let root = system.path();
    let all = plan(&spec(root, false, Alive::Refuse)).expect("nobody is alive");
    let kinds: Vec<&str> = all.iter().map(Leftover::kind).collect();
    assert_eq!(kinds, ["drop-in", "cgroup", "pins", "files", "files"], "{all:?}");
    let before = files(root);
    assert_eq!(files(root), before, "planning changes nothing");
    for leftover in &all {
        take_away(leftover).expect("taken away");
        take_away(leftover).ok();
    }
    let left = files(root);
    for gone in [
        "sys/fs/bpf/interdict",
        "sys/fs/cgroup/interdict",
        "run/interdict",
        "etc/systemd/system/a.service.d",
        "state/ca/bundle.pem",
    ] {
        assert!(!left.contains(&gone.into()), "{gone}");
    }
    for kept in [
        "etc/systemd/system/b.service.d/50-interdict.conf",
        "state/ca/authority.pem",
        "etc/interdict/interdict.toml",
        "elsewhere/log/1.seg",
    ] {
        assert!(left.contains(&kept.into()), "{kept}");
    }
    assert_eq!(came_back(&spec(root, false, Alive::Refuse)).expect("looked"), []);
    let second = plan(&spec(root, false, Alive::Refuse)).expect("nobody is alive");
    assert_eq!(second, [], "nothing is left for a second time");
}

#[test]
fn purged_nothing_is_left() {
    let system = system();
    let root = system.path();
    for leftover in plan(&spec(root, true, Alive::Refuse)).expect("nobody is alive") {
        take_away(&leftover).expect("taken away");
    }
    let named: Vec<PathBuf> = files(root)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("interdict") && !path.starts_with("etc/systemd"))
        .collect();
    assert_eq!(named, [] as [&Path; 0]);
    assert!(!root.join("state").exists() && !root.join("elsewhere/log").exists());
}

#[test]
fn the_living_are_not_let_go_unless_it_is_forced() {
    let system = system();
    let root = system.path();
    let workload = root.join("sys/fs/cgroup/interdict/run-1-2/workload/cgroup.procs");
    fs::write(&workload, "4194999\n").expect("written");
    let refused = plan(&spec(root, false, Alive::Refuse))
        .expect_err("somebody is alive")
        .to_string();
    assert!(refused.contains("4194999"), "{refused}");
    let forced = plan(&spec(root, false, Alive::End)).expect("forced");
    assert!(matches!(forced.get(1), Some(Leftover::Processes(_, pids)) if pids == &[4_194_999]));
    fs::remove_file(workload).expect("removed");
    // A unit that a service has left its hooks on.
    let unit = root.join("sys/fs/cgroup/system.slice/a.service");
    fs::create_dir_all(&unit).expect("made");
    fs::write(unit.join("cgroup.procs"), "4194998\n").expect("written");
    let inode = fs::metadata(&unit).expect("there").ino();
    let links = root.join(format!("sys/fs/bpf/interdict/serve-1/mcp/abc/links/{inode}"));
    fs::create_dir_all(&links).expect("made");
    let refused = plan(&spec(root, false, Alive::Refuse))
        .expect_err("a unit is alive")
        .to_string();
    assert!(refused.contains("4194998"), "{refused}");
    // Ended, or let go: the command of a run is ended in either case.
    let run = root.join("sys/fs/cgroup/interdict/run-1-2/workload/cgroup.procs");
    fs::write(&run, "4194999\n").expect("written");
    let kinds = |alive| {
        let all = plan(&spec(root, false, alive)).expect("forced");
        let of = |pid: u32| {
            let has = |one: &&Leftover| matches!(one, Leftover::Processes(_, pids) | Leftover::LetGo(_, pids) if pids.contains(&pid));
            all.iter().find(has).map(Leftover::kind)
        };
        (of(4_194_998), of(4_194_999))
    };
    assert_eq!(kinds(Alive::End), (Some("processes"), Some("processes")));
    assert_eq!(kinds(Alive::LetGo), (Some("let go"), Some("processes")));
    fs::remove_file(run).expect("removed");
    fs::remove_dir_all(&unit).expect("removed");
    assert!(plan(&spec(root, false, Alive::Refuse)).is_ok());
    // An agent that answers.
    let _agent = UnixListener::bind(root.join("run/interdict/run-7.sock")).expect("bound");
    let refused = plan(&spec(root, false, Alive::Refuse))
        .expect_err("an agent is alive")
        .to_string();
    assert!(refused.contains(&std::process::id().to_string()), "{refused}");
}
