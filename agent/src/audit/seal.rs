//! Seals: what is signed when a segment is complete.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::Digest;

/// What a seal says of its segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    pub(super) boot: String,
    pub(super) first: u64,
    pub(super) count: u64,
    /// The chain before the first record and after the last.
    pub(super) chain_before: String,
    pub(super) chain_after: String,
    pub(super) merkle_root: String,
    /// Digest of the seal that was the newest when this boot sealed its first segment, or of the boot's seal before this.
    pub(super) previous: String,
    pub(super) sealed_ns: i64,
    /// `complete`, or `recovered` after an agent died.
    pub(super) how: String,
}

/// A statement with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    /// The exact bytes that are signed: a `Statement` as JSON.
    pub(super) statement: String,
    /// Ed25519, hexadecimal.
    pub(super) signature: String,
    /// The public key, hexadecimal.
    pub(super) key: String,
}

impl Seal {
    /// Its digest: what the next seal names as `previous`.
    pub(super) fn digest(&self) -> Digest {
        Digest::of_fields(&[self.statement.as_bytes(), self.signature.as_bytes()])
    }

    /// The statement, where the signature is that of `key` (hexadecimal).
    pub(super) fn check(&self, key: &str) -> Result<Statement, String> {
        if self.key != key {
            return Err(format!("it is signed with another key ({})", self.key));
        }
        let hex = |text: &str| {
            data_encoding::HEXLOWER
                .decode(text.as_bytes())
                .map_err(|e| e.to_string())
        };
        UnparsedPublicKey::new(&ED25519, hex(&self.key)?)
            .verify(self.statement.as_bytes(), &hex(&self.signature)?)
            .map_err(|_unspecified| "its signature is wrong".to_owned())?;
        serde_json::from_str(&self.statement).map_err(|e| e.to_string())
    }
}

/// The agent's signing key.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// Loads `signing.key` of `dir`, or makes it (0600), with `signing.pub` beside it.
    pub(super) fn load_or_create(dir: &Path) -> io::Result<Self> {
        let path = dir.join("signing.key");
        if !path.exists() {
            let pair = Ed25519KeyPair::generate().map_err(io::Error::other)?;
            let document = pair.to_pkcs8().map_err(io::Error::other)?;
            let draft = dir.join(format!("signing.draft-{}", std::process::id()));
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(document.as_ref())?;
            file.sync_all()?;
            match fs::hard_link(&draft, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => fs::remove_file(&draft)?,
            }
        }
        let bytes = Zeroizing::new(fs::read(&path)?);
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|rejected| {
            io::Error::other(format!("{} holds no Ed25519 key: {rejected}", path.display()))
        })?;
        let signer = Self(pair);
        fs::write(dir.join("signing.pub"), signer.public() + "\n")?;
        Ok(signer)
    }

    /// The public key, hexadecimal.
    pub(super) fn public(&self) -> String {
        data_encoding::HEXLOWER.encode(self.0.public_key().as_ref())
    }

    pub(super) fn seal(&self, statement: &Statement) -> io::Result<Seal> {
        let statement = serde_json::to_string(statement)?;
        let signature = data_encoding::HEXLOWER.encode(self.0.sign(statement.as_bytes()).as_ref());
        Ok(Seal {
            statement,
            signature,
            key: self.public(),
        })
    }
}

/// The public key of `dir`, hexadecimal.
pub(super) fn public_key(dir: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(dir.join("signing.pub"))?.trim().to_owned())
}

/// Writes a seal whole or not at all.
pub(super) fn write(path: &Path, seal: &Seal) -> io::Result<()> {
    let draft = path.with_extension("seal-draft");
    let mut file = fs::File::create(&draft)?;
    file.write_all(serde_json::to_string(seal)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Reads a seal.
pub(super) fn read(path: &Path) -> io::Result<Seal> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
