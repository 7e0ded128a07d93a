//! `interdict uninstall` while a workload is governed: in namespaces of its own (mounts, cgroups), so that it finds nothing of this
//! host but what the test made.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use interdict_tests::service::Cgroups;
use interdict_tests::tools::binary;

/// `$1` interdict, `$2` its configuration, `$3` where cgroup2 is mounted, `$4` a file for the agent's log, then what is tried:
/// `$5` words of uninstall.
const SCRIPT: &str = r#"
set -e
# The kernel refuses a file system on itself.
umount "$3"
mount -t cgroup2 none "$3"
mount -t bpf bpf /sys/fs/bpf
# What an agent of the host has mounted is not this one's.
umount /run/interdict/bpf 2> /dev/null || :
mount -t tmpfs tmpfs /run
if [ -d /etc/systemd ]; then mount -t tmpfs tmpfs /etc/systemd; fi
mkdir "$3/agent" "$3/tools"
sh -c 'echo 0 > "$1/tools/cgroup.procs"; exec sleep 600' sh "$3" &
governed=$!
sh -c 'echo 0 > "$3/agent/cgroup.procs"; exec "$1" serve --config "$2" 2> "$4"' sh "$1" "$2" "$3" "$4" &
tries=0
until grep -q 'cgroup="tools"' "$4" && ls /run/interdict/*.sock > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { cat "$4"; exit 9; }; sleep 0.1
done
find /sys/fs/bpf/interdict -type f | wc -l | sed 's/^/pins /'
# Without a word nothing happens.
"$1" uninstall --config "$2" < /dev/null && exit 8
kill -0 $governed && echo "still governed"
find /sys/fs/bpf/interdict -type f | wc -l | sed 's/^/pins then /'
"$1" uninstall --config "$2" $5 < /dev/null
for left in /sys/fs/bpf/interdict /run/interdict "$3/interdict"; do
    if [ -e "$left" ]; then echo "LEFT $left: $(find "$left")"; fi
done
# A process that was ended is this shell's to bury.
if [ "$5" = --let-go ]; then
    kill -0 $governed && echo "goes on"
    # Nothing denies it any more: the loopback answers that nobody listens, and not that it is not permitted.
    sh -c 'echo 0 > "$1/tools/cgroup.procs"; exec python3 -c "$2"' sh "$3" \
        'import socket; print("connect", socket.socket().connect_ex(("127.0.0.1", 1)))'
    kill $governed
else
    wait $governed || echo "ended with $?"
fi
"$1" uninstall --config "$2" < /dev/null | sed 's/^/then: /'
"#;

fn uninstalled(word: &str) -> Option<(String, serde_json::Value)> {
    if !interdict_tests::can_govern("uninstall") {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    // The proxy's user passes through, as where a real agent's state is.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permitted");
    let config = dir.path().join("interdict.toml");
    let text = "state_dir = \"state\"\n[[workload]]\nname = \"tools\"\ncgroup = \"tools\"\n";
    std::fs::write(&config, text).expect("written");
    let cgroups = Cgroups::make().expect("cgroups");
    cgroups.add("host").expect("made");
    let mount = cgroups.mount().display().to_string();
    // The namespace of cgroups begins where whoever makes it is.
    let out = cgroups
        .command(
            "host",
            &["unshare", "--cgroup", "--mount", "sh", "-c", SCRIPT, "sh"],
        )
        .arg(binary())
        .arg(&config)
        .arg(&mount)
        .arg(dir.path().join("log"))
        .arg(word)
        .env_remove("SUDO_UID")
        .stdin(Stdio::null())
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{}\n{said}", out.status);
    let shown = Command::new(binary())
        .args(["sessions", "show", "--json", "--dir"])
        .arg(dir.path().join("state/audit"))
        .output()
        .expect("records");
    let records = String::from_utf8_lossy(&shown.stdout).into_owned();
    let record = records
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|record| record["kind"] == "host.uninstalled");
    Some((said, record.expect("it is recorded")))
}

fn count(said: &str, what: &str) -> u32 {
    let line = said.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_default()
}

#[test]
fn a_governed_workload_is_ended_where_that_is_asked_for_and_nothing_is_left() {
    let Some((said, record)) = uninstalled("--force") else {
        return;
    };
    assert!(count(&said, "pins ") > 5, "{said}");
    assert_eq!(count(&said, "pins "), count(&said, "pins then "), "{said}");
    assert!(
        said.contains("are alive") && said.contains("still governed"),
        "{said}"
    );
    assert!(said.contains("ended with 137"), "{said}");
    assert!(!said.contains("LEFT"), "{said}");
    assert!(
        said.contains("then: Nothing of an agent's is on this host."),
        "{said}"
    );
    let text = record["text"].as_str().unwrap_or_default();
    assert!(text.contains("pins /sys/fs/bpf/interdict"), "{record}");
    assert_eq!(record["actor_uid"], 0, "{record}");
}

#[test]
fn a_governed_workload_goes_on_where_it_is_let_go() {
    let Some((said, record)) = uninstalled("--let-go") else {
        return;
    };
    assert!(said.contains("goes on") && said.contains("GOES ON"), "{said}");
    // ECONNREFUSED: the kernel's own answer.
    assert!(said.contains("connect 111"), "{said}");
    assert!(!said.contains("LEFT"), "{said}");
    assert!(
        said.contains("then: Nothing of an agent's is on this host."),
        "{said}"
    );
    assert!(
        record["text"]
            .as_str()
            .is_some_and(|text| text.contains("let go ")),
        "{record}"
    );
}
