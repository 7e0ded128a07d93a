//! Certificates, clock, and the place for records.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::connection::tls::Authority;
use crate::guard::clock_is_kept;

use super::Check;

/// Before the authority's end, it is time to think of another.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// This many times the smallest free space, records will end soon.
const TIGHT: u64 = 8;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    vec![authority(config), roots(), clock(), audit(config)]
}

/// The agent's own authority is not made here: that is for the first run.
fn authority(config: &Config) -> Check {
    let (area, name) = ("host", "the agent's certificate authority");
    let dir = config.state_dir.join("ca");
    if !dir.join("authority.pem").exists() {
        let found = format!("{}: made by the first run", dir.display());
        return Check::available(area, name, found);
    }
    let loaded = Authority::load_or_create(&dir, "doctor").and_then(|authority| {
        let until = authority.valid_until()?;
        Ok((authority.pem_path().display().to_string(), until))
    });
    match loaded {
        Ok((path, until)) if until > crate::clock::now().plus(SOON) => {
            Check::available(area, name, format!("{path}, valid until {until}"))
        }
        Ok((path, until)) => Check::limited(area, name, format!("{path}, valid until {until}"))
            .next("interdict ca rotate makes another, which processes then trust"),
        Err(error) => Check::missing(area, name, error.to_string())
            .next("restore the directory, or remove it: the next run makes another"),
    }
}

fn roots() -> Check {
    let count = rustls_native_certs::load_native_certs().certs.len();
    if count == 0 {
        Check::limited("host", "root certificates", "none")
            .next("apt-get install ca-certificates; until then only a ca_file verifies issuers and targets")
    } else {
        Check::available("host", "root certificates", format!("{count} trusted"))
    }
}

fn clock() -> Check {
    let now = crate::clock::now();
    match clock_is_kept() {
        Ok(true) => Check::available("host", "clock", format!("{now}, synchronised")),
        Ok(false) => Check::limited("host", "clock", format!("{now}, not synchronised"))
            .next("run chrony or systemd-timesyncd: tokens and consents end by this clock"),
        Err(error) => Check::limited("host", "clock", format!("{now}, {error}"))
            .next("compare it with another clock: tokens and consents end by it"),
    }
}

fn audit(config: &Config) -> Check {
    let dir = &config.audit.dir;
    let (area, name) = ("audit", dir.display().to_string());
    // The nearest directory that exists is where it would be made.
    let Some(there) = dir.ancestors().find(|path| path.is_dir()) else {
        return Check::missing(area, name, "no directory above it exists").next("set state_dir or audit.dir");
    };
    if let Err(error) = writable(there) {
        return Check::missing(area, name, format!("{}: {error}", there.display()))
            .next("run as root, or give another state_dir: nothing is done that cannot be recorded");
    }
    let space = match rustix::fs::statvfs(there) {
        Ok(space) => space,
        Err(error) => {
            return Check::missing(area, name, error.to_string()).next("set audit.dir to another place");
        }
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let least = config.audit.min_free_bytes;
    let found = format!("{} MiB free", free / (1024 * 1024));
    if free < least {
        Check::missing(area, name, found).next(format!(
            "free some: below {} MiB (audit.min_free_bytes) nothing new is forwarded",
            least / (1024 * 1024)
        ))
    } else if free < least.saturating_mul(TIGHT) {
        Check::limited(area, name, found).next("free some, or move older segments away")
    } else {
        Check::available(area, name, found)
    }
}

fn writable(dir: &Path) -> std::io::Result<()> {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).map_err(std::io::Error::from)?;
    fs::read_dir(dir).map(drop)
}
