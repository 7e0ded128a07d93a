//! Reads further ahead of TLS than TLS itself does: it asks for 4 KiB at a time, whatever is there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read at once where many come.
const ROOM: usize = 64 * 1024;
/// From so many bytes on there may be more of them.
const MANY: usize = 8 * 1024;

/// A stream whose reader gets what it asks for; where it could have got more, more is read ahead.
#[derive(Debug)]
pub struct Ahead<S> {
    inner: S,
    /// Made with the first answer that fills what its reader asks for.
    room: Box<[u8]>,
    from: usize,
    until: usize,
    /// Whether the last read filled all there was for it.
    more: bool,
}

impl<S> Ahead<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            room: Box::default(),
            from: 0,
            until: 0,
            more: false,
        }
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let read = self.room.get(self.from..self.until).unwrap_or_default();
        let (taken, _) = read.split_at_checked(buf.remaining()).unwrap_or((read, &[]));
        buf.put_slice(taken);
        self.from += taken.len();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.from == this.until {
            if !this.more {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                this.more = buf.remaining() == 0 && buf.filled().len() > before;
                return Poll::Ready(Ok(()));
            }
            if this.room.is_empty() {
                this.room = vec![0; ROOM].into_boxed_slice();
            }
            let mut room = ReadBuf::new(&mut this.room);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut room))?;
            (this.from, this.until) = (0, room.filled().len());
            this.more = this.until >= MANY;
        }
        this.hand_out(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Gives out at most so many bytes at a time, and counts how often.
    struct Source {
        bytes: Vec<u8>,
        at_once: usize,
        reads: usize,
    }

    impl AsyncRead for Source {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let length = this.bytes.len().min(buf.remaining()).min(this.at_once);
            buf.put_slice(&this.bytes.drain(..length).collect::<Vec<u8>>());
            this.reads += 1;
            Poll::Ready(Ok(()))
        }
    }

    async fn read(length: usize, at_once: usize) -> usize {
        let bytes: Vec<u8> = (0..length)
            .map(|n| u8::try_from(n % 251).expect("small"))
            .collect();
        let mut ahead = Ahead::new(Source {
            bytes: bytes.clone(),
            at_once,
            reads: 0,
        });
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let n = ahead.read(&mut piece).await.expect("read");
            if n == 0 {
                break;
            }
            seen.extend_from_slice(&piece[..n]);
        }
        assert!(seen == bytes, "{length} {at_once}");
        ahead.inner.reads
    }

    #[tokio::test]
    async fn everything_comes_in_its_order_and_large_answers_in_few_reads() {
        for length in [0, 1, 4095, 4096, 4097, 8192, 65_536, 70_000, 300_000] {
            for at_once in [1000, 4096, 10_000, usize::MAX] {
                read(length, at_once).await;
            }
        }
        assert!(read(128 * 1024, usize::MAX).await <= 5);
        // A small one is read as it was.
        assert_eq!(read(1000, usize::MAX).await, 2);
    }
}
