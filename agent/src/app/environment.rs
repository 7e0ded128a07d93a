//! What the governed command finds in its environment: the agent's CA, and none of the agent's secrets.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;

use crate::config::{Config, SecretSourceConfig};

/// Variables that name a file of *all* trusted roots: they get the system's roots and the agent's CA.
pub(super) const BUNDLE_VARIABLES: [&str; 12] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    // Without it npm would use a file of its own configuration alone.
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "CODEX_CA_CERTIFICATE",
    "PGSSLROOTCERT",
];
/// Variables that name a file of *further* roots: they get the agent's CA alone.
pub(super) const EXTRA_VARIABLES: [&str; 3] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT", "INTERDICT_CA_FILE"];

/// Changes to the environment of the governed command.
#[derive(Debug, Default)]
pub struct Environment {
    /// Variables to set.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to remove: they hold what only the agent may know.
    pub removed: Vec<OsString>,
    /// The file of all trusted roots.
    pub bundle: PathBuf,
}

/// The changes for a command: trust in the agent's CA, and no variable that the configuration takes a secret from
/// (nor `token_variable`).
#[must_use]
pub fn for_command(config: &Config, ca: &Path, bundle: &Path, token_variable: Option<&str>) -> Environment {
    let mut set: Vec<(OsString, OsString)> = BUNDLE_VARIABLES
        .iter()
        .map(|name| (name.into(), bundle.as_os_str().to_owned()))
        .collect();
    set.extend(
        EXTRA_VARIABLES
            .iter()
            .map(|name| (name.into(), ca.as_os_str().to_owned())),
    );
    let passwords = config
        .targets
        .iter()
        .filter_map(|t| t.credential.as_ref())
        .map(|c| &c.password);
    let sink = config.audit.clickhouse.as_ref().and_then(|c| c.password.as_ref());
    let mut removed: Vec<OsString> = passwords
        .chain(sink)
        .filter_map(|source| match source {
            SecretSourceConfig::Env(name) => Some(name.into()),
            SecretSourceConfig::File(_) => None,
        })
        .collect();
    removed.extend(token_variable.map(Into::into));
    removed.push("INTERDICT_TOKEN".into());
    Environment {
        set,
        removed,
        bundle: bundle.to_owned(),
    }
}

/// The file of all roots in the authority's directory.
#[must_use]
pub fn bundle_path(dir: &Path) -> PathBuf {
    dir.join("bundle.pem")
}

/// Writes the system's roots and the agent's CA to one file, readable by everybody, and returns its path.
///
/// # Errors
/// The file system's.
pub fn write_bundle(dir: &Path, ca_pem: &str) -> std::io::Result<PathBuf> {
    let path = bundle_path(dir);
    let draft = dir.join(format!("bundle.draft-{}", std::process::id()));
    let mut file = std::io::BufWriter::new(fs::File::create(&draft)?);
    file.write_all(ca_pem.as_bytes())?;
    for root in rustls_native_certs::load_native_certs().certs {
        file.write_all(pem(&root).as_bytes())?;
    }
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
    fs::rename(&draft, &path)?;
    Ok(path)
}

/// RFC 7468 text of a certificate.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = data_encoding::BASE64.encode(certificate);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn secrets_of_the_agent_are_removed() {
        let text = "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"h\"]\n\
                    [target.credential]\nuser = \"u\"\npassword_env = \"DB_PASSWORD\"\n";
        let config = crate::config::parse(text, "interdict.toml".as_ref()).expect("valid");
        let environment = for_command(
            &config,
            "ca.pem".as_ref(),
            "bundle.pem".as_ref(),
            Some("MY_TOKEN"),
        );
        for name in ["DB_PASSWORD", "MY_TOKEN", "INTERDICT_TOKEN"] {
            assert!(environment.removed.contains(&name.into()), "{name}");
        }
    }

    #[test]
    fn the_bundle_holds_the_agents_ca() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ca = rcgen::generate_simple_self_signed(vec!["ca".to_owned()])
            .expect("made")
            .cert;
        let path = write_bundle(dir.path(), &pem(ca.der())).expect("written");
        let roots: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .expect("certificates");
        assert!(roots.contains(ca.der()));
    }
}
