//! The shape of a file held against the list of keys: every unknown key, missing value and wrong kind at once, where
//! the deserialiser would stop at the first. What is wrong is taken out or replaced, so that the rest can be read.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::schema::{Kind, Need, keys_of};

/// The place of a stand-in: what is said about one is not shown.
pub(super) const NOWHERE: Range<usize> = usize::MAX..usize::MAX;

/// A mistake and its place.
pub(super) type Found = (Range<usize>, String);

/// Makes a document one that deserialises; what was wrong with it.
pub(super) fn mend(document: &mut Spanned<DeTable<'_>>) -> Vec<Found> {
    let mut found = Vec::new();
    let span = document.span();
    table(document.get_mut(), "", &span, &mut found);
    found
}

fn table(values: &mut DeTable<'_>, name: &str, span: &Range<usize>, found: &mut Vec<Found>) {
    let mut bad = Vec::new();
    let begun = found.len();
    for (key, value) in values.iter_mut() {
        let written = key.get_ref().as_ref();
        let Some(known) = keys_of(name).find(|known| known.name == written) else {
            found.push((key.span(), unknown(name, written)));
            bad.push(written.to_owned());
            continue;
        };
        let place = value.span();
        match wrong_kind(known.kind, value.get_ref()) {
            Some(expected) => {
                let kind = value.get_ref().type_str();
                found.push((
                    place,
                    format!("`{written}` cannot be of type {kind}: write {expected}"),
                ));
                bad.push(written.to_owned());
            }
            None => inner(known.kind, value, &known.opened(), found),
        }
    }
    for key in bad {
        values.remove(key.as_str());
    }
    for key in keys_of(name).filter(|key| key.need == Need::Required) {
        if values.contains_key(key.name) {
            continue;
        }
        // It is there in a wrong shape, or under a name that was meant to be this one.
        let (wrong, meant) = (
            format!("`{}` cannot", key.name),
            format!("did you mean `{}`?", key.name),
        );
        let told = found
            .iter()
            .skip(begun)
            .any(|(_, what)| what.starts_with(&wrong) || what.ends_with(&meant));
        if !told {
            let (heading, example) = (heading(name), example(key.kind, key.name));
            let what = format!("`{}` is missing in {heading}: write {example}", key.name);
            found.push((span.clone(), what));
        }
        values.insert(
            Spanned::new(NOWHERE, Cow::Borrowed(key.name)),
            Spanned::new(NOWHERE, stand_in(key.kind)),
        );
    }
}

fn inner(kind: Kind, value: &mut Spanned<DeValue<'_>>, opened: &str, found: &mut Vec<Found>) {
    let span = value.span();
    match (kind, value.get_mut()) {
        (Kind::Table, DeValue::Table(values)) => table(values, opened, &span, found),
        (Kind::Tables, DeValue::Array(list)) => {
            for one in list.iter_mut() {
                let span = one.span();
                if let DeValue::Table(values) = one.get_mut() {
                    table(values, opened, &span, found);
                }
            }
        }
        _ => {}
    }
}

/// What to write where the value is of another kind.
fn wrong_kind(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    let all = |list: &DeArray<'_>, fine: fn(&DeValue<'_>) -> bool| list.iter().all(|v| fine(v.get_ref()));
    let fine = match (kind, value) {
        (
            Kind::Text | Kind::Path | Kind::Duration | Kind::OneOf(_) | Kind::TextOrTexts,
            DeValue::String(_),
        )
        | (Kind::Bool, DeValue::Boolean(_))
        | (Kind::Table, DeValue::Table(_)) => true,
        (Kind::Integer(_, most), DeValue::Integer(number)) => {
            u64::from_str_radix(number.as_str(), number.radix()).is_ok_and(|n| n <= most)
        }
        (Kind::Texts | Kind::TextOrTexts, DeValue::Array(list)) => all(list, |v| v.is_str()),
        (Kind::Ports, DeValue::Array(list)) => all(list, |v| {
            v.as_integer()
                .is_some_and(|n| u16::from_str_radix(n.as_str(), n.radix()).is_ok())
        }),
        (Kind::Tables, DeValue::Array(list)) => all(list, |v| v.is_table()),
        (Kind::Map, DeValue::Table(values)) => values.values().all(|v| v.get_ref().is_str()),
        _ => false,
    };
    (!fine).then(|| shape(kind).to_owned())
}

const fn shape(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text in quotes",
        Kind::Path => "a path in quotes",
        Kind::Duration => "a duration in quotes, such as \"30s\"",
        Kind::Integer(..) => "a whole number without quotes",
        Kind::Bool => "true or false, without quotes",
        Kind::OneOf(_) => "one of its words in quotes",
        Kind::Texts => "a list of texts, such as [\"…\"]",
        Kind::TextOrTexts => "a text in quotes, or a list of them",
        Kind::Ports => "a list of ports between 1 and 65535, such as [443]",
        Kind::Map => "a table of texts, such as { name = \"…\" }",
        Kind::Table => "a table: a line [name] of its own, and its keys below",
        Kind::Tables => "tables: a line [[name]] of its own for each, and its keys below",
    }
}

fn example(kind: Kind, name: &str) -> String {
    match kind {
        Kind::OneOf(words) => format!("{name} = \"{}\"", words.join("\", or \"")),
        Kind::Texts => format!("{name} = [\"…\"]"),
        Kind::Duration => format!("{name} = \"30s\""),
        Kind::Text | Kind::Path | Kind::TextOrTexts => format!("{name} = \"…\""),
        Kind::Integer(..) | Kind::Bool | Kind::Ports | Kind::Map | Kind::Table | Kind::Tables => {
            format!("{name} as {}", shape(kind))
        }
    }
}

/// A value that deserialises, and that is wrong wherever it is looked at.
fn stand_in(kind: Kind) -> DeValue<'static> {
    match kind {
        Kind::Texts | Kind::Ports | Kind::Tables => DeValue::Array(DeArray::new()),
        Kind::Map | Kind::Table => DeValue::Table(DeTable::new()),
        Kind::Bool => DeValue::Boolean(false),
        Kind::Text | Kind::Path | Kind::Duration | Kind::Integer(..) | Kind::OneOf(_) | Kind::TextOrTexts => {
            DeValue::String(Cow::Borrowed("?"))
        }
    }
}

fn heading(table: &str) -> String {
    let many = super::schema::KEYS
        .iter()
        .any(|key| key.kind == Kind::Tables && key.opened() == table);
    match (table, many) {
        ("", _) => "the file".to_owned(),
        (_, true) => format!("[[{table}]]"),
        (_, false) => format!("[{table}]"),
    }
}

fn unknown(table: &str, written: &str) -> String {
    let names: Vec<&str> = keys_of(table).map(|key| key.name).collect();
    let near = names
        .iter()
        .map(|name| (distance(written, name), *name))
        .min()
        .filter(|(far, name)| *far <= 2 && *far < name.len());
    let elsewhere = super::schema::KEYS.iter().find(|key| key.name == written);
    let fix = match (near, elsewhere) {
        (Some((_, name)), _) => format!("did you mean `{name}`?"),
        (None, Some(key)) => format!("it belongs to {}", heading(key.table)),
        (None, None) => format!("known are {}", names.join(", ")),
    };
    format!("unknown key `{written}` in {}: {fix}", heading(table))
}

/// How many characters are to be changed, put in or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut last = i + 1;
        let mut next = vec![last];
        for (y, pair) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            let changed = diagonal + usize::from(x != *y);
            last = changed.min(above + 1).min(last + 1);
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
