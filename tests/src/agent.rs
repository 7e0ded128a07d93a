//! The agent around a command, as a user would start it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::oidc::Oidc;
use crate::postgres::{PASSWORD, Postgres};
use crate::tools::binary;

/// A directory with everything that the agent needs to govern one database.
pub struct Agent {
    dir: PathBuf,
    user: Option<String>,
    port: u16,
    policies: Option<PathBuf>,
}

/// How a governed command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error, with the agent's log.
    pub err: String,
}

impl Agent {
    /// Writes a configuration for `database` and `issuer` below `dir`; `more` is appended to it.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(dir: &Path, database: &Postgres, issuer: &Oidc, more: &str) -> Result<Self> {
        let dir = dir.join("agent");
        fs::create_dir_all(&dir)?;
        pass(&dir)?;
        fs::write(dir.join("password"), PASSWORD)?;
        fs::set_permissions(dir.join("password"), fs::Permissions::from_mode(0o600))?;
        let config = format!(
            r#"state_dir = "state"

[[issuer]]
name = "corp"
issuer = "{issuer}"
audience = ["interdict"]

[[target]]
name = "shop"
protocol = "postgres"
addresses = ["localhost:{port}"]
environment = "prod"
ca_file = "{ca}"
[target.credential]
user = "owner"
password_file = "password"
[target.columns]
"customers.name" = "pii.name"

{more}
"#,
            issuer = issuer.issuer(),
            port = database.port,
            ca = database.ca().display(),
        );
        fs::write(dir.join("interdict.toml"), config)?;
        Ok(Self {
            dir,
            user: Some("nobody".into()),
            port: database.port,
            policies: None,
        })
    }

    /// Takes policies from `dir` in place of the shipped ones.
    #[must_use]
    pub fn with_policies(mut self, dir: &Path) -> Self {
        self.policies = Some(dir.to_owned());
        self
    }

    /// An agent below `dir` with this configuration, beside its issuer's.
    ///
    /// # Errors
    /// The file system's.
    pub fn configured(dir: &Path, issuer: &Oidc, config: &str) -> Result<Self> {
        let dir = dir.join("agent");
        fs::create_dir_all(&dir)?;
        pass(&dir)?;
        let issuer = issuer.issuer();
        let whole = format!(
            "state_dir = \"state\"\n[[issuer]]\nname = \"corp\"\nissuer = \"{issuer}\"\naudience = [\"interdict\"]\n{config}"
        );
        fs::write(dir.join("interdict.toml"), whole)?;
        Ok(Self {
            dir,
            user: Some("nobody".into()),
            port: 0,
            policies: None,
        })
    }

    /// Runs governed commands as the caller itself.
    #[must_use]
    pub fn as_caller(mut self) -> Self {
        self.user = None;
        self
    }

    /// Writes a token to a file and returns its path.
    ///
    /// # Errors
    /// The file system's.
    pub fn token(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, token)?;
        Ok(path)
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("interdict.toml")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `interdict run` with `command`, ready to be started.
    #[must_use]
    pub fn command(&self, token: Option<&Path>, command: &[&str]) -> Command {
        let mut run = Command::new(binary());
        run.arg("run")
            .arg("--config")
            .arg(self.dir.join("interdict.toml"));
        if let Some(token) = token {
            run.arg("--identity-token-file").arg(token);
        }
        if let Some(dir) = &self.policies {
            run.arg("--policies").arg(dir);
        }
        if let Some(user) = &self.user {
            run.args(["--user", user]);
        }
        run.arg("--")
            .args(command)
            .current_dir("/")
            .env_remove("SUDO_UID");
        run.envs([
            ("PGPASSWORD", "wrong"),
            ("PGSSLMODE", "verify-full"),
            ("PGHOST", "localhost"),
            ("PGUSER", "anybody"),
        ]);
        run.envs([
            ("PGPORT", self.port.to_string().as_str()),
            ("PGDATABASE", "shop"),
            ("HOME", "/nonexistent"),
        ]);
        run
    }

    /// Runs a governed command to its end.
    ///
    /// # Errors
    /// Where the agent cannot be started.
    pub fn run(&self, token: Option<&Path>, command: &[&str]) -> Result<Ended> {
        let out = self
            .command(token, command)
            .stdin(Stdio::null())
            .output()
            .context("interdict run")?;
        Ok(ended(&out))
    }

    /// Runs SQL with a governed psql.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub fn psql(&self, token: Option<&Path>, sql: &str) -> Result<Ended> {
        self.run(
            token,
            &["psql", "-X", "-At", "-v", "VERBOSITY=verbose", "-c", sql],
        )
    }

    /// Starts a governed command.
    ///
    /// # Errors
    /// Where the agent cannot be started.
    pub fn start(&self, token: Option<&Path>, command: &[&str]) -> Result<Child> {
        let mut run = self.command(token, command);
        Ok(run
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?)
    }

    /// Another subcommand of `interdict`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn interdict(&self, arguments: &[&str]) -> Result<Ended> {
        Ok(ended(
            &Command::new(binary())
                .args(arguments)
                .env_remove("INTERDICT_TOKEN")
                .output()?,
        ))
    }

    /// Every record, in order.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn records(&self) -> Result<Vec<Value>> {
        let dir = self.state().join("audit").display().to_string();
        let shown = self.interdict(&["sessions", "show", "--json", "--dir", &dir])?;
        ensure!(shown.status == 0, "{}", shown.err);
        shown
            .out
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// `interdict audit verify`.
    ///
    /// # Errors
    /// Where it finds something wrong.
    pub fn verify(&self) -> Result<()> {
        let dir = self.state().join("audit").display().to_string();
        let seen = self.interdict(&["audit", "verify", "--dir", &dir])?;
        ensure!(seen.status == 0, "{}{}", seen.out, seen.err);
        Ok(())
    }
}

/// Lets every user through to a directory, as where a real agent's state is.
fn pass(dir: &Path) -> Result<()> {
    for place in [Some(dir), dir.parent()].into_iter().flatten() {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The proxy of the guard `agent`: its only child that says so.
///
/// # Errors
/// Where it has none.
pub fn proxy_of(agent: u32) -> Result<rustix::process::Pid> {
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    for child in children.split_whitespace() {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if line
            .split(|byte| *byte == 0)
            .any(|word| word.starts_with(b"__proxy"))
        {
            return rustix::process::Pid::from_raw(child.parse()?).context("pid");
        }
    }
    anyhow::bail!("{agent} has no proxy among its children: {children}")
}

/// How a command ended, with what it printed.
#[must_use]
pub fn ended(out: &Output) -> Ended {
    Ended {
        status: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
