//! Frames of PostgreSQL for the fuzzer.

use bytes::BytesMut;

use crate::fuzz::cut;

use super::frame::{MAX_FROM_PROCESS, take};

/// Frames are the same wherever their bytes are cut.
pub(crate) fn frames(data: &[u8]) {
    let (first, second) = cut(data);
    let taken = |pieces: &[&[u8]]| {
        let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match take(&mut buffer, MAX_FROM_PROCESS) {
                    Ok(Some(frame)) => {
                        let mut fields = frame.fields();
                        let _text = fields.text();
                        let _number = fields.i16();
                        all.push(frame.bytes().to_vec());
                    }
                    Ok(None) => break,
                    Err(_) => return (all, true),
                }
            }
        }
        (all, false)
    };
    assert_eq!(
        taken(&[first, second]),
        taken(&[[first, second].concat().as_slice()])
    );
}
