//! Unix sockets of processes outside the run: which a command may use, and what it does not see.

use std::path::{Component, Path, PathBuf};

use super::load::Reader;
use super::raw::RawUnix;
use super::types::UnixConfig;

/// Sockets of daemons that do things on the network, or hand out data, for whoever may talk to them; never seen by a
/// command unless `[unix] allow` names them. Directories where a daemon has one of its own: it makes its socket anew when
/// it is started again, which uncovers a socket that is covered by itself.
pub const DAEMONS: [&str; 24] = [
    "/run/docker.sock",
    "/run/docker",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/buildkit",
    "/run/dbus",
    "/run/systemd/private",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/systemd/machine",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    "/run/libvirt",
    "/run/lxd.socket",
    "/run/avahi-daemon",
    "/run/cups",
    "/run/postgresql",
    "/run/mysqld",
    "/run/redis",
    "/run/user/*/bus",
    "/run/user/*/systemd",
    "/run/user/*/podman",
    "/run/user/*/docker.sock",
];

impl Reader<'_> {
    pub(super) fn unix(&mut self, RawUnix { allow, hide }: &RawUnix) -> UnixConfig {
        let allow = allow.iter().filter_map(|text| self.take(text, name));
        let allow = allow.collect();
        let hide: Vec<PathBuf> = hide.iter().filter_map(|text| self.take(text, hidden)).collect();
        UnixConfig {
            allow,
            hide: DAEMONS.iter().map(PathBuf::from).chain(hide).collect(),
        }
    }
}

/// The name of a Unix socket: a path, or `@` and the rest of an abstract name (unix(7): at most 107 bytes).
fn name(text: &str) -> Result<String, String> {
    if !(text.starts_with('/') || text.starts_with('@')) || text.len() < 2 {
        return Err(format!(
            "{text:?} is no Unix socket: write its path, or \"@name\" for an abstract one, as `ss -xl` shows it"
        ));
    }
    if text.len() > 107 {
        return Err(format!(
            "{text:?} is longer than a Unix socket's name can be (107 bytes)"
        ));
    }
    Ok(text.to_owned())
}

/// Something to hide.
fn hidden(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = |part: Component<'_>| !matches!(part, Component::ParentDir);
    if path.is_absolute() && path.components().count() > 1 && path.components().all(plain) {
        return Ok(path.to_owned());
    }
    Err(format!(
        "{text:?} cannot be hidden: write an absolute path such as \"/run/daemon.sock\", in which * is any one part"
    ))
}
