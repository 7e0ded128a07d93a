//! Opening a session: the process's start-up, the judgement of the log-in, the log-in to the target.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, BytesMut};

use crate::config::TargetConfig;
use crate::connection::tls::{Authority, SubjectName, UpstreamVerifier};
use crate::connection::{Connection, Stream};
use crate::credential::Credential;
use crate::mask::Masked;
use crate::model::{
    Action, Digest, MaskCounts, Outcome, OutcomeStatus, ParameterShown, Refusal, RefusalKind, StatementFacts,
    StatementKind, UpstreamAddr,
};
use crate::session::{AgentSpeech, Downstream, Rooms, Session};

use super::cancel::CancelKeys;
use super::catalogue::{Catalogues, Protected};
use super::challenge::prove;
use super::diagnostics::Diagnostics;
use super::frame::{put_text, write};
use super::learn::Learning;
use super::login::{LoggedIn, LoginError, log_in};
use super::refusal::Severity;
use super::relay::{Relay, Schema};
use super::sql::is_harmless_setting;
use super::startup::{Opening, Startup, open};
use super::unit::{LogIn, operation};

/// Longest `application_name` (NAMEDATALEN - 1).
const MAX_APPLICATION_NAME: usize = 63;

/// What sessions with one target share.
#[derive(Debug)]
pub struct Legs {
    /// Signs certificates towards the process.
    pub authority: Arc<Authority>,
    /// Names that such a certificate proves beside the one that the process asks for.
    pub names: Vec<SubjectName>,
    /// How the target is verified; `None`: no TLS.
    pub verifier: Option<UpstreamVerifier>,
    /// The real credential.
    pub credential: Option<Credential>,
    /// Keys for cancelling.
    pub cancels: Arc<CancelKeys>,
    /// Protected columns of each database.
    pub catalogues: Arc<Catalogues>,
}

/// Serves one connection to its end.
pub async fn serve(connection: Connection, rooms: Arc<Rooms>, target: Arc<TargetConfig>, legs: Arc<Legs>) {
    let Connection {
        id,
        stream,
        peer: _,
        original,
        upstream: address,
        process,
    } = connection;
    let mut names = legs.names.clone();
    names.push(SubjectName::Ip(original.0.ip()));
    let (mut stream, startup, end_point) = match open(stream, &legs.authority, &names).await {
        Ok(Opening::Session(stream, startup, end_point)) => (stream, startup, end_point),
        Ok(Opening::Cancel { pid, key }) => {
            if let Err(error) = legs.cancels.cancel(pid, &key).await {
                tracing::info!(%error, "a cancel request did not reach the target");
            }
            return;
        }
        Err(error) => {
            tracing::info!(%error, %original, "no session was opened");
            rooms.record_unopened(process, original, error.to_string()).await;
            return;
        }
    };
    let session = match Session::open(rooms, id, process, original, target).await {
        Ok(session) => session,
        Err(refusal) => return say_fatal(stream, &refusal).await,
    };
    let begun = match let_in(&session, &legs, &mut stream, end_point).await {
        Ok(()) => begin(&session, &legs, address, &startup).await,
        Err(refusal) => Err(Ended::Refused(refusal)),
    };
    let end = match begun {
        Ok(begun) => Box::pin(carry(&session, &legs, address, stream, startup, begun)).await,
        Err(Ended::Refused(refusal)) => {
            say_fatal(stream, &refusal).await;
            Outcome::bare(OutcomeStatus::Refused, refusal.kind.name())
        }
        Err(Ended::Target(frame)) => {
            let mut counts = MaskCounts::default();
            let content = Diagnostics {
                frame: &frame,
                statement: Some(""),
            };
            let masked = session.masks_nothing_revealed().apply(content, &mut counts);
            answer_and_close(stream, masked).await;
            Outcome::bare(OutcomeStatus::Failed, "the target refused the log-in")
        }
    };
    if let Err(error) = session.close(end).await {
        tracing::error!(%error, "the end of a session could not be recorded");
    }
}

enum Ended {
    Refused(Refusal),
    Target(super::frame::Frame),
}

struct Begun {
    logged_in: LoggedIn,
    protected: Arc<Protected>,
    /// When that was learnt at the latest, and how often schemas had been changed before.
    since: (Instant, u64),
}

