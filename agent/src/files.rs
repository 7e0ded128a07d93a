//! Reading files that people configure: where this process may not open one, whoever holds the authority opens it.
//!
//! The proxy (`guard`) has no capabilities and a user of its own; its guard opens what the configuration names, so that
//! passwords, certificates and policies may stay readable by root only, and be replaced while the agent runs.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Opener = Box<dyn Fn(&Path) -> io::Result<File> + Send + Sync>;

/// Of this process, once and for all: who opens what it may not.
static OPENER: OnceLock<Opener> = OnceLock::new();

/// From now on `opener` is asked for files that this process may not open. A second call has no effect.
pub fn ask(opener: impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static) {
    let _first_counts = OPENER.set(Box::new(opener));
}

/// Opens a file (or a directory, to be listed).
///
/// # Errors
/// The file system's.
pub fn open(path: &Path) -> io::Result<File> {
    match (File::open(path), OPENER.get()) {
        (Err(error), Some(opener)) if error.kind() == io::ErrorKind::PermissionDenied => opener(path),
        (opened, _) => opened,
    }
}

/// All bytes of a file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file.
///
/// # Errors
/// As [`open`], and where it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// What a file is, links followed.
///
/// # Errors
/// The file system's.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(path)?.metadata(),
        other => other,
    }
}

/// Everything in a directory, in no order.
///
/// # Errors
/// The file system's.
pub fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in rustix::fs::Dir::new(open(path)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            paths.push(path.join(std::ffi::OsStr::from_bytes(name)));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_directories_listed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("a");
        std::fs::write(&file, "text").expect("written");
        assert_eq!(read_to_string(&file).expect("read"), "text");
        assert_eq!(read(&file).expect("read"), b"text");
        assert_eq!(metadata(&file).expect("there").len(), 4);
        assert_eq!(list(dir.path()).expect("listed"), std::slice::from_ref(&file));
        assert_eq!(
            open(&dir.path().join("b")).expect_err("none").kind(),
            io::ErrorKind::NotFound
        );
    }
}
