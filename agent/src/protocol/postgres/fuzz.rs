//! Frames of PostgreSQL for the fuzzer.

use bytes::{BufMut, BytesMut};

use crate::fuzz::{cut, revealing};

use super::columns::{ColumnPlan, Shape};
use super::frame::{MAX_FROM_PROCESS, take, write};
use super::kept::recorded;

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

/// Rows are recorded as lines with as many columns as they have, whatever is in them; run by run or one by one alike, and with
/// nothing in them that is to be hidden, also where the process may see it.
pub(crate) fn rows(data: &[u8]) {
    let (first, second) = cut(data);
    let column = |type_oid: u32, binary| ColumnPlan {
        class: None,
        shape: Shape::of(type_oid),
        binary,
        type_oid,
    };
    // Texts, bytes, JSON, a number, and what nobody knows.
    let columns = [
        column(25, false),
        column(25, true),
        column(17, true),
        column(3802, true),
        column(23, true),
        column(600, true),
    ];
    let row = |values: [&[u8]; 6]| {
        let mut frame = BytesMut::new();
        write(&mut frame, b'D', |out| {
            out.put_i16(6);
            for value in values {
                out.put_i32(i32::try_from(value.len()).unwrap_or_default());
                out.put_slice(value);
            }
        });
        frame
    };
    let canary = [first, b" ada.canary@example.com ", second].concat();
    let rows = [
        row([first, &canary, second, &canary, first, second]),
        row([&canary, second, &canary, first, &[0, 0, 0, 7], first]),
    ];
    let plan = revealing("pii.email");
    let one_by_one = rows.each_ref().map(|row| recorded(row, &columns, &plan));
    let run = recorded(&rows.concat(), &columns, &plan);
    assert_eq!(run, one_by_one.concat());
    for line in &one_by_one {
        assert_eq!(memchr::memchr_iter(b'\n', line).count(), 1, "{line:?}");
        assert_eq!(memchr::memchr_iter(b'\t', line).count(), 5, "{line:?}");
        assert!(
            memchr::memmem::find(line, b"ada.canary@example.com").is_none(),
            "{line:?}"
        );
    }
    let _any = recorded(data, &columns, &plan);
}
