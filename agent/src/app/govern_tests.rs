//! Governing units: what is written, and what is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::govern::*;

const UNIT: &str = "[Service]\nExecStart=/bin/true\nUser=nobody\n";

fn root(units: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let system = dir.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).expect("made");
    fs::create_dir_all(dir.path().join("etc/ssl/certs")).expect("made");
    fs::write(dir.path().join("etc/ssl/certs/ca-certificates.crt"), "").expect("written");
    for (name, text) in units {
        fs::write(system.join(name), text).expect("written");
    }
    dir
}

fn spec(root: &Path, unit: &str) -> GovernSpec {
    GovernSpec {
        unit: unit.into(),
        root: root.to_owned(),
        state_dir: "/var/lib/interdict".into(),
        slice: None,
        allowed: Vec::new(),
        force: false,
    }
}

#[test]
fn a_unit_is_governed_and_let_go_without_a_trace() {
    let root = root(&[("mcp.service", UNIT)]);
    let made = drop_in(&GovernSpec {
        slice: Some("agents.slice".into()),
        allowed: vec!["/run/docker.sock".into()],
        ..spec(root.path(), "mcp")
    })
    .expect("made");
    for line in [
        "BindsTo=interdict.service interdict-proxy.service\n",
        "After=interdict.service interdict-proxy.service\n",
        "Slice=agents.slice\n",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n",
        "InaccessiblePaths=-/run/containerd\n",
        "BindReadOnlyPaths=/var/lib/interdict/ca/bundle.pem:/etc/ssl/certs/ca-certificates.crt\n",
        "Environment=NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt\n",
    ] {
        assert!(made.text.contains(line), "{line}\n{}", made.text);
    }
    assert!(!made.text.contains("docker.sock"));
    assert!(made.notes.is_empty(), "{:?}", made.notes);
    assert!(write(&made).expect("written") && !write(&made).expect("the same"));
    assert_eq!(drop_ins(root.path()), [made.path.as_path()]);
    assert_eq!(remove(root.path(), "mcp.service").expect("removed"), made.path);
    assert!(!made.path.parent().is_some_and(Path::exists));
    assert!(matches!(
        remove(root.path(), "mcp"),
        Err(GovernError::NotGoverned(_))
    ));
}

#[test]
fn what_the_unit_says_itself_stays_and_is_noted() {
    let text = "[Service]\nExecStart=/bin/true\nRestrictAddressFamilies=AF_UNIX\nPrivateNetwork=yes\n";
    let root = root(&[("w@.service", text)]);
    let made = drop_in(&spec(root.path(), "w@1")).expect("made");
    assert!(!made.text.contains("RestrictAddressFamilies=AF_UNIX AF_INET"));
    let notes = made.notes.join("\n");
    for word in ["runs as root", "of its own", "PrivateNetwork"] {
        assert!(notes.contains(word), "{notes}");
    }
}

#[test]
fn nonsense_is_refused_with_what_to_do() {
    let root = root(&[
        ("mcp.service", UNIT),
        ("ssh.service", UNIT),
        ("empty.service", ""),
    ]);
    let etc = root.path().join("etc/systemd/system");
    fs::create_dir_all(etc.join("foreign.service.d")).expect("made");
    fs::write(etc.join("foreign.service"), UNIT).expect("written");
    fs::write(etc.join("foreign.service.d/50-interdict.conf"), "[Unit]\n").expect("written");
    symlink("/dev/null", etc.join("off.service")).expect("linked");
    let table = [
        ("", "is no name of a unit"),
        ("../x.service", "is no name of a unit"),
        ("a b", "is no name of a unit"),
        ("backup.timer", "govern the service that it starts"),
        ("user.slice", "is a slice"),
        ("interdict.service", "cannot be governed by itself"),
        ("ssh.service", "--force"),
        ("systemd-journald.service", "--force"),
        ("absent.service", "check its name"),
        ("off.service", "unmask"),
        ("empty.service", "unmask"),
        ("foreign.service", "left alone"),
    ];
    for (unit, told) in table {
        let error = drop_in(&spec(root.path(), unit)).expect_err(unit).to_string();
        assert!(error.contains(told), "{unit}: {error}");
    }
    let wrong_slice = GovernSpec {
        slice: Some("agents".into()),
        ..spec(root.path(), "mcp")
    };
    assert!(matches!(drop_in(&wrong_slice), Err(GovernError::NoSlice(_))));
    let wrong_socket = GovernSpec {
        allowed: vec![PathBuf::from("docker.sock")],
        ..spec(root.path(), "mcp")
    };
    assert!(matches!(drop_in(&wrong_socket), Err(GovernError::NoSocket(_))));
    let forced = GovernSpec {
        force: true,
        ..spec(root.path(), "absent")
    };
    assert!(drop_in(&forced).is_ok());
    assert!(drop_ins(root.path()).is_empty());
}