/// Has the process prove the placeholder, where one is configured.
async fn let_in(
    session: &Session,
    legs: &Legs,
    stream: &mut Stream,
    end_point: Option<Digest>,
) -> Result<(), Refusal> {
    let Some(placeholder) = legs.credential.as_ref().and_then(Credential::placeholder) else {
        return Ok(());
    };
    let proved = prove(
        stream,
        placeholder,
        end_point.as_ref().map(|d| d.as_bytes().as_slice()),
    );
    match proved.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let refusal = Refusal::new(
                RefusalKind::Identity,
                format!("The log-in failed: {error}."),
                "Give the client the placeholder of [target.credential] as its password.",
            );
            Err(session.refuse(None, refusal).await)
        }
    }
}

/// Judges the log-in, logs in with the real credential, and learns the protected columns.
async fn begin(
    session: &Session,
    legs: &Legs,
    address: UpstreamAddr,
    startup: &Startup,
) -> Result<Begun, Ended> {
    let parameters = match upstream_parameters(session, legs, startup) {
        Ok(parameters) => parameters,
        Err(what) => return Err(Ended::Refused(session.refuse_unknown(what).await)),
    };
    let request = LogIn(Arc::new(log_in_operation(startup)));
    let permit = session.authorize(request).await.map_err(Ended::Refused)?;
    let since = (Instant::now(), legs.catalogues.changes());
    // The log-in is the agent's own; the permit is used up by it, whatever comes of it.
    let mut nothing = crate::session::Upstream::new(tokio::io::sink());
    let outcome = nothing.forward(permit).outcome;
    let logged_in = log_in(
        address,
        legs.verifier.as_ref(),
        legs.credential.as_ref(),
        &parameters,
    )
    .await;
    let learned = match logged_in {
        Ok(logged_in) => learning(session, legs, address, startup)
            .known()
            .await
            .map(|p| (logged_in, p)),
        Err(error) => Err(error),
    };
    match learned {
        Ok((logged_in, protected)) => {
            outcome.finish(Outcome::bare(OutcomeStatus::Completed, "logged in"));
            Ok(Begun {
                logged_in,
                protected,
                since,
            })
        }
        Err(error) => {
            outcome.finish(Outcome::bare(OutcomeStatus::Failed, "not logged in"));
            tracing::warn!(%error, target = %session.target().target.name, "the target could not be logged in to");
            if let LoginError::Refused(frame) = error {
                return Err(Ended::Target(frame));
            }
            Err(Ended::Refused(Refusal::new(
                RefusalKind::Unreachable,
                format!("The target cannot be used: {error}."),
                "Tell whoever runs the agent.",
            )))
        }
    }
}

/// Tells the process that it is in, and carries the session.
async fn carry(
    session: &Session,
    legs: &Legs,
    address: UpstreamAddr,
    stream: Stream,
    startup: Startup,
    begun: Begun,
) -> Outcome {
    let Begun {
        logged_in,
        protected,
        since,
    } = begun;
    let LoggedIn {
        stream: target,
        rest,
        reports,
        cancel,
    } = logged_in;
    let Ok(registered) = legs.cancels.register(address, legs.verifier.as_ref(), cancel) else {
        return Outcome::bare(OutcomeStatus::Failed, "no randomness");
    };
    let mut welcome = BytesMut::new();
    if startup.minor > 0 || !startup.options.is_empty() {
        // NegotiateProtocolVersion: 3.0 and no options.
        write(&mut welcome, b'v', |out| {
            out.put_i32(0);
            out.put_i32(i32::try_from(startup.options.len()).unwrap_or(0));
            for option in &startup.options {
                put_text(out, option);
            }
        });
    }
    write(&mut welcome, b'R', |out| out.put_i32(0));
    for report in &reports {
        welcome.extend_from_slice(report.bytes());
    }
    write(&mut welcome, b'K', |out| {
        out.put_u32(registered.pid);
        out.extend_from_slice(&registered.key);
    });
    write(&mut welcome, b'Z', |out| out.put_u8(b'I'));
    let schema = Schema {
        learning: learning(session, legs, address, &startup),
        protected,
        since,
        changed: false,
        puzzle: None,
    };
    let database = startup.database().to_owned();
    let mut relay = Relay::new(session, database, schema, stream, (target, rest), registered);
    relay.to_process.say(AgentSpeech::log_in(welcome.freeze()));
    relay.run().await
}

fn learning<'s>(
    session: &'s Session,
    legs: &'s Legs,
    address: UpstreamAddr,
    startup: &Startup,
) -> Learning<'s> {
    let user = legs
        .credential
        .as_ref()
        .map_or_else(|| startup.user(), Credential::user);
    Learning {
        session,
        legs,
        address,
        user: user.to_owned(),
        database: startup.database().to_owned(),
    }
}

