//! Whom the governed command runs as.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A local user with all that a log-in would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The name; the number where the user has none.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home directory, where the user has one.
    pub home: Option<PathBuf>,
}

/// Why a user cannot be run as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("there is no user {0:?} here: give a name of `getent passwd` or a number")]
    Unknown(String),
    /// The user database failed.
    #[error("the user {name:?} cannot be looked up: {source}")]
    Lookup {
        /// Who.
        name: String,
        /// Why.
        source: nix::Error,
    },
}

/// Whom to run as: `--user`; else whoever called `sudo`; else the caller itself (`None`: no change).
///
/// # Errors
/// Where the user does not exist.
pub fn choose(user: Option<&str>, sudo_uid: Option<&str>) -> Result<Option<RunAs>, UserError> {
    match (user, sudo_uid) {
        (Some(user), _) => look_up(user).map(Some),
        (None, Some(uid)) => look_up(uid).map(Some),
        (None, None) => Ok(None),
    }
}

fn look_up(text: &str) -> Result<RunAs, UserError> {
    let failed = |source| UserError::Lookup {
        name: text.to_owned(),
        source,
    };
    let number = text.parse::<u32>().ok();
    let found = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)).map_err(failed)?,
        None => User::from_name(text).map_err(failed)?,
    };
    match (found, number) {
        (Some(user), _) => with_groups(user).map_err(failed),
        // A number without an entry is a user too (containers): with a group of the same number, where that exists.
        (None, Some(uid)) => {
            let gid = Group::from_gid(Gid::from_raw(uid))
                .map_err(failed)?
                .map_or(uid, |group| group.gid.as_raw());
            Ok(RunAs {
                name: uid.to_string(),
                uid,
                gid,
                groups: vec![gid],
                home: None,
            })
        }
        (None, None) => Err(UserError::Unknown(text.to_owned())),
    }
}

fn with_groups(user: User) -> Result<RunAs, nix::Error> {
    let name = CString::new(user.name.as_str()).map_err(|_nul| nix::Error::EINVAL)?;
    let groups = getgrouplist(&name, user.gid)?
        .into_iter()
        .map(Gid::as_raw)
        .collect();
    Ok(RunAs {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups,
        home: Some(user.dir),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_users_and_nobody_is_not_guessed() {
        let by_name = choose(Some("nobody"), Some("0"))
            .expect("found")
            .expect("somebody");
        let by_number = choose(Some(&by_name.uid.to_string()), None)
            .expect("found")
            .expect("somebody");
        assert_eq!(by_name, by_number);
        assert_eq!(choose(None, None).expect("fine"), None);
        assert!(matches!(
            choose(Some("no such user"), None),
            Err(UserError::Unknown(_))
        ));
    }
}
