//! What the reports of a whole gallery share: they are jobs, and the newest finished one is kept for a while.

use std::ops::ControlFlow;

use serde::Serialize;
use serde_json::Value;
use vultus_engine::gallery::GalleryError;
use vultus_engine::ids::GalleryId;
use vultus_engine::store::ThresholdSetting;

use super::jobs::{Accepted, accepted};
use crate::app::App;
use crate::jobs::{JobFilter, Run, StateName, result};
use crate::problem::{Code, Problem};

/// Most items of a report.
pub(crate) const MOST_ITEMS: usize = 10_000;

/// Items of a report where the caller does not say.
pub(crate) fn usual_items() -> usize {
    1_000
}

/// A limit of items, checked.
pub(crate) fn checked_limit(limit: usize) -> Result<usize, Problem> {
    if (1..=MOST_ITEMS).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::with(Code::InvalidRequest, format!("limit is a number from 1 to {MOST_ITEMS}")))
    }
}

/// What the work of a report hears and tells: how many steps are done of how many, and whether to go on.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Starts a job over a gallery that is there, whose result is what `work` gives.
pub(crate) fn start<V: Serialize>(
    app: &App,
    kind: &'static str,
    gallery: GalleryId,
    work: impl FnOnce(&App, &GalleryId, Progress<'_>) -> Result<V, GalleryError> + Send + 'static,
) -> Result<Accepted, Problem> {
    app.database.gallery(&gallery)?;
    let of = gallery.clone();
    let job = app.start_job(kind, Some(gallery), move |app, run| result(&work(app, &of, &mut progress(run))?))?;
    Ok(accepted(job))
}

/// Tells a job how far the work is, and the work whether it is still wanted.
fn progress(run: &Run) -> impl FnMut(u64, u64) -> ControlFlow<()> {
    let mut last = 0;
    move |done, total| {
        run.set_total(total);
        run.advance(done.saturating_sub(last));
        last = done.max(last);
        if run.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The result of the newest job of a kind that is done, of a gallery as it is now.
pub(crate) fn newest(app: &App, kind: &'static str, gallery: &GalleryId) -> Result<Value, Problem> {
    // A gallery of this id that was deleted meanwhile was another one.
    let since = app.database.gallery(gallery)?.created_at;
    let filter =
        JobFilter { kind: Some(kind.to_owned()), gallery: Some(gallery.clone()), state: Some(StateName::Done) };
    let newest = app.jobs.list(&filter, None, 1).into_iter().find(|job| job.created_at >= since);
    let none = || Problem::with(Code::ReportNotFound, format!("no {kind} report of gallery {gallery} is at hand"));
    // It may be forgotten between the two.
    let job = app.jobs.get(newest.ok_or_else(none)?.id).map_err(|_| none())?;
    job.result.ok_or_else(none)
}

/// Refuses a rate at once where nothing says what it means, rather than in the job.
pub(crate) fn check_threshold(
    app: &App,
    gallery: &GalleryId,
    threshold: Option<ThresholdSetting>,
) -> Result<(), Problem> {
    if matches!(threshold, Some(ThresholdSetting::Fpir(_))) && app.database.calibration(gallery)?.is_none() {
        return Err(GalleryError::CalibrationMissing(gallery.clone()).into());
    }
    Ok(())
}
