//! Packages of the binary under test: what is in them, that they are the same twice, and that installing and removing one leaves nothing.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use interdict_tests::system_copy::{Copied, on_a_copy};
use interdict_tests::tools::{binary, repository};

fn skip(test: &str, why: &str) {
    let _closed = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The standard output of a command that must succeed.
fn output(command: &mut Command) -> String {
    let out = command.output().expect("started");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{told}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Makes packages of the binary under test.
fn package(out: &Path, formats: &[&str]) -> Vec<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_unset| "cargo".into());
    let mut make = Command::new(cargo);
    make.args([
        "run", "-q", "--locked", "-p", "xtask", "--", "package", "--binary",
    ])
    .arg(binary())
    .arg("--out")
    .arg(out)
    .env("SOURCE_DATE_EPOCH", "1700000000")
    .current_dir(repository());
    for format in formats {
        make.args(["--format", format]);
    }
    output(&mut make).lines().map(PathBuf::from).collect()
}

/// The packages that every test looks at.
fn made() -> &'static [PathBuf] {
    static MADE: OnceLock<(tempfile::TempDir, Vec<PathBuf>)> = OnceLock::new();
    let (_, made) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut formats = vec!["deb"];
        if there("rpmbuild") {
            formats.push("rpm");
        }
        if there("skopeo") {
            formats.push("image");
        }
        let made = package(dir.path(), &formats);
        (dir, made)
    });
    made
}

fn of(ending: &str) -> Option<&'static Path> {
    made()
        .iter()
        .map(PathBuf::as_path)
        .find(|path| path.to_string_lossy().ends_with(ending))
}

const WITHIN: [&str; 9] = [
    "/usr/bin/interdict",
    "/etc/interdict/interdict.toml",
    "/usr/lib/sysusers.d/interdict.conf",
    "/usr/lib/tmpfiles.d/interdict.conf",
    "/usr/share/man/man1/interdict.1.gz",
    "/usr/share/man/man1/interdict-config-show.1.gz",
    "/usr/share/bash-completion/completions/interdict",
    "/usr/share/interdict/policies/interdict.cedarschema",
    "/usr/share/doc/interdict/interdict.cdx.json",
];

#[test]
fn the_deb_holds_what_is_needed_and_is_the_same_twice() {
    let deb = of(".deb").expect("made");
    let list = output(Command::new("dpkg-deb").arg("-c").arg(deb));
    let units = [
        "/lib/systemd/system/interdict.service",
        "/lib/systemd/system/interdict-proxy.service",
    ];
    for file in WITHIN.iter().chain(&units) {
        assert!(
            list.lines().any(|line| line.ends_with(&format!(".{file}"))),
            "{file}\n{list}"
        );
    }
    assert!(list.lines().all(|line| line.contains(" root/root ")), "{list}");
    let about = output(Command::new("dpkg-deb").arg("-I").arg(deb));
    assert!(
        about.contains("Depends: libc6 (>= ") && about.contains("conffiles"),
        "{about}"
    );
    let again = tempfile::tempdir().expect("temp dir");
    let second = package(again.path(), &["deb"]);
    let bytes = fs::read(second.first().expect("made")).expect("read");
    assert!(fs::read(deb).expect("read") == bytes, "two builds differ");
}

#[test]
fn lintian_has_nothing_against_the_deb() {
    if !there("lintian") {
        return skip("lintian", "it is not installed");
    }
    let out = Command::new("lintian")
        .args(["--fail-on", "error", "--no-tag-display-limit", "--suppress-tags"])
        // A debug binary of Rust is linked with what it is; there is no Debian bug for a package that is not Debian's.
        .arg("initial-upload-closes-no-bugs,bad-distribution-in-changes-file,debian-changelog-file-missing,no-changelog")
        .arg(of(".deb").expect("made"))
        .output()
        .expect("lintian");
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{told}");
}

/// Runs a script on a copy of this system that has the packages.
fn with_packages(script: &str) -> Option<Copied> {
    let files: Vec<&Path> = made().iter().map(PathBuf::as_path).collect();
    on_a_copy(&files, false, script).expect("the script")
}

