//! One connection of a process, from its first byte to its last.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::config::{HttpSettings, Pinned, TargetConfig, UpstreamTls};
use crate::connection::tls::{Authority, SubjectName, TlsError, UpstreamVerifier};
use crate::connection::{Connection, Stream, reset};
use crate::credential::Credential;
use crate::model::{Outcome, OutcomeStatus, Refusal, UpstreamAddr};
use crate::session::{Rooms, Session};

use super::super::opaque;
use super::call::essence;
use super::descriptors::Descriptors;
use super::dialect::Speaks;
use super::exchange::Exchange;
use super::framing::Watched;
use super::greet::{GreetError, Greeting, Hello, greet};
use super::pinned::PinnedNames;
use super::refusal::{self, Tongue};
use super::screen::Place;
use super::target::{Beside, TargetSide};
use super::websocket;

/// How long a process may take for a head, and leave a connection idle.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// Most that is read ahead, in bytes.
const BUFFER: usize = 256 * 1024;
/// Most fields of a head: as many as the library has room for without asking for memory.
const MAX_FIELDS: usize = 100;
/// Bodies of requests that are held at the same time, in KiB, for one target.
const BODIES: usize = 256 * 1024;

/// What connections to one target share.
#[derive(Debug)]
pub struct Legs {
    authority: Arc<Authority>,
    /// The target's names with their ports, lower case.
    names: Vec<(String, u16)>,
    /// By name; empty: no TLS.
    verifiers: HashMap<String, UpstreamVerifier>,
    tls: bool,
    credential: Option<Credential>,
    speaks: Option<Arc<dyn Speaks>>,
    descriptors: Option<Descriptors>,
    bodies: Arc<Semaphore>,
    settings: HttpSettings,
    pinned: PinnedNames,
}

impl Legs {
    /// Prepares a target.
    ///
    /// # Errors
    /// Where its certificate could not be verified ever.
    pub fn new(target: &TargetConfig, authority: Arc<Authority>) -> Result<Self, TlsError> {
        let names: Vec<(String, u16)> = target
            .addresses
            .iter()
            .map(|a| (a.host.clone(), a.port))
            .collect();
        let mut verifiers = HashMap::new();
        if let UpstreamTls::Verify { ca_file, server_name } = &target.tls {
            for (host, _) in &names {
                let name = server_name.as_deref().unwrap_or(host);
                let verified = (ca_file.as_deref(), [].as_slice());
                let verifier =
                    UpstreamVerifier::configured(&target.target.name.0, name, verified, &target.upstream)?;
                verifiers.insert(host.clone(), verifier);
            }
        }
        Ok(Self {
            authority,
            names,
            verifiers,
            tls: matches!(target.tls, UpstreamTls::Verify { .. }),
            credential: target.credential.clone().map(Credential::new),
            speaks: None,
            descriptors: None,
            bodies: Arc::new(Semaphore::new(BODIES)),
            settings: target.http.clone(),
            pinned: PinnedNames::default(),
        })
    }

    /// The same for a target that speaks a dialect inside of HTTP.
    #[must_use]
    pub fn speaking(self, dialect: Arc<dyn Speaks>) -> Self {
        Self {
            speaks: Some(dialect),
            ..self
        }
    }

    /// The same for a target whose messages of gRPC are described.
    #[must_use]
    pub fn described(self, descriptors: Descriptors) -> Self {
        Self {
            descriptors: Some(descriptors),
            ..self
        }
    }

    /// What messages of gRPC mean.
    pub(super) const fn descriptors(&self) -> Option<&Descriptors> {
        self.descriptors.as_ref()
    }

    /// In whose words a request is refused.
    pub(super) fn tongue(&self, headers: &HeaderMap) -> Tongue {
        match &self.speaks {
            Some(speaks) => Tongue::Dialect(speaks.exchange()),
            None if essence(headers).starts_with("application/grpc") => Tongue::Grpc,
            None => Tongue::Plain,
        }
    }

    /// Whether the target is spoken to over TLS.
    pub(super) const fn is_tls(&self) -> bool {
        self.tls
    }

