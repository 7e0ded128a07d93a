//! The agent's certificate authority: made on this host, kept 0600, signs a leaf for each name that a process asks for.
//!
//! Leaves are ECDSA P-256 with SHA-256: an Ed25519 certificate has no `tls-server-end-point` (RFC 5929), which breaks
//! SCRAM channel binding.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
/// A leaf lives this long…
const LEAF_LIFE: Duration = Duration::days(3);
/// …and is made anew when it is this old, for handshakes from then on.
const LEAF_RENEWED: Duration = Duration::days(1);
/// How often the authority's file is looked at: another may have been made (`interdict ca rotate`).
const LOOKED_AT: std::time::Duration = std::time::Duration::from_secs(1);
/// The authority lives this long.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Clocks of processes and agent may differ by this much.
const CLOCK_SLACK: Duration = Duration::days(1);

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

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
    private: PathBuf,
    pem_path: PathBuf,
    leaf_key: KeyPair,
    current: Mutex<Current>,
}

/// The authority of the moment.
struct Current {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// With when each was made.
    leaves: HashMap<Vec<SubjectName>, (Leaf, OffsetDateTime)>,
    mark: Option<Mark>,
    looked: Instant,
}

/// What tells one state of a file from another: its inode, and when it was changed.
type Mark = (u64, i64, i64);

fn mark(path: &Path) -> Option<Mark> {
    let seen = fs::metadata(path).ok()?;
    Some((seen.ino(), seen.mtime(), seen.mtime_nsec()))
}

impl Current {
    fn load(private: &Path) -> Result<Self, TlsError> {
        // Looked at before it is read: a change in between is found the next time.
        let mark = mark(private);
        let text = fs::read_to_string(private).map_err(|source| TlsError::File {
            path: private.to_owned(),
            source,
        })?;
        let text = zeroize::Zeroizing::new(text);
        let wrong = |expected, reason: String| TlsError::Content {
            path: private.to_owned(),
            expected,
            reason,
        };
        let key = KeyPair::from_pem(&text).map_err(|error| wrong("a private key", error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong("a certificate", error.to_string()))?
            .into_owned();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| wrong("an authority's certificate", error.to_string()))?;
        Ok(Self {
            issuer,
            certificate,
            leaves: HashMap::new(),
            mark,
            looked: Instant::now(),
        })
    }

    /// Takes another authority, where there is one.
    fn refresh(&mut self, private: &Path) {
        if self.looked.elapsed() < LOOKED_AT {
            return;
        }
        self.looked = Instant::now();
        if mark(private) == self.mark {
            return;
        }
        match Self::load(private) {
            Ok(other) => {
                tracing::info!("the certificate authority is another: leaves are made anew");
                *self = other;
            }
            Err(error) => {
                tracing::error!(%error, "the certificate authority cannot be read again: the old one stays")
            }
        }
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("pem_path", &self.pem_path)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The file of the authority's certificate in its directory.
    #[must_use]
    pub fn pem_in(dir: &Path) -> PathBuf {
        dir.join("ca.pem")
    }

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
        let current = Current::load(&private)?;
        let pem_path = Self::pem_in(dir);
        publish(&pem_path, &public(dir)?)?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| TlsError::Leaf {
            name: "the agent's leaves".into(),
            source,
        })?;
        Ok(Self {
            private,
            pem_path,
            leaf_key,
            current: Mutex::new(current),
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.refresh(&self.private);
        current
    }

    /// Until when the authority's certificate is valid.
    ///
    /// # Errors
    /// Where it cannot be read back.
    pub fn valid_until(&self) -> Result<crate::model::Timestamp, TlsError> {
        use x509_parser::prelude::FromDer;
        let certificate = self.current().certificate.clone();
        let parsed = x509_parser::certificate::X509Certificate::from_der(&certificate);
        let (_, certificate) = parsed.map_err(|error| TlsError::Content {
            path: self.pem_path.clone(),
            expected: "a certificate",
            reason: error.to_string(),
        })?;
        Ok(crate::model::Timestamp::from_seconds(
            certificate.validity().not_after.timestamp(),
        ))
    }

    /// What processes are to trust, as PEM: the authority's certificate, and behind it those of authorities before it that
    /// are still trusted.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn pem(&self) -> Result<String, TlsError> {
        fs::read_to_string(&self.pem_path).map_err(|source| TlsError::File {
            path: self.pem_path.clone(),
            source,
        })
    }

