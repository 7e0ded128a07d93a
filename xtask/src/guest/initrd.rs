//! What the guest finds in memory when it starts: modules, one static program, and what to do.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::shell::{repository, say};

use super::System;
use super::kernel::Kernel;

/// Loaded before anything else, with what they need. Nothing is loaded later: a module that is missing here is, for
/// whoever runs in the guest, a protocol that its kernel does not have.
const MODULES: [&str; 19] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "crc32c_generic",
    "veth",
    "sctp",
    "dccp_ipv4",
    "dccp_ipv6",
    "vsock",
    "vsock_loopback",
    "tun",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "nf_tables",
    "dummy",
];

/// The archive that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
pub(super) fn archive(kernel: &Kernel, job: &str, system: System) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "modules", "proc", "sys", "dev", "host", "over", "root"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &std::fs::read(&kernel.busybox)?);
    let dependencies = std::fs::read_to_string(kernel.modules.join("modules.dep"))?;
    let order = order(&dependencies)?;
    let mut names = String::new();
    for path in &order {
        let name = file_name(path);
        archive.file(
            &format!("modules/{name}"),
            &std::fs::read(kernel.modules.join(path))?,
        );
        names.push_str(name);
        names.push('\n');
    }
    archive.file("modules/order", names.as_bytes());
    archive.file("init", include_bytes!("init.sh"));
    archive.file("job", job.as_bytes());
    match system {
        System::Host => {}
        System::Debian => {
            // Tells `init.sh` that systemd comes first.
            archive.file("repository", format!("{}\n", repository().display()).as_bytes());
            archive.file("guest-job.service", include_bytes!("guest-job.service"));
        }
    }
    Ok(archive.end())
}

/// The files of all [`MODULES`] and of what they need, each after what it needs itself.
fn order(dependencies: &str) -> Result<Vec<&str>> {
    let mut needs: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in dependencies.lines() {
        let (path, rest) = line.split_once(':').context("modules.dep")?;
        needs.insert(path, rest.split_ascii_whitespace().collect());
    }
    let mut order = Vec::new();
    for module in MODULES {
        let mut paths = needs.keys();
        match paths.find(|path| file_name(path).strip_suffix(".ko") == Some(module)) {
            Some(path) => add(path, &needs, &mut order),
            // Some kernels have it built in; protocols come and go. What the guest itself needs, its start misses loudly.
            None => say(&format!("this kernel has no module {module}")),
        }
    }
    Ok(order)
}

fn add<'a>(path: &'a str, needs: &HashMap<&'a str, Vec<&'a str>>, order: &mut Vec<&'a str>) {
    for need in needs.get(path).into_iter().flatten() {
        if !order.contains(need) {
            add(need, needs, order);
        }
    }
    if !order.contains(&path) {
        order.push(path);
    }
}

fn file_name(path: &str) -> &str {
    Path::new(path)
        .file_name()
        .and_then(std::ffi::OsStr::to_str)
        .unwrap_or(path)
}

/// A cpio archive of the form "newc".
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, size, length) = (self.entries, content.len(), name.len() + 1);
        // Inode, mode, user, group, links, time, size, four numbers of devices, length of the name, no checksum.
        let head = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{length:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend(head.bytes().chain(name.bytes()).chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first_and_once() {
        let needs = HashMap::from([
            ("c.ko", vec!["b.ko", "a.ko"]),
            ("b.ko", vec!["a.ko"]),
            ("a.ko", vec![]),
        ]);
        let mut all = Vec::new();
        add("c.ko", &needs, &mut all);
        add("b.ko", &needs, &mut all);
        assert_eq!(all, ["a.ko", "b.ko", "c.ko"]);
    }

    #[test]
    fn entries_are_aligned() {
        let mut archive = Archive::default();
        archive.file("a", b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        // A head of 110 bytes, the name with its zero: 112; then the content.
        assert_eq!(bytes.get(112..117), Some(&b"12345"[..]));
    }
}
