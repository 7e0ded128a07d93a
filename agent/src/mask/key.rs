//! The key that tokens are made with.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// Length of the key, in bytes.
const LENGTH: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error("the masking key {path} cannot be used: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold 32 bytes.
    #[error(
        "the masking key {path} is damaged: it must hold exactly 32 bytes. Moved away, a new one is made, and tokens change"
    )]
    Length {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or change it.
    #[error(
        "the masking key {path} is open to others (mode {mode:o}): chmod 600 it; where somebody may have read it, move it away, and a new one is made"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// The key that tokens are made with: 32 random bytes of this host. Its memory is cleared when it is dropped (the
/// library's HMAC context does so, and so do the buffers here).
pub struct MaskKey(hmac::Key);

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey")
    }
}

impl MaskKey {
    /// From 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A new one that nobody keeps.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn random() -> Result<Self, KeyError> {
        Ok(Self::from_bytes(&*fresh()?))
    }

    /// Loads the key, or makes it (0600). Two agents that start at once agree on one.
    ///
    /// # Errors
    /// Where the file cannot be read or made, does not hold 32 bytes, or is open to others.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match File::open(path) {
            Ok(file) => Self::read(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                let file = File::open(path).map_err(|source| failed(path, source))?;
                Self::read(file, path)
            }
            Err(source) => Err(failed(path, source)),
        }
    }

    fn read(file: File, path: &Path) -> Result<Self, KeyError> {
        let metadata = file.metadata().map_err(|source| failed(path, source))?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        // One byte more than the key shows a file that is too long; the capacity keeps copies from being left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * LENGTH));
        file.take(33)
            .read_to_end(&mut bytes)
            .map_err(|source| failed(path, source))?;
        let key = <&[u8; LENGTH]>::try_from(bytes.as_slice());
        Ok(Self::from_bytes(key.map_err(|_length| KeyError::Length {
            path: path.to_owned(),
        })?))
    }

    /// The HMAC of `parts` one after another.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

fn failed(path: &Path, source: io::Error) -> KeyError {
    KeyError::File {
        path: path.to_owned(),
        source,
    }
}

fn fresh() -> Result<Zeroizing<[u8; LENGTH]>, KeyError> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| KeyError::Random)?;
    Ok(bytes)
}

/// Writes a draft and links it into place: whoever links first wins, and nobody reads half a key.
fn create(path: &Path) -> Result<(), KeyError> {
    let bytes = fresh()?;
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|_unspecified| KeyError::Random)?;
    let draft = path.with_extension(format!("draft-{:016x}", u64::from_be_bytes(suffix)));
    let written = write_draft(&draft, bytes.as_slice()).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&draft);
    written.map_err(|source| failed(path, source))?;
    removed.map_err(|source| failed(&draft, source))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed(parent, source))
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}
