//! What scores are worth in a gallery: its calibration, made from its own non-mated searches, kept and asked.
//!
//! A calibration belongs to a gallery under one model and one fusion rule. It is made beside searches and writes, kept as a
//! document, and corrected for the gallery's size of the moment whenever it is asked. Who is enrolled or changed after
//! it counts as changed; [`calibration`](crate::calibration) says when that makes it stale.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::database::{Database, now};
use super::open::{OpenGallery, Side, State, template};
use super::pairs::Pair;
use super::{GalleryError, documents};
use crate::calibration::{Calibration, DEPTH, FitOptions, MaximaCollector, Prober, STALE_SHARE, Since, Stale, View};
use crate::ids::{GalleryId, ModelId, SubjectId};
use crate::store::{ChangeKind, Collection, GalleryKind, Store, StoredFace};
use crate::template::Fusion;

/// With fewer subjects than this, as many faces of each are searched as [`MOST_FACES`], and with more [`SOME_FACES`].
const SMALL: u64 = 1_000;
/// Most subjects searched with; of more, every second, third and so on.
const MOST_SUBJECTS: u64 = 20_000;
/// Most faces of one subject searched with, those enrolled first.
const MOST_FACES: usize = 10;
/// The same in a large gallery.
const SOME_FACES: usize = 3;
/// Change-log entries read at a time.
const PAGE: usize = 10_000;
/// Pairs known to be different that are taken into account.
const MOST_PAIRS: usize = 100_000;

/// What enrolled subjects are searched with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationProbes {
    /// Templates and single faces alike: for galleries that are searched with photos and with templates.
    #[default]
    Both,
    /// Templates of all faces of a subject: for searches with tracks and templates.
    Templates,
    /// Single faces: for searches with single photos.
    Faces,
}

/// What a gallery is calibrated with.
#[derive(Debug, Clone, Default)]
pub struct CalibrateOptions {
    /// A gallery of people who are not in this one, of the same model.
    pub non_mated: Option<GalleryId>,
    /// Leave out the gallery's own subjects.
    pub only_non_mated: bool,
    /// What subjects are searched with. In a gallery of events single faces are always taken.
    pub probes: CalibrationProbes,
    /// Seed of the draws that intervals are made of.
    pub seed: u64,
}

/// A gallery's calibration as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GalleryCalibration {
    /// When it was made.
    pub at: Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: ModelId,
    /// The rule of the templates.
    pub fusion: Fusion,
    /// The gallery of people who are not enrolled, where one was used.
    #[serde(default)]
    pub non_mated: Option<GalleryId>,
    /// What subjects were searched with.
    #[serde(default)]
    pub probes: CalibrationProbes,
    /// What was found.
    pub calibration: Calibration,
}

/// A gallery's calibration and what has become of it.
#[derive(Debug, Clone)]
pub struct CalibrationStatus {
    /// As it was made.
    pub made: Arc<GalleryCalibration>,
    /// As it applies at the present size.
    pub view: Arc<View>,
    /// Subjects that can be matched now.
    pub gallery_size: u64,
    /// Why it should be made again.
    pub stale: Option<Stale>,
}

/// A calibration in use.
pub(super) struct Calibrated {
    made: Arc<GalleryCalibration>,
    /// As it applies at the size asked for last.
    view: Mutex<Option<(u64, Arc<View>)>>,
    /// Subjects that came, went or changed since, up to as many as make it stale.
    changed: Mutex<HashSet<SubjectId>>,
}

