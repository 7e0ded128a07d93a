//! `interdict approvals`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::control::client::{self, Agents};
use crate::control::directories;
use crate::control::wire::{Ask, MAX_USES, MAX_WINDOW, Reply, Request};

use super::output::{Style, say, say_json, short, table, time};
use super::{FAILED, Failure, NO_AGENT, OK, Outcome};

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
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
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
    /// A file with your own identity token (or set INTERDICT_TOKEN).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The agent's control socket; by default every agent of this host is asked.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
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
    let token = match &common.token_file {
        Some(file) => {
            let read = std::fs::read_to_string(file);
            Some(read.map_err(|error| Failure::new(format!("{}: {error}", file.display()), ""))?)
        }
        None => std::env::var("INTERDICT_TOKEN").ok(),
    };
    let agents = match common.socket {
        Some(socket) => Agents::At(socket),
        None => Agents::Of(directories()),
    };
    let reply = client::ask(&agents, token.as_deref().map(str::trim), &ask);
    let reply = reply.map_err(|error| Failure {
        status: NO_AGENT,
        message: error.to_string(),
        hint:
            "Requests are decided through a running agent: start `interdict run` (pending requests are kept)."
                .into(),
    })?;
    print(reply, common.json)
}

/// A whole number and a unit: `90s`, `30m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number and a unit, such as 90s, 30m or 2h (at most 24h)".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .unwrap_or_default()
        .parse()
        .map_err(|_no_number| wrong())?;
    let window = number.checked_mul(seconds).map(Duration::from_secs);
    window
        .filter(|w| (Duration::from_secs(1)..=MAX_WINDOW).contains(w))
        .ok_or_else(wrong)
}

fn print(reply: Reply, json: bool) -> Outcome {
    match reply {
        Reply::Error { message, .. } => {
            let status = FAILED;
            Err(Failure {
                status,
                message,
                hint: String::new(),
            })
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
            let row = |r: &Request| {
                vec![
                    r.ticket.clone(),
                    r.state.clone(),
                    time(r.asked_ns),
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
    say(&format!("{}  {state}", style.bold(&request.ticket)));
    say(&format!("  who        {}", request.principal));
    say(&format!("  process    {}", request.process));
    say(&format!("  target     {}", request.target));
    say(&format!("  action     {}", request.action));
    say(&format!("  statement  {}", request.text));
    say(&format!(
        "  why        {} [{}]",
        request.reason,
        request.policies.join(", ")
    ));
    say(&format!(
        "  needs      {} ({} in all)",
        sets.join(" and "),
        request.min_approvals
    ));
    say(&format!("  asked      {}", time(request.asked_ns)));
    say(&format!("  until      {}", time(request.expires_ns)));
    if !request.approved_by.is_empty() {
        say(&format!("  approved   {}", request.approved_by.join(", ")));
    }
    if let (Some(uses), "approved") = (request.uses, request.state.as_str()) {
        say(&format!("  can be used {uses} times"));
    }
    if let Some((by, comment)) = &request.denied {
        say(&format!("  denied     {by}: {comment}"));
    }
}
