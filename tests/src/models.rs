//! A stand-in for a provider of models, and an agent that governs what asks it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::http::SECRET;
use crate::tools::{certificates, repository};
use crate::{Agent, Oidc, python};

struct Provider(Child);

impl Drop for Provider {
    fn drop(&mut self) {
        // What is gone already needs no stopping.
        drop((self.0.kill(), self.0.wait()));
    }
}

/// A stand-in provider (`tests/adapters/llm_provider.py`: no real one can be had) and an agent that governs what asks it.
pub struct Models {
    _provider: Provider,
    /// Who says who somebody is.
    pub issuer: Oidc,
    /// The agent.
    pub agent: Agent,
    /// The provider's URL, without a path.
    pub url: String,
    /// Where the provider's `log` is.
    pub dir: tempfile::TempDir,
}

impl Models {
    /// Starts both; the agent's configuration begins with `first`, and its policies are those of `policies` in place of the
    /// shipped ones.
    ///
    /// # Errors
    /// The file system's, and where the provider does not start.
    pub fn start(first: &str, policies: Option<&Path>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        certificates(dir.path())?;
        let in_dir = |name: &str| dir.path().join(name);
        let child = Command::new(python())
            .arg(repository().join("tests/adapters/llm_provider.py"))
            .args([in_dir("server.crt"), in_dir("server.key"), in_dir("log")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut provider = Provider(child);
        let mut port = String::new();
        let output = provider.0.stdout.take().context("its output")?;
        BufReader::new(output).read_line(&mut port)?;
        let port = port.trim();
        std::fs::write(in_dir("key"), SECRET)?;
        let issuer = Oidc::start()?;
        let config = format!(
            "{first}[[target]]\nname = \"model\"\nprotocol = \"llm\"\naddresses = [\"localhost:{port}\"]\nca_file = \"{}\"\n\
         recording = \"full\"\n[target.credential]\nas = \"header\"\nname = \"X-Api-Key\"\nsecret_file = \"{}\"\n",
            in_dir("ca.crt").display(),
            in_dir("key").display()
        );
        let mut agent = Agent::configured(dir.path(), &issuer, &config)?.as_caller();
        if let Some(policies) = policies {
            agent = agent.with_policies(policies);
        }
        let url = format!("https://localhost:{port}");
        Ok(Self {
            _provider: provider,
            issuer,
            agent,
            url,
            dir,
        })
    }
}
