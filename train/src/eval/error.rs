//! Why an evaluation is not possible.

use std::path::{Path, PathBuf};

/// Why an evaluation is not possible.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A dataset or a part of it is not there.
    #[error("{} is not there: {what} is expected", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// A line of a text file that does not say what it should.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Things that belong together and differ in number.
    #[error("there are {actual} {what}, and there should be {expected}")]
    Length {
        /// What is counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        actual: usize,
    },
    /// A number that is NaN or infinite.
    #[error("{what} {index} is not finite")]
    NotFinite {
        /// What kind of thing has the number.
        what: &'static str,
        /// Which of them, from 0.
        index: usize,
    },
    /// Something there should be at least one of.
    #[error("there are no {0}")]
    None(&'static str),
    /// A fold without pairs, which leaves nothing to measure in it.
    #[error("fold {fold} of {folds} has no pairs, there are {pairs} in all")]
    EmptyFold {
        /// Which fold, from 1.
        fold: usize,
        /// How many folds.
        folds: usize,
        /// How many pairs.
        pairs: usize,
    },
    /// A probe whose person is not enrolled as often as the protocol says.
    #[error("the person of probe {probe} is enrolled {mates} times, the protocol says {expected}")]
    Mates {
        /// Which probe, from 0.
        probe: usize,
        /// How often the person is enrolled.
        mates: usize,
        /// How often the person may be.
        expected: &'static str,
    },
    /// A pair names a template that has no images.
    #[error("template {0} is compared, but no image belongs to it")]
    UnknownTemplate(i64),
}

impl EvalError {
    /// For `map_err` on an operation on a file. A file that does not exist is a missing `what`.
    pub(crate) fn io(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            std::io::ErrorKind::NotFound => Self::Missing { path, what },
            _ => Self::Io { path, source },
        }
    }

    pub(crate) fn file(path: &Path, what: impl ToString) -> Self {
        Self::File { path: path.to_path_buf(), what: what.to_string() }
    }

    pub(crate) fn line(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self::Line { path: path.to_path_buf(), line, what: what.into() }
    }
}

/// Checks that there are as many of something as there should be.
pub(crate) fn check_length(what: &'static str, actual: usize, expected: usize) -> Result<(), EvalError> {
    if actual == expected { Ok(()) } else { Err(EvalError::Length { what, expected, actual }) }
}
