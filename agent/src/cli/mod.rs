//! The command line: one file for each subcommand; prints, never decides.

mod approvals;
mod audit;
mod audit_sink;
mod ca;
mod config;
mod doctor;
mod figures;
mod generate;
mod kubernetes;
mod launch;
mod mcp;
mod metrics;
mod output;
mod policy;
mod policy_schema;
mod policy_test;
mod replay;
mod run;
mod serve;
mod sessions;
mod status;
mod systemd;
mod top;
mod uninstall;

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};

/// It worked, and what was checked holds.
const OK: u8 = 0;
/// What was checked does not hold, or was refused.
const FAILED: u8 = 1;
/// What is to be checked cannot be used.
const WRONG: u8 = 2;
/// No agent could be reached.
const NO_AGENT: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  sudo interdict run --config interdict.toml --identity-token-file token -- npx my-mcp-server
  sudo interdict serve --config /etc/interdict/interdict.toml
  interdict approvals list --token-file my-token
  interdict approvals approve apr-7k2m9x --token-file my-token
  interdict sessions show
  interdict audit verify
  sudo interdict doctor --config interdict.toml

Exit status: 0 done, 1 not (or a check failed), 2 wrong use, 3 no agent reached; `run` ends with its command's status.";

/// Govern what MCP servers and AI agents do on the network.
#[derive(Debug, Parser)]
#[command(name = "interdict", version = version(), after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Colours: on a terminal unless NO_COLOR is set (auto), always, never.
    #[arg(long, value_enum, global = true, default_value = "auto", value_name = "WHEN")]
    color: output::Colour,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command with every connection of it governed.
    Run(run::RunArgs),
    /// Govern workloads that something else starts: the service.
    Serve(serve::ServeArgs),
    /// Requests for approval: list, show, approve, deny.
    #[command(subcommand)]
    Approvals(approvals::ApprovalsCommand),
    /// The audit log: verify it, make its index anew.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Recorded sessions: list, show.
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// The running agents: what they govern, and what they did so far.
    Status(status::StatusArgs),
    /// Watch the running agents.
    Top(top::TopArgs),
    /// Figures of the running agents, as Prometheus reads them.
    Metrics(metrics::MetricsArgs),
    /// MCP servers: the tools that they offer, and what of them was accepted.
    #[command(subcommand)]
    Mcp(mcp::McpCommand),
    /// Policies: check them, test them.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The agent's certificate authority: show it, export it, make another.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// The configuration: check it, show what holds, its schema.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Units of systemd: make them governed ones, let them go.
    #[command(subcommand)]
    Systemd(systemd::SystemdCommand),
    /// What belongs to a cluster: take the start-up taint off a node.
    #[command(subcommand)]
    Kubernetes(kubernetes::KubernetesCommand),
    /// Take away what agents left on this host: hooks, directories, drop-ins; with --purge keys and records too.
    Uninstall(uninstall::UninstallArgs),
    /// What this host can do, and what is open because it cannot.
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell.
    Completions(generate::CompletionsArgs),
    /// Write man pages into a directory.
    Man(generate::ManArgs),
    /// The child's side of `run`.
    #[command(name = "__launch", hide = true)]
    Launch(launch::LaunchArgs),
    /// The proxy's side of `run`.
    #[command(name = "__proxy", hide = true)]
    Proxy(run::ProxyArgs),
    /// The proxy's side of `serve`.
    #[command(name = "__proxy-serve", hide = true)]
    ProxyServe(serve::ProxyArgs),
}

/// Why a command did not work: the message, and what to do.
#[derive(Debug)]
struct Failure {
    status: u8,
    message: String,
    hint: String,
}

