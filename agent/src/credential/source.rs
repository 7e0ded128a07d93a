//! Where secrets come from.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::config::{CredentialConfig, CredentialPlace, SecretSourceConfig};

use super::secret::Secret;

/// Largest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Why a credential cannot be had. Never holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("the password file {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large to be a password.
    #[error("the password file {path} is larger than 64 KiB")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The first line is empty.
    #[error("{source_name} holds no password: its first line is empty")]
    Empty {
        /// File or variable.
        source_name: String,
    },
    /// The variable is not set.
    #[error(
        "the environment variable {name} is not set: set it for the agent (the governed process never sees it)"
    )]
    Variable {
        /// The variable.
        name: String,
    },
}

/// The real credential for one target.
#[derive(Debug, Clone)]
pub struct Credential {
    config: CredentialConfig,
}

impl Credential {
    /// From its configuration; nothing is read yet.
    #[must_use]
    pub const fn new(config: CredentialConfig) -> Self {
        Self { config }
    }

    /// The real user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.config.user
    }

    /// Where the target expects it.
    #[must_use]
    pub const fn place(&self) -> &CredentialPlace {
        &self.config.place
    }

    /// The password that the process may be given in place of the real one.
    #[must_use]
    pub fn placeholder(&self) -> Option<&str> {
        self.config.placeholder.as_deref()
    }

    /// Reads the password: at every log-in, so that a rotated one is used without a restart.
    ///
    /// # Errors
    /// Says what cannot be read; never holds any part of the secret.
    pub fn password(&self) -> Result<Secret, CredentialError> {
        read(&self.config.password)
    }

    /// Reads the token that belongs to a key for some time, where one is configured.
    pub fn session_token(&self) -> Option<Result<Secret, CredentialError>> {
        match &self.config.place {
            CredentialPlace::SigV4 { session_token, .. } => session_token.as_deref().map(read_file),
            CredentialPlace::LogIn
            | CredentialPlace::Bearer
            | CredentialPlace::Basic
            | CredentialPlace::Header(_)
            | CredentialPlace::Query(_) => None,
        }
    }
}

fn read(source: &SecretSourceConfig) -> Result<Secret, CredentialError> {
    match source {
        SecretSourceConfig::File(path) => read_file(path),
        SecretSourceConfig::Env(name) => {
            let value =
                std::env::var(name).map_err(|_unset| CredentialError::Variable { name: name.clone() })?;
            first_line(
                Zeroizing::new(value.into_bytes()),
                &format!("the environment variable {name}"),
            )
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Secret, CredentialError> {
    use std::io::Read;

    let failed = |source| CredentialError::File {
        path: path.to_owned(),
        source,
    };
    let file = crate::files::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(CredentialError::TooLarge {
            path: path.to_owned(),
        });
    }
    first_line(bytes, &format!("the password file {}", path.display()))
}

fn first_line(bytes: Zeroizing<Vec<u8>>, source_name: &str) -> Result<Secret, CredentialError> {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(CredentialError::Empty {
            source_name: source_name.to_owned(),
        });
    }
    Ok(Secret::new(line.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> Result<Secret, CredentialError> {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), content).expect("write");
        let config = CredentialConfig {
            place: CredentialPlace::LogIn,
            user: "app".into(),
            password: SecretSourceConfig::File(file.path().to_owned()),
            placeholder: None,
        };
        Credential::new(config).password()
    }

    #[test]
    fn the_first_line_is_the_password() {
        for content in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n", b"s3cret\nmore\n"] {
            assert_eq!(from_file(content).expect("readable").expose(), b"s3cret");
        }
    }

    #[test]
    fn an_empty_or_missing_one_says_so_and_shows_nothing() {
        assert!(matches!(
            from_file(b"\nsecret"),
            Err(CredentialError::Empty { .. })
        ));
        assert!(matches!(
            from_file(&vec![b'x'; 70_000]),
            Err(CredentialError::TooLarge { .. })
        ));
        assert_eq!(format!("{:?}", Secret::new(b"s3cret".to_vec())), "Secret");
    }
}
