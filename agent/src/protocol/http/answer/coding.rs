//! Undoing content codings (RFC 9110, 8.4.1) as the bytes arrive.

use std::io::{self, Write};

use bytes::BytesMut;
use hyper::header::{self, HeaderMap};

/// Most that one step may decode to: a step takes 4 KiB.
const MAX_STEP: usize = 16 * 1024 * 1024;
/// Bytes that one step takes.
pub(in super::super) const STEP: usize = 4096;
/// From this size on an answer may be at most `MAX_RATIO` times as large as what was sent.
const RATIO_FROM: u64 = 64 * 1024 * 1024;
const MAX_RATIO: u64 = 200;
/// Largest window of zstd, as a power of two (RFC 8878, 3.1.1.1.2 recommends support for 8 MiB).
const ZSTD_WINDOW: u32 = 23;

/// Takes what a decoder writes, within bounds.
#[derive(Debug, Default)]
struct Sink(BytesMut);

impl Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(piece.len()) > MAX_STEP {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it expands too much"));
        }
        self.0.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Coding {
    Identity,
    Gzip(Box<flate2::write::MultiGzDecoder<Sink>>),
    Zlib(Box<flate2::write::ZlibDecoder<Sink>>),
    /// What some servers send as "deflate".
    Deflate(Box<flate2::write::DeflateDecoder<Sink>>),
    /// "deflate", before its first byte tells which.
    DeflateOrZlib,
    Brotli(Box<brotli_decompressor::DecompressorWriter<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

/// Undoes the coding of one body.
pub(in super::super) struct Decoder {
    coding: Coding,
    taken: u64,
    given: u64,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// For a body that has none.
    pub(in super::super) const fn none() -> Self {
        Self {
            coding: Coding::Identity,
            taken: 0,
            given: 0,
        }
    }

    /// Whether there is nothing to undo.
    pub(super) const fn is_identity(&self) -> bool {
        matches!(self.coding, Coding::Identity)
    }

    /// For the coding that a head names; `None` where it names another, or several.
    pub(in super::super) fn new(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let (first, second) = (values.next(), values.next());
        if second.is_some() {
            return None;
        }
        let name = match first {
            None => String::new(),
            Some(value) => value.to_str().ok()?.trim().to_ascii_lowercase(),
        };
        let coding = match name.as_str() {
            "" | "identity" => Coding::Identity,
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Sink::default()))),
            "deflate" => Coding::DeflateOrZlib,
            "br" => Coding::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(
                Sink::default(),
                STEP,
            ))),
            "zstd" => {
                let mut decoder = zstd::stream::write::Decoder::new(Sink::default()).ok()?;
                decoder.window_log_max(ZSTD_WINDOW).ok()?;
                Coding::Zstd(Box::new(decoder))
            }
            _ => return None,
        };
        Some(Self {
            coding,
            taken: 0,
            given: 0,
        })
    }

    /// Takes at most `STEP` bytes; everything that they decode to.
    pub(in super::super) fn step(&mut self, piece: &[u8]) -> io::Result<BytesMut> {
        if matches!(self.coding, Coding::DeflateOrZlib)
            && let Some(first) = piece.first()
        {
            self.coding = if first & 0x0f == 8 {
                Coding::Zlib(Box::new(flate2::write::ZlibDecoder::new(Sink::default())))
            } else {
                Coding::Deflate(Box::new(flate2::write::DeflateDecoder::new(Sink::default())))
            };
        }
        let out = match &mut self.coding {
            Coding::Identity | Coding::DeflateOrZlib => BytesMut::from(piece),
            Coding::Gzip(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut().0.split()
            }
            Coding::Zlib(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut().0.split()
            }
            Coding::Deflate(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut().0.split()
            }
            Coding::Brotli(decoder) => {
                decoder.write_all(piece)?;
                decoder.get_mut().0.split()
            }
            Coding::Zstd(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut().0.split()
            }
        };
        self.count(piece.len(), out.len())?;
        Ok(out)
    }

    /// The body is complete: what was kept back. A body that was cut off is an error.
    pub(in super::super) fn finish(&mut self) -> io::Result<BytesMut> {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "its content coding breaks off");
        let out = match &mut self.coding {
            Coding::Identity | Coding::DeflateOrZlib => BytesMut::new(),
            // An empty body has no trailer to check.
            Coding::Gzip(_) | Coding::Zlib(_) | Coding::Deflate(_) | Coding::Brotli(_) | Coding::Zstd(_)
                if self.taken == 0 =>
            {
                BytesMut::new()
            }
            Coding::Gzip(decoder) => {
                decoder.try_finish().map_err(|_incomplete| cut())?;
                decoder.get_mut().0.split()
            }
            Coding::Zlib(decoder) => {
                decoder.try_finish().map_err(|_incomplete| cut())?;
                decoder.get_mut().0.split()
            }
            Coding::Deflate(decoder) => {
                decoder.try_finish().map_err(|_incomplete| cut())?;
                decoder.get_mut().0.split()
            }
            Coding::Brotli(decoder) => {
                decoder.close().map_err(|_incomplete| cut())?;
                decoder.get_mut().0.split()
            }
            Coding::Zstd(decoder) => {
                decoder.flush()?;
                decoder.get_mut().0.split()
            }
        };
        self.count(0, out.len())?;
        Ok(out)
    }

    fn count(&mut self, taken: usize, given: usize) -> io::Result<()> {
        self.taken = self
            .taken
            .saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        self.given = self
            .given
            .saturating_add(u64::try_from(given).unwrap_or(u64::MAX));
        let identity = matches!(self.coding, Coding::Identity);
        if !identity && self.given > RATIO_FROM && self.given / MAX_RATIO > self.taken {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it expands too much"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `text` in a coding.
    pub(in super::super) fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let done = |result: io::Result<Vec<u8>>| result.expect("encoded");
        match coding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(text).expect("written");
                done(encoder.finish())
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(text).expect("written");
                done(encoder.finish())
            }
            "raw" => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(text).expect("written");
                done(encoder.finish())
            }
            "zstd" => done(zstd::stream::encode_all(text, 3)),
            _ => text.to_vec(),
        }
    }

    fn decoder(coding: &str) -> Decoder {
        let mut headers = HeaderMap::new();
        let name = if coding == "raw" { "deflate" } else { coding };
        headers.insert(header::CONTENT_ENCODING, name.parse().expect("name"));
        Decoder::new(&headers).expect("known")
    }

    #[test]
    fn codings_are_undone_wherever_they_are_cut() {
        let text = b"ada@example.com, ".repeat(40);
        for coding in ["identity", "gzip", "deflate", "raw", "zstd"] {
            let bytes = encoded(coding, &text);
            for cut in 0..=bytes.len() {
                let mut decoder = decoder(coding);
                let (one, two) = bytes.split_at(cut);
                let mut seen = decoder.step(one).expect("first");
                seen.extend(decoder.step(two).expect("second"));
                seen.extend(decoder.finish().expect("end"));
                assert_eq!(seen.as_ref(), text.as_slice(), "{coding} {cut}");
            }
        }
        let brotli = data_encoding::HEXLOWER
            .decode(b"1ba702f825c380c85290520a4b1078b128ab77c3a300")
            .expect("hex");
        for cut in 0..=brotli.len() {
            let mut decoder = decoder("br");
            let (one, two) = brotli.split_at(cut);
            let mut seen = decoder.step(one).expect("first");
            seen.extend(decoder.step(two).expect("second"));
            seen.extend(decoder.finish().expect("end"));
            assert_eq!(seen.as_ref(), text.as_slice(), "br {cut}");
        }
    }

    #[test]
    fn what_breaks_off_or_expands_too_much_is_an_error() {
        let bytes = encoded("gzip", &b"hello ".repeat(100));
        let mut cut = decoder("gzip");
        cut.step(bytes.get(..bytes.len() - 6).expect("longer"))
            .expect("so far");
        assert!(cut.finish().is_err());
        let bomb = encoded("zstd", &vec![0; 512 << 20]);
        let mut decoder = decoder("zstd");
        assert!(bomb.chunks(STEP).any(|piece| decoder.step(piece).is_err()));
        let mut two = HeaderMap::new();
        two.insert(header::CONTENT_ENCODING, "gzip, br".parse().expect("value"));
        assert!(Decoder::new(&two).is_none());
    }
}