impl Calibrated {
    /// The one kept for a gallery under a model.
    pub(super) fn load(
        store: &dyn Store,
        gallery: &GalleryId,
        model: &ModelId,
    ) -> Result<Option<Arc<Self>>, GalleryError> {
        let id = model.0.as_bytes();
        let made: Option<GalleryCalibration> = documents::get(store, Some(gallery), Collection::Calibrations, id)?;
        let Some(made) = made else { return Ok(None) };
        let calibrated = Self::new(made);
        let mut after = calibrated.made.revision;
        loop {
            let page = store.changes(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for change in page.iter().filter(|change| change.gallery == *gallery) {
                match &change.kind {
                    ChangeKind::SubjectDeleted(subject)
                    | ChangeKind::FaceAdded(subject, _)
                    | ChangeKind::FaceDeleted(subject, _) => calibrated.note(subject),
                    ChangeKind::FaceMoved(to, _, from) => [to, from].into_iter().for_each(|s| calibrated.note(s)),
                    _ => {}
                }
            }
        }
        Ok(Some(Arc::new(calibrated)))
    }

    fn new(made: GalleryCalibration) -> Self {
        Self { made: Arc::new(made), view: Mutex::default(), changed: Mutex::default() }
    }

    /// Notes that a subject's rows have changed.
    pub(super) fn note(&self, subject: &SubjectId) {
        let enough = (STALE_SHARE * self.made.calibration.gallery_size() as f64) as usize + 1;
        let mut changed = self.changed.lock();
        if changed.len() < enough && !changed.contains(subject) {
            changed.insert(subject.clone());
        }
    }

    fn view(&self, size: u64) -> Arc<View> {
        let mut cached = self.view.lock();
        match &*cached {
            Some((of, view)) if *of == size => Arc::clone(view),
            _ => {
                let view = Arc::new(self.made.calibration.at_size(size));
                *cached = Some((size, Arc::clone(&view)));
                view
            }
        }
    }

    fn status(&self, size: u64, fusion: Fusion) -> CalibrationStatus {
        let since = Since {
            gallery_size: size,
            changed_subjects: self.changed.lock().len() as u64,
            same_model: true,
            same_fusion: fusion == self.made.fusion,
        };
        let stale = self.made.calibration.staleness(since);
        CalibrationStatus { made: Arc::clone(&self.made), view: self.view(size), gallery_size: size, stale }
    }
}

/// A rate with what is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateEstimate {
    pub(super) fpir: f64,
    pub(super) extrapolated: bool,
}

/// What a calibration says, if there is one that applies.
pub(super) struct Rates<'a> {
    gallery: &'a GalleryId,
    status: Option<CalibrationStatus>,
}

impl<'a> Rates<'a> {
    /// Of a gallery that is not calibrated.
    #[cfg(test)]
    pub(super) fn none(gallery: &'a GalleryId) -> Self {
        Self { gallery, status: None }
    }

    /// Those of a gallery's side. Scores of templates that are fused by another rule by now are worth nothing known.
    pub(super) fn of(state: &'a State, side: &'a Side) -> Self {
        let status = side
            .calibration
            .as_ref()
            .map(|calibrated| calibrated.status(side.index.subjects() as u64, state.fusion(&side.model)));
        let status = status.filter(|status| status.stale != Some(Stale::Fusion));
        Self { gallery: &state.settings.id, status }
    }

    pub(super) fn status(&self) -> Option<&CalibrationStatus> {
        self.status.as_ref()
    }

    /// The rate at which non-mated searches reach a score.
    pub(super) fn fpir_at(&self, score: f32) -> Option<RateEstimate> {
        let estimate = self.status.as_ref()?.view.fpir_at(f64::from(score));
        Some(RateEstimate { fpir: estimate.value, extrapolated: estimate.extrapolated })
    }

    /// The score that keeps a rate, and whether that is beyond what the data carry.
    pub(super) fn score_at(&self, fpir: f64) -> Result<(f32, RateEstimate), GalleryError> {
        let status = self.status.as_ref();
        let status = status.ok_or_else(|| GalleryError::CalibrationMissing(self.gallery.clone()))?;
        let estimate = status.view.score_at(fpir);
        // Rounded up, so that the score keeps the rate.
        let score = estimate.score as f32;
        let score = if f64::from(score) < estimate.score { score.next_up() } else { score };
        // Where no score keeps the rate, the answer says which one the highest score keeps.
        let fpir = if score >= 1.0 { estimate.fpir } else { fpir };
        Ok((score.min(1.0), RateEstimate { fpir, extrapolated: estimate.extrapolated }))
    }
}

