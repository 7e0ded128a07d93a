//! The kernel object, embedded.

/// Built by `cargo xtask ebpf`; `agent-ebpf/prebuilt/TOOLCHAIN.toml` says from what and with what.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../agent-ebpf/prebuilt/interdict.bpf.o");

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use aws_lc_rs::digest::{Context, SHA256, digest};
    use data_encoding::HEXLOWER;

    use super::*;

    fn recorded(key: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent-ebpf/prebuilt/TOOLCHAIN.toml");
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
        let found = HEXLOWER.encode(digest(&SHA256, OBJECT).as_ref());
        assert_eq!(found, recorded("object"), "run cargo xtask ebpf");
    }

    /// The same digest as in `xtask/src/ebpf.rs`.
    #[test]
    fn it_was_built_from_these_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent-ebpf/src");
        let mut files = Vec::new();
        collect(&root, &mut files);
        files.sort();
        let mut context = Context::new(&SHA256);
        for file in files {
            let name = file.strip_prefix(&root).expect("prefix");
            context.update(name.to_str().expect("name").as_bytes());
            context.update(&[0]);
            context.update(&fs::read(&file).expect("file"));
            context.update(&[0]);
        }
        let found = HEXLOWER.encode(context.finish().as_ref());
        assert_eq!(
            found,
            recorded("sources"),
            "the hooks changed: run cargo xtask ebpf"
        );
    }
}
