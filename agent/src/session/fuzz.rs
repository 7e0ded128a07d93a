//! What is sent unread and what is recorded in pieces, for the fuzzer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::audit::{Scene, Stored};
use crate::fuzz::cut;
use crate::mask::{Masked, NoData};
use crate::model::{
    ConnectionId, Environment, Executable, NetnsCookie, OriginalDst, Principal, PrincipalKind, Process,
    Protocol, RunId, SessionId, Target, TargetName, Unkept,
};

use super::content::Recording;
use super::upload::{Stopped, Upload};

/// A session of nobody.
pub(super) fn scene() -> Scene {
    Scene {
        run: RunId::new(),
        connection: ConnectionId::new(),
        session: SessionId::new(),
        principal: Arc::new(Principal {
            kind: PrincipalKind::Workload,
            issuer: None,
            subject: "x".into(),
            display: "x".into(),
            groups: [].into(),
            expires_at: None,
        }),
        process: Arc::new(Process {
            tgid: 7,
            start_ns: 1,
            uid: 0,
            gid: 0,
            exe: Executable::default(),
            cgroup: 1,
            netns: NetnsCookie(1),
            comm: "x".into(),
        }),
        target: Arc::new(Target {
            name: TargetName("t".into()),
            environment: Environment("prod".into()),
            labels: BTreeMap::new(),
            protocol: Protocol::Http,
            configured: true,
        }),
        original: OriginalDst(([10, 0, 0, 1], 80).into()),
        stored: Stored::default(),
    }
}

/// Wherever what is shown is cut, the same of it is recorded: all of it, or the beginning that there is room for.
pub(crate) fn recordings(data: &[u8]) {
    let (limit, data) = data.split_first().unwrap_or((&0, &[]));
    let limit = u64::from(*limit);
    let (first, second) = cut(data);
    let whole = [first, second].concat();
    let kept = |pieces: &[&[u8]]| {
        let mut recording = Recording::of_nothing(limit);
        for piece in pieces {
            let piece = Bytes::copy_from_slice(piece);
            recording.push(&Masked::without_data(piece, NoData::Uninspected));
        }
        recording.end();
        recording.recorded()
    };
    let (one, two) = (kept(&[&whole]), kept(&[first, second]));
    let length = u64::try_from(whole.len()).unwrap_or(u64::MAX);
    for (all, rest) in [&one, &two] {
        assert!(whole.starts_with(all));
        let size = u64::try_from(all.len()).unwrap_or(u64::MAX);
        // A letter that has no room is left out as a whole.
        assert!(
            size <= limit && (size == length || size + 4 > limit),
            "{size} of {length}, {limit}"
        );
        assert_eq!(*rest, (size < length).then_some((Unkept::Limit, length)));
    }
    if std::str::from_utf8(&whole).is_ok() {
        assert_eq!(one, two);
    }
}

/// What became of an upload.
#[derive(Debug, Default, PartialEq)]
struct Sent {
    bytes: Vec<u8>,
    whole: bool,
    stopped: Option<Stopped>,
}

/// Of a body that is sent unread no more goes on than the target may be sent, and it counts as whole only where it came to its
/// end; wherever its bytes are cut, it is whole or not.
pub(crate) fn uploads(data: &[u8]) {
    let (most, data) = data.split_first().unwrap_or((&0, &[]));
    let (how, data) = data.split_first().unwrap_or((&0, &[]));
    let (most, whole) = (u64::from(*most), data.get(1..).unwrap_or_default());
    let head = match how % 2 {
        0 => "transfer-encoding: chunked".to_owned(),
        _ => format!("content-length: {how}"),
    };
    let head = format!("PUT / HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
    let (first, second) = cut(data);
    let one = sent(&[head.as_bytes(), whole], most);
    let two = sent(&[head.as_bytes(), first, second], most);
    for sent in one.iter().chain(&two) {
        assert!(
            u64::try_from(sent.bytes.len()).is_ok_and(|sent| sent <= most),
            "{sent:?}"
        );
        assert!(!(sent.whole && sent.stopped.is_some()), "{sent:?}");
    }
    // One whose connection broke may be let go of before it has begun.
    let ended = |sent: Option<Sent>| sent.and_then(|sent| sent.whole.then_some(sent.bytes));
    assert_eq!(ended(one), ended(two));
}

/// What goes on of a request that comes in these pieces and then ends.
fn sent(pieces: &[&[u8]], most: u64) -> Option<Sent> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .ok()?;
    let pieces = pieces.iter().rev().filter(|piece| !piece.is_empty());
    let wire = Wire(pieces.map(|piece| Bytes::copy_from_slice(piece)).collect());
    let sent = Arc::new(Mutex::new(None));
    let place = Arc::clone(&sent);
    let service = service_fn(move |request: Request<Incoming>| {
        let place = Arc::clone(&place);
        async move {
            let all = all_of(request.into_body(), most).await;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let _ended = runtime.block_on(
        http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(wire), service),
    );
    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    sent.take()
}

async fn all_of(mut body: Incoming, most: u64) -> Sent {
    // What was read of it before it was known to be so long.
    let begun = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        // It is refused before it is an upload.
        Some(Err(_)) => return Sent::default(),
        None => Bytes::new(),
    };
    let upload = Upload::new(begun, body, most);
    let mut sending = upload.clone().sending();
    let mut bytes = Vec::new();
    let whole = loop {
        match poll_fn(|cx| sending.poll(cx)).await {
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    assert_eq!(u64::try_from(bytes.len()).ok(), Some(upload.sent()));
    assert_eq!(upload.note().starts_with("upload sent: "), whole);
    Sent {
        bytes,
        whole,
        stopped: upload.stopped(),
    }
}

/// Bytes that come in pieces (the last of the list first), and nobody who hears anything.
struct Wire(Vec<Bytes>);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if let Some(mut piece) = self.0.pop() {
            buf.put_slice(&piece.split_to(piece.len().min(buf.remaining())));
            if !piece.is_empty() {
                self.0.push(piece);
            }
        }
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