impl Database {
    /// A gallery's calibration under its model of the moment.
    pub fn calibration(&self, gallery: &GalleryId) -> Result<Option<CalibrationStatus>, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let state = open.state();
        let side = &state.in_use;
        Ok(side
            .calibration
            .as_ref()
            .map(|calibrated| calibrated.status(side.index.subjects() as u64, state.fusion(&side.model))))
    }

    /// Calibrates a gallery from non-mated searches, and keeps what was found. `progress` hears how many searches were
    /// made, of how many, and can stop it ([`GalleryError::Stopping`]).
    pub fn calibrate(
        &self,
        gallery: &GalleryId,
        options: &CalibrateOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<CalibrationStatus, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let revision = self.store.counts(gallery)?.revision;
        let state = open.state();
        let side = &state.in_use;
        let fusion = state.fusion(&side.model);
        let size = side.index.subjects() as u64;
        let outsiders = options.non_mated.as_ref().map(|other| self.counts(other)).transpose()?;
        let own = if options.only_non_mated { 0 } else { size };
        let total = own + outsiders.map_or(0, |counts| counts.subjects);
        let mut collector = MaximaCollector::new(size as usize);
        let mut done = 0;
        let mut known_different = Vec::new();
        let mut step = |done: &mut u64| {
            *done += 1;
            if progress(*done, total.max(*done)).is_break() { Err(GalleryError::Stopping) } else { Ok(()) }
        };
        if own > 0 {
            let every = size.div_ceil(MOST_SUBJECTS).max(1);
            self.walk(&open, &side.model.id, |subject, faces| {
                step(&mut done)?;
                if !(done - 1).is_multiple_of(every) {
                    return Ok(());
                }
                for probe in probes_of(&state, side, faces, options.probes, size) {
                    let hits = side.index.search_where(&probe, DEPTH, &|other| other != subject)?.hits;
                    let hits = hits.iter().map(|hit| (hit.subject.as_str(), hit.score));
                    collector.add(Prober::Enrolled(subject.as_str()), size as usize - 1, hits);
                }
                Ok(())
            })?;
            let pairs: Vec<Pair> =
                documents::list(self.store(), Some(gallery), Collection::Pairs, &[], None, MOST_PAIRS)?;
            known_different = pairs.into_iter().map(|pair| (pair.subject.into(), pair.other.into())).collect();
        }
        if let Some(other) = &options.non_mated {
            let of = self.gallery(other)?;
            if of.model_id != side.model.id {
                let (expected, actual) = (side.model.id.clone(), of.model_id);
                return Err(GalleryError::ModelMismatch { gallery: other.clone(), expected, actual });
            }
            self.walk(&*self.gallery_in_use(other)?, &side.model.id, |subject, faces| {
                step(&mut done)?;
                for probe in probes_of(&state, side, faces, options.probes, size) {
                    let hits = side.index.search_where(&probe, DEPTH, &|_| true)?.hits;
                    let hits = hits.iter().map(|hit| (hit.subject.as_str(), hit.score));
                    collector.add(Prober::Outsider(subject.as_str()), size as usize, hits);
                }
                Ok(())
            })?;
        }
        let calibration = Calibration::fit(&collector, &FitOptions { seed: options.seed, known_different })?;
        let made = GalleryCalibration {
            at: now(),
            revision,
            model_id: side.model.id.clone(),
            fusion,
            non_mated: options.non_mated.clone(),
            probes: options.probes,
            calibration,
        };
        self.keep_calibration(&open, made)
    }

    fn keep_calibration(
        &self,
        open: &OpenGallery,
        made: GalleryCalibration,
    ) -> Result<CalibrationStatus, GalleryError> {
        let held = open.hold();
        let gallery = open.state().settings.id.clone();
        let id = made.model_id.0.as_bytes();
        let put = documents::put(Some(&gallery), Collection::Calibrations, id, &made)?;
        self.store.commit(made.at, &[put])?;
        let model = made.model_id.clone();
        let calibrated =
            Calibrated::load(self.store(), &gallery, &model)?.unwrap_or_else(|| Arc::new(Calibrated::new(made)));
        open.publish(&held, |state| {
            let standby = state.standby.as_mut().map(|standby| &mut standby.side);
            for side in std::iter::once(&mut state.in_use).chain(standby).filter(|side| side.model.id == model) {
                side.calibration = Some(Arc::clone(&calibrated));
            }
        });
        let state = open.state();
        let size = state.in_use.index.subjects() as u64;
        Ok(calibrated.status(size, state.fusion(&state.in_use.model)))
    }
}

/// What a subject is searched with. Each subject counts once in the result, with however many probes.
///
/// Rates of single photos and of templates differ: a template of many photos reaches strangers' scores less often than
/// a photo does where the gallery holds photos, and more often where it holds templates. Both are taken unless the
/// caller says with what the gallery is going to be searched. In a gallery of events each face stands for itself.
fn probes_of(state: &State, side: &Side, faces: &[StoredFace], probes: CalibrationProbes, size: u64) -> Vec<Vec<f32>> {
    let events = state.settings.kind == GalleryKind::Events;
    let most = match probes {
        CalibrationProbes::Templates if !events => 0,
        // One face is its own template.
        CalibrationProbes::Both if faces.len() == 1 && !events => 0,
        _ if size < SMALL => MOST_FACES,
        _ => SOME_FACES,
    };
    let template = (!events && probes != CalibrationProbes::Faces)
        .then(|| template(faces, state.fusion(&side.model), &side.model).ok())
        .flatten();
    let single = faces.iter().take(most).map(|face| face.embedding.clone());
    template.into_iter().map(|template| template.vector).chain(single).collect()
}
