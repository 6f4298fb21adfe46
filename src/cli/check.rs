//! `vultus check`: reads all of the data directory and compares.

use std::path::PathBuf;

use clap::Args;
use vultus_engine::store::{Store, StoreError};

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
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!("schema version {}", report.schema_version);
            println!("{} galleries, {} subjects, {} faces", report.galleries, report.subjects, report.faces);
            match report.sequence {
                Some((first, last)) => println!("change log {first} to {last}, {} entries", report.changes),
                None => println!("change log empty"),
            }
            println!("{} bytes on disk", store.size_on_disk()?);
            report.problems.iter().for_each(|problem| println!("problem: {problem}"));
            println!("{}", if report.problems.is_empty() { "no problem found" } else { "the data is damaged" });
        }
        match report.problems.len() {
            0 => Ok(()),
            n => Err(StoreError::Damaged(format!("{n} problems found")).into()),
        }
    }
}
