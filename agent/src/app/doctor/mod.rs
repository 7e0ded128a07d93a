//! `interdict doctor`: what this host can do, what a process could do because it cannot, and the next step.

mod host;
mod kernel;
mod proxy;
mod reach;

use crate::config::Config;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Available,
    /// Works, with less protection or soon no more.
    Limited,
    /// Something that a run needs is not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it belongs to: `kernel`, `hook`, `host`, `audit`, `issuer`, `target`, `telemetry`.
    pub area: &'static str,
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What a process could do because of it; empty where it is as it should be.
    pub open: String,
    /// What to do next; empty where there is nothing.
    pub next: String,
}

impl Check {
    fn available(area: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            area,
            name: name.into(),
            state: State::Available,
            found: found.into(),
            open: String::new(),
            next: String::new(),
        }
    }

    fn limited(area: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            state: State::Limited,
            ..Self::available(area, name, found)
        }
    }

    fn missing(area: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            state: State::Missing,
            ..Self::available(area, name, found)
        }
    }

    fn open(mut self, open: impl Into<String>) -> Self {
        self.open = open.into();
        self
    }

    fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

/// Looks at everything that a run with this configuration would need. Changes nothing but a cgroup that is made and
/// taken away again.
pub async fn doctor(config: &Config) -> Vec<Check> {
    let mut checks = kernel::checks();
    checks.extend(host::checks(config));
    checks.extend(proxy::checks(config));
    checks.extend(reach::checks(config).await);
    checks
}

/// Whether a run would work.
#[must_use]
pub fn is_well(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.state != State::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_that_is_not_well_says_what_to_do() {
        let text = "state_dir = \"/nonexistent/interdict\"\n\
            [[issuer]]\nname = \"corp\"\nissuer = \"http://127.0.0.1:9\"\naudience = [\"x\"]\n\
            [[target]]\nname = \"shop\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.1:9\"]\ntls = \"disabled\"\n";
        let config = crate::config::parse(text, "interdict.toml".as_ref()).expect("valid");
        let checks = doctor(&config).await;
        for check in checks.iter().filter(|c| c.state != State::Available) {
            assert!(!check.next.is_empty() || !check.open.is_empty(), "{check:?}");
        }
        let state = |area: &str| checks.iter().find(|c| c.area == area).map(|c| c.state);
        assert_eq!(state("issuer"), Some(State::Missing));
        assert_eq!(state("target"), Some(State::Missing));
        assert!(!is_well(&checks));
    }
}
