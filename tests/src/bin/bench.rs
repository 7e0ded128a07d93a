//! `cargo xtask bench postgres`: pgbench select-only, direct, through pgbouncer, through the agent (with inspection and
//! recording), and through the agent with two masked columns. Rounds are interleaved; medians with spread.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use interdict_tests::postgres::PASSWORD;
use interdict_tests::{Agent, Oidc, Postgres};
use serde_json::json;

const ROUNDS: usize = 5;
const SECONDS: &str = "4";
const CLIENTS: &str = "32";

const SELECT: &str = "\\set aid random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
const PEOPLE: &str = "\\set id random(1, 10000)\nSELECT id, name, email FROM people_bench WHERE id = :id;\n";

fn main() -> Result<()> {
    let machine = std::env::args().any(|argument| argument == "--json");
    let dir = tempfile::tempdir()?;
    let database = Postgres::start(dir.path())?;
    database.direct(
        "shop",
        "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, abalance int, filler char(84));
         INSERT INTO pgbench_accounts SELECT g, g, '' FROM generate_series(1, 100000) g;
         CREATE TABLE people_bench (id int PRIMARY KEY, name text, email text);
         INSERT INTO people_bench SELECT g, 'Name ' || g, 'user' || g || '@example.com' FROM generate_series(1, 10000) g;",
    )?;
    database.direct("shop", "VACUUM ANALYZE")?;
    // The tests want every statement in the server's log; nobody else does.
    database.direct("shop", "ALTER SYSTEM SET log_statement = 'none'")?;
    database.direct("shop", "SELECT pg_reload_conf()")?;
    let issuer = Oidc::start()?;
    let agent = Agent::new(dir.path(), &database, &issuer, "")?.as_caller();
    let config = agent.state().with_file_name("interdict.toml");
    let text = std::fs::read_to_string(&config)?;
    let columns =
        "[target.columns]\n\"people_bench.name\" = \"pii.name\"\n\"people_bench.email\" = \"pii.email\"";
    std::fs::write(&config, text.replace("[target.columns]", columns))?;
    let alice = agent.token("alice", &issuer.token("alice", &[], 3600))?;
    let (select, people) = (dir.path().join("select.sql"), dir.path().join("people.sql"));
    std::fs::write(&select, SELECT)?;
    std::fs::write(&people, PEOPLE)?;
    let bouncer = Bouncer::start(dir.path(), &database)?;

    let mut figures: [Vec<f64>; 5] = Default::default();
    for round in 1..=ROUNDS {
        let direct = [
            ("PGPASSWORD", PASSWORD.to_owned()),
            ("PGPORT", database.port.to_string()),
        ];
        let bounced = [
            ("PGPASSWORD", PASSWORD.to_owned()),
            ("PGPORT", bouncer.port.to_string()),
        ];
        let now = [
            plain(&select, &direct)?,
            plain(&select, &bounced)?,
            governed(&agent, &alice, &select)?,
            plain(&people, &bounced)?,
            governed(&agent, &alice, &people)?,
        ];
        println!(
            "round {round}: direct {:.0}, pgbouncer {:.0}, agent {:.0}, pgbouncer (people) {:.0}, agent masking 2 {:.0} tps",
            now[0], now[1], now[2], now[3], now[4]
        );
        for (all, one) in figures.iter_mut().zip(now) {
            all.push(one);
        }
    }
    let medians = figures.each_ref().map(|all| median(all));
    for (name, all) in [
        "direct",
        "pgbouncer",
        "agent",
        "pgbouncer (people)",
        "agent masking 2",
    ]
    .iter()
    .zip(&figures)
    {
        let (low, high) = all
            .iter()
            .fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        println!(
            "{name:>20}: median {:.0} tps ({low:.0} to {high:.0})",
            median(all)
        );
    }
    let ratios = json!({
        "inspect_vs_direct": round2(medians[2] / medians[0]),
        "inspect_vs_pgbouncer": round2(medians[2] / medians[1]),
        "mask2_vs_pgbouncer": round2(medians[4] / medians[3]),
    });
    if machine {
        println!("{}", json!({"bench": "postgres", "ratios": ratios}));
    } else {
        println!("{ratios:#}");
    }
    Ok(())
}

fn arguments(script: &Path) -> Vec<String> {
    let script = script.display().to_string();
    [
        "-n", "-M", "extended", "-c", CLIENTS, "-j", "1", "-T", SECONDS, "-f", &script,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn plain(script: &Path, environment: &[(&str, String)]) -> Result<f64> {
    let mut command = Command::new("pgbench");
    command
        .args(arguments(script))
        .env("PGHOST", "127.0.0.1")
        .env("PGUSER", "owner")
        .env("PGDATABASE", "shop");
    for (name, value) in environment {
        command.env(name, value);
    }
    let out = command.env("PGSSLMODE", "disable").output()?;
    tps(&String::from_utf8_lossy(&out.stdout))
        .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
}

fn governed(agent: &Agent, token: &Path, script: &Path) -> Result<f64> {
    let mut all = vec![
        "env".to_owned(),
        "PGSSLMODE=disable".to_owned(),
        "pgbench".to_owned(),
    ];
    all.extend(arguments(script));
    let words: Vec<&str> = all.iter().map(String::as_str).collect();
    let seen = agent.run(Some(token), &words)?;
    tps(&seen.out).with_context(|| seen.err)
}

fn tps(text: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("tps = "))
        .context("pgbench gave no figure")?;
    Ok(line.split_whitespace().nth(2).context("no figure")?.parse()?)
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn round2(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

/// pgbouncer in session mode, with SCRAM on both sides, and TLS towards the server as the agent has it.
struct Bouncer {
    child: Child,
    port: u16,
}

impl Bouncer {
    fn start(dir: &Path, database: &Postgres) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let users = dir.join("users.txt");
        std::fs::write(&users, format!("\"owner\" \"{PASSWORD}\"\n"))?;
        let config = dir.join("pgbouncer.ini");
        let text = format!(
            "[databases]\nshop = host=localhost port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = session\nmax_client_conn = 100\nserver_tls_sslmode = verify-full\n\
             server_tls_ca_file = {}\nlogfile = /dev/null\nunix_socket_dir =\n",
            database.port,
            users.display(),
            database.ca().display()
        );
        std::fs::write(&config, text)?;
        let status = Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(dir.join("users.txt"))
            .arg(&config)
            .status()?;
        ensure!(status.success(), "chmod");
        let child = Command::new("runuser")
            .args(["-u", "postgres", "--", "pgbouncer", "-q"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let bouncer = Self { child, port };
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(bouncer);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("pgbouncer does not listen")
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // `runuser` passes the signal on to what it started.
        let _gone = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let _gone = self.child.wait();
    }
}
