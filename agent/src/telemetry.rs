//! Log lines: to standard error, human on a terminal, JSON elsewhere when asked for; to the journal with their fields where standard
//! error is the journal. Standard output is never written to: it belongs to the governed command.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `INTERDICT_LOG` (`tracing` filter syntax, e.g. `interdict=debug`) overrides
/// `default_level`. A second call has no effect.
pub fn start(format: LogFormat, default_level: &str, colour: bool) {
    let filter = EnvFilter::try_from_env("INTERDICT_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let journal = match format {
        LogFormat::Human if is_journal() => tracing_journald::layer().ok(),
        LogFormat::Human | LogFormat::Json => None,
    };
    let started = if let Some(journal) = journal {
        let journal = journal
            .with_syslog_identifier("interdict".into())
            .with_field_prefix(Some("INTERDICT".into()));
        tracing_subscriber::registry()
            .with(filter)
            .with(journal)
            .try_init()
            .is_ok()
    } else {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false);
        match format {
            LogFormat::Human => builder.with_ansi(colour).compact().try_init().is_ok(),
            LogFormat::Json => builder.json().try_init().is_ok(),
        }
    };
    if !started {
        tracing::debug!("logging was already started");
    }
}

/// Whether standard error is the journal's stream: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)); a process that was
/// started with the variable but redirected elsewhere is told apart by them.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stat = rustix::fs::fstat(std::io::stderr()).ok();
    match (stream, stat) {
        (Some(stream), Some(stat)) => stream == format!("{}:{}", stat.st_dev, stat.st_ino),
        _ => false,
    }
}
