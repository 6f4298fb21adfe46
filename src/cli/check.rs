//! `vultus check`: reads all of the data directory and compares.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use vultus_engine::store::{CheckReport, Store, StoreError};

/// Reads records, vectors and the change log, and compares them with each other. The server must be stopped.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The data directory
    #[arg(long, value_name = "DIR", default_value = "vultus-data")]
    data_dir: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        crate::server::require_data_dir(&self.data_dir)?;
        let store = crate::server::open_store(&self.data_dir)?;
        let report = store.check()?;
        let text = if self.json {
            format!("{}\n", serde_json::to_string(&report)?)
        } else {
            describe(&report, store.size_on_disk()?)
        };
        let written = std::io::stdout().write_all(text.as_bytes());
        // Damage is told by the exit status even when nobody reads the report.
        match report.problems.len() {
            0 => Ok(written?),
            n => Err(StoreError::Damaged(format!("{n} problems found")).into()),
        }
    }
}

fn describe(report: &CheckReport, bytes_on_disk: u64) -> String {
    let mut lines = vec![
        format!("schema version {}", report.schema_version),
        format!("{} galleries, {} subjects, {} faces", report.galleries, report.subjects, report.faces),
        match report.sequence {
            Some((first, last)) => format!("change log {first} to {last}, {} entries", report.changes),
            None => "change log empty".to_owned(),
        },
        format!("{bytes_on_disk} bytes on disk"),
    ];
    lines.extend(report.problems.iter().map(|problem| format!("problem: {problem}")));
    lines.push(if report.problems.is_empty() { "no problem found" } else { "the data is damaged" }.to_owned());
    lines.join("\n") + "\n"
}
