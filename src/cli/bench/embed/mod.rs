//! `vultus bench embed`: how fast networks run on this machine, alone and in the chain that the server runs.
//!
//! A row is one model in one precision on so many threads with batches of one size. The model runs as in the server, and its
//! time is that of the run; waiting is not part of it. The first runs of every row are not counted.

mod drawn;
mod memory;
mod photos;
mod rows;
mod stages;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::DetectorKind;
use vultus_engine::infer::Pipeline;
use vultus_engine::model::{Architecture, Device, Model, ModelError, Precision, RegistryError, select_device};

use super::super::local::detector;
use crate::config::Settings;
use crate::server::{load_model, pipeline_with};
use crate::service::timing::ms;
use rows::Row;

/// Largest batch that is measured.
const MAX_BATCH: u64 = 1_024;
/// Most threads that are measured.
const MAX_THREADS: u64 = 1_024;
/// Runs before those that count.
const WARM_UP: usize = 2;

/// Measures how fast faces are embedded on this machine: a row for each model, precision, number of threads and batch size.
#[derive(Debug, Args)]
pub(in crate::cli) struct Embed {
    /// Installed models by name, id or file; an architecture (`ir_50`) of which none is installed gets made-up weights, which
    /// take the same time and memory
    #[arg(long, value_delimiter = ',', default_values_t = ["mobilefacenet".to_owned()], value_name = "M,…")]
    model: Vec<String>,
    /// Numbers of threads; the server's is `model.threads` [default: as many as there are cores]
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS))]
    threads: Vec<u64>,
    /// Faces of a batch
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_name = "N,…",
        value_parser = clap::value_parser!(u64).range(1..=MAX_BATCH))]
    batch: Vec<u64>,
    /// Precisions of the network: f32, bf16
    #[arg(long, value_delimiter = ',', default_values_t = [Precision::F32], value_name = "T,…")]
    dtype: Vec<Precision>,
    /// Add the raw features of a face and its mirror image
    #[arg(long)]
    flip: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    device: String,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// Photos to measure with, also in folders of the folder [default: drawn faces]
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Take at most this many photos, first by path
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    max_images: u64,
    /// Measure decoding, detection and alignment too, and all of them together as the server runs them, without HTTP and
    /// store
    #[arg(long)]
    stages: bool,
    /// Photos in work at a time in that chain
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Runs of each measurement, of which the median is told; of the chain there are at most five
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: u16,
    /// Make so many embeddings instead, in batches of mixed size from several threads, and tell the resident memory ten times
    #[arg(long, value_name = "N", conflicts_with_all = ["stages", "batch", "rounds"],
        value_parser = clap::value_parser!(u64).range(10..))]
    count: Option<u64>,
    /// Print a JSON line for each row
    #[arg(long)]
    json: bool,
}

/// One model in one precision on one number of threads.
struct Setup<'a> {
    /// The model as it was asked for.
    model: &'a str,
    dtype: Precision,
    threads: usize,
    settings: Settings,
}

