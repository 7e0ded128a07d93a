//! A container image without a container engine: the binary, the libraries that it is linked against, the roots of trust and two users,
//! nothing that could be started besides, as an OCI archive (image-spec 1.1).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::shell::{command, output, repository, run as execute};

use super::{Source, architecture, copy, fresh, put, set_times, strip};

/// The system's roots, as Debian keeps them.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn make(source: &Source, work: &Path, out: &Path) -> Result<PathBuf> {
    let base = work.join("image-base");
    fresh(&base)?;
    for library in libraries(&source.binary)? {
        put(&library, &base.join(library.strip_prefix("/")?), 0o755)?;
    }
    put(Path::new(ROOTS), &base.join(ROOTS.trim_start_matches('/')), 0o644)?;
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/:/sbin/nologin\ninterdict:x:65532:65532:interdict:/:/sbin/nologin\n",
        ),
        ("group", "root:x:0:\ninterdict:x:65532:\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ] {
        fs::write(base.join("etc").join(name), text)?;
    }
    for dir in ["run", "tmp", "var/lib/interdict", "etc/interdict"] {
        fs::create_dir_all(base.join(dir))?;
    }
    let top = work.join("image-top");
    fresh(&top)?;
    put(&source.binary, &top.join("usr/bin/interdict"), 0o755)?;
    strip(&top.join("usr/bin/interdict"))?;
    copy(
        &repository().join("policies"),
        &top.join("usr/share/interdict/policies"),
    )?;
    let layout = work.join("oci");
    fresh(&layout)?;
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let layers = [
        layer(&base, &layout, source.epoch)?,
        layer(&top, &layout, source.epoch)?,
    ];
    index(source, &layout, &layers)?;
    set_times(&layout, source.epoch)?;
    let arch = architecture("amd64", "arm64");
    let made = out.join(format!("interdict_{}_{arch}.oci.tar", source.version));
    tar(&layout, &made, source.epoch)?;
    Ok(made)
}

/// What the loader says that the binary needs, and the resolver's own libraries, which it loads by name.
fn libraries(binary: &Path) -> Result<BTreeSet<PathBuf>> {
    let listed = output(command("ldd", &[&binary.display().to_string()]))?;
    let mut found = BTreeSet::new();
    for word in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        found.insert(PathBuf::from(word));
    }
    ensure!(
        !found.is_empty(),
        "{} is linked against nothing",
        binary.display()
    );
    let libc = found
        .iter()
        .find(|path| path.file_name().is_some_and(|n| n == "libc.so.6"))
        .and_then(|path| path.parent().map(Path::to_owned))
        .context("no libc")?;
    for name in ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"] {
        let path = libc.join(name);
        if path.exists() {
            found.insert(path);
        }
    }
    Ok(found)
}

struct Blob {
    digest: String,
    size: u64,
    /// Of a layer: the digest of its tar, uncompressed.
    diff: String,
}

fn layer(root: &Path, layout: &Path, epoch: u64) -> Result<Blob> {
    set_times(root, epoch)?;
    let draft = layout.join("draft.tar");
    tar(root, &draft, epoch)?;
    let diff = digest(&draft)?;
    execute(command("gzip", &["-6n", &draft.display().to_string()]))?;
    let (digest, size) = keep(&layout.join("draft.tar.gz"), layout)?;
    Ok(Blob { digest, size, diff })
}

fn tar(root: &Path, to: &Path, epoch: u64) -> Result<()> {
    let mut pack = command("tar", &["--sort=name", "--format=posix", "--numeric-owner"]);
    pack.args([
        "--owner=0",
        "--group=0",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    ])
    .arg(format!("--mtime=@{epoch}"))
    .arg("-C")
    .arg(root)
    .arg("-cf")
    .arg(to)
    .arg(".");
    execute(pack)
}

fn digest(file: &Path) -> Result<String> {
    let text = output(command("sha256sum", &[&file.display().to_string()]))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Moves a file to its place by content.
fn keep(file: &Path, layout: &Path) -> Result<(String, u64)> {
    let digest = digest(file)?;
    let size = fs::metadata(file)?.len();
    fs::rename(file, layout.join("blobs/sha256").join(&digest))?;
    Ok((digest, size))
}

fn keep_json(value: &serde_json::Value, layout: &Path) -> Result<(String, u64)> {
    let draft = layout.join("draft.json");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    keep(&draft, layout)
}

fn index(source: &Source, layout: &Path, layers: &[Blob]) -> Result<()> {
    let diffs: Vec<String> = layers.iter().map(|l| format!("sha256:{}", l.diff)).collect();
    let (config, config_size) = keep_json(
        &json!({
            "architecture": architecture("amd64", "arm64"),
            "os": "linux",
            "config": {
                "Entrypoint": ["/usr/bin/interdict"],
                "Cmd": ["serve", "--config", "/etc/interdict/interdict.toml"],
                "Env": ["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
                "Labels": {"org.opencontainers.image.title": "interdict", "org.opencontainers.image.version": source.version,
                    "org.opencontainers.image.licenses": "Apache-2.0"},
            },
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }),
        layout,
    )?;
    let listed: Vec<serde_json::Value> = layers
        .iter()
        .map(|l| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{}", l.digest), "size": l.size}))
        .collect();
    let (manifest, manifest_size) = keep_json(
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config}"), "size": config_size},
            "layers": listed,
        }),
        layout,
    )?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{manifest}"),
            "size": manifest_size, "annotations": {"org.opencontainers.image.ref.name": source.version}}],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}")?;
    Ok(())
}
