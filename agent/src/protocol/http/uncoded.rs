//! Bodies of requests without their content coding, for dialects: what is judged is what is sent.

use bytes::{Bytes, BytesMut};
use hyper::header::{self, HeaderMap};

use super::answer::{Decoder, STEP};

/// The body, of at most `most` bytes, without the coding that the head names; the head names none then. Of one that breaks off, what came: no more
/// of it is judged, and no more is sent.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn uncoded(headers: &mut HeaderMap, body: Bytes, most: usize) -> Result<Bytes, String> {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(body);
    }
    let Some(mut decoder) = Decoder::new(headers) else {
        return Err("its body has a content coding that Interdict does not know".into());
    };
    headers.remove(header::CONTENT_ENCODING);
    let wrong = |error: std::io::Error| format!("its body is not coded as it says: {error}");
    let mut whole = BytesMut::new();
    let mut take = |plain: &[u8]| {
        if whole.len().saturating_add(plain.len()) > most {
            return Err(format!("its body is larger than {most} bytes without its coding"));
        }
        whole.extend_from_slice(plain);
        Ok(())
    };
    for step in body.chunks(STEP) {
        take(&decoder.step(step).map_err(wrong)?)?;
    }
    take(&decoder.finish().map_err(wrong)?)?;
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BODY: usize = 1 << 20;
    use hyper::header::HeaderValue;

    fn decoded(coding: &'static str, body: &[u8]) -> Result<Bytes, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
        let plain = uncoded(&mut headers, Bytes::copy_from_slice(body), MAX_BODY);
        assert!(plain.is_err() || headers.is_empty());
        plain
    }

    #[test]
    fn codings_are_undone_within_bounds() {
        let text = b"{\"a\": 1}".repeat(2000);
        let coded = zstd::encode_all(text.as_slice(), 3).expect("coded");
        assert_eq!(decoded("zstd", &coded).expect("decoded"), text);
        assert_eq!(decoded("identity", &text).expect("as it is"), text);
        assert!(decoded("zstd", &text).expect_err("no zstd").contains("not coded"));
        assert!(
            decoded("zstd, gzip", &coded)
                .expect_err("two")
                .contains("does not know")
        );
        let bomb = zstd::encode_all(vec![0; MAX_BODY + 1].as_slice(), 3).expect("coded");
        assert!(decoded("zstd", &bomb).is_err());
    }
}