impl Embed {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<usize> =
            if self.threads.is_empty() { vec![cores] } else { self.threads.iter().map(|n| *n as usize).collect() };
        let mut settings = Settings::default();
        settings.log.filter = "warn".to_owned();
        settings.models.dir = Some(settings.models_dir(false));
        settings.model.device.clone_from(&self.device);
        settings.model.flip = self.flip;
        settings.detect.detector = self.detector;
        super::super::serve::init_log(&settings.log);
        let photos = photos::Photos::find(self.images.as_deref(), self.max_images as usize)?;
        let mut crops = None;
        let mut out = Output { json: self.json, any: false };
        for model in &self.model {
            for dtype in &self.dtype {
                for threads in &threads {
                    let mut settings = settings.clone();
                    settings.model.name.clone_from(model);
                    settings.model.dtype = *dtype;
                    settings.model.threads = *threads;
                    let setup = Setup { model, dtype: *dtype, threads: *threads, settings };
                    let network = match load(&setup) {
                        Ok(network) => network,
                        Err(error) if self.dtype.len() > 1 && has_no_precision(&error) => {
                            eprintln!("vultus: {error:#}; passed over");
                            break;
                        }
                        Err(error) => return Err(error),
                    };
                    // An id names a form, which then is the model's, whatever else is asked for.
                    let actual = network.form().precision;
                    if actual != *dtype && self.dtype.len() > 1 {
                        eprintln!("vultus: {model} is in {actual}; passed over in {dtype}");
                        break;
                    }
                    let setup = Setup { dtype: actual, ..setup };
                    let path = network.kernels();
                    let pipeline = Arc::new(pipeline_with(network, &setup.settings)?);
                    let crops = match &crops {
                        Some(crops) => crops,
                        None => crops.insert(photos.crops(&pipeline, &setup.settings)?),
                    };
                    match self.count {
                        Some(count) => memory::run(&setup, path, &pipeline, crops, count, &mut out)?,
                        None => self.measure(&setup, path, &pipeline, (&photos, crops), &mut out)?,
                    }
                }
            }
        }
        anyhow::ensure!(out.any, "none of the models runs in the precisions asked for");
        Ok(())
    }

    fn measure(
        &self,
        setup: &Setup<'_>,
        path: &'static str,
        pipeline: &Arc<Pipeline>,
        (photos, crops): (&photos::Photos, &[AlignedCrop]),
        out: &mut Output,
    ) -> anyhow::Result<()> {
        let stages = match self.stages {
            true => Some(stages::measure(setup, pipeline, photos, self.rounds.into(), self.jobs.into())?),
            false => None,
        };
        for batch in &self.batch {
            let batch: Vec<AlignedCrop> = crops.iter().cycle().take(*batch as usize).cloned().collect();
            let times = timed(pipeline, &batch, self.rounds.into())?;
            out.row(&Row::new(setup, path, batch.len(), &times, stages))?;
        }
        Ok(())
    }
}

/// The model of a setup: one that is installed, or an architecture with made-up weights.
fn load(setup: &Setup<'_>) -> anyhow::Result<Model> {
    let error = match load_model(&setup.settings) {
        Ok(model) => return Ok(model),
        Err(error) => error,
    };
    let missing = matches!(error.downcast_ref(), Some(RegistryError::NotFound { .. }));
    match setup.model.parse::<Architecture>() {
        Ok(architecture) if missing => {
            let device: Device = select_device(&setup.settings.model.device)?;
            let made = Model::made_up(architecture, setup.settings.model.form(), &device);
            made.with_context(|| format!("cannot make up a model {architecture}"))
        }
        _ => Err(error),
    }
}

fn has_no_precision(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let of_registry = |error: &RegistryError| match error {
            RegistryError::Load { source, .. } => matches!(source, ModelError::NoPrecision { .. }),
            _ => false,
        };
        cause.downcast_ref().is_some_and(of_registry)
            || matches!(cause.downcast_ref(), Some(ModelError::NoPrecision { .. }))
    })
}

/// How long a batch takes, each time.
fn timed(pipeline: &Pipeline, batch: &[AlignedCrop], rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let model = pipeline.models().default_model();
    let permit = pipeline.admit(1)?;
    let run = |_| Ok(pipeline.embed(&permit, model, batch.to_vec()).wait()?.timing.ran);
    let times: anyhow::Result<Vec<Duration>> = (0..WARM_UP + rounds).map(run).collect();
    Ok(times?.split_off(WARM_UP))
}

/// The median in milliseconds; of an even number, the mean of the two in the middle.
fn median_ms(times: &[Duration]) -> f64 {
    let mut times: Vec<f64> = times.iter().copied().map(ms).collect();
    median(&mut times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values {
        [] => 0.0,
        values => (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0,
    }
}

/// Where rows go, as they come.
struct Output {
    json: bool,
    any: bool,
}

impl Output {
    /// A line of JSON, or a line of a table, whose heading comes first.
    fn line(&mut self, json: &impl serde::Serialize, heading: &str, line: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, json).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            if !self.any {
                writeln!(out, "{heading}")?;
            }
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        self.any = true;
        Ok(())
    }

    fn row(&mut self, row: &Row<'_>) -> anyhow::Result<()> {
        self.line(row, &row.heading(), &row.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_lie_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 8.0]), 3.0);
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median_ms(&[Duration::from_micros(1500)]), 1.5);
    }
}
