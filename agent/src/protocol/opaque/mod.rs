//! Connections whose bytes the agent does not understand: forwarded only where a policy names them, and counted.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::TargetConfig;
use crate::connection::{Connection, dial, reset};
use crate::mask::{Masked, NoData};
use crate::model::{
    Action, ConnectFacts, Digest, Facts, Fingerprint, Operation, OriginalDst, Outcome, OutcomeStatus,
    UpstreamAddr, duration_text,
};
use crate::session::{Downstream, Neutral, NeutralReason, Request, Rooms, Session, Upstream};

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// The wish to connect. Carries no bytes: dialling is the effect.
struct Connect(Arc<Operation>);

impl Connect {
    fn to(destination: OriginalDst) -> Self {
        let OriginalDst(address) = destination;
        let text = format!("connect {address}");
        let fingerprint = Fingerprint(Digest::of_fields(&[b"connect", address.to_string().as_bytes()]));
        let facts = Facts::Connect(ConnectFacts {
            address: address.ip(),
            port: address.port(),
        });
        let actions = [Action::Connect].into();
        Self(Arc::new(Operation {
            actions,
            facts,
            text,
            fingerprint,
            parameters: Vec::new(),
        }))
    }
}

impl Request for Connect {
    fn operation(&self) -> &Arc<Operation> {
        &self.0
    }

    fn encode(self, _out: &mut BytesMut) {}
}

/// Bytes within a connection that was judged.
struct Chunk(Bytes);

impl Neutral for Chunk {
    fn reason(&self) -> NeutralReason {
        NeutralReason::OpaqueBytes
    }

    fn encode(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.0);
    }
}

/// Judges the connection, and where it is permitted forwards bytes both ways until one side ends.
pub async fn serve(connection: Connection, rooms: Arc<Rooms>, target: Arc<TargetConfig>) {
    let Connection {
        id,
        stream,
        peer: _,
        original,
        upstream,
        process,
    } = connection;
    let session = match Session::unopened(rooms, id, process, original, target) {
        Ok(session) => session,
        Err(refusal) => {
            tracing::info!(%original, %refusal, "connection refused");
            return reset(stream);
        }
    };
    let end = relay(&session, stream, original, upstream).await;
    if let Err(error) = session.close(end).await {
        tracing::error!(%error, "the end of a session could not be recorded");
    }
}

async fn relay(
    session: &Session,
    stream: TcpStream,
    original: OriginalDst,
    upstream: UpstreamAddr,
) -> Outcome {
    let permit = match session.authorize(Connect::to(original)).await {
        Ok(permit) => permit,
        Err(refusal) => {
            tracing::info!(%original, %refusal, "connection refused");
            reset(stream);
            return Outcome::bare(OutcomeStatus::Refused, refusal.kind.name());
        }
    };
    let upstream = match dial(upstream).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::info!(%original, %error, "target not reached");
            reset(stream);
            return Outcome::bare(OutcomeStatus::Failed, error.to_string());
        }
    };
    let (from_target, to_target) = upstream.into_split();
    let (from_process, to_process) = stream.into_split();
    let mut writer = Upstream::new(to_target);
    let in_flight = writer.forward(permit);
    let mut answers = Downstream::new(to_process);
    let max_time = in_flight.limits.max_time;
    let (mut up, mut down) = (0, 0);
    let pumps = futures_util::future::join(
        pump_up(session, from_process, &mut writer, &mut up),
        pump_down(from_target, &mut answers, &mut down),
    );
    // The connection is one operation: its time is that of the whole.
    let ended = match max_time {
        None => {
            pumps.await;
            Outcome::bare(OutcomeStatus::Completed, "closed")
        }
        Some(time) => match tokio::time::timeout(time, pumps).await {
            Ok(((), ())) => Outcome::bare(OutcomeStatus::Completed, "closed"),
            Err(_elapsed) => Outcome::bare(
                OutcomeStatus::Cancelled,
                format!("max_time {}", duration_text(time)),
            ),
        },
    };
    let outcome = Outcome {
        bytes_up: up,
        bytes_down: down,
        ..ended
    };
    in_flight.outcome.finish(outcome.clone());
    outcome
}

/// Process to target, counting bytes. Ends the target's side when the process ends, or when nobody stands behind
/// the session any more.
async fn pump_up(
    session: &Session,
    mut from: OwnedReadHalf,
    to: &mut Upstream<OwnedWriteHalf>,
    count: &mut u64,
) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => *count = count.saturating_add(n as u64),
        }
        let pass = match session.pass(Chunk(buffer.split().freeze())) {
            Ok(pass) => pass,
            Err(refusal) => {
                tracing::info!(%refusal, "connection ended");
                break;
            }
        };
        to.pass(pass);
        if to.flush().await.is_err() {
            break;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "target was gone");
    }
}

/// Target to process, counting bytes.
async fn pump_down(mut from: OwnedReadHalf, to: &mut Downstream<OwnedWriteHalf>, count: &mut u64) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => *count = count.saturating_add(n as u64),
        }
        to.answer(Masked::without_data(buffer.split(), NoData::Uninspected));
        if to.flush().await.is_err() {
            break;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "process was gone");
    }
}