    pub(super) const fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    pub(super) const fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    pub(super) fn bodies(&self) -> Arc<Semaphore> {
        Arc::clone(&self.bodies)
    }

    fn hosts(&self, port: u16) -> BTreeSet<String> {
        let here = self.names.iter().filter(|(_, p)| *p == port);
        here.map(|(host, _)| host.clone()).collect()
    }

    /// How the target is verified where it was asked for by `name`, offering `alpn`.
    fn verifier(&self, name: Option<&str>, alpn: &[&[u8]]) -> Option<UpstreamVerifier> {
        let first = || self.names.first().and_then(|(host, _)| self.verifiers.get(host));
        let known = name.and_then(|name| self.verifiers.get(name)).or_else(first);
        known.map(|verifier| verifier.offering(alpn))
    }
}

/// Serves one connection to its end.
pub async fn serve(connection: Connection, rooms: Arc<Rooms>, target: Arc<TargetConfig>, legs: Arc<Legs>) {
    if legs.pinned.asked_for(&connection.stream).await {
        return Box::pin(opaque::serve(connection, rooms, target)).await;
    }
    let Connection {
        id,
        stream,
        peer: _,
        original,
        upstream,
        process,
    } = connection;
    let greeting = match greet(stream).await {
        Ok(greeting) => greeting,
        // Connected and gone: nothing was asked.
        Err(GreetError::Closed) => return,
        Err(error) => {
            tracing::info!(%error, %original, "no session was opened");
            return rooms.record_unopened(process, original, error.to_string()).await;
        }
    };
    if legs.tls != matches!(greeting, Greeting::Tls(_)) {
        let what = if legs.tls {
            "the target speaks TLS, and the process does not"
        } else {
            "the process speaks TLS, and the target is configured without"
        };
        rooms.record_unopened(process, original, what.into()).await;
        return refuse_greeting(greeting);
    }
    let opened = Session::open(Arc::clone(&rooms), id, Arc::clone(&process), original, target).await;
    let session = match opened {
        Ok(session) => session,
        Err(refusal) => return Box::pin(say_no(greeting, &legs, &refusal)).await,
    };
    let mut place = Place {
        hosts: legs.hosts(original.0.port()),
        address: original.0.ip(),
        port: original.0.port(),
        tls: legs.tls,
        server_name: None,
    };
    let end = match greeting {
        Greeting::Plain(stream) => {
            let target = TargetSide::new(upstream, None, legs.settings.max_header);
            let exchange = Exchange {
                session,
                legs,
                place,
                target,
                noted: Arc::default(),
                switch: Mutex::default(),
            };
            Box::pin(carry(exchange, Stream::Plain(stream), false)).await
        }
        Greeting::Tls(hello) => {
            place.server_name.clone_from(&hello.server_name);
            Box::pin(tls(session, legs, place, upstream, *hello)).await
        }
    };
    let (session, outcome) = end;
    let Some(session) = session else { return };
    if let Err(error) = session.close(outcome).await {
        tracing::error!(%error, "the end of a session could not be recorded");
    }
}

fn refuse_greeting(greeting: Greeting) {
    match greeting {
        Greeting::Plain(stream) => reset(stream),
        Greeting::Tls(hello) => drop(hello),
    }
}

