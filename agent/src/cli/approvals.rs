//! `interdict approvals`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::control::client::{self, Agents, ClientError};
use crate::control::directories;
use crate::control::wire::{Ask, Failure as Kind, MAX_LINE, MAX_USES, MAX_WINDOW, Reply, Request};
use crate::model::duration;

use super::output::{Style, block, plain, relative, say, say_json, short, table, time};
use super::{Failure, NO_AGENT, OK, Outcome};

/// Requests for approval.
#[derive(Debug, Subcommand)]
pub(super) enum ApprovalsCommand {
    /// Requests that wait (with --all, decided ones too).
    List {
        /// Decided ones too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// One request in full.
    Show {
        /// Its ticket, such as apr-7k2m9x.
        ticket: String,
        #[command(flatten)]
        common: Common,
    },
    /// Say yes, with your own token; never to your own request.
    Approve {
        /// Its ticket, such as apr-7k2m9x.
        ticket: String,
        /// How long it can be used, such as 30m (at most 24h); as configured unless given.
        #[arg(long = "for", value_name = "TIME", value_parser = window)]
        window: Option<Duration>,
        /// How often the same operation can be done with it.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_USES)))]
        uses: Option<u32>,
        /// Why; recorded.
        #[arg(long, default_value = "")]
        comment: String,
        #[command(flatten)]
        common: Common,
    },
    /// Say no, and why; also takes back what was approved and is not used up.
    Deny {
        /// Its ticket, such as apr-7k2m9x.
        ticket: String,
        /// Why; the process is told.
        #[arg(long, default_value = "")]
        comment: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// A file with your own identity token.
    #[arg(long, value_name = "FILE", conflicts_with = "token_env")]
    token_file: Option<PathBuf>,
    /// An environment variable with it; without --token-file, INTERDICT_TOKEN where it is set.
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// The agent's control socket; by default every agent of this host is asked.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn token(&self) -> Result<Option<String>, Failure> {
        let token = match (&self.token_file, &self.token_env) {
            (Some(file), _) => Some(read(file).map_err(|error| {
                let message = format!("the token file {} cannot be read: {error}", file.display());
                Failure::new(message, "Give a file with your own identity token.")
            })?),
            (None, Some(name)) => Some(std::env::var(name).map_err(|_unset| {
                let message = format!("the environment variable {name} is not set");
                Failure::new(
                    message,
                    "Set it to your own identity token, or give --token-file.",
                )
            })?),
            (None, None) => std::env::var("INTERDICT_TOKEN").ok(),
        };
        Ok(token.map(|token| token.trim().to_owned()))
    }
}

/// At most as much as a call can carry: a token is short, and the path may be a device.
fn read(file: &Path) -> std::io::Result<String> {
    let mut token = String::new();
    std::fs::File::open(file)?
        .take(MAX_LINE as u64)
        .read_to_string(&mut token)?;
    Ok(token)
}

pub(super) fn run(command: ApprovalsCommand) -> Outcome {
    let (common, ask) = match command {
        ApprovalsCommand::List { all, common } => (common, Ask::List { all }),
        ApprovalsCommand::Show { ticket, common } => (common, Ask::Show { ticket }),
        ApprovalsCommand::Approve {
            ticket,
            window,
            uses,
            comment,
            common,
        } => {
            let seconds = window.map(|window| window.as_secs());
            let ask = Ask::Approve {
                ticket,
                uses,
                seconds,
                comment,
            };
            (common, ask)
        }
        ApprovalsCommand::Deny {
            ticket,
            comment,
            common,
        } => (common, Ask::Deny { ticket, comment }),
    };
    let token = common.token()?;
    let agents = match common.socket {
        Some(socket) => Agents::At(socket),
        None => Agents::Of(directories()),
    };
    let reply = client::ask(&agents, token.as_deref(), &ask);
    let reply = reply.map_err(|error| match error {
        ClientError::TooLong => Failure::new(error.to_string(), ""),
        ClientError::NoAgent(_) | ClientError::Io { .. } => Failure {
            status: NO_AGENT,
            message: error.to_string(),
            hint: "Requests are decided through a running agent: start `interdict run` (pending requests are kept)."
                .into(),
        },
    })?;
    print(reply, common.json)
}

/// How long a consent may be good for.
fn window(text: &str) -> Result<Duration, String> {
    let window = duration(text).map_err(|wrong| wrong.to_string())?;
    let fits = (Duration::from_secs(1)..=MAX_WINDOW).contains(&window) && window.subsec_nanos() == 0;
    let wrong = || format!("{text:?} is not possible: write whole seconds, at least 1s and at most 24h");
    fits.then_some(window).ok_or_else(wrong)
}

fn print(reply: Reply, json: bool) -> Outcome {
    match reply {
        Reply::Error { failure, message } => {
            let hint = match failure {
                Kind::UnknownTicket => "See `interdict approvals list --all`.",
                Kind::NotACall => "Use the same version of `interdict` as the running agent.",
                Kind::Token | Kind::Refused => "",
            };
            Err(Failure::new(message, hint))
        }
        Reply::Requests(requests) if json => {
            requests.iter().for_each(say_json);
            Ok(OK)
        }
        Reply::Requests(requests) if requests.is_empty() => {
            say("No request waits for approval.");
            Ok(OK)
        }
        Reply::Requests(requests) => {
            let now = crate::clock::now();
            let row = |r: &Request| {
                vec![
                    r.ticket.clone(),
                    r.state.clone(),
                    relative(r.asked_ns, now),
                    r.principal.clone(),
                    r.target.clone(),
                    r.action.clone(),
                    short(&r.text, 60),
                ]
            };
            let rows: Vec<Vec<String>> = requests.iter().map(row).collect();
            say(&table(
                &["TICKET", "STATE", "ASKED", "WHO", "TARGET", "ACTION", "STATEMENT"],
                &rows,
            ));
            Ok(OK)
        }
        Reply::Request(request) if json => {
            say_json(&request);
            Ok(OK)
        }
        Reply::Request(request) => {
            show(&request);
            Ok(OK)
        }
        Reply::Metrics(_) => Err(Failure::new("the agent answered something else", "")),
        Reply::Status(status) => {
            say_json(&status);
            Ok(OK)
        }
    }
}

fn show(request: &Request) {
    let style = Style::for_stdout();
    let state = match request.state.as_str() {
        "approved" | "used" => style.good(&request.state),
        "open" => style.wait(&request.state),
        other => style.bad(other),
    };
    let sets: Vec<String> = request.approvers.iter().map(|set| set.join(" or ")).collect();
    let now = crate::clock::now();
    let at = |ns: i64| format!("{} ({})", time(ns), relative(ns, now));
    say(&format!("{}  {state}", style.bold(&request.ticket)));
    for (name, value) in [
        ("who", request.principal.clone()),
        ("process", request.process.clone()),
        ("target", request.target.clone()),
        ("action", request.action.clone()),
    ] {
        say(&format!("  {name:<9}  {}", plain(&value)));
    }
    say(&format!("  statement  {}", block(&request.text, "           | ")));
    let why = format!("{} [{}]", request.reason, request.policies.join(", "));
    let needs = format!("{} ({} in all)", sets.join(" and "), request.min_approvals);
    for (name, value) in [("why", why), ("needs", needs)] {
        say(&format!("  {name:<9}  {}", plain(&value)));
    }
    say(&format!("  asked      {}", at(request.asked_ns)));
    say(&format!("  until      {}", at(request.expires_ns)));
    if let (Some(uses), "approved") = (request.uses, request.state.as_str()) {
        say(&format!("  uses left  {uses}"));
    }
    if !request.approved_by.is_empty() {
        say(&format!(
            "  approved   {}",
            plain(&request.approved_by.join(", "))
        ));
    }
    if let Some((by, comment)) = &request.denied {
        say(&format!("  denied     {}", plain(&format!("{by}: {comment}"))));
    }
}
