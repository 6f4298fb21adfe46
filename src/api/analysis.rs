//! What the reports of a whole gallery share: they are jobs, and the newest finished one is kept for a while.

use std::ops::ControlFlow;

use serde::Serialize;
use serde_json::value::RawValue;
use vultus_engine::gallery::GalleryError;
use vultus_engine::ids::GalleryId;
use vultus_engine::store::ThresholdSetting;

use super::jobs::{Accepted, accepted};
use crate::app::App;
use crate::jobs::{About, JobFilter, Run, StateName};
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
    start_naming(app, About::new(kind, Some(gallery.clone())), gallery, work)
}

/// As [`start`], for a job that names subjects of other galleries too.
pub(crate) fn start_naming<V: Serialize>(
    app: &App,
    about: About,
    gallery: GalleryId,
    work: impl FnOnce(&App, &GalleryId, Progress<'_>) -> Result<V, GalleryError> + Send + 'static,
) -> Result<Accepted, Problem> {
    app.database.gallery(&gallery)?;
    let job = app.start_job(about, move |app, run| Ok(work(app, &gallery, &mut progress(run))?))?;
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
pub(crate) fn newest(app: &App, kind: &'static str, gallery: &GalleryId) -> Result<Box<RawValue>, Problem> {
    // A gallery of this id that was deleted meanwhile was another one.
    let since = app.database.gallery(gallery)?.created_at;
    let filter =
        JobFilter { kind: Some(kind.to_owned()), gallery: Some(gallery.clone()), state: Some(StateName::Done) };
    let newest = app.jobs.list(&filter, None, 1).into_iter().find(|job| job.created_at >= since);
    let none = || Problem::with(Code::ReportNotFound, format!("no {kind} report of gallery {gallery} is at hand"));
    let job = app.jobs.get(newest.ok_or_else(none)?.id).map_err(|problem| match problem.code {
        // It may be forgotten between the two.
        Code::JobNotFound => none(),
        _ => problem,
    })?;
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
