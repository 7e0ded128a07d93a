//! The system's roots as the command sees them: in a mount namespace of its own, the bundle with the agent's CA stands in
//! the place of the system's. For programs that read no variable (GnuTLS, for one); the host's files are not touched.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::mount_bind;

/// Where distributions keep all roots in one file (Debian, Alpine and Arch; Red Hat; SUSE; OpenSSL's own default).
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Puts `bundle` over the system's, for this process and its descendants, which have mounts of their own.
///
/// # Errors
/// Where this process may not mount.
pub(super) fn trust(bundle: &Path) -> io::Result<()> {
    for place in places() {
        mount_bind(bundle, &place)?;
    }
    Ok(())
}

/// Whether a process sees `bundle` wherever the system keeps one.
pub(super) fn is_covered(pid: u32, bundle: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|seen| (seen.dev(), seen.ino()));
    let wanted = file(bundle);
    let mut places = places().into_iter();
    places.all(|place| {
        let inside = place.strip_prefix("/").unwrap_or(&place);
        file(&Path::new("/proc").join(pid.to_string()).join("root").join(inside)) == wanted
    })
}

/// The system's own, links followed.
fn places() -> BTreeSet<PathBuf> {
    let real = BUNDLES
        .iter()
        .filter_map(|place| Path::new(place).canonicalize().ok());
    real.filter(|place| place.is_file()).collect()
}

/// Where the system below `root` keeps one file of all roots, as its own processes see the place; links are not followed
/// (they may lead out of `root`).
#[must_use]
pub fn system_bundles(root: &Path) -> Vec<PathBuf> {
    let there = |place: &&&str| root.join(place.trim_start_matches('/')).exists();
    BUNDLES.iter().filter(there).map(PathBuf::from).collect()
}
