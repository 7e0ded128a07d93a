//! The PostgreSQL relay in this process, without the kernel: a listener stands in for redirected connections.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use interdict::approval::Broker;
use interdict::audit::AuditLog;
use interdict::config::{Config, TargetConfig, UpstreamTls, parse};
use interdict::connection::Connection;
use interdict::connection::tls::{Authority, SubjectName, UpstreamVerifier};
use interdict::credential::Credential;
use interdict::identity::Binding;
use interdict::mask::{Classes, MaskEngine, MaskKey};
use interdict::model::{
    BootId, ConnectionId, Executable, NetnsCookie, OriginalDst, PeerAddr, Principal, PrincipalKind, Process,
    RunId,
};
use interdict::policy::{Engine, Policies, PolicySource, shipped};
use interdict::protocol::postgres::{CancelKeys, Catalogues, Legs, serve};
use interdict::session::Rooms;
use interdict::task::{Task, Tasks, spawn};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::postgres::{PASSWORD, Postgres};
use crate::wire::Wire;

/// The relay in front of a real database.
pub struct Relay {
    // Declared in the order of dropping: sessions, their runtime, the server, its directory.
    _serving: Task<()>,
    _runtime: Runtime,
    /// The database.
    pub database: Postgres,
    /// Where the relay listens on 127.0.0.1.
    pub port: u16,
    ca: PathBuf,
    audit: PathBuf,
    _dir: tempfile::TempDir,
}

/// What differs between tests.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The target's environment: the shipped policies are strict on `prod`.
    pub environment: &'a str,
    /// Declared columns: `table.column` and class.
    pub columns: &'a [(&'a str, &'a str)],
    /// The password that the process may be given in place of the real one.
    pub placeholder: Option<&'a str>,
    /// How long an operation waits for consent.
    pub hold: &'a str,
    /// More lines of the target.
    pub more: &'a str,
    /// Policies beside those that ship.
    pub policies: &'a str,
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Self {
            environment: "prod",
            columns: &[("customers.name", "pii.name")],
            placeholder: None,
            hold: "0s",
            more: "",
            policies: "",
        }
    }
}

impl Relay {
    /// Starts a database and the relay in front of it; everybody is the user alice.
    ///
    /// # Errors
    /// Where either cannot be started.
    pub fn start(setting: Setting<'_>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let database = Postgres::start(dir.path())?;
        let config = configuration(dir.path(), &database, setting)?;
        let audit = config.audit.dir.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let target = Arc::new(config.targets.first().context("a target")?.clone());
        let ca_dir = config.state_dir.join("ca");
        let authority = Arc::new(Authority::load_or_create(&ca_dir, "test")?);
        let ca = authority.pem_path().to_owned();
        let legs = Arc::new(legs(&target, authority)?);
        let rooms = Arc::new(rooms(&config, setting.policies)?);
        let original = SocketAddr::from(([127, 0, 0, 1], database.port));
        let _inside = runtime.enter();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let serving = spawn("relay", accept(listener, original, rooms, target, legs));
        Ok(Self {
            _serving: serving,
            _runtime: runtime,
            database,
            port,
            ca,
            audit,
            _dir: dir,
        })
    }

    /// The CA of the certificates that the relay shows.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
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

    /// A session by bare messages.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn wire(&self) -> Result<Wire> {
        Wire::connect(self.port, &[("user", "anybody"), ("database", "shop")])
    }
}

fn configuration(dir: &Path, database: &Postgres, setting: Setting<'_>) -> Result<Config> {
    let dir = dir.join("agent");
    fs::create_dir_all(dir.join("state"))?;
    fs::write(dir.join("password"), PASSWORD)?;
    let placeholder = setting
        .placeholder
        .map(|p| format!("placeholder = \"{p}\""))
        .unwrap_or_default();
    let columns: Vec<String> = setting
        .columns
        .iter()
        .map(|(column, class)| format!("\"{column}\" = \"{class}\""))
        .collect();
    let text = format!(
        "state_dir = \"state\"\n[approval]\nhold = \"{hold}\"\n[[target]]\nname = \"shop\"\nprotocol = \"postgres\"\n\
         addresses = [\"localhost:{port}\"]\nenvironment = \"{environment}\"\nca_file = \"{ca}\"\n{more}\
         [target.credential]\nuser = \"owner\"\npassword_file = \"password\"\n{placeholder}\n[target.columns]\n{columns}\n",
        hold = setting.hold,
        more = setting.more,
        port = database.port,
        environment = setting.environment,
        ca = database.ca().display(),
        columns = columns.join("\n"),
    );
    Ok(parse(&text, &dir.join("interdict.toml"))?)
}

fn legs(target: &TargetConfig, authority: Arc<Authority>) -> Result<Legs> {
    let verifier = match &target.tls {
        UpstreamTls::Disabled => None,
        UpstreamTls::Verify { ca_file, server_name } => {
            let name = server_name.as_deref().unwrap_or("localhost");
            Some(UpstreamVerifier::new("shop", name, ca_file.as_deref(), &[])?)
        }
    };
    Ok(Legs {
        authority,
        names: vec![SubjectName::Dns("localhost".into())],
        verifier,
        credential: target.credential.clone().map(Credential::new),
        cancels: Arc::new(CancelKeys::default()),
        catalogues: Arc::new(Catalogues::default()),
    })
}

/// The rooms of a run in which everybody is the user alice; `policies` beside those that ship.
pub(crate) fn rooms(config: &Config, policies: &str) -> Result<Rooms> {
    let audit = AuditLog::open(&config.audit, "test", BootId::new())?;
    let columns = config.targets.iter().flat_map(|t| t.columns.iter().cloned());
    let classes = Classes::load(&config.masking, columns)?;
    let key = MaskKey::load_or_create(&config.state_dir.join("mask.key"))?;
    let masks = Arc::new(MaskEngine::new(classes, key));
    let mut sources = shipped();
    sources.push(PolicySource {
        file: "test.cedar".into(),
        text: policies.into(),
    });
    let engine = Engine::load(&sources, masks.classes())?;
    let alice = Principal {
        kind: PrincipalKind::User,
        issuer: Some("corp".into()),
        subject: "alice".into(),
        display: "alice@example.com".into(),
        groups: [].into(),
        expires_at: None,
    };
    Ok(Rooms {
        run: RunId::new(),
        binding: Arc::new(Binding::fixed(alice)),
        policies: Arc::new(Policies::new(engine)),
        broker: Broker::in_memory(audit.clone(), config.approval.clone())?,
        audit,
        masks,
        mode: config.mode,
        limits: config.limits,
        hold: config.approval.hold,
    })
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
        sessions.spawn(
            "session",
            serve(
                connection,
                Arc::clone(&rooms),
                Arc::clone(&target),
                Arc::clone(&legs),
            ),
        );
    }
}

/// The process that all connections are of.
pub(crate) fn process() -> Process {
    Process {
        tgid: std::process::id(),
        start_ns: 0,
        uid: 0,
        gid: 0,
        exe: Executable::default(),
        cgroup: 0,
        netns: NetnsCookie(0),
        comm: "test".into(),
    }
}