    /// The file with what processes are to trust, readable by everybody.
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
        self.leaf_at(names, wall())
    }

    fn leaf_at(&self, names: Vec<SubjectName>, now: OffsetDateTime) -> Result<Leaf, TlsError> {
        let mut current = self.current();
        if let Some((known, made)) = current.leaves.get(&names)
            && (*made..*made + LEAF_RENEWED).contains(&now)
        {
            return Ok(known.clone());
        }
        if current.leaves.len() >= MAX_LEAVES {
            current.leaves.clear();
        }
        let made = self.make_leaf(&current, &names, now)?;
        current.leaves.insert(names, (made.clone(), now));
        Ok(made)
    }

    fn make_leaf(
        &self,
        current: &Current,
        names: &[SubjectName],
        now: OffsetDateTime,
    ) -> Result<Leaf, TlsError> {
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
        params.not_before = now - CLOCK_SLACK;
        params.not_after = now + LEAF_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&self.leaf_key, &current.issuer)
            .map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), current.certificate.clone()], key)?;
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

/// An authority in the place of another.
#[derive(Debug)]
pub struct Rotated {
    /// The file with what processes are to trust from now on.
    pub pem_path: PathBuf,
    /// Until when the authority before is trusted beside it.
    pub until: crate::model::Timestamp,
}

/// Makes another authority in `dir`. Running agents use it within a second, for handshakes from then on. The certificate of
/// the one before stays among those that processes are told to trust, for `overlap`; its key is gone.
///
/// Processes that have read their roots already do not trust the new one: they are to be started again.
///
/// # Errors
/// Where there is none yet, or a file cannot be read or written.
pub fn rotate(dir: &Path, host: &str, overlap: std::time::Duration) -> Result<Rotated, TlsError> {
    let private = dir.join("authority.pem");
    let old = Current::load(&private)?;
    let until = crate::clock::now().plus(overlap);
    let text = zeroize::Zeroizing::new(make(host)?);
    let mut before = format!("until: {}\n{}", until.as_seconds(), pem(&old.certificate));
    for (end, certificate) in trusted_before(dir) {
        before.push_str(&format!("until: {end}\n{certificate}"));
    }
    publish(&dir.join("previous.pem"), &before)?;
    // Trusted before it signs: first the files that processes read, then the key.
    let pem_path = dir.join("ca.pem");
    let all = format!("{}{}", certificate_of(&text), certificates_before(dir));
    publish(&pem_path, &all)?;
    append(&dir.join("bundle.pem"), certificate_of(&text))?;
    let draft = write_private(&private, &text)?;
    fs::rename(&draft, &private).map_err(|source| TlsError::File {
        path: private,
        source,
    })?;
    Ok(Rotated { pem_path, until })
}

