//! The agent's certificate authority: made on this host, kept 0600, signs a leaf for each name that a process asks for.
//!
//! Leaves are ECDSA P-256 with SHA-256: an Ed25519 certificate has no `tls-server-end-point` (RFC 5929), which breaks
//! SCRAM channel binding.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::model::Digest;

use super::TlsError;

/// Leaves that are kept; beyond it the cache starts anew (a process that asks for many names costs only time).
const MAX_LEAVES: usize = 1024;
/// A leaf lives this long from the agent's start.
const LEAF_LIFE: Duration = Duration::days(30);
/// The authority lives this long.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Clocks of processes and agent may differ by this much.
const CLOCK_SLACK: Duration = Duration::days(1);

/// A name that a leaf proves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// What a handshake is accepted with, and the hash of its certificate.
type Leaf = (Arc<rustls::ServerConfig>, Digest);

/// The agent's certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    pem_path: PathBuf,
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<Vec<SubjectName>, Leaf>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("pem_path", &self.pem_path)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads the authority of `dir` (`authority.pem`, key and certificate, 0600; `ca.pem`, the certificate for
    /// everybody), or makes it. Two agents that start at once agree on one.
    ///
    /// # Errors
    /// Where a file cannot be read or written, or does not hold an authority.
    pub fn load_or_create(dir: &Path, host: &str) -> Result<Self, TlsError> {
        fs::create_dir_all(dir).map_err(|source| TlsError::File {
            path: dir.to_owned(),
            source,
        })?;
        let private = dir.join("authority.pem");
        if !private.exists() {
            create(&private, host)?;
        }
        let text = fs::read_to_string(&private).map_err(|source| TlsError::File {
            path: private.clone(),
            source,
        })?;
        Self::from_pem(&text, &private, dir.join("ca.pem"))
    }

    fn from_pem(text: &str, private: &Path, pem_path: PathBuf) -> Result<Self, TlsError> {
        let wrong = |expected, reason: String| TlsError::Content {
            path: private.to_owned(),
            expected,
            reason,
        };
        let key = KeyPair::from_pem(text).map_err(|error| wrong("a private key", error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong("a certificate", error.to_string()))?
            .into_owned();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| wrong("an authority's certificate", error.to_string()))?;
        let start = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(text.len());
        let pem = text.get(start..).unwrap_or_default().to_owned();
        publish(&pem_path, &pem)?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| TlsError::Leaf {
            name: "the agent's leaves".into(),
            source,
        })?;
        Ok(Self {
            issuer,
            certificate,
            pem,
            pem_path,
            leaf_key,
            leaves: Mutex::default(),
        })
    }

    /// Until when the authority's certificate is valid.
    ///
    /// # Errors
    /// Where it cannot be read back.
    pub fn valid_until(&self) -> Result<crate::model::Timestamp, TlsError> {
        use x509_parser::prelude::FromDer;
        let parsed = x509_parser::certificate::X509Certificate::from_der(&self.certificate);
        let (_, certificate) = parsed.map_err(|error| TlsError::Content {
            path: self.pem_path.clone(),
            expected: "a certificate",
            reason: error.to_string(),
        })?;
        Ok(crate::model::Timestamp::from_seconds(
            certificate.validity().not_after.timestamp(),
        ))
    }

    /// The authority's certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The file with the authority's certificate, readable by everybody.
    #[must_use]
    pub fn pem_path(&self) -> &Path {
        &self.pem_path
    }

    /// The configuration to accept a handshake with: a leaf for the name that the process asked for, or for `fallback`
    /// where it asked for none. `alpn` is what the agent speaks (for PostgreSQL, `postgresql` or nothing).
    ///
    /// # Errors
    /// Where the leaf cannot be made.
    pub fn acceptor_config(
        &self,
        server_name: Option<&str>,
        fallback: &[SubjectName],
        alpn: &[&[u8]],
    ) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        self.bound_config(server_name, fallback, alpn)
            .map(|(config, _)| config)
    }

    /// The same with the hash of the leaf that clients bind a channel to (RFC 5929, `tls-server-end-point`).
    ///
    /// # Errors
    /// Where the leaf cannot be made.
    pub fn bound_config(
        &self,
        server_name: Option<&str>,
        fallback: &[SubjectName],
        alpn: &[&[u8]],
    ) -> Result<(Arc<rustls::ServerConfig>, Digest), TlsError> {
        let mut names: Vec<SubjectName> = fallback.to_vec();
        names.extend(server_name.map(|name| SubjectName::Dns(name.to_ascii_lowercase())));
        names.sort();
        names.dedup();
        let (base, end_point) = self.leaf(names)?;
        if alpn.is_empty() {
            return Ok((base, end_point));
        }
        let mut config = (*base).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok((Arc::new(config), end_point))
    }

    fn leaf(&self, names: Vec<SubjectName>) -> Result<Leaf, TlsError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = leaves.get(&names) {
            return Ok(known.clone());
        }
        if leaves.len() >= MAX_LEAVES {
            leaves.clear();
        }
        let made = self.make_leaf(&names)?;
        leaves.insert(names, made.clone());
        Ok(made)
    }

    fn make_leaf(&self, names: &[SubjectName]) -> Result<Leaf, TlsError> {
        let shown = names
            .first()
            .map_or_else(|| "nobody".to_owned(), |name| format!("{name:?}"));
        let failed = |source| TlsError::Leaf {
            name: shown.clone(),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Interdict leaf");
        for name in names {
            params.subject_alt_names.push(match name {
                SubjectName::Dns(dns) => SanType::DnsName(dns.as_str().try_into().map_err(failed)?),
                SubjectName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let now = wall();
        params.not_before = now - CLOCK_SLACK;
        params.not_after = now + LEAF_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), self.certificate.clone()], key)?;
        // The signature is ECDSA with SHA-256, so that is the hash (RFC 5929, 4.1).
        Ok((Arc::new(config), Digest::of(leaf.der())))
    }
}

