//! `cargo xtask bench http`: the same requests to nginx directly, through HAProxy, through mitmproxy and through the agent
//! (with inspection and recording; with values to mask). Rounds are interleaved, so that what else the machine does
//! meets all of them; a ratio is the median of those of the rounds.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use interdict_tests::tools::{certificates, repository, tool};
use interdict_tests::{Agent, Oidc};
use serde_json::json;

const ROUNDS: usize = 5;
/// Seconds of one measurement, after one to warm up.
const SECONDS: &str = "2";
/// Connections of HTTP/1.1; HTTP/2 has the same number of requests at a time over four.
const CONNECTIONS: &str = "32";
/// Requests for events of one measurement.
const EVENTS: &str = "400";

/// What is asked for, over what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    name: &'static str,
    path: &'static str,
    tls: bool,
    two: bool,
}

const fn load(name: &'static str, path: &'static str, tls: bool, two: bool) -> Load {
    Load { name, path, tls, two }
}

const LOADS: [Load; 7] = [
    load("tls h1 1k", "/orders.json", true, false),
    load("tls h1 1k masked", "/people.json", true, false),
    load("tls h1 100k", "/many.json", true, false),
    load("tls h2 1k", "/orders.json", true, true),
    load("tls h2 100k", "/many.json", true, true),
    load("plain h1 1k", "/orders.json", false, false),
    load("plain h1 100k", "/many.json", false, false),
];

/// Through what.
const WAYS: [&str; 4] = ["direct", "haproxy", "mitmproxy", "agent"];

type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

fn main() -> Result<()> {
    let machine = std::env::args().any(|argument| argument == "--json");
    let only = std::env::args().skip_while(|a| a != "--only").nth(1);
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let servers = Servers::start(dir.path())?;
    let issuer = Oidc::start()?;
    let agent = agent(dir.path(), &issuer, &servers)?;
    let alice = agent.token("alice", &issuer.token("alice", &[], 3600))?;
    let mut figures = Figures::new();
    for round in 1..=ROUNDS {
        for each in LOADS {
            if only.as_deref().is_some_and(|only| only != each.name) {
                continue;
            }
            let mut line = format!("round {round}, {}:", each.name);
            for way in WAYS {
                // Slow, and a yardstick for one figure only.
                if way == "mitmproxy" && each.name != "tls h1 1k" {
                    continue;
                }
                let rate = match way {
                    "agent" => governed(&agent, &alice, each, &servers)?,
                    _ => plain(each, servers.port(way, each.tls))?,
                };
                line.push_str(&format!(" {way} {rate:.0}/s"));
                figures.entry((each.name, way)).or_default().push(rate);
            }
            println!("{line}");
        }
        if only.is_none() {
            let (direct, through) = first_events(&agent, &alice, &servers)?;
            println!("round {round}, first event: direct {direct:.0} us, agent {through:.0} us");
            figures.entry(("sse", "direct")).or_default().push(direct);
            figures.entry(("sse", "agent")).or_default().push(through);
        }
    }
    for ((load, way), all) in &figures {
        let low = all.iter().copied().fold(f64::MAX, f64::min);
        let high = all.iter().copied().fold(0.0, f64::max);
        println!(
            "{load:>18} {way:>10}: median {:.0} ({low:.0} to {high:.0})",
            median(all)
        );
    }
    let ratios = ratios(&figures);
    if machine {
        println!("{}", json!({"bench": "http", "ratios": ratios}));
    } else {
        println!("{ratios:#}");
    }
    Ok(())
}

/// The agent by the yardstick, and what it adds to a first event in microseconds.
fn ratios(figures: &Figures) -> serde_json::Value {
    let of = |load, way| figures.get(&(load, way)).cloned().unwrap_or_default();
    let ratio = |load: &'static str, yardstick: &'static str| {
        let (ours, theirs) = (of(load, "agent"), of(load, yardstick));
        let each: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
        (median(&each) * 100.0).round() / 100.0
    };
    let (through, direct) = (of("sse", "agent"), of("sse", "direct"));
    let added: Vec<f64> = through.iter().zip(&direct).map(|(a, b)| a - b).collect();
    json!({
        "inspect_vs_direct_1k": ratio("tls h1 1k", "direct"),
        "inspect_vs_haproxy_1k": ratio("tls h1 1k", "haproxy"),
        "inspect_vs_haproxy_100k": ratio("tls h1 100k", "haproxy"),
        "inspect_vs_haproxy_h2_1k": ratio("tls h2 1k", "haproxy"),
        "inspect_vs_haproxy_h2_100k": ratio("tls h2 100k", "haproxy"),
        "inspect_vs_haproxy_plain_1k": ratio("plain h1 1k", "haproxy"),
        "inspect_vs_haproxy_plain_100k": ratio("plain h1 100k", "haproxy"),
        "mask_vs_haproxy_1k": ratio("tls h1 1k masked", "haproxy"),
        "inspect_vs_mitmproxy_1k": ratio("tls h1 1k", "mitmproxy"),
        "sse_first_byte_added_us": median(&added).round(),
    })
}

