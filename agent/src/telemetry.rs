//! Log lines: to standard error, human on a terminal, JSON elsewhere when asked for. Standard output is never
//! written to: it belongs to the governed command.

use tracing_subscriber::EnvFilter;

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
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match format {
        LogFormat::Human => builder.with_ansi(colour).compact().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was already started");
    }
}
