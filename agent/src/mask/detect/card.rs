//! Payment card numbers (ISO/IEC 7812): a known issuer's range and length, and the Luhn check digit.
//!
//! Numbers in one piece or in groups of three to thirteen digits with one kind of separator. Lengths that real cards
//! seldom have and plain identifiers often do (12, 13, 17 to 19 digits) count only in groups, or after a word such as
//! *card*. The digits behind the point of `0.4111111111111111` are none.

use super::super::view::View;
use super::context;

const WORDS: &[&[u8]] = &[
    b"card",
    b"cards",
    b"pan",
    b"cc",
    b"credit",
    b"debit",
    b"payment",
    b"visa",
    b"maestro",
    b"mastercard",
    b"unionpay",
    b"amex",
    b"cardnumber",
];
const LONGEST: usize = 19;
pub(super) const SHORTEST: usize = 12;

/// Digits read so far, with the check sums that a number ending here would have.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: usize,
    /// The first six digits.
    prefix: u32,
    /// The Luhn sum where the last digit is the check digit.
    luhn: u32,
    /// The Luhn sum where the last digit is doubled.
    other: u32,
    uniform: bool,
}

impl Sum {
    fn push(self, byte: u8) -> Self {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        let doubled = digit * 2;
        Self {
            count: self.count + 1,
            prefix: if self.count < 6 {
                self.prefix * 10 + digit
            } else {
                self.prefix
            },
            luhn: self.other + digit,
            other: self.luhn + doubled / 10 + doubled % 10,
            uniform: self.count == 0 || (self.uniform && self.prefix % 10 == digit),
        }
    }

    fn first(self, digits: u32) -> u32 {
        let mut prefix = self.prefix;
        for _ in digits..6 {
            prefix /= 10;
        }
        prefix
    }
}

/// The end of the card number at `at`.
pub(super) fn end(view: &View<'_>, at: usize) -> Option<usize> {
    if !matches!(view.at(at)?, b'2'..=b'6' | b'8' | b'9') || is_fraction(view, at) {
        return None;
    }
    let mut sum = Sum::default();
    let mut place = at;
    let mut separator = None;
    let mut end = None;
    let mut told = None;
    loop {
        let group = place;
        while let Some(digit) = view.at(place).filter(u8::is_ascii_digit) {
            sum = sum.push(digit);
            place += 1;
            if sum.count > LONGEST {
                return end;
            }
        }
        let length = place - group;
        let grouped = group > at;
        if sum.count >= SHORTEST && view.ends_at(place) && sum.luhn.is_multiple_of(10) && !sum.uniform {
            let likely = match issued(sum) {
                Issued::Likely => true,
                Issued::Possible => grouped || *told.get_or_insert_with(|| context::says(view, at, WORDS)),
                Issued::No => false,
            };
            if likely {
                end = Some(place);
            }
        }
        if !(3..=13).contains(&length) {
            return end;
        }
        let Some(next) = view.at(place) else {
            return end;
        };
        if !matches!(next, b' ' | b'-') || *separator.get_or_insert(next) != next {
            return end;
        }
        place += 1;
    }
}

/// Whether the number is what follows a decimal point: a dot after a few digits, not after another card's number. A
/// comma counts as none: it stands between the fields of CSV.
fn is_fraction(view: &View<'_>, at: usize) -> bool {
    let digit = |distance| view.back(at, distance).is_some_and(|b| b.is_ascii_digit());
    view.back(at, 1) == Some(b'.') && digit(2) && !(2..2 + SHORTEST).all(digit)
}

enum Issued {
    Likely,
    Possible,
    No,
}

fn issued(sum: Sum) -> Issued {
    let (one, two, three, four) = (sum.first(1), sum.first(2), sum.first(3), sum.first(4));
    let long = (16..=19).contains(&sum.count);
    let known = match sum.count {
        // American Express.
        15 => matches!(two, 34 | 37),
        // Diners Club.
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39),
        // Visa; Mastercard; Troy.
        16 => one == 4 || matches!(two, 51..=55) || matches!(four, 2221..=2720 | 9792) || other_network(sum),
        13 => one == 4,
        _ => false,
    };
    let rare = (sum.count == 19 && one == 4)
        || (long && (other_network(sum) || matches!(three, 300..=305) || matches!(two, 36 | 38 | 39)))
        // Maestro.
        || matches!(two, 50 | 56..=58 | 60 | 61 | 63 | 64..=69);
    match (known, rare) {
        (true, _) if sum.count != 13 => Issued::Likely,
        (true, _) | (false, true) => Issued::Possible,
        (false, false) => Issued::No,
    }
}

/// Discover, JCB, UnionPay, RuPay, Mir, Maestro: sixteen to nineteen digits.
fn other_network(sum: Sum) -> bool {
    matches!(sum.first(4), 2200..=2204 | 3528..=3589 | 6011 | 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763)
        || matches!(sum.first(3), 644..=649 | 508)
        || matches!(sum.first(2), 60 | 62 | 65 | 81 | 82)
}