fn agent(dir: &Path, issuer: &Oidc, servers: &Servers) -> Result<Agent> {
    let config = format!(
        "[[target]]\nname = \"api\"\nprotocol = \"http\"\nenvironment = \"prod\"\naddresses = [\"localhost:{}\"]\n\
         ca_file = \"{}\"\n\
         [[target]]\nname = \"plain\"\nprotocol = \"http\"\nenvironment = \"prod\"\naddresses = [\"localhost:{}\"]\n\
         tls = \"disabled\"\n",
        servers.port("direct", true),
        servers.dir.join("ca.crt").display(),
        servers.port("direct", false),
    );
    Ok(Agent::configured(dir, issuer, &config)?.as_caller())
}

/// h2load's arguments for a load on a port.
fn arguments(each: Load, port: u16) -> Vec<String> {
    let scheme = if each.tls { "https" } else { "http" };
    let url = format!("{scheme}://localhost:{port}{}", each.path);
    let mut all = vec!["-D", SECONDS, "--warm-up-time", "1", "-t", "1"];
    all.extend(if each.two {
        ["-c", "4", "-m", "8"].as_slice()
    } else {
        ["-c", CONNECTIONS, "--h1"].as_slice()
    });
    all.push(&url);
    all.into_iter().map(str::to_owned).collect()
}

fn plain(each: Load, port: u16) -> Result<f64> {
    let out = Command::new("h2load").args(arguments(each, port)).output()?;
    rate(&String::from_utf8_lossy(&out.stdout))
        .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
}

fn governed(agent: &Agent, token: &Path, each: Load, servers: &Servers) -> Result<f64> {
    let arguments = arguments(each, servers.port("direct", each.tls));
    let mut words = vec!["h2load"];
    words.extend(arguments.iter().map(String::as_str));
    let seen = agent.run(Some(token), &words)?;
    rate(&seen.out).with_context(|| format!("{}\n{}", seen.out, seen.err))
}

/// `finished in 2.00s, 1234.50 req/s, 1.20MB/s`, and nothing that failed.
fn rate(text: &str) -> Result<f64> {
    let lines = || text.lines();
    let counts = lines()
        .find(|line| line.starts_with("requests: "))
        .context("no counts")?;
    ensure!(
        counts.contains(" 0 failed, 0 errored, 0 timeout")
            && lines().any(|line| line.ends_with(" 0 4xx, 0 5xx")),
        "requests failed: {text}"
    );
    let finished = lines()
        .find(|line| line.starts_with("finished in "))
        .context("no figure")?;
    let figure = finished.split(", ").nth(1).context("no rate")?;
    Ok(figure.trim_end_matches(" req/s").parse()?)
}

