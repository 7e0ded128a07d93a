//! `classes.toml`: which classes there are, what finds them, what stands in their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use toml::Spanned;

use crate::config::{ColumnClass, MaskingConfig};
use crate::model::{DataClass, Digest, InvalidClass};

use super::detect::Detector;

/// What stands in the place of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// NULL; inside a longer text, the same as `Redact`.
    Null,
    /// The class's name in brackets.
    Redact,
    /// Stars; separators and the last characters stay.
    Partial,
    /// A token that is always the same for the same value.
    Token,
    /// Nothing: the same as `Null` for now.
    Deny,
    /// The value itself.
    Keep,
}

impl Strategy {
    const ALL: &'static [Self] = &[
        Self::Null,
        Self::Redact,
        Self::Partial,
        Self::Token,
        Self::Deny,
        Self::Keep,
    ];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Redact => "redact",
            Self::Partial => "partial",
            Self::Token => "token",
            Self::Deny => "deny",
            Self::Keep => "keep",
        }
    }

    fn from_name(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|s| s.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|s| s.name()).collect();
            format!("{name:?} is no strategy: write one of {}", names.join(", "))
        })
    }
}

/// Why classes cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ClassesError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what to write instead.
        what: String,
    },
    /// An override in the configuration is wrong.
    #[error("masking.overrides.{class:?}: {what}")]
    Override {
        /// The class.
        class: String,
        /// What is wrong, and what to write instead.
        what: String,
    },
}

/// What stands in the place of a class's values, in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Treatment {
    pub(super) strategy: Strategy,
    /// How many characters `Partial` leaves at the end, where at least twice as many are hidden.
    pub(super) keep_last: u8,
}

impl Treatment {
    pub(super) const REDACT: Self = Self {
        strategy: Strategy::Redact,
        keep_last: KEEP_LAST,
    };
}

/// Largest compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
const KEEP_LAST: u8 = 4;
const KEEP_LAST_MOST: u8 = 8;

/// The classes: what finds them, what stands in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    pub(super) treatments: BTreeMap<DataClass, Treatment>,
    pub(super) detectors: BTreeMap<Detector, DataClass>,
    /// What finds a class in prompts only.
    pub(super) patterns: Vec<(DataClass, Pattern)>,
}