impl Failure {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status: FAILED,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

type Outcome = Result<u8, Failure>;

/// The version, with the commit where the build was told it (`INTERDICT_COMMIT`).
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let version = env!("CARGO_PKG_VERSION");
        match option_env!("INTERDICT_COMMIT") {
            Some(commit) if !commit.is_empty() => format!("{version} ({commit})"),
            Some(_) | None => version.to_owned(),
        }
    });
    &VERSION
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { color, command } = Cli::parse();
    output::choose(color);
    let outcome = match command {
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Approvals(command) => approvals::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Sessions(command) => sessions::run(command),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Metrics(args) => metrics::run(args),
        Command::Mcp(command) => mcp::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Ca(command) => ca::run(command),
        Command::Config(command) => config::run(command),
        Command::Systemd(command) => systemd::run(command),
        Command::Kubernetes(command) => kubernetes::run(command),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => generate::completions(&args, &mut Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
        Command::Launch(args) => launch::run(&args),
        Command::Proxy(args) => run::proxy(args),
        Command::ProxyServe(args) => serve::proxy(&args),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            output::complain(&failure.message, &failure.hint);
            ExitCode::from(failure.status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_type_is_understood() {
        for line in [
            "interdict run -- true",
            "interdict run --config c.toml --identity-token-file t --mode observe --user nobody -- sh -c 'exit 3'",
            "interdict run --identity-token-env TOKEN -- psql -h db",
            "interdict serve",
            "interdict serve --config c.toml --log-format json",
            "interdict serve --release",
            "interdict serve --link /run/interdict/proxy.link --proxy-unit p.service",
            "interdict approvals list --json",
            "interdict approvals approve apr-7k2m9x --token-file t",
            "interdict approvals approve apr-7k2m9x --token-env T --for 30m --uses 3 --comment why",
            "interdict approvals list --color never --all",
            "interdict --color always approvals show apr-7k2m9x",
            "interdict approvals deny apr-7k2m9x --comment no",
            "interdict audit verify --dir d --json",
            "interdict audit reindex --dir d",
            "interdict audit schema",
            "interdict audit verify-sink --config c.toml --user auditor --password-file p --json",
            "interdict sessions show",
            "interdict sessions replay abc --operation 01",
            "interdict metrics --socket s",
            "interdict status --json --socket s",
            "interdict top --interval 500ms",
            "interdict sessions list --since 2h --principal alice --target shop --decision refused --json",
            "interdict sessions list --since 2026-01-31",
            "interdict sessions show abc --since 2026-01-31T08:00:00Z",
            "interdict policy check --policies p",
            "interdict policy test",
            "interdict policy schema --state-dir s",
            "interdict policy schema --target t --mcp https://t/mcp",
            "interdict policy schema --target t -- npx server",
            "interdict mcp tools list --target t --json",
            "interdict mcp tools diff --state-dir s query",
            "interdict mcp tools accept query other",
            "interdict mcp tools accept --all",
            "interdict policy test --policies p --json a.toml dir",
            "interdict config check c.toml",
            "interdict config check --config c.toml --json",
            "interdict config show",
            "interdict config show --config c.toml --origin",
            "interdict config schema",
            "interdict systemd govern a.service --print",
            "interdict systemd govern a --slice b.slice --allow-socket /run/docker.sock --root /mnt --json",
            "interdict systemd govern a --remove",
            "interdict systemd ungovern a",
            "interdict kubernetes untaint --node n --once",
            "interdict uninstall --purge --dry-run --force --json",
            "interdict doctor",
            "interdict doctor --config c.toml --json",
            "interdict completions bash",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "interdict run",
            "interdict run --identity-token-file a --identity-token-env B -- x",
            "interdict approvals list --token-file t --token-env T",
            "interdict approvals approve apr-7k2m9x --for 25h",
            "interdict approvals approve apr-7k2m9x --for 0s",
            "interdict approvals approve apr-7k2m9x --for 3mm",
            "interdict approvals approve apr-7k2m9x --for 9",
            "interdict approvals approve apr-7k2m9x --for 99999999999999999999h",
            "interdict approvals approve apr-7k2m9x --uses 0",
            "interdict approvals approve apr-7k2m9x --uses 1001",
            "interdict sessions list --since yesterday",
            "interdict sessions list --decision maybe",
            "interdict config check a.toml --config b.toml",
            "interdict systemd govern",
            "interdict systemd govern a --print --remove",
            "interdict top --interval 1ms",
            "interdict mcp tools accept",
            "interdict mcp tools accept --all query",
            "interdict policy schema --mcp https://t/mcp",
            "interdict policy schema --target t --mcp https://t/mcp -- npx server",
            "interdict fly",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