/// The wall clock in the terms of certificates.
fn wall() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(crate::clock::now().as_seconds())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Makes key and certificate in one file, so that they cannot come from two agents; `link` makes it appear whole.
fn create(path: &Path, host: &str) -> Result<(), TlsError> {
    let failed = |source| TlsError::Leaf {
        name: "the authority".into(),
        source,
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Interdict authority of {host}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = wall();
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + AUTHORITY_LIFE;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let text = zeroize::Zeroizing::new(format!("{}{}", key.serialize_pem(), certificate.pem()));

    let wrong = |source| TlsError::File {
        path: path.to_owned(),
        source,
    };
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(wrong)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(wrong)?;
    let linked = match fs::hard_link(&draft, path) {
        // Another agent was quicker: its authority is the one.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&draft).map_err(wrong)?;
    linked.map_err(wrong)
}

fn publish(path: &Path, pem: &str) -> Result<(), TlsError> {
    let failed = |source| TlsError::File {
        path: path.to_owned(),
        source,
    };
    if fs::read_to_string(path).is_ok_and(|present| present == pem) {
        return Ok(());
    }
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    fs::write(&draft, pem).map_err(failed)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_only_its_certificate_is_public() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = Authority::load_or_create(dir.path(), "here").expect("made");
        let again = Authority::load_or_create(dir.path(), "here").expect("loaded");
        assert_eq!(first.pem(), again.pem());
        let public = fs::read_to_string(first.pem_path()).expect("readable");
        assert!(!public.contains("PRIVATE KEY"));
        let mode = fs::metadata(dir.path().join("authority.pem"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_leaf_is_made_once_for_a_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let authority = Authority::load_or_create(dir.path(), "here").expect("made");
        let ip = [SubjectName::Ip([127, 0, 0, 1].into())];
        let one = authority
            .acceptor_config(Some("Db.example"), &ip, &[])
            .expect("leaf");
        let two = authority
            .acceptor_config(Some("db.example"), &ip, &[])
            .expect("leaf");
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("authority.pem"), "nothing").expect("written");
        let error = Authority::load_or_create(dir.path(), "here").expect_err("damaged");
        assert!(error.to_string().contains("authority.pem"), "{error}");
    }
}
