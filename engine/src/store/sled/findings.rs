//! What a check finds.

use std::collections::BTreeMap;

use crate::store::StoreError;

/// Longest list of problems in a report.
const MAX_PROBLEMS: usize = 100;

/// What is gathered on the way. Like findings are counted, so that a lost tree is one line and not a million.
#[derive(Default)]
pub(super) struct Findings {
    counted: BTreeMap<(String, &'static str), u64>,
    pub(super) lines: Vec<String>,
}

impl Findings {
    pub(super) fn count(&mut self, place: &str, what: &'static str) {
        *self.counted.entry((place.to_owned(), what)).or_default() += 1;
    }

    /// Keeps a result; damage becomes a finding, while errors of the disk end the check.
    pub(super) fn keep<T>(&mut self, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged(what)) => {
                *self.counted.entry((what, "")).or_default() += 1;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn into_problems(self) -> Vec<String> {
        let counted = self.counted.into_iter().map(|((place, what), times)| match what {
            "" => format!("{place} ({times} times)"),
            _ => format!("{place}: {what} ({times} times)"),
        });
        self.lines.into_iter().chain(counted).take(MAX_PROBLEMS).collect()
    }
}
