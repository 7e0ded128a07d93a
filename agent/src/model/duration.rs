//! Durations as people write them: the one reader and the one writer for configuration, policies, cases and commands.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no duration: write a whole number and a unit, such as \"500ms\", \"30s\", \"5m\", \"12h\" or \"90d\""
)]
pub struct InvalidDuration(String);

/// A whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    let wrong = || InvalidDuration(text.chars().take(40).collect());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_no_number| wrong())?;
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// A duration as [`duration`] reads it, in seconds, or in milliseconds where it is no whole number of them.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write_is_read_and_the_rest_is_not() {
        let table = [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("12h", Some(43_200_000)),
            ("90d", Some(7_776_000_000)),
            ("", None),
            ("s", None),
            ("30", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("30 s", None),
            ("30S", None),
            ("3mm", None),
            ("soon", None),
            ("٣s", None),
            ("99999999999999999999h", None),
            ("18446744073709551615d", None),
        ];
        for (text, millis) in table {
            assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 0..u64::from(u32::MAX)) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&duration_text(time)), Ok(time));
        }

        #[test]
        fn no_text_is_a_panic(text in ".*") {
            let _any = duration(&text);
        }
    }
}
