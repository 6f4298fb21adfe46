//! `vultus-train prepare`: a folder of crops to a record file.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use vultus_engine::image::encode_png;

use super::interrupt::on_interrupt;
use crate::data::{AugmentConfig, Dataset, FolderDataset, LabelForm, PackConfig, RecordDataset, contact_sheet, pack};

#[derive(Debug, Args)]
pub(super) struct Prepare {
    /// Aligned crops: FOLDER/IDENTITY/*.jpg (or .png, .webp), identities numbered by name
    folder: PathBuf,
    /// Where train.rec, train.idx and property are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// JPEG quality of images that are resized or no JPEG; other files are taken over byte for byte
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// How labels are written
    #[arg(long, value_enum, default_value_t = Labels::Array)]
    labels: Labels,
    /// Leave damaged images out instead of ending with the first
    #[arg(long)]
    skip_damaged: bool,
    /// Also write sheet.png: N images, each beside what training makes of it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=200))]
    sheet: Option<u16>,
    /// What the sheet's images and their augmentations are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Forms of labels.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Labels {
    /// [class, 1], as in published sets
    Array,
    /// The class alone
    Scalar,
}

impl Prepare {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let folder = FolderDataset::open(&self.folder)?;
        let labels = match self.labels {
            Labels::Array => LabelForm::Array,
            Labels::Scalar => LabelForm::Scalar,
        };
        let config = PackConfig { quality: self.quality, labels, skip_damaged: self.skip_damaged };
        let (stop, bar) = (on_interrupt()?, bar(folder.len() as u64));
        let packed = pack(&folder, &self.out, &config, |done| {
            bar.set_position(done as u64);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish_and_clear();
        let packed = packed?;
        packed.skipped.iter().for_each(|reason| eprintln!("left out: {reason}"));
        packed.without.iter().for_each(|name| eprintln!("left out: {name}, which has no image that can be read"));
        writeln!(
            std::io::stdout(),
            "{} identities, {} images: {} as they were, {} encoded anew, {} left out",
            packed.classes,
            packed.kept + packed.encoded,
            packed.kept,
            packed.encoded,
            packed.skipped.len()
        )?;
        if let Some(rows) = self.sheet {
            self.write_sheet(&self.out.join("sheet.png"), usize::from(rows))?;
        }
        Ok(())
    }

    /// From the records, so that it shows what training reads.
    fn write_sheet(&self, path: &Path, rows: usize) -> anyhow::Result<()> {
        let dataset = RecordDataset::open(&self.out.join("train.rec"))?;
        let sheet = contact_sheet(&dataset, rows, &AugmentConfig::default(), self.seed)?;
        std::fs::write(path, encode_png(&sheet)?).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A progress bar, hidden where nobody looks at it.
fn bar(images: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos}/{len} images [{wide_bar}] {per_sec}, {eta} left");
    ProgressBar::new(images).with_style(style.expect("a fixed template"))
}
