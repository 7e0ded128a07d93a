//! Bytes to frames and back; pure. (PostgreSQL manual, "Message Formats".)

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest frame from the process, in bytes.
pub(super) const MAX_FROM_PROCESS: usize = 64 * 1024 * 1024;
/// Longest frame from the target, in bytes. The server's own bound for a row is 1 GiB; a row is in memory as a whole
/// while it is masked.
pub(super) const MAX_FROM_TARGET: usize = 256 * 1024 * 1024;
/// Type byte and length.
pub(super) const HEADER: usize = 5;

/// One message, header included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame(Bytes);

/// The bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// The length field is out of bounds.
    #[error("a message of type {kind:?} claims a length of {length} bytes")]
    Length {
        /// Its type.
        kind: char,
        /// What it claims.
        length: i64,
    },
    /// The body is not as the protocol says.
    #[error("a message of type {0:?} is damaged")]
    Body(char),
}

impl Frame {
    /// The type.
    pub(super) fn kind(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// What follows the header.
    pub(super) fn body(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A reader over the body.
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields {
            rest: self.body(),
            kind: char::from(self.kind()),
        }
    }
}

/// The length of the frame at the start of `bytes`, header included; `None` while its header is not whole.
pub(super) fn frame_length(bytes: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [kind, a, b, c, d] = *header;
    let claimed = i32::from_be_bytes([a, b, c, d]);
    let wrong = FrameError::Length {
        kind: char::from(kind),
        length: claimed.into(),
    };
    let length = usize::try_from(claimed)
        .ok()
        .filter(|l| *l >= 4 && *l < max)
        .ok_or(wrong)?;
    Ok(Some(length + 1))
}

/// Takes the next whole frame out of `buffer`.
pub(super) fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    match frame_length(buffer, max)? {
        Some(length) if buffer.len() >= length => Ok(Some(Frame(buffer.split_to(length).freeze()))),
        _ => Ok(None),
    }
}

/// Writes a frame.
pub(super) fn write(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Writes text with its NUL; NULs inside end it early.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    let end = memchr::memchr(0, text.as_bytes()).unwrap_or(text.len());
    out.put_slice(text.as_bytes().get(..end).unwrap_or_default());
    out.put_u8(0);
}

/// Reads a body field by field; every read is checked.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    kind: char,
}

impl<'a> Fields<'a> {
    /// A reader over bytes that are not a frame's body.
    pub(super) const fn over(rest: &'a [u8], kind: char) -> Self {
        Self { rest, kind }
    }

    fn wrong(&self) -> FrameError {
        FrameError::Body(self.kind)
    }

    /// What is left.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.take(1).map(|mut b| b.get_u8())
    }

    pub(super) fn i16(&mut self) -> Result<i16, FrameError> {
        self.take(2).map(|mut b| b.get_i16())
    }

    pub(super) fn i32(&mut self) -> Result<i32, FrameError> {
        self.take(4).map(|mut b| b.get_i32())
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.take(4).map(|mut b| b.get_u32())
    }

    /// A count that must not be negative.
    pub(super) fn count(&mut self) -> Result<usize, FrameError> {
        let count = self.i16()?;
        usize::try_from(count).map_err(|_negative| self.wrong())
    }

    /// Bytes up to a NUL.
    pub(super) fn raw_text(&mut self) -> Result<&'a [u8], FrameError> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| self.wrong())?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// Text up to a NUL; UTF-8 only.
    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        let raw = self.raw_text()?;
        std::str::from_utf8(raw).map_err(|_not_utf8| self.wrong())
    }

    /// A value with its length; `None` for NULL.
    pub(super) fn value(&mut self) -> Result<Option<&'a [u8]>, FrameError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_negative| self.wrong())?;
        self.take(length).map(Some)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_survive_every_split() {
        let mut whole = BytesMut::new();
        write(&mut whole, b'Q', |out| put_text(out, "SELECT 1"));
        write(&mut whole, b'S', |_| {});
        for cut in 0..=whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = take(&mut buffer, MAX_FROM_PROCESS).expect("whole") {
                frames.push(frame);
            }
            buffer.extend_from_slice(&whole[cut..]);
            while let Some(frame) = take(&mut buffer, MAX_FROM_PROCESS).expect("whole") {
                frames.push(frame);
            }
            let kinds: Vec<u8> = frames.iter().map(Frame::kind).collect();
            assert_eq!(kinds, b"QS", "cut at {cut}");
            assert_eq!(frames[0].fields().text(), Ok("SELECT 1"));
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for length in [-1i32, 0, 3, i32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert!(frame_length(&bytes, MAX_FROM_PROCESS).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(frame)) = take(&mut buffer, 1000) {
                let mut fields = frame.fields();
                let _read = fields.text();
                let _read = fields.count();
                let _read = fields.value();
                let _read = fields.end();
            }
        }
    }
}