/// Greets the target with what the process offers, and the process with what the target chose.
async fn tls(
    session: Session,
    legs: Arc<Legs>,
    place: Place,
    upstream: UpstreamAddr,
    hello: Hello,
) -> (Option<Session>, Outcome) {
    let name = hello.server_name.as_deref();
    let verifier = legs.verifier(name, &hello.offered);
    let target = TargetSide::new(upstream, verifier, legs.settings.max_header);
    // A name that is not the target's is not asked for there: its requests are refused one by one.
    let known = name.is_none_or(|name| place.knows(name));
    let mut chosen = hello.offered.first().copied();
    if known {
        match target.greet().await {
            Ok(choice) => {
                let mirrored = hello
                    .offered
                    .iter()
                    .copied()
                    .find(|o| choice.as_deref() == Some(*o));
                // A target that chooses nothing speaks HTTP/1.1.
                let first = hello.offered.iter().copied().find(|o| *o == b"http/1.1");
                chosen = mirrored.or(first).or(chosen);
            }
            // Each request tries again, and says why it is refused.
            Err(error) => tracing::info!(%error, "the target could not be greeted"),
        }
    }
    let names = names(&legs, &place);
    let asked = hello.server_name.clone();
    match hello.finish(&legs.authority, &names, chosen).await {
        Ok(stream) => {
            let exchange = Exchange {
                session,
                legs,
                place,
                target,
                noted: Arc::default(),
                switch: Mutex::default(),
            };
            carry(exchange, stream, chosen == Some(b"h2")).await
        }
        Err(error) => {
            tracing::info!(%error, "no HTTP began");
            if let (GreetError::Untrusted(_), Pinned::Pass, Some(name)) = (
                &error,
                legs.settings.pinned,
                asked.filter(|name| place.knows(name)),
            ) {
                legs.pinned.add(&name);
            }
            (
                Some(session),
                Outcome::bare(OutcomeStatus::Failed, error.to_string()),
            )
        }
    }
}

fn names(legs: &Legs, place: &Place) -> Vec<SubjectName> {
    let subject = |host: &String| {
        host.parse()
            .map_or_else(|_name| SubjectName::Dns(host.clone()), SubjectName::Ip)
    };
    let mut names: Vec<SubjectName> = legs.hosts(place.port).iter().map(subject).collect();
    names.push(SubjectName::Ip(place.address));
    names
}

/// Carries requests until the connection ends.
async fn carry(exchange: Exchange, stream: Stream, two: bool) -> (Option<Session>, Outcome) {
    let exchange = Arc::new(exchange);
    let shared = Arc::clone(&exchange);
    let (max_header, max_streams) = (
        exchange.legs.settings.max_header,
        exchange.legs.settings.max_streams,
    );
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(Box::pin(exchange.answer(request)).await.into_response()) }
    });
    let ended = if two {
        let beside = Beside::default();
        let mut builder = http2::Builder::new(beside.clone());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(max_header).unwrap_or(u32::MAX))
            .max_concurrent_streams(max_streams);
        builder.serve_connection(TokioIo::new(stream), service).await
    } else {
        let stream = Watched::new(stream, Arc::clone(&exchange.noted));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_header_size(max_header)
            .max_headers(MAX_FIELDS)
            .max_buf_size(BUFFER);
        builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
    };
    let switch = exchange
        .switch
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(switch) = switch
        && ended.is_ok()
    {
        websocket::relay(&exchange.session, switch).await;
    }
    let outcome = match ended {
        Ok(()) => Outcome::bare(OutcomeStatus::Completed, "closed"),
        Err(error) if error.is_parse() => {
            let _told_by_the_library = exchange
                .session
                .refuse_unknown(format!(
                    "The request is no HTTP that can be read in one way: {error}."
                ))
                .await;
            Outcome::bare(OutcomeStatus::Refused, "not_understood")
        }
        Err(error) => Outcome::bare(OutcomeStatus::Abandoned, error.to_string()),
    };
    (
        Arc::into_inner(exchange).map(|exchange| exchange.session),
        outcome,
    )
}

/// Tells the process why no session was opened, at its first request.
async fn say_no(greeting: Greeting, legs: &Legs, refusal: &Refusal) {
    let stream = match greeting {
        Greeting::Plain(stream) => Stream::Plain(stream),
        Greeting::Tls(hello) => {
            let offers = hello.offered.contains(&b"http/1.1".as_slice());
            let names: Vec<SubjectName> = legs
                .names
                .iter()
                .map(|(h, _)| SubjectName::Dns(h.clone()))
                .collect();
            let protocol = offers.then_some(b"http/1.1".as_slice());
            match hello.finish(&legs.authority, &names, protocol).await {
                Ok(stream) => stream,
                Err(error) => return tracing::info!(%error, %refusal, "connection refused"),
            }
        }
    };
    let service = service_fn(move |_request| async move {
        Ok::<_, Infallible>(refusal::answer(refusal, None, &Tongue::Plain).into_response())
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "the process was gone");
    }
}
