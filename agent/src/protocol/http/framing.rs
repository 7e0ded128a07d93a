//! Watches the bytes of an HTTP/1 connection for places where two readers could see different messages (RFC 9112, 11.2).
//! The library behind it would choose one reading and go on; here such a message is refused, with the reason.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest head, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Longest line of a chunk's size, with its extensions.
const MAX_CHUNK_LINE: usize = 256;
/// Bytes that are read at once.
const READ: usize = 16 * 1024;
/// Stands in the place of a head that is refused; whoever answers it finds the reason in `Noted`.
const STAND_IN: &[u8] = b"INTERDICT-REFUSED / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// The method of the stand-in.
pub(super) const STAND_IN_METHOD: &str = "INTERDICT-REFUSED";

/// What is known about a connection's bytes.
#[derive(Debug, Default)]
pub(super) struct Noted {
    why: OnceLock<&'static str>,
    switched: AtomicBool,
}

impl Noted {
    /// Why the bytes are refused, once they are.
    pub(super) fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// From here on the bytes are no HTTP any more (RFC 9110, 7.8).
    pub(super) fn switch(&self) {
        self.switched.store(true, Ordering::Release);
    }
}

/// Where the watch stands.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The stand-in was the last message.
    Dead,
    /// In the middle of a body.
    Broken,
}

/// Follows messages byte by byte.
#[derive(Debug)]
struct Watch {
    state: State,
    /// The head, or the line, so far.
    seen: Vec<u8>,
}

impl Watch {
    const fn new() -> Self {
        Self {
            state: State::Head,
            seen: Vec::new(),
        }
    }

    /// Appends what may be read to `out`. A head is held back until it is complete.
    fn feed(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> Result<(), &'static str> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Dead | State::Broken => return Ok(()),
                State::Body(left) | State::Chunk(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let (taken, after) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
                    out.extend_from_slice(taken);
                    *left = left.saturating_sub(u64::try_from(taken.len()).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.state = if matches!(self.state, State::Body(_)) {
                            State::Head
                        } else {
                            State::ChunkEnd
                        };
                    }
                    bytes = after;
                }
                State::Head => {
                    bytes = rest;
                    if let Some(next) = self.head(*first)? {
                        out.extend_from_slice(&self.seen);
                        self.next(next);
                    }
                }
                State::Size | State::ChunkEnd | State::Trailers => {
                    bytes = rest;
                    let end = self.line(*first)?;
                    out.extend_from_slice(&[*first]);
                    if let Some(next) = end {
                        self.next(next);
                    }
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, next: State) {
        self.seen.clear();
        self.state = if next == State::Body(0) { State::Head } else { next };
    }

    fn push(&mut self, byte: u8) -> Result<(), &'static str> {
        let before = self.seen.last().copied();
        if byte == b'\n' && before != Some(b'\r') {
            return Err("a line ends with a line feed alone");
        }
        if before == Some(b'\r') && byte != b'\n' {
            return Err("a carriage return stands alone");
        }
        if byte == 0 {
            return Err("there is a zero byte in it");
        }
        self.seen.push(byte);
        Ok(())
    }

    /// One more byte of a head; what follows it once it is complete.
    fn head(&mut self, byte: u8) -> Result<Option<State>, &'static str> {
        self.push(byte)?;
        // Empty lines before a request are skipped (RFC 9112, 2.2).
        if self.seen == b"\r\n" {
            self.seen.clear();
            return Ok(None);
        }
        if matches!(byte, b' ' | b'\t') && self.seen.ends_with(&[b'\r', b'\n', byte]) {
            return Err("a header is folded over several lines");
        }
        if self.seen.len() > MAX_HEAD {
            return Err("its head is larger than 64 KiB");
        }
        if byte == b'\n' && self.seen.ends_with(b"\r\n\r\n") {
            return body_of(&self.seen).map(Some);
        }
        Ok(None)
    }

    /// One more byte of a line around chunks; what follows it once it is complete.
    fn line(&mut self, byte: u8) -> Result<Option<State>, &'static str> {
        self.push(byte)?;
        let most = if self.state == State::Trailers {
            MAX_HEAD
        } else {
            MAX_CHUNK_LINE
        };
        if self.seen.len() > most {
            return Err("the lines around its chunks are too long");
        }
        if byte != b'\n' {
            return Ok(None);
        }
        match (&self.state, self.seen.as_slice()) {
            (State::Size, line) => {
                let size = chunk_size(line).ok_or("the size of a chunk is no hexadecimal number")?;
                Ok(Some(if size == 0 {
                    State::Trailers
                } else {
                    State::Chunk(size)
                }))
            }
            (State::ChunkEnd, b"\r\n") => Ok(Some(State::Size)),
            (State::ChunkEnd, _) => Err("a chunk is longer than its size"),
            (_, line) if line == b"\r\n" || line.ends_with(b"\r\n\r\n") => Ok(Some(State::Head)),
            _ => Ok(None),
        }
    }
}

