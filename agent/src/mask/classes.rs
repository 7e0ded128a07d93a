//! `classes.toml`: which classes there are, what finds them, what stands in their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::{ColumnClass, MaskingConfig};
use crate::model::DataClass;

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
    /// The value itself.
    Keep,
}

impl Strategy {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "redact" => Self::Redact,
            "partial" => Self::Partial,
            "token" => Self::Token,
            "keep" => Self::Keep,
            _ => return None,
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
}

/// The classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    pub(super) strategies: BTreeMap<DataClass, Strategy>,
    pub(super) detectors: BTreeMap<Detector, DataClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    class: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: toml::Spanned<String>,
    #[serde(rename = "description")]
    _description: String,
    detectors: Vec<toml::Spanned<String>>,
    strategy: toml::Spanned<String>,
}

const SHIPPED: &str = include_str!("../../../policies/classes.toml");

impl Classes {
    /// What the configuration asks for: its file or the shipped one, its overrides, and a class for each declared
    /// column (`redact` where no file names it).
    ///
    /// # Errors
    /// Where the file is wrong: line, and what to write instead.
    pub fn load(
        config: &MaskingConfig,
        columns: impl IntoIterator<Item = ColumnClass>,
    ) -> Result<Self, ClassesError> {
        let mut classes = match &config.classes {
            None => Self::parse(SHIPPED, Path::new("classes.toml"))?,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ClassesError::File {
                    path: path.clone(),
                    source,
                })?;
                Self::parse(&text, path)?
            }
        };
        for (class, name) in &config.overrides {
            let strategy = Strategy::from_name(name).ok_or_else(|| ClassesError::Content {
                path: "masking.overrides".into(),
                line: 1,
                what: unknown_strategy(name),
            })?;
            classes.strategies.insert(class.clone(), strategy);
        }
        for column in columns {
            classes.strategies.entry(column.class).or_insert(Strategy::Redact);
        }
        Ok(classes)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// As [`Classes::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClassesError> {
        let wrong = |offset: usize, what: String| ClassesError::Content {
            path: path.to_owned(),
            line: text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1,
            what,
        };
        let file: File = toml::from_str(text)
            .map_err(|error| wrong(error.span().map_or(0, |s| s.start), error.message().to_owned()))?;
        let mut classes = Self {
            strategies: BTreeMap::new(),
            detectors: BTreeMap::new(),
        };
        for entry in file.class {
            let class: DataClass =
                entry
                    .name
                    .get_ref()
                    .parse()
                    .map_err(|error: crate::model::InvalidClass| {
                        wrong(entry.name.span().start, error.to_string())
                    })?;
            let strategy = Strategy::from_name(entry.strategy.get_ref()).ok_or_else(|| {
                wrong(
                    entry.strategy.span().start,
                    unknown_strategy(entry.strategy.get_ref()),
                )
            })?;
            for name in &entry.detectors {
                let detector = Detector::from_name(name.get_ref()).ok_or_else(|| {
                    wrong(
                        name.span().start,
                        format!(
                            "{:?} is no detector: choose among {}",
                            name.get_ref(),
                            Detector::names()
                        ),
                    )
                })?;
                if classes.detectors.insert(detector, class.clone()).is_some() {
                    return Err(wrong(
                        name.span().start,
                        format!("{:?} finds a class already", name.get_ref()),
                    ));
                }
            }
            if classes.strategies.insert(class, strategy).is_some() {
                return Err(wrong(
                    entry.name.span().start,
                    "the class stands here a second time".into(),
                ));
            }
        }
        Ok(classes)
    }
}

fn unknown_strategy(name: &str) -> String {
    format!("{name:?} is no strategy: choose among null, redact, partial, token, keep")
}
