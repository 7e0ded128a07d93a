//! The kernel objects, embedded.

/// Built by `cargo xtask ebpf`; `agent-ebpf/prebuilt/TOOLCHAIN.toml` says from what and with what.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../agent-ebpf/prebuilt/interdict.bpf.o");

/// The hooks of BPF LSM; built likewise, written down in `TOOLCHAIN-lsm.toml`.
pub(super) static LSM_OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../agent-ebpf/prebuilt/interdict-lsm.bpf.o");

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use aws_lc_rs::digest::{Context, SHA256, digest};
    use data_encoding::HEXLOWER;

    use super::*;

    /// Object, what is written down about it, and its sources.
    const OBJECTS: [(&[u8], &str, &str); 2] = [
        (OBJECT, "TOOLCHAIN.toml", "../agent-ebpf/src"),
        (LSM_OBJECT, "TOOLCHAIN-lsm.toml", "../agent-ebpf/lsm/src"),
    ];

    fn recorded(file: &str, key: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../agent-ebpf/prebuilt")
            .join(file);
        let table: toml::Table = fs::read_to_string(path).expect("file").parse().expect("TOML");
        table
            .get(key)
            .and_then(toml::Value::as_str)
            .expect(key)
            .to_owned()
    }

    fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                files.push(path);
            }
        }
    }

    #[test]
    fn it_is_the_recorded_one() {
        for (object, file, _) in OBJECTS {
            let found = HEXLOWER.encode(digest(&SHA256, object).as_ref());
            assert_eq!(found, recorded(file, "object"), "run cargo xtask ebpf");
        }
    }

    /// The same digest as in `xtask/src/ebpf.rs`.
    #[test]
    fn it_was_built_from_these_sources() {
        for (_, file, sources) in OBJECTS {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources);
            let (found, wanted) = (sources_digest(&root), recorded(file, "sources"));
            assert_eq!(found, wanted, "the hooks changed: run cargo xtask ebpf");
        }
    }

    fn sources_digest(root: &Path) -> String {
        let mut files = Vec::new();
        collect(root, &mut files);
        files.sort();
        let mut context = Context::new(&SHA256);
        for file in files {
            let name = file.strip_prefix(root).expect("prefix");
            context.update(name.to_str().expect("name").as_bytes());
            context.update(&[0]);
            context.update(&fs::read(&file).expect("file"));
            context.update(&[0]);
        }
        HEXLOWER.encode(context.finish().as_ref())
    }
}
