//! A real PostgreSQL of the test's own: loopback, TLS, SCRAM, everything that reaches it in its log.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools::certificates;

/// Where Debian keeps the server's programs.
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// The real password, which no governed process may ever need.
pub const PASSWORD: &str = "the-real-secret";

/// A running server; stopped and removed when dropped.
pub struct Postgres {
    dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Postgres {
    /// Starts a server below `dir` with the database `shop` and its tables.
    ///
    /// # Errors
    /// Where a program of it fails.
    pub fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("postgres");
        fs::create_dir_all(&dir)?;
        // The server runs as its own user and must reach its directory.
        for parent in dir.ancestors().skip(1).take(2) {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let password = dir.join("password");
        fs::write(&password, PASSWORD)?;
        certificates(&dir)?;
        sh(&format!("chown -R postgres {}", dir.display()))?;
        let data = dir.join("data");
        as_postgres(&[
            &format!("{BIN}/initdb"),
            "-D",
            &text(&data),
            "-U",
            "owner",
            "-A",
            "scram-sha-256",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            &format!("--pwfile={}", password.display()),
        ])?;
        let settings = format!(
            "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{0}'\nssl=on\nssl_cert_file='{0}/server.crt'\n\
             ssl_key_file='{0}/server.key'\nlog_statement=all\nfsync=off\nmax_connections=200\nlog_line_prefix='%a|'\n",
            dir.display()
        );
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        let server = Self { dir, port };
        server.control("start")?;
        server.direct("postgres", "CREATE DATABASE shop")?;
        server.direct(
            "shop",
            "CREATE TABLE customers (id int PRIMARY KEY, name text, email text UNIQUE, card text, phone text, notes jsonb);
             INSERT INTO customers VALUES
               (1, 'Ada Lovelace', 'ada@example.com', '4111 1111 1111 1111', '+1 415-555-0132', '{\"iban\": \"GB82WEST12345698765432\"}'),
               (2, 'Alan Turing', 'alan@example.org', '5555555555554444', '+44 20 7946 0958', '{}');
             CREATE TABLE orders (id int PRIMARY KEY, customer int, total numeric);
             INSERT INTO orders SELECT g, 1 + g % 2, g * 10 FROM generate_series(1, 100) g;
             CREATE VIEW people AS SELECT id, name AS who FROM customers;",
        )?;
        Ok(server)
    }

    /// The CA that signed its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Runs SQL past the agent, as the owner; what it prints.
    ///
    /// # Errors
    /// What psql says.
    pub fn direct(&self, database: &str, sql: &str) -> Result<String> {
        let out = Command::new("psql")
            .args([
                "-X",
                "-At",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "owner",
            ])
            .args(["-d", database, "-c", sql])
            .env("PGPASSWORD", PASSWORD)
            .output()?;
        ensure!(
            out.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Lets `role` in without TLS and without a password.
    ///
    /// # Errors
    /// Where the server does not take the new rule.
    pub fn trust(&self, role: &str) -> Result<()> {
        let path = self.dir.join("data/pg_hba.conf");
        let rules = fs::read_to_string(&path)?;
        fs::write(&path, format!("host all {role} 127.0.0.1/32 trust\n{rules}"))?;
        self.control("reload")
    }

    /// Waits until a statement with `text` in it runs.
    ///
    /// # Errors
    /// Where none does within ten seconds.
    pub fn wait_for_statement(&self, text: &str) -> Result<()> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%{text}%'"
        );
        for _ in 0..200 {
            if self.direct("postgres", &sql)?.trim() != "0" {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("no statement with {text:?} runs")
    }

    /// Everything that reached it, from its own log.
    ///
    /// # Errors
    /// The file system's.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("log"))?)
    }

    fn control(&self, what: &str) -> Result<()> {
        let (data, log) = (text(&self.dir.join("data")), text(&self.dir.join("log")));
        as_postgres(&[
            &format!("{BIN}/pg_ctl"),
            "-D",
            &data,
            "-l",
            &log,
            "-w",
            "-m",
            "immediate",
            what,
        ])
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The directory goes with the test's; a server that is gone already needs no stopping.
        let _gone = self.control("stop");
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn as_postgres(command: &[&str]) -> Result<()> {
    let out = Command::new("runuser")
        .args(["-u", "postgres", "--"])
        .args(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .context("runuser")?;
    ensure!(
        out.status.success(),
        "{}: {}",
        command.join(" "),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

fn sh(command: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", command]).status()?;
    ensure!(status.success(), "{command}");
    Ok(())
}