/// Adds to a file at once, in its place: processes of a run have it in the place of the system's roots.
fn append(path: &Path, text: &str) -> Result<(), TlsError> {
    // A link there is not this agent's.
    let opened = fs::OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        // No run has made it yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| TlsError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The authority's certificate with those before it that are still trusted.
fn public(dir: &Path) -> Result<String, TlsError> {
    let path = dir.join("authority.pem");
    let text = fs::read_to_string(&path).map_err(|source| TlsError::File { path, source })?;
    let text = zeroize::Zeroizing::new(text);
    Ok(format!("{}{}", certificate_of(&text), certificates_before(dir)))
}

/// The certificate behind the key in a file that `create` wrote.
fn certificate_of(text: &str) -> &str {
    let start = text.find(BEGIN).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn certificates_before(dir: &Path) -> String {
    let certificates = trusted_before(dir).into_iter();
    certificates.map(|(_, certificate)| certificate).collect()
}

/// Certificates of authorities before that are still trusted, each with its end in seconds.
fn trusted_before(dir: &Path) -> Vec<(i64, String)> {
    let now = crate::clock::now().as_seconds();
    let text = fs::read_to_string(dir.join("previous.pem")).unwrap_or_default();
    let mut before = Vec::new();
    for part in text.split("until: ").skip(1) {
        let Some((end, certificate)) = part.split_once('\n') else {
            continue;
        };
        match end.trim().parse::<i64>() {
            Ok(end) if end > now => before.push((end, certificate.to_owned())),
            Ok(_) | Err(_) => {}
        }
    }
    before
}

/// RFC 7468 text of a certificate.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = data_encoding::BASE64.encode(certificate);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!("{BEGIN}\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Makes an authority in a file that is not there yet; `link` makes it appear whole.
fn create(path: &Path, host: &str) -> Result<(), TlsError> {
    let wrong = |source| TlsError::File {
        path: path.to_owned(),
        source,
    };
    let text = zeroize::Zeroizing::new(make(host)?);
    let draft = write_private(path, &text)?;
    let linked = match fs::hard_link(&draft, path) {
        // Another agent was quicker: its authority is the one.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&draft).map_err(wrong)?;
    linked.map_err(wrong)
}

/// Key and certificate as one text, so that they cannot come from two agents.
fn make(host: &str) -> Result<String, TlsError> {
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
    let key = zeroize::Zeroizing::new(key.serialize_pem());
    Ok(format!("{}{}", *key, certificate.pem()))
}

/// Writes what only root may read beside `path`, on the disk; its name.
fn write_private(path: &Path, text: &str) -> Result<PathBuf, TlsError> {
    let wrong = |source| TlsError::File {
        path: path.to_owned(),
        source,
    };
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file = new_file(&draft, 0o600).map_err(wrong)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(wrong)?;
    Ok(draft)
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
    let mut file = new_file(&draft, 0o644).map_err(failed)?;
    file.write_all(pem.as_bytes()).map_err(failed)?;
    // Whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)
}

/// A file that nobody has put there before, for whom the directory belongs to: root may write into one of an agent's.
fn new_file(path: &Path, mode: u32) -> std::io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Exclusive: a link is not followed.
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let Some(directory) = path.parent().and_then(|dir| fs::metadata(dir).ok()) else {
        return Ok(file);
    };
    if file.metadata()?.uid() != directory.uid() && directory.uid() != 0 {
        std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_only_its_certificate_is_public() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = Authority::load_or_create(dir.path(), "here").expect("made");
        let again = Authority::load_or_create(dir.path(), "here").expect("loaded");
        assert_eq!(first.pem().expect("read"), again.pem().expect("read"));
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
    fn a_leaf_is_made_anew_long_before_it_ends() {
        let dir = tempfile::tempdir().expect("temp dir");
        let authority = Authority::load_or_create(dir.path(), "here").expect("made");
        let names = || vec![SubjectName::Dns("db.example".into())];
        let now = wall();
        let leaf = |now| authority.leaf_at(names(), now).expect("leaf").1;
        let first = leaf(now);
        assert_eq!(leaf(now + LEAF_RENEWED - Duration::seconds(1)), first);
        let second = leaf(now + LEAF_RENEWED);
        assert_ne!(second, first);
        // A clock that was set back does not make it last.
        assert_ne!(leaf(now), second);
    }

    #[test]
    fn another_authority_signs_at_once_and_the_one_before_stays_trusted_for_a_while() {
        let dir = tempfile::tempdir().expect("temp dir");
        let authority = Authority::load_or_create(dir.path(), "here").expect("made");
        let leaf = || {
            authority.current.lock().expect("lock").looked -= LOOKED_AT;
            authority
                .leaf(vec![SubjectName::Dns("a.example".into())])
                .expect("leaf")
                .1
        };
        let trusted = || {
            let text = authority.pem().expect("read");
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            all.expect("certificates")
        };
        let (first, before) = (leaf(), trusted());
        fs::write(dir.path().join("bundle.pem"), "roots\n").expect("written");
        rotate(dir.path(), "here", std::time::Duration::from_secs(600)).expect("rotated");
        assert_ne!(leaf(), first);
        assert_eq!(trusted().len(), 2);
        assert_eq!(trusted().last(), before.first());
        let bundle = fs::read_to_string(dir.path().join("bundle.pem")).expect("read");
        assert!(bundle.starts_with("roots\n") && bundle.contains(BEGIN));
        // What has ended is trusted no more, and an agent that starts says so.
        rotate(dir.path(), "here", std::time::Duration::ZERO).expect("rotated");
        let again = Authority::load_or_create(dir.path(), "here").expect("loaded");
        let text = again.pem().expect("read");
        assert_eq!(text.matches(BEGIN).count(), 2);
        assert!(!text.contains("PRIVATE"));
        let mode = fs::metadata(dir.path().join("authority.pem"))
            .expect("there")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("authority.pem"), "nothing").expect("written");
        let error = Authority::load_or_create(dir.path(), "here").expect_err("damaged");
        assert!(error.to_string().contains("authority.pem"), "{error}");
    }
}
