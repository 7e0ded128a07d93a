//! `interdict ca`: the authority that the agent shows to governed processes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{defaults, load};
use crate::model::Timestamp;

use super::output::{Style, say, say_bytes, say_json, time};
use super::{Failure, OK, Outcome, WRONG};

/// The agent's certificate authority.
#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Show its certificate: name, fingerprint, end, and where it is.
    Show {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make another authority. Running agents sign with it within a second; the certificate of the one before stays among
    /// those that processes are told to trust for a while. Processes that have read their roots already are to be started
    /// again.
    #[command(
        after_help = "Example:\n  sudo interdict ca rotate --config /etc/interdict/interdict.toml --overlap 24h"
    )]
    Rotate {
        #[command(flatten)]
        place: Place,
        /// How long the one before stays trusted: 0s where its key may be in wrong hands.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
        overlap: std::time::Duration,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print its certificate as PEM, for a program that takes its roots from elsewhere. The key is never printed.
    Export {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The agent's configuration, for its state directory.
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    config: Option<PathBuf>,
    /// The agent's state directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    fn file(self) -> Result<PathBuf, Failure> {
        let Self { config, state_dir } = self;
        let state = match (config, state_dir) {
            (_, Some(dir)) => dir,
            (Some(file), None) => {
                load(&file)
                    .map_err(|errors| Failure {
                        status: WRONG,
                        message: errors.to_string(),
                        hint: "`interdict config check` names every mistake.".into(),
                    })?
                    .state_dir
            }
            (None, None) => defaults().state_dir,
        };
        Ok(state.join("ca").join("ca.pem"))
    }
}

pub(super) fn run(command: CaCommand) -> Outcome {
    match command {
        CaCommand::Show { place, json } => show(place.file()?, json),
        CaCommand::Rotate { place, overlap, json } => rotate(&place.file()?, overlap, json),
        CaCommand::Export { place } => {
            let file = place.file()?;
            say_bytes(read(&file)?.as_bytes());
            Ok(OK)
        }
    }
}

fn rotate(file: &Path, overlap: std::time::Duration, json: bool) -> Outcome {
    let dir = file.parent().unwrap_or(file);
    let rotated = crate::app::rotate_authority(dir, overlap).map_err(|error| {
        Failure::new(
            error.to_string(),
            "Run it as the user that runs the agent; the first `interdict run` makes the authority.",
        )
    })?;
    let until = time(rotated.until.as_nanos());
    if json {
        say_json(&serde_json::json!({"file": rotated.pem_path, "previous_trusted_until": until}));
    } else {
        say(&format!(
            "Another authority signs from now on: {}\nThe one before is trusted until {until} by what reads its roots from there.\n\
             Processes that have read them already are to be started again.",
            rotated.pem_path.display()
        ));
    }
    Ok(OK)
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::model::duration(text).map_err(|error| error.to_string())
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::new(
            format!("{} cannot be read: {error}", file.display()),
            "The first `interdict run` makes it; another place is given with --config or --state-dir.",
        )
    })
}

fn show(file: PathBuf, json: bool) -> Outcome {
    let text = read(&file)?;
    let wrong = |why: String| Failure::new(format!("{} holds no certificate: {why}", file.display()), "");
    let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(error.to_string()))?;
    let subject = certificate.subject().to_string();
    let ends = Timestamp::from_seconds(certificate.validity().not_after.timestamp());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let fingerprint = HEXLOWER.encode(digest.as_ref());
    let ended = ends <= crate::clock::now();
    if json {
        say_json(&serde_json::json!({
            "subject": subject, "sha256": fingerprint, "not_after": time(ends.as_nanos()), "expired": ended,
            "file": file,
        }));
        return Ok(OK);
    }
    let style = Style::for_stdout();
    let mark = if ended {
        style.bad(" EXPIRED")
    } else {
        String::new()
    };
    say(&format!(
        "subject  {subject}\nsha256   {fingerprint}\nends     {}{mark}\nfile     {}",
        time(ends.as_nanos()),
        file.display()
    ));
    Ok(OK)
}