/// Microseconds to the first event: direct, and through the agent.
fn first_events(agent: &Agent, token: &Path, servers: &Servers) -> Result<(f64, f64)> {
    let script = repository()
        .join("tests/adapters/sse_first.py")
        .display()
        .to_string();
    let url = format!("https://localhost:{}/events", servers.port("direct", true));
    let words = ["/usr/bin/python3", &script, &url, EVENTS];
    let out = Command::new(words[0])
        .args(&words[1..])
        .env("SSL_CERT_FILE", servers.dir.join("ca.crt"))
        .output()?;
    let direct = String::from_utf8_lossy(&out.stdout).trim().parse();
    let direct = direct.with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?;
    let seen = agent.run(Some(token), &words)?;
    let through = seen.out.trim().parse().with_context(|| seen.err.clone())?;
    Ok((direct, through))
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// nginx, and the yardsticks in front of it; all end with it.
struct Servers {
    dir: PathBuf,
    ports: BTreeMap<(&'static str, bool), u16>,
    children: Vec<Child>,
}

impl Servers {
    fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("servers");
        fs::create_dir_all(dir.join("www"))?;
        certificates(&dir)?;
        content(&dir.join("www"))?;
        let mut ports = BTreeMap::new();
        for way in ["direct", "haproxy", "mitmproxy"] {
            for tls in [false, true] {
                ports.insert((way, tls), TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
            }
        }
        let mut servers = Self {
            dir,
            ports,
            children: Vec::new(),
        };
        servers.nginx()?;
        servers.haproxy()?;
        servers.mitmproxy()?;
        for way in [("direct", true), ("haproxy", true), ("mitmproxy", true)] {
            servers.wait(way)?;
        }
        Ok(servers)
    }

    fn port(&self, way: &'static str, tls: bool) -> u16 {
        self.ports.get(&(way, tls)).copied().unwrap_or_default()
    }

    fn wait(&self, (way, tls): (&'static str, bool)) -> Result<()> {
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", self.port(way, tls))).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{way} does not listen")
    }

    fn spawn(&mut self, program: &Path, arguments: &[&str]) -> Result<()> {
        let child = Command::new(program)
            .args(arguments)
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("errors"))?)
            .spawn()
            .with_context(|| program.display().to_string())?;
        self.children.push(child);
        Ok(())
    }

    fn nginx(&mut self) -> Result<()> {
        let (dir, plain, tls) = (
            self.dir.display(),
            self.port("direct", false),
            self.port("direct", true),
        );
        let text = format!(
            "daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1; user root;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000; types {{ application/json json; }}\n\
             client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;\n\
             scgi_temp_path {dir}/s; http2_max_concurrent_streams 128;\n\
             server {{ listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl http2; root {dir}/www;\n\
             ssl_certificate {dir}/server.crt; ssl_certificate_key {dir}/server.key;\n\
             location /events {{ default_type text/event-stream; }} }} }}\n"
        );
        let path = self.dir.join("nginx.conf");
        fs::write(&path, text)?;
        let path = path.display().to_string();
        self.spawn("/usr/sbin/nginx".as_ref(), &["-c", &path])
    }

    fn haproxy(&mut self) -> Result<()> {
        let both = [
            fs::read_to_string(self.dir.join("server.crt"))?,
            fs::read_to_string(self.dir.join("server.key"))?,
        ];
        fs::write(self.dir.join("both.pem"), both.concat())?;
        let dir = self.dir.display();
        let text = format!(
            "global\n maxconn 1024\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             http-reuse always\n\
             frontend tls\n bind 127.0.0.1:{} ssl crt {dir}/both.pem alpn h2,http/1.1\n default_backend tls\n\
             backend tls\n server s localhost:{} ssl verify required ca-file {dir}/ca.crt verifyhost localhost\n\
             frontend plain\n bind 127.0.0.1:{}\n default_backend plain\n\
             backend plain\n server s 127.0.0.1:{}\n",
            self.port("haproxy", true),
            self.port("direct", true),
            self.port("haproxy", false),
            self.port("direct", false),
        );
        let path = self.dir.join("haproxy.cfg");
        fs::write(&path, text)?;
        let path = path.display().to_string();
        self.spawn("/usr/sbin/haproxy".as_ref(), &["-db", "-f", &path])
    }

    fn mitmproxy(&mut self) -> Result<()> {
        let mode = format!("reverse:https://localhost:{}", self.port("direct", true));
        let port = self.port("mitmproxy", true).to_string();
        let roots = format!(
            "ssl_verify_upstream_trusted_ca={}",
            self.dir.join("ca.crt").display()
        );
        let arguments = [
            "-q",
            "--mode",
            &mode,
            "--listen-host",
            "127.0.0.1",
            "-p",
            &port,
            "--set",
            &roots,
        ];
        self.spawn(&tool("mitmproxy/bin/mitmdump"), &arguments)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Masters end their workers when they are asked to end.
            let _gone = Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status();
            let _gone = child.wait();
        }
    }
}

/// What is served: JSON of 1 KB and 100 KB without anything to mask, 1 KB with ten values to mask, and events.
fn content(www: &Path) -> Result<()> {
    let order = |id: usize| {
        format!(
            "{{\"id\":{id},\"state\":\"shipped\",\"total\":{}.50,\"note\":\"left at the door\"}}",
            id % 90
        )
    };
    let many = |bytes: usize| {
        let mut text = String::from("[");
        for id in 0.. {
            let next = order(1000 + id);
            if text.len() + next.len() + 1 > bytes {
                break;
            }
            text.push_str(if id == 0 { "" } else { "," });
            text.push_str(&next);
        }
        text + "]"
    };
    fs::write(www.join("orders.json"), many(1024))?;
    fs::write(www.join("many.json"), many(100 * 1024))?;
    let people: Vec<String> = (0..10)
        .map(|id| {
            format!(
                "{{\"id\":{id},\"state\":\"active\",\"email\":\"user{id}@example.com\",\"note\":\"{}\"}}",
                "x".repeat(30)
            )
        })
        .collect();
    fs::write(www.join("people.json"), format!("[{}]", people.join(",")))?;
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";
    fs::write(www.join("events"), event.repeat(20))?;
    Ok(())
}
