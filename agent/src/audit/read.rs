//! Reading records back.

use std::path::{Path, PathBuf};

use super::record::Record;
use super::segment;

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is no record.
    #[error("{path}: a record cannot be read: {source}")]
    Record {
        /// In which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Calls `each` for every record below `dir`, boot by boot, in order. What a live agent has not committed is not seen.
///
/// # Errors
/// At the first file or record that cannot be read.
pub fn read_all(dir: &Path, mut each: impl FnMut(Record)) -> Result<(), ReadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReadError::File { path, source }
    };
    for boot in segment::boots(dir).map_err(failed(dir))? {
        for (_, path) in segment::list(&boot).map_err(failed(&boot))? {
            let bytes = std::fs::read(&path).map_err(failed(&path))?;
            for line in segment::decode(&bytes)
                .lines
                .split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
            {
                let record = serde_json::from_slice(line);
                each(record.map_err(|source| ReadError::Record {
                    path: path.clone(),
                    source,
                })?);
            }
        }
    }
    Ok(())
}