/// A regular expression of somebody's own; equal where it is written alike.
#[derive(Debug, Clone)]
pub(super) struct Pattern(pub(super) Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    class: Vec<RawClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClass {
    name: Spanned<String>,
    description: Spanned<String>,
    detectors: Vec<Spanned<String>>,
    strategy: Spanned<String>,
    keep_last: Option<Spanned<u8>>,
    #[serde(default)]
    patterns: Vec<Spanned<String>>,
}

const SHIPPED: &str = include_str!("../../../policies/classes.toml");

impl Classes {
    /// The classes that come with the agent (`policies/classes.toml`).
    ///
    /// # Errors
    /// Never in a build that passed its tests.
    pub fn shipped() -> Result<Self, ClassesError> {
        Self::parse(SHIPPED, Path::new("classes.toml"))
    }

    /// The classes of a file.
    ///
    /// # Errors
    /// Where the file cannot be read or is wrong: line, and what to write instead.
    pub fn from_file(path: &Path) -> Result<Self, ClassesError> {
        let text = crate::files::read_to_string(path).map_err(|source| ClassesError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// What the configuration asks for: its file or the shipped one, a class for each declared column (`redact` where
    /// the file does not name it), and the overrides.
    ///
    /// # Errors
    /// Where the file is wrong, or an override names no class or no strategy.
    pub fn load(
        config: &MaskingConfig,
        columns: impl IntoIterator<Item = ColumnClass>,
    ) -> Result<Self, ClassesError> {
        let mut classes = match &config.classes {
            None => Self::shipped()?,
            Some(path) => Self::from_file(path)?,
        };
        for column in columns {
            classes
                .treatments
                .entry(column.class)
                .or_insert(Treatment::REDACT);
        }
        classes.with_overrides(&config.overrides)
    }

    /// These classes with other strategies for some of them.
    ///
    /// # Errors
    /// Where an override names no class or no strategy.
    pub fn with_overrides(mut self, overrides: &BTreeMap<DataClass, String>) -> Result<Self, ClassesError> {
        for (class, name) in overrides {
            let wrong = |what| ClassesError::Override {
                class: class.to_string(),
                what,
            };
            let strategy = Strategy::from_name(name).map_err(wrong)?;
            let Some(treatment) = self.treatments.get_mut(class) else {
                let known: Vec<_> = self.treatments.keys().map(DataClass::as_str).collect();
                return Err(wrong(format!(
                    "there is no such class: write one of {}, or add it to the file of classes",
                    known.join(", ")
                )));
            };
            treatment.strategy = strategy;
        }
        Ok(self)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// As [`Classes::from_file`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClassesError> {
        let wrong = |offset: usize, what: String| ClassesError::Content {
            path: path.to_owned(),
            line: text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1,
            what,
        };
        let RawFile { class } = toml::from_str(text)
            .map_err(|error| wrong(error.span().map_or(0, |s| s.start), error.message().to_owned()))?;
        let mut classes = Self {
            treatments: BTreeMap::new(),
            detectors: BTreeMap::new(),
            patterns: Vec::new(),
        };
        for raw in class {
            classes.add(raw).map_err(|(offset, what)| wrong(offset, what))?;
        }
        Ok(classes)
    }

    /// Adds a class; an error is where in the file, and what.
    fn add(&mut self, raw: RawClass) -> Result<(), (usize, String)> {
        let RawClass {
            name,
            description,
            detectors,
            strategy,
            keep_last,
            patterns,
        } = raw;
        let at = name.span().start;
        let class: DataClass = name
            .get_ref()
            .parse()
            .map_err(|error: InvalidClass| (at, error.to_string()))?;
        if description.get_ref().trim().is_empty() {
            let what = "the description is empty: say which values are meant".to_owned();
            return Err((description.span().start, what));
        }
        for name in &detectors {
            let wrong = |what| (name.span().start, what);
            let detector = Detector::from_name(name.get_ref()).ok_or_else(|| {
                let names: Vec<_> = Detector::ALL.iter().map(|d| d.name()).collect();
                wrong(format!(
                    "{:?} is no detector: write one of {}",
                    name.get_ref(),
                    names.join(", ")
                ))
            })?;
            if let Some(other) = self.detectors.insert(detector, class.clone()) {
                return Err(wrong(format!(
                    "{:?} finds {other} already: name it in one class only",
                    name.get_ref()
                )));
            }
        }
        for text in &patterns {
            let pattern = pattern(text.get_ref()).map_err(|what| (text.span().start, what))?;
            self.patterns.push((class.clone(), pattern));
        }
        let treatment = treatment(&strategy, keep_last.as_ref())?;
        match self.treatments.insert(class, treatment) {
            None => Ok(()),
            Some(_) => Err((
                at,
                "the class stands here a second time: remove one of the two".to_owned(),
            )),
        }
    }

    /// Changes when anything that decides what is masked, or how, does; not with the key.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut text = String::from("interdict mask classes 1\n");
        for (class, Treatment { strategy, keep_last }) in &self.treatments {
            text.push_str(&format!("class {class} {} {keep_last}\n", strategy.name()));
        }
        for (detector, class) in &self.detectors {
            text.push_str(&format!("detector {} {class}\n", detector.name()));
        }
        for (class, Pattern(regex)) in &self.patterns {
            text.push_str(&format!("pattern {class} {:?}\n", regex.as_str()));
        }
        Digest::of(text.as_bytes())
    }
}

/// Compiles a pattern.
fn pattern(text: &str) -> Result<Pattern, String> {
    let built = RegexBuilder::new(text).size_limit(LARGEST_PATTERN).build();
    let regex =
        built.map_err(|error| format!("the pattern is no regular expression that can be used: {error}"))?;
    if regex.is_match(b"") {
        return Err(format!(
            "the pattern {text:?} finds the empty text: write what is to be found"
        ));
    }
    Ok(Pattern(regex))
}

fn treatment(
    strategy: &Spanned<String>,
    keep_last: Option<&Spanned<u8>>,
) -> Result<Treatment, (usize, String)> {
    let chosen = Strategy::from_name(strategy.get_ref()).map_err(|what| (strategy.span().start, what))?;
    let kept = match keep_last {
        None => KEEP_LAST,
        Some(number) if chosen != Strategy::Partial => {
            let what = "keep_last belongs to strategy = \"partial\": remove one of the two".to_owned();
            return Err((number.span().start, what));
        }
        Some(number) if *number.get_ref() > KEEP_LAST_MOST => {
            let what = format!("keep_last shows too much: write a number from 0 to {KEEP_LAST_MOST}");
            return Err((number.span().start, what));
        }
        Some(number) => *number.get_ref(),
    };
    Ok(Treatment {
        strategy: chosen,
        keep_last: kept,
    })
}
