//! Words that stand for values in a text that somebody writes on: a model's prompt.
//!
//! An alias is letters only (`MaskedPiiEmailKvtrwqzbdfhm`): nothing in it means anything to JSON, URLs, HTML, Markdown,
//! shells or SQL, so it comes back as it went, and no detector takes it for a value. It says what it stands for, because
//! models write better about a word that does.

use crate::model::{DataClass, Digest};

use super::key::MaskKey;

/// What every alias begins with.
const BEGIN: &str = "Masked";
/// Most letters of a class's name in it.
const NAME: usize = 24;
/// Letters that tell values apart: 20 to the power of 12 words.
const TELLING: usize = 12;
/// No vowels: they would make words.
const LETTERS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";

/// Longest alias, in bytes.
pub const LONGEST_ALIAS: usize = BEGIN.len() + NAME + TELLING;

/// The alias of a value: always the same for one key, scope, class, value and attempt. `attempt` is for whoever finds the
/// alias taken.
#[must_use]
pub fn alias(key: &MaskKey, scope: &[&[u8]], class: &DataClass, value: &[u8], attempt: u32) -> String {
    let attempt = attempt.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![b"interdict alias", class.as_str().as_bytes(), value, &attempt];
    parts.extend_from_slice(scope);
    let tag = key.sign(&[Digest::of_fields(&parts).as_bytes()]);
    let (head, _) = tag.as_ref().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let mut number = u64::from_be_bytes(*head);
    let mut word = String::from(BEGIN);
    word.extend(camel(class.as_str()).take(NAME));
    for nth in 0..TELLING {
        let letter = usize::try_from(number % 20).ok().and_then(|at| LETTERS.get(at));
        let letter = letter.copied().map_or('x', char::from);
        word.push(if nth == 0 {
            letter.to_ascii_uppercase()
        } else {
            letter
        });
        number /= 20;
    }
    word
}

/// `pii.email` as `PiiEmail`.
fn camel(name: &str) -> impl Iterator<Item = char> + '_ {
    name.split(['.', '_']).flat_map(|word| {
        let letters = word.chars().filter(char::is_ascii_alphabetic);
        letters.enumerate().map(|(nth, letter)| match nth {
            0 => letter.to_ascii_uppercase(),
            _ => letter,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_a_word_of_its_own() {
        let key = MaskKey::from_bytes(&[7; 32]);
        let email: DataClass = "pii.email".parse().expect("class");
        let card: DataClass = "pci.card_number2".parse().expect("class");
        let one = |class: &DataClass, value: &[u8], scope: &[u8], attempt| {
            alias(&key, &[scope, b"target"], class, value, attempt)
        };
        let word = one(&email, b"ada@example.com", b"alice", 0);
        assert_eq!(word, one(&email, b"ada@example.com", b"alice", 0));
        assert!(word.starts_with("MaskedPiiEmail") && word.len() == 26, "{word}");
        assert!(word.bytes().all(|b| b.is_ascii_alphabetic()) && word.len() <= LONGEST_ALIAS);
        for other in [
            one(&email, b"bob@example.com", b"alice", 0),
            one(&email, b"ada@example.com", b"bob", 0),
            one(&email, b"ada@example.com", b"alice", 1),
            one(&card, b"ada@example.com", b"alice", 0),
        ] {
            assert_ne!(word, other);
        }
        assert!(one(&card, b"1", b"", 0).starts_with("MaskedPciCardNumber"));
    }
}
