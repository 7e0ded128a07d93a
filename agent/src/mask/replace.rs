//! What stands in the place of a value.

use bytes::{BufMut, BytesMut};

use crate::model::DataClass;

use super::classes::Strategy;
use super::key::MaskKey;

/// Characters of a token that are kept: 16 of base 32 are 80 bits.
const TOKEN: usize = 16;
/// Characters that `partial` leaves at the end.
const LAST: usize = 4;

/// Appends what stands for `value`; `false` where NULL does (and nothing was written).
pub(super) fn replace(
    strategy: Strategy,
    class: &DataClass,
    value: &[u8],
    key: &MaskKey,
    out: &mut BytesMut,
) -> bool {
    match strategy {
        Strategy::Null => return false,
        Strategy::Keep => out.put_slice(value),
        Strategy::Redact => redact(class, out),
        Strategy::Partial => partial(value, out),
        Strategy::Token => token(class, value, key, out),
    }
    true
}

/// The class's name in brackets.
pub(super) fn redact(class: &DataClass, out: &mut BytesMut) {
    out.put_u8(b'[');
    out.put_slice(class.as_str().as_bytes());
    out.put_u8(b']');
}

fn token(class: &DataClass, value: &[u8], key: &MaskKey, out: &mut BytesMut) {
    let tag = key.sign(&[class.as_str().as_bytes(), &[0], value]);
    let encoded = data_encoding::BASE32_NOPAD
        .encode(tag.as_ref())
        .to_ascii_lowercase();
    out.put_slice(class.as_str().as_bytes());
    out.put_u8(b':');
    out.put_slice(encoded.as_bytes().get(..TOKEN).unwrap_or_default());
}

/// Separators stay; of an address the first letters and the top domain; of anything else the last four characters,
/// where at least twice as many are hidden.
fn partial(value: &[u8], out: &mut BytesMut) {
    if let Some(at) = memchr::memrchr(b'@', value) {
        let (local, domain) = value.split_at(at);
        let domain = domain.get(1..).unwrap_or_default();
        let top = memchr::memrchr(b'.', domain)
            .and_then(|dot| domain.get(dot..))
            .unwrap_or_default();
        out.extend(local.first().filter(|b| b.is_ascii()));
        out.put_slice(b"***@");
        out.extend(domain.first().filter(|b| b.is_ascii()));
        out.put_slice(b"***");
        out.put_slice(top);
        return;
    }
    let counts = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii();
    let total = value.iter().filter(|b| counts(b)).count();
    let keep = if total >= 3 * LAST { LAST } else { 0 };
    let mut seen = 0;
    for byte in value {
        if counts(byte) {
            seen += 1;
            let stays = seen + keep > total && byte.is_ascii();
            out.put_u8(if stays { *byte } else { b'*' });
        } else {
            out.put_u8(*byte);
        }
    }
}
