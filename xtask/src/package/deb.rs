//! A .deb, with `dpkg-deb`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::shell::{command, output, repository, run as execute};

use super::{CONFIGURATION, DEBIAN, Source, architecture, put, set_times, stage};

pub(super) fn make(source: &Source, work: &Path, out: &Path) -> Result<PathBuf> {
    let root = work.join("deb");
    stage(source, &root, &DEBIAN)?;
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let scripts = repository().join("deploy/package");
    for script in ["postinst", "prerm", "postrm"] {
        put(&scripts.join(script), &control.join(script), 0o755)?;
    }
    fs::write(control.join("conffiles"), format!("/{CONFIGURATION}\n"))?;
    fs::write(control.join("md5sums"), sums(&root)?)?;
    fs::write(control.join("control"), about(source, &root, work)?)?;
    set_times(&root, source.epoch)?;
    let architecture = architecture("amd64", "arm64");
    let made = out.join(format!("interdict_{}_{architecture}.deb", source.version));
    let mut pack = command("dpkg-deb", &["--root-owner-group", "-Zxz", "-z1", "--build"]);
    pack.arg(&root)
        .arg(&made)
        .env("SOURCE_DATE_EPOCH", source.epoch.to_string());
    pack.stdout(std::process::Stdio::null());
    execute(pack)?;
    Ok(made)
}

/// deb-control(5).
fn about(source: &Source, root: &Path, work: &Path) -> Result<String> {
    let size = output(command(
        "du",
        &["-ks", "--apparent-size", &root.display().to_string()],
    ))?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    Ok(format!(
        "Package: interdict\nVersion: {}\nArchitecture: {}\nMaintainer: The Interdict authors <interdict@localhost.invalid>\n\
         Installed-Size: {size}\nDepends: {}\nRecommends: ca-certificates, systemd\nSection: admin\nPriority: optional\n\
         Description: govern what MCP servers and AI agents do on the network\n \
         One enforcement point under the process: every connection is redirected to the\n \
         agent, which decides with Cedar policies, logs in with the real credential,\n \
         masks sensitive data in what comes back, and records it before it is forwarded.\n",
        source.version,
        architecture("amd64", "arm64"),
        depends(root, work)?,
    ))
}

/// What the binary is linked against, as `dpkg-shlibdeps` names it.
fn depends(root: &Path, work: &Path) -> Result<String> {
    let dir = work.join("shlibdeps");
    fs::create_dir_all(dir.join("debian"))?;
    fs::write(
        dir.join("debian/control"),
        "Source: interdict\n\nPackage: interdict\nArchitecture: any\n",
    )?;
    let binary = root.join("usr/bin/interdict").display().to_string();
    let mut ask = command("dpkg-shlibdeps", &["-O", &binary]);
    ask.current_dir(&dir);
    let text = output(ask)?;
    Ok(text.trim().trim_start_matches("shlibs:Depends=").to_owned())
}

fn sums(root: &Path) -> Result<String> {
    let script = "cd \"$1\" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' md5sum";
    output(command("sh", &["-c", script, "sh", &root.display().to_string()]))
}
