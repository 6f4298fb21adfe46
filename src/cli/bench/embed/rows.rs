//! The rows of `bench embed`.

use std::time::Duration;

use serde::Serialize;
use vultus_engine::model::Precision;

use super::super::resident::rss_mb;
use super::stages::Stages;
use super::{Setup, median_ms};
use crate::service::timing::ms;

/// One measurement.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    /// As it was asked for.
    model: &'a str,
    /// Which kernels.
    path: &'static str,
    dtype: Precision,
    threads: usize,
    /// Faces.
    batch: usize,
    /// Of a batch.
    ms_median: f64,
    ms_min: f64,
    /// At the median.
    faces_per_s: f64,
    /// Of the process after the row: everything that it holds, the detector, the photos and what the allocator keeps too.
    rss_mb: Option<f64>,
    #[serde(flatten)]
    stages: Option<Stages>,
}

impl<'a> Row<'a> {
    pub(super) fn new(
        setup: &Setup<'a>,
        path: &'static str,
        batch: usize,
        times: &[Duration],
        stages: Option<Stages>,
    ) -> Self {
        let ms_median = median_ms(times);
        Self {
            model: setup.model,
            path,
            dtype: setup.dtype,
            threads: setup.threads,
            batch,
            ms_median: (ms_median * 1e3).round() / 1e3,
            ms_min: times.iter().min().copied().map_or(0.0, ms),
            faces_per_s: rate(batch, ms_median / 1e3),
            rss_mb: rss_mb(),
            stages,
        }
    }

    pub(super) fn heading(&self) -> String {
        let mut heading = format!(
            "{:<20} {:<10} {:<5} {:>7} {:>5} {:>10} {:>8} {:>8} {:>7}",
            "model", "path", "dtype", "threads", "batch", "ms median", "min", "faces/s", "RSS MB"
        );
        if self.stages.is_some() {
            heading += &format!(
                " {:>9} {:>6} {:>6} {:>13} {:>15}",
                "decode ms", "detect", "align", "chain faces/s", "without decoding"
            );
        }
        heading
    }

    pub(super) fn line(&self) -> String {
        let rss = self.rss_mb.map_or("-".to_owned(), |mb| format!("{mb:.0}"));
        let mut line = format!(
            "{:<20} {:<10} {:<5} {:>7} {:>5} {:>10.2} {:>8.2} {:>8.1} {rss:>7}",
            self.model,
            self.path,
            self.dtype.name(),
            self.threads,
            self.batch,
            self.ms_median,
            self.ms_min,
            self.faces_per_s
        );
        if let Some(Stages { decode, detect, align, chain_faces_per_s, chain_decoded_faces_per_s }) = self.stages {
            line += &format!(
                " {decode:>9.2} {detect:>6.2} {align:>6.2} {chain_faces_per_s:>13.1} {chain_decoded_faces_per_s:>16.1}"
            );
        }
        line
    }
}

/// So many a second, to a tenth.
pub(super) fn rate(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { (count as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 }
}
