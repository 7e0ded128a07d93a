//! Whom the proxy runs as: a user of the agent's own, never root and never the command's.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::user::{RunAs, UserError, choose};

/// The user that packages make for the agent.
const NAME: &str = "interdict";
/// Where there is none: numbers that no distribution gives away (Debian policy 9.2.2 keeps 65000 to 65533 back, and
/// systemd gives numbers up to 65519 to services without a user, and names them while they run).
const RESERVED: std::ops::RangeInclusive<u32> = 65_210..=65_225;

/// The proxy's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUser {
    /// Its name, or its number where it has none.
    pub name: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Why the proxy has no user.
#[derive(Debug, thiserror::Error)]
pub enum AgentUserError {
    /// The configured one cannot be used.
    #[error("`[agent] user`: {0}")]
    Configured(#[source] UserError),
    /// The user database failed.
    #[error(transparent)]
    Lookup(UserError),
    /// Root.
    #[error("`[agent] user` is root: name a user that nothing else runs as, or leave the line out")]
    Root,
    /// Every number is somebody's.
    #[error(
        "there is no user {NAME:?} here, and the numbers {}-{} are all taken: adduser --system --group {NAME}",
        RESERVED.start(),
        RESERVED.end()
    )]
    Taken,
    /// The command's own.
    #[error(
        "the command would run as {0}, which is the agent's own user and owns its keys and records: give another --user"
    )]
    Commands(String),
}

/// The proxy's user: the `configured` one; else `interdict`; else a reserved number, the one that `state` belongs to already
/// where it belongs to such.
///
/// # Errors
/// Where there is none, or it is the one that the command runs as.
pub fn agent_user(
    configured: Option<&str>,
    state: &Path,
    run_as: Option<&RunAs>,
) -> Result<AgentUser, AgentUserError> {
    let user = match configured {
        Some(name) => named(name).map_err(AgentUserError::Configured)?,
        None if name_of(NAME)?.is_some() => named(NAME).map_err(AgentUserError::Lookup)?,
        None => reserved(state)?,
    };
    if user.uid == 0 {
        return Err(AgentUserError::Root);
    }
    if run_as.is_some_and(|command| command.uid == user.uid) {
        return Err(AgentUserError::Commands(user.name));
    }
    Ok(user)
}

fn named(name: &str) -> Result<AgentUser, UserError> {
    match choose(Some(name), None)? {
        Some(RunAs { name, uid, gid, .. }) => Ok(AgentUser { name, uid, gid }),
        None => Err(UserError::Unknown(name.to_owned())),
    }
}

fn reserved(state: &Path) -> Result<AgentUser, AgentUserError> {
    let owner = std::fs::metadata(state).map(|found| found.uid()).ok();
    let first = owner.filter(|uid| RESERVED.contains(uid));
    for uid in first.into_iter().chain(RESERVED) {
        let found = User::from_uid(Uid::from_raw(uid)).map_err(lookup)?;
        if found.is_none() {
            let name = uid.to_string();
            return Ok(AgentUser { name, uid, gid: uid });
        }
    }
    Err(AgentUserError::Taken)
}

fn name_of(name: &str) -> Result<Option<User>, AgentUserError> {
    User::from_name(name).map_err(lookup)
}

fn lookup(source: nix::Error) -> AgentUserError {
    AgentUserError::Lookup(UserError::Lookup {
        name: NAME.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_elses_user_is_taken() {
        let dir = tempfile::tempdir().expect("temp dir");
        let found = agent_user(None, dir.path(), None).expect("a user");
        assert!(found.name == NAME || RESERVED.contains(&found.uid), "{found:?}");
        assert!(found.uid != 0);
        let command = RunAs {
            name: "c".into(),
            uid: found.uid,
            gid: found.gid,
            groups: Vec::new(),
            home: None,
        };
        assert!(matches!(
            agent_user(None, dir.path(), Some(&command)),
            Err(AgentUserError::Commands(_))
        ));
        assert!(matches!(
            agent_user(Some("root"), dir.path(), None),
            Err(AgentUserError::Root)
        ));
        assert!(matches!(
            agent_user(Some("no such user"), dir.path(), None),
            Err(AgentUserError::Configured(_))
        ));
        let nobody = agent_user(Some("nobody"), dir.path(), None).expect("a user");
        assert_eq!(nobody.name, "nobody");
    }
}