/// What follows a head.
fn body_of(head: &[u8]) -> Result<State, &'static str> {
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let mut length: Option<u64> = None;
    let mut chunked = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).ok_or("a header has no colon")?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err("there is a blank in the name of a header");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err("it has more than one Content-Length");
            }
            length = Some(decimal(value).ok_or("its Content-Length is no number")?);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked {
                return Err("it has more than one Transfer-Encoding");
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("its Transfer-Encoding is not \"chunked\"");
            }
            chunked = true;
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Err("it has both Content-Length and Transfer-Encoding"),
        (true, None) if !first.ends_with(b"HTTP/1.1") => Err("only HTTP/1.1 has Transfer-Encoding"),
        (true, None) => Ok(State::Size),
        (false, length) => Ok(State::Body(length.unwrap_or(0))),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The size in `SIZE[;extensions]\r\n`.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.split(|b| *b == b';').next()?;
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A stream whose reader sees messages of one reading only.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    watch: Watch,
    noted: Arc<Noted>,
    ready: BytesMut,
    scratch: Box<[u8]>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, noted: Arc<Noted>) -> Self {
        Self {
            inner,
            watch: Watch::new(),
            noted,
            ready: BytesMut::new(),
            scratch: vec![0; READ].into_boxed_slice(),
        }
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let n = buf.remaining().min(self.ready.len());
        buf.put_slice(self.ready.get(..n).unwrap_or_default());
        self.ready.advance(n);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            if this.noted.switched.load(Ordering::Acquire) {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            if this.watch.state == State::Dead {
                // The end would be taken for the process going away; the answer to the stand-in closes the connection.
                return Poll::Pending;
            }
            if this.watch.state == State::Broken {
                let why = this.noted.why().unwrap_or_default();
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            let mut piece = ReadBuf::new(&mut this.scratch);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(why) = this.watch.feed(piece.filled(), &mut this.ready) {
                let _first_reason_counts = this.noted.why.set(why);
                let in_head = this.watch.state == State::Head;
                this.watch.state = if in_head { State::Dead } else { State::Broken };
                if in_head {
                    this.ready.extend_from_slice(STAND_IN);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// What a reader sees of these pieces.
#[cfg(test)]
pub(super) fn watched(pieces: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
    let (mut watch, mut out) = (Watch::new(), BytesMut::new());
    for piece in pieces {
        watch.feed(piece, &mut out)?;
    }
    Ok(out.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader sees, fed in pieces cut at `cut`.
    fn seen(bytes: &[u8], cut: usize) -> Result<Vec<u8>, &'static str> {
        let (one, two) = bytes.split_at(cut);
        watched(&[one, two])
    }

    #[test]
    fn what_can_be_read_in_one_way_passes_wherever_it_is_cut() {
        let whole = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
            POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nGET \r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
            GET / HTTP/1.0\r\nHost: h\r\n\r\n";
        for cut in 0..=whole.len() {
            assert_eq!(seen(whole, cut), Ok(whole.to_vec()), "{cut}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_wherever_it_is_cut() {
        let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{rest}");
        let chunked = |rest: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"));
        let table = [
            (
                post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                "both",
            ),
            (
                post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
                "both",
            ),
            (
                post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
                "more than one Content-Length",
            ),
            (post("Content-Length: 3, 3\r\n\r\nabc"), "no number"),
            (post("Content-Length: +3\r\n\r\nabc"), "no number"),
            (post("Content-Length: 0x3\r\n\r\nabc"), "no number"),
            (
                post("Content-Length: 99999999999999999999\r\n\r\nabc"),
                "no number",
            ),
            (
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "more than one",
            ),
            (
                post("Transfer-Encoding: gzip, chunked\r\n\r\n"),
                "not \"chunked\"",
            ),
            (post("Transfer-Encoding: xchunked\r\n\r\n"), "not \"chunked\""),
            (post("Transfer-Encoding : chunked\r\n\r\n"), "blank"),
            (post("X: a\r\n b\r\n\r\n"), "folded"),
            (post("X: a\nY: b\r\n\r\n"), "line feed alone"),
            (post("X: a\rY: b\r\n\r\n"), "carriage return"),
            (post("X: a\0\r\n\r\n"), "zero"),
            (post("no colon\r\n\r\n"), "colon"),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
                "only HTTP/1.1",
            ),
            (chunked("3\nabc\r\n0\r\n\r\n"), "line feed alone"),
            (chunked("3\r\nabcd\r\n0\r\n\r\n"), "longer"),
            (chunked("0x3\r\nabc\r\n0\r\n\r\n"), "hexadecimal"),
            (chunked("3 \r\nabc\r\n0\r\n\r\n"), "hexadecimal"),
            (chunked("\r\nabc\r\n0\r\n\r\n"), "hexadecimal"),
            (chunked("FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n"), "hexadecimal"),
            (chunked(&format!("3;{}\r\nabc", "x".repeat(300))), "too long"),
            (post(&format!("X: {}\r\n\r\n", "x".repeat(MAX_HEAD))), "64 KiB"),
        ];
        for (bytes, expected) in table {
            let step = (bytes.len() / 300).max(1);
            for cut in (0..=bytes.len()).step_by(step) {
                let why = seen(bytes.as_bytes(), cut).expect_err(&bytes);
                assert!(why.contains(expected), "{bytes:.100}: {why}");
            }
        }
    }

    #[tokio::test]
    async fn a_refused_head_becomes_the_stand_in() {
        use tokio::io::AsyncReadExt;
        let good: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let bytes = [good, b"GET / HTTP/1.1\nHost: h\r\n\r\n"].concat();
        let noted = Arc::new(Noted::default());
        let mut watched = Watched::new(bytes.as_slice(), Arc::clone(&noted));
        let mut all = vec![0; good.len() + STAND_IN.len()];
        watched.read_exact(&mut all).await.expect("read");
        assert_eq!(all, [good, STAND_IN].concat());
        assert_eq!(noted.why(), Some("a line ends with a line feed alone"));
    }
}
