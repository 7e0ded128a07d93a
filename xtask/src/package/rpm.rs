//! An .rpm, with `rpmbuild`. The service user and directories are made by the scripts of the .deb, in rpm's words.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{command, output, run as execute};

use super::{CONFIGURATION, RED_HAT, Source, architecture, stage};

pub(super) fn make(source: &Source, work: &Path, out: &Path) -> Result<PathBuf> {
    let root = work.join("rpm-root");
    stage(source, &root, &RED_HAT)?;
    let top = work.join("rpm");
    fs::create_dir_all(&top)?;
    let spec = top.join("interdict.spec");
    fs::write(&spec, about(source, &root)?)?;
    let mut build = command("rpmbuild", &["-bb", "--quiet", "--noclean"]);
    let arch = architecture("x86_64", "aarch64");
    for (name, value) in [
        ("_topdir", top.display().to_string()),
        ("_rpmdir", out.display().to_string()),
        ("_rpmfilename", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm".into()),
        ("_buildhost", "localhost".into()),
        ("use_source_date_epoch_as_buildtime", "1".into()),
        ("clamp_mtime_to_source_date_epoch", "1".into()),
        ("_build_id_links", "none".into()),
        ("_binary_payload", "w6.gzdio".into()),
        ("__os_install_post", "%{nil}".into()),
        ("_dbpath", top.join("db").display().to_string()),
        ("staged", root.display().to_string()),
    ] {
        build.arg("--define").arg(format!("{name} {value}"));
    }
    build
        .args(["--target", arch])
        .arg(&spec)
        .env("SOURCE_DATE_EPOCH", source.epoch.to_string())
        .stdout(std::process::Stdio::null());
    execute(build)?;
    Ok(out.join(format!("interdict-{}-1.{arch}.rpm", source.version)))
}

fn about(source: &Source, root: &Path) -> Result<String> {
    let find = |tests: &str| {
        let script = format!("cd \"$1\" && find . {tests} -printf '/%P\\n' | LC_ALL=C sort");
        output(command("sh", &["-c", &script, "sh", &root.display().to_string()]))
    };
    let mut files = String::new();
    // Directories of its own go with it.
    for directory in find("-type d -path '*/interdict*'")?.lines() {
        writeln!(files, "%dir \"{directory}\"").context("a text")?;
    }
    for file in find("-type f")?.lines() {
        let kind = match file.strip_prefix('/') {
            Some(CONFIGURATION) => "%attr(0640,root,root) %config(noreplace) ",
            Some(_) | None => "",
        };
        writeln!(files, "{kind}\"{file}\"").context("a text")?;
    }
    Ok(format!(
        "Name: interdict\nVersion: {}\nRelease: 1\nSummary: Govern what MCP servers and AI agents do on the network\nLicense: Apache-2.0\n\
         AutoReq: yes\nAutoProv: no\n\n\
         %description\nOne enforcement point under the process: every connection is redirected to the agent, which decides with Cedar policies,\n\
         logs in with the real credential, masks sensitive data in what comes back, and records it before it is forwarded.\n\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a %{{staged}}/. %{{buildroot}}/\n\n\
         %post\n\
         systemd-sysusers interdict.conf >/dev/null 2>&1 || :\n\
         systemd-tmpfiles --create interdict.conf >/dev/null 2>&1 || :\n\
         systemctl daemon-reload >/dev/null 2>&1 || :\n\n\
         %preun\nif [ $1 -eq 0 ]; then\n  systemctl disable --now interdict.service >/dev/null 2>&1 || :\n  interdict uninstall >/dev/null 2>&1 || :\nfi\n\n\
         %postun\nsystemctl daemon-reload >/dev/null 2>&1 || :\n\
         if [ $1 -ge 1 ]; then systemctl try-restart interdict.service >/dev/null 2>&1 || :; fi\n\n\
         %files\n%defattr(-,root,root,0755)\n{files}",
        source.version
    ))
}
