//! A real HTTP target (nginx in front of a small backend), and the HTTP relay in this process in front of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use interdict::config::{Config, TargetConfig, parse};
use interdict::connection::Connection;
use interdict::connection::tls::Authority;
use interdict::model::{ConnectionId, OriginalDst, PeerAddr};
use interdict::protocol::http::{Legs, serve};
use interdict::protocol::llm::ModelApi;
use interdict::protocol::mcp::McpServer;
use interdict::session::Rooms;
use interdict::task::{Task, Tasks, spawn};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::relay::{process, rooms};
use crate::tools::{certificates, repository};

const MUTUAL: &str = "mutual = true\n";

/// The real credential, which no governed process may ever need.
pub const SECRET: &str = "the-real-key";

/// nginx with TLS and HTTP/2 in front of a backend without; both end with it.
pub struct HttpTarget {
    dir: PathBuf,
    backend: Child,
    /// The backend's port: HTTP/1.1 without TLS.
    pub plain: u16,
    /// nginx's port: HTTP/1.1 and HTTP/2 over TLS.
    pub tls: u16,
}

impl HttpTarget {
    /// Starts both below `dir`.
    ///
    /// # Errors
    /// Where a program of it fails.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::with(dir, false)
    }

    /// The same; `mutual`: nginx asks for a certificate that its CA has signed.
    fn with(dir: &Path, mutual: bool) -> Result<Self> {
        let dir = dir.join("http");
        fs::create_dir_all(dir.join("files"))?;
        certificates(&dir)?;
        let (backend, plain) = backend(&dir)?;
        let tls = StdListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let target = Self {
            dir,
            backend,
            plain,
            tls,
        };
        target.nginx(mutual)?;
        Ok(target)
    }

    fn nginx(&self, mutual: bool) -> Result<()> {
        let (dir, plain, tls) = (self.dir.display(), self.plain, self.tls);
        let asks = if mutual {
            format!("ssl_client_certificate {dir}/ca.crt; ssl_verify_client on;")
        } else {
            String::new()
        };
        let configuration = format!(
            "pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1; events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; client_max_body_size 0; proxy_request_buffering off;\n\
             server {{ listen 127.0.0.1:{tls} ssl http2; ssl_certificate {dir}/server.crt; ssl_certificate_key {dir}/server.key; {asks}\n\
             location / {{ proxy_pass http://127.0.0.1:{plain}; proxy_http_version 1.1; proxy_buffering off;\n\
             proxy_set_header Host $http_host; proxy_set_header X-Protocol $server_protocol; }} }} }}\n"
        );
        let path = self.dir.join("nginx.conf");
        fs::write(&path, configuration)?;
        // It returns once it listens.
        let out = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&path)
            .args(["-g", "user root;"])
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            out.status.success(),
            "nginx: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    /// The CA that signed nginx's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Puts a file where `/file/NAME` serves it.
    ///
    /// # Errors
    /// The file system's.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<()> {
        Ok(fs::write(self.dir.join("files").join(name), content)?)
    }

    /// Where a file of that name is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    /// Lets `/sse` go on, past the relay.
    ///
    /// # Errors
    /// The network's.
    pub fn release(&self) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.plain))?;
        stream.write_all(
            b"POST /release HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    /// Every request that reached the backend.
    ///
    /// # Errors
    /// The file system's.
    pub fn log(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.dir.join("requests"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for HttpTarget {
    fn drop(&mut self) {
        let stop = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(self.dir.join("nginx.conf"))
            .args(["-s", "stop"])
            .stderr(Stdio::null())
            .status();
        // The directory goes with the test's; what is gone already needs no stopping.
        drop((stop, self.backend.kill(), self.backend.wait()));
    }
}

fn backend(dir: &Path) -> Result<(Child, u16)> {
    let mut child = Command::new("/usr/bin/python3")
        .arg(repository().join("tests/adapters/http_backend.py"))
        .arg(dir.join("files"))
        .arg(dir.join("requests"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().context("its output")?;
    BufReader::new(output).read_line(&mut line)?;
    Ok((child, line.trim().parse()?))
}

/// What differs between tests.
#[derive(Debug, Clone, Copy)]
pub struct HttpSetting<'a> {
    /// Whether the relay is in front of nginx, or of the backend without TLS.
    pub tls: bool,
    /// `http`, `mcp` or `llm`.
    pub protocol: &'a str,
    /// Policies beside those that ship.
    pub policies: &'a str,
    /// More lines of the target; `mutual = true` is none of them: nginx asks for a client certificate then.
    pub more: &'a str,
}

impl Default for HttpSetting<'_> {
    fn default() -> Self {
        Self {
            tls: true,
            protocol: "http",
            policies: "",
            more: "",
        }
    }
}

/// The relay in front of a real target, without the kernel: a listener stands in for redirected connections.
pub struct HttpRelay {
    // Declared in the order of dropping: sessions, their runtime, the servers, their directory.
    _serving: Task<()>,
    _runtime: Runtime,
    /// The target.
    pub target: HttpTarget,
    /// Where the relay listens on 127.0.0.1.
    pub port: u16,
    tls: bool,
    ca: PathBuf,
    audit: PathBuf,
    _dir: tempfile::TempDir,
}

impl HttpRelay {
    /// Starts a target and the relay in front of it; everybody is the user alice.
    ///
    /// # Errors
    /// Where either cannot be started.
    pub fn start(setting: HttpSetting<'_>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let target = HttpTarget::with(dir.path(), setting.more.contains(MUTUAL))?;
        let config = configuration(dir.path(), &target, setting)?;
        let audit = config.audit.dir.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let one = Arc::new(config.targets.first().context("a target")?.clone());
        let authority = Arc::new(Authority::load_or_create(&config.state_dir.join("ca"), "test")?);
        let ca = authority.pem_path().to_owned();
        let legs = Legs::new(&one, authority)?;
        let legs = Arc::new(match setting.protocol {
            "mcp" => legs.speaking(Arc::new(McpServer::default())),
            "llm" => legs.speaking(Arc::new(ModelApi::default())),
            _ => legs,
        });
        let rooms = Arc::new(rooms(&config, setting.policies)?);
        let behind = if setting.tls { target.tls } else { target.plain };
        let original = SocketAddr::from(([127, 0, 0, 1], behind));
        let _inside = runtime.enter();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let serving = spawn("relay", accept(listener, original, rooms, one, legs));
        Ok(Self {
            _serving: serving,
            _runtime: runtime,
            target,
            port,
            tls: setting.tls,
            ca,
            audit,
            _dir: dir,
        })
    }

    /// The target's URL, as the process writes it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        if self.tls {
            format!("https://localhost:{}{path}", self.target.tls)
        } else {
            format!("http://localhost:{}{path}", self.target.plain)
        }
    }

    /// The CA of the certificates that the relay shows.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// curl whose connections lead to the relay.
    #[must_use]
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Command {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args(["-sS", "--max-time", "60", "--connect-to"])
            .arg(format!("::127.0.0.1:{}", self.port))
            .arg("--cacert")
            .arg(&self.ca)
            .args(arguments)
            .arg(self.url(path));
        curl
    }

    /// What curl prints, standard error included.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn get(&self, path: &str, arguments: &[&str]) -> Result<String> {
        let out = self.curl(path, arguments).output()?;
        let text = [out.stdout, out.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The body that curl gets, byte by byte.
    ///
    /// # Errors
    /// Where curl fails.
    pub fn body(&self, path: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        let out = self.curl(path, arguments).output()?;
        ensure!(
            out.status.success(),
            "{path}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(out.stdout)
    }

    /// A bare connection to the relay.
    ///
    /// # Errors
    /// The network's.
    pub fn bare(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        Ok(stream)
    }

    /// What is answered to `bytes` on a connection of its own, until the relay closes it.
    ///
    /// # Errors
    /// The network's.
    pub fn ask(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = self.bare()?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Every record so far, as text.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn records(&self) -> Result<Vec<String>> {
        let mut records = Vec::new();
        interdict::audit::read_all(&self.audit, |record| {
            records.push(serde_json::to_string(&record).unwrap_or_default());
        })?;
        Ok(records)
    }
}

fn configuration(dir: &Path, target: &HttpTarget, setting: HttpSetting<'_>) -> Result<Config> {
    let dir = dir.join("agent");
    fs::create_dir_all(dir.join("state"))?;
    fs::write(dir.join("key"), SECRET)?;
    let tls = if setting.tls {
        format!(
            "addresses = [\"localhost:{}\"]\nca_file = \"{}\"",
            target.tls,
            target.ca().display()
        )
    } else {
        format!("addresses = [\"localhost:{}\"]\ntls = \"disabled\"", target.plain)
    };
    let text = format!(
        "state_dir = \"state\"\n[approval]\nhold = \"0s\"\n[[target]]\nname = \"api\"\nprotocol = \"{}\"\n\
         environment = \"prod\"\n{tls}\n{}[target.credential]\nas = \"bearer\"\nsecret_file = \"key\"\n",
        setting.protocol,
        setting.more.replace(MUTUAL, "")
    );
    Ok(parse(&text, &dir.join("interdict.toml"))?)
}

async fn accept(
    listener: TcpListener,
    original: SocketAddr,
    rooms: Arc<Rooms>,
    target: Arc<TargetConfig>,
    legs: Arc<Legs>,
) {
    let mut sessions = Tasks::default();
    while let Ok((stream, peer)) = listener.accept().await {
        let connection = Connection {
            id: ConnectionId::new(),
            stream,
            peer: PeerAddr(peer),
            original: OriginalDst(original),
            upstream: OriginalDst(original).into(),
            process: Arc::new(process()),
        };
        let (rooms, target, legs) = (Arc::clone(&rooms), Arc::clone(&target), Arc::clone(&legs));
        sessions.spawn("session", serve(connection, rooms, target, legs));
    }
}
