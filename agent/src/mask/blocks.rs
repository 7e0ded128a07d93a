//! Sixty-four bytes at a time: which of them are of some kind, as the bits of a number. Walks over large texts look at
//! single bytes only where a block has something for them. The loops have no branches, so that compilers make vector
//! instructions of them.

/// Bytes in a block.
pub(crate) const BLOCK: usize = 64;

/// The block that begins at `at`; `None` where it is not whole.
#[inline]
pub(crate) fn block(bytes: &[u8], at: usize) -> Option<&[u8; BLOCK]> {
    bytes.get(at..)?.first_chunk()
}

/// The block that begins one byte before `at`: zero stands before the first byte of all.
#[inline]
pub(crate) fn before(bytes: &[u8], at: usize) -> [u8; BLOCK] {
    let mut before = [0; BLOCK];
    match at.checked_sub(1).and_then(|at| block(bytes, at)) {
        Some(whole) => before = *whole,
        None => before
            .iter_mut()
            .skip(1)
            .zip(bytes)
            .for_each(|(to, from)| *to = *from),
    }
    before
}

/// Which bytes of a block `is` wants: bit *n* stands for byte *n*.
#[inline]
pub(crate) fn which(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let mut marks = [0_u8; BLOCK];
    for (mark, byte) in marks.iter_mut().zip(block) {
        *mark = u8::from(is(*byte));
    }
    bits(&marks)
}

/// The same, where `is` hears the byte before each, too. `before` is the block that begins one byte earlier.
#[inline]
pub(crate) fn which_behind(before: &[u8; BLOCK], block: &[u8; BLOCK], is: impl Fn(u8, u8) -> bool) -> u64 {
    let mut marks = [0_u8; BLOCK];
    for ((mark, before), byte) in marks.iter_mut().zip(before).zip(block) {
        *mark = u8::from(is(*before, *byte));
    }
    bits(&marks)
}

/// Marks of 0 or 1 as bits.
#[inline]
fn bits(marks: &[u8; BLOCK]) -> u64 {
    /// Brings the lowest bits of eight bytes together in the highest byte.
    const TOGETHER: u64 = 0x0102_0408_1020_4080;
    let (eights, _) = marks.as_chunks::<8>();
    eights.iter().rev().fold(0, |bits, eight| {
        bits << 8 | u64::from_le_bytes(*eight).wrapping_mul(TOGETHER) >> 56
    })
}

/// Of marks that open and close by turns, the places from each that opens up to before the one that closes.
#[inline]
pub(crate) const fn between_marks(marks: u64) -> u64 {
    let mut inside = marks;
    inside ^= inside << 1;
    inside ^= inside << 2;
    inside ^= inside << 4;
    inside ^= inside << 8;
    inside ^= inside << 16;
    inside ^ inside << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_seen_at_its_place() {
        for place in 0..BLOCK {
            let mut bytes = [b' '; BLOCK + 1];
            bytes[place + 1] = b'7';
            let (before, block) = (before(&bytes, 1), block(&bytes, 1).expect("whole"));
            assert_eq!(which(block, |byte| byte.is_ascii_digit()), 1 << place);
            assert_eq!(which(block, |byte| !byte.is_ascii_digit()), !(1 << place));
            let behind = which_behind(&before, block, |before, _| before.is_ascii_digit());
            assert_eq!(behind, (1 << place) << 1);
        }
        assert!(block(&[0; BLOCK], 1).is_none());
        let first = [7; BLOCK];
        assert_eq!(which(&before(&first, 0), |byte| byte == 0), 1);
    }

    #[test]
    fn marks_open_and_close_by_turns() {
        for marks in [
            0,
            1,
            0b1001,
            0b1010_0110,
            u64::MAX,
            1 << 63,
            0x8000_0100_0020_0001,
        ] {
            let mut inside = false;
            let mut expected = 0;
            for place in 0..64 {
                inside ^= marks >> place & 1 == 1;
                expected |= u64::from(inside) << place;
            }
            assert_eq!(between_marks(marks), expected, "{marks:b}");
        }
    }
}