/// As users do it: install, look, remove (configuration stays), purge (nothing stays, the service user neither).
#[test]
fn the_deb_is_installed_and_removed_without_a_trace() {
    let script = "export DEBIAN_FRONTEND=noninteractive
        dpkg --force-depends -i ./*.deb
        interdict --version
        interdict config check /etc/interdict/interdict.toml
        interdict systemd govern absent --force --print > /dev/null
        getent passwd interdict
        stat -c '%A %U %G %n' /etc/interdict/interdict.toml /var/lib/interdict
        systemd-analyze --man=no verify interdict.service interdict-proxy.service
        mkdir -p /var/lib/interdict/audit && touch /var/lib/interdict/audit/x
        dpkg -r interdict
        test ! -e /usr/bin/interdict && test -e /etc/interdict/interdict.toml && test -e /var/lib/interdict/audit/x
        dpkg -i ./*.deb
        dpkg -P interdict
        if getent passwd interdict; then exit 1; fi
        if getent group interdict; then exit 1; fi
        if dpkg -s interdict; then exit 1; fi";
    let Some(Copied { told, left }) = with_packages(script) else {
        return skip("the_deb_is_installed", "overlayfs cannot be mounted here");
    };
    for line in [
        "VALID 0 issuers, 0 targets",
        "-rw-r----- root interdict /etc/interdict/interdict.toml",
        "drwx--x--x interdict interdict /var/lib/interdict",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert_eq!(left, [] as [&Path; 0], "{told}");
}

#[test]
fn the_rpm_holds_what_is_needed_and_installs() {
    let Some(rpm) = of(".rpm") else {
        return skip("the_rpm", "rpmbuild is not installed");
    };
    let list = output(Command::new("rpm").arg("-qlp").arg(rpm));
    for file in WITHIN.iter().chain(&[
        "/usr/lib/systemd/system/interdict.service",
        "/usr/lib/systemd/system/interdict-proxy.service",
    ]) {
        assert!(list.lines().any(|line| line == *file), "{file}\n{list}");
    }
    let about = output(
        Command::new("rpm")
            .args(["-qp", "--requires", "--scripts", "--configfiles"])
            .arg(rpm),
    );
    for word in [
        "libc.so.6",
        "systemd-sysusers interdict.conf",
        "interdict uninstall",
        "/etc/interdict/interdict.toml",
    ] {
        assert!(about.contains(word), "{word}\n{about}");
    }
    let again = tempfile::tempdir().expect("temp dir");
    let second = package(again.path(), &["rpm"]);
    let bytes = fs::read(second.first().expect("made")).expect("read");
    assert!(fs::read(rpm).expect("read") == bytes, "two builds differ");
    let script = "rpm --dbpath /tmp/db --initdb
        rpm --dbpath /tmp/db -i --nodeps --force-debian ./*.rpm
        interdict --version
        rpm --dbpath /tmp/db -e --nodeps --force-debian interdict
        test ! -e /usr/bin/interdict
        userdel interdict; rm -rf /var/lib/interdict";
    match with_packages(script) {
        None => skip("the_rpm", "overlayfs cannot be mounted here"),
        Some(Copied { told, left }) => assert_eq!(left, [] as [&Path; 0], "{told}"),
    }
}

#[test]
fn the_image_holds_the_agent_and_nothing_else_that_can_be_started() {
    let Some(image) = of(".oci.tar") else {
        return skip("the_image", "skopeo is not installed");
    };
    let place = format!("oci-archive:{}", image.display());
    let about = output(Command::new("skopeo").args(["inspect", &place]));
    assert!(
        about.contains("SSL_CERT_FILE") && about.contains("\"Os\": \"linux\""),
        "{about}"
    );
    let dir = tempfile::tempdir().expect("temp dir");
    let layout = dir.path().join("layout");
    output(Command::new("skopeo").args(["copy", "-q", &place, &format!("oci:{}:v", layout.display())]));
    if !there("umoci") {
        return skip("the_image", "umoci is not installed");
    }
    let bundle = dir.path().join("bundle");
    output(
        Command::new("umoci")
            .args(["unpack", "--image", &format!("{}:v", layout.display())])
            .arg(&bundle),
    );
    let root = bundle.join("rootfs");
    let version = output(
        Command::new("chroot")
            .arg(&root)
            .args(["/usr/bin/interdict", "--version"]),
    );
    assert!(version.starts_with("interdict "), "{version}");
    let mut started = Command::new("find");
    started
        .arg(&root)
        .args(["-type", "f", "-perm", "/111", "!", "-name", "*.so*"]);
    let programs = output(&mut started);
    let names: Vec<&str> = programs
        .lines()
        .filter_map(|line| line.rsplit('/').next())
        .collect();
    assert_eq!(names, ["interdict"], "{programs}");
    let again = tempfile::tempdir().expect("temp dir");
    let second = package(again.path(), &["image"]);
    let bytes = fs::read(second.first().expect("made")).expect("read");
    assert!(fs::read(image).expect("read") == bytes, "two builds differ");
}