fn log_in_operation(startup: &Startup) -> crate::model::Operation {
    let facts = StatementFacts {
        kind: StatementKind("LOGIN"),
        actions: [Action::SqlLogin].into(),
        reads: [].into(),
        writes: [].into(),
        columns: [].into(),
        functions: [].into(),
        bounded: true,
    };
    let text = format!(
        "log in to database {} (as {})",
        startup.database(),
        startup.user()
    );
    operation(
        vec![facts],
        startup.database(),
        false,
        (&text, text.clone()),
        (&[], Vec::<ParameterShown>::new()),
    )
}

/// What the target is told: the real user, the process's database and harmless settings, and who asks.
fn upstream_parameters(
    session: &Session,
    legs: &Legs,
    startup: &Startup,
) -> Result<BTreeMap<String, String>, String> {
    let mut parameters = BTreeMap::new();
    let mut application = String::new();
    for (name, value) in &startup.parameters {
        match name.as_str() {
            "user" | "database" => {}
            "replication" if matches!(value.as_str(), "" | "0" | "false" | "off" | "no") => {}
            "replication" => return Err("Replication connections are not carried.".into()),
            "application_name" => application.clone_from(value),
            "client_encoding" => check_encoding(value)?,
            "standard_conforming_strings" if value.eq_ignore_ascii_case("on") => {}
            "standard_conforming_strings" => return Err("standard_conforming_strings must stay on.".into()),
            "options" => {
                check_options(value)?;
                parameters.insert(name.clone(), value.clone());
            }
            harmless if is_harmless_setting(harmless) => {
                parameters.insert(name.clone(), value.clone());
            }
            other => return Err(format!("The start-up setting {other:?} is not carried.")),
        }
    }
    let user = legs
        .credential
        .as_ref()
        .map_or_else(|| startup.user(), Credential::user);
    parameters.insert("user".into(), user.to_owned());
    parameters.insert("database".into(), startup.database().to_owned());
    parameters.insert("client_encoding".into(), "UTF8".into());
    // Texts are read as the standard says, here and there; what the server reports is checked too.
    parameters.insert("standard_conforming_strings".into(), "on".into());
    // The target's own log sees the person too.
    let mut name = format!("{} {application}", session.scene().principal);
    let cut = (0..=MAX_APPLICATION_NAME)
        .rev()
        .find(|at| name.is_char_boundary(*at))
        .unwrap_or(0);
    name.truncate(cut);
    parameters.insert("application_name".into(), name.trim_end().to_owned());
    Ok(parameters)
}

fn check_encoding(value: &str) -> Result<(), String> {
    let plain: String = value
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    match plain.as_str() {
        // SQL_ASCII is what clients without a locale say; they are told UTF8 in return.
        "utf8" | "unicode" | "sqlascii" | "auto" => Ok(()),
        _ => Err(format!("The client encoding {value:?} is not carried: use UTF8.")),
    }
}

/// `-c name=value` with harmless names only.
fn check_options(text: &str) -> Result<(), String> {
    let wrong = |part: &str| format!("The start-up option {part:?} is not carried.");
    let mut parts = text.split_ascii_whitespace();
    while let Some(part) = parts.next() {
        let setting = match part.strip_prefix("-c") {
            Some("") => parts.next().unwrap_or_default(),
            Some(setting) => setting,
            None => part.strip_prefix("--").ok_or_else(|| wrong(part))?,
        };
        let name = setting
            .split_once('=')
            .map(|(name, _)| name.replace('-', "_").to_ascii_lowercase());
        let harmless = |name: &str| {
            is_harmless_setting(name) && !matches!(name, "standard_conforming_strings" | "client_encoding")
        };
        if !name.is_some_and(|name| harmless(&name)) {
            return Err(wrong(part));
        }
    }
    Ok(())
}

async fn say_fatal(stream: Stream, refusal: &Refusal) {
    let mut downstream = Downstream::new(stream);
    downstream.refuse(&Severity::Fatal, refusal);
    if let Err(error) = downstream.shutdown().await {
        tracing::debug!(%error, "the process was gone");
    }
}

async fn answer_and_close(stream: Stream, masked: Masked<BytesMut>) {
    let mut downstream = Downstream::new(stream);
    downstream.answer(masked);
    if let Err(error) = downstream.shutdown().await {
        tracing::debug!(%error, "the process was gone");
    }
}
