//! Patterns for names and paths: `*` and `?` within one component, `**` across components.

/// A pattern. `*` is any text without `/`, `?` any one character but `/`, `**` any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Reads one.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        // Names of units hold backslashes (systemd's escapes): they mean themselves.
        if text.is_empty() || text.len() > 512 {
            return Err(format!(
                "{text:?} is no pattern: write a name, with * for any text"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all of `text` is what the pattern says. Takes time in the product of both lengths at most.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let pattern = pieces(&self.0);
        // Which ends of the pattern can be reached with the text so far.
        let mut reached = vec![false; pattern.len() + 1];
        close(&pattern, &mut reached, true);
        for c in text.chars() {
            let mut next = vec![false; pattern.len() + 1];
            for (at, piece) in pattern.iter().enumerate() {
                if !reached.get(at).copied().unwrap_or(false) {
                    continue;
                }
                let (stays, goes) = match piece {
                    Piece::Exact(wanted) => (false, *wanted == c),
                    Piece::One => (false, c != '/'),
                    Piece::Within => (c != '/', false),
                    Piece::Across => (true, false),
                };
                for (place, yes) in [(at, stays), (at + 1, goes)] {
                    if let Some(place) = next.get_mut(place).filter(|_| yes) {
                        *place = true;
                    }
                }
            }
            close(&pattern, &mut next, false);
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Exact(char),
    One,
    Within,
    Across,
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for c in text.chars() {
        match (c, pieces.last_mut()) {
            ('*', Some(last @ (Piece::Within | Piece::Across))) => *last = Piece::Across,
            ('*', _) => pieces.push(Piece::Within),
            ('?', _) => pieces.push(Piece::One),
            (c, _) => pieces.push(Piece::Exact(c)),
        }
    }
    pieces
}

/// A star may stand for nothing.
fn close(pattern: &[Piece], reached: &mut [bool], start: bool) {
    if start && let Some(first) = reached.first_mut() {
        *first = true;
    }
    for (at, piece) in pattern.iter().enumerate() {
        let here = reached.get(at).copied().unwrap_or(false);
        if here
            && matches!(piece, Piece::Within | Piece::Across)
            && let Some(next) = reached.get_mut(at + 1)
        {
            *next = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stay_within_a_component_unless_doubled() {
        let table = [
            ("mcp-*.service", "mcp-a.service", true),
            ("mcp-*.service", "mcp-.service", true),
            ("mcp-*.service", "mcp-a/b.service", false),
            ("mcp.slice/*", "mcp.slice/a", true),
            ("mcp.slice/*", "mcp.slice/a/b", false),
            ("mcp.slice/**", "mcp.slice/a/b", true),
            ("**/leaf", "a/b/leaf", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a", "ab", false),
            ("*a*b*", "xxaxxbxx", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(
                Glob::new(pattern).expect("a pattern").matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_text_without_stars_matches_itself_and_a_double_star_everything(text in "[a-z/.-]{1,40}", other in "[a-z/.-]{1,40}") {
            prop_assert!(Glob::new(&text).expect("a pattern").matches(&text));
            prop_assert_eq!(Glob::new(&text).expect("a pattern").matches(&other), text == other);
            prop_assert!(Glob::new("**").expect("a pattern").matches(&other));
        }
    }
}
