//! Where probes pass: which watches look at them, and what they find.
//!
//! A watch searches its gallery by itself, with its own thresholds and for the same number of candidates each time; what a
//! request says of limits and filters is its own business and hides nothing from a watch. Without an interested watch all
//! of this is a look at a short list in memory.
//!
//! What a watch cannot do (its gallery is gone, or not calibrated) is noted with the watch and fails no request. A hit
//! that cannot be stored does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;
use vultus_engine::gallery::{
    Decision, GalleryError, HitSource, NewHit, SearchQuery, Watch, WatchSettings, WatchedSearches,
};
use vultus_engine::ids::{FaceId, GalleryId, ModelId, SubjectId, TrackId, WatchId};
use vultus_engine::store::{StoreError, Thresholds};

use crate::app::App;
use crate::problem::Problem;
use crate::service::probes::Held;
use crate::service::search::Searched;
use crate::service::tracks::summary;
use crate::service::video::FoundTrack;

/// Most subjects that one probe can hit.
const MAX_SUBJECTS: usize = 10;

/// What was found of a track already: one hit for each watch and subject, and another when a review becomes a match. It
/// lives as long as the track.
#[derive(Default)]
pub(crate) struct Sightings(Mutex<HashMap<(WatchId, SubjectId), Decision>>);

/// A probe that passes.
struct Passing<'a> {
    model: &'a ModelId,
    vector: &'a [f32],
    coherence: Option<f32>,
    /// What its request says of thresholds, when that names the watch.
    asked: Thresholds,
    passed_over: &'a HashMap<GalleryId, HashSet<SubjectId>>,
}

/// What a watch says of a probe, best first.
fn hits(app: &App, watch: &Watch, probe: &Passing<'_>, source: &HitSource) -> Result<Vec<NewHit>, Problem> {
    let WatchSettings { gallery, thresholds, min_decision, .. } = &watch.settings;
    let query = SearchQuery {
        thresholds: probe.asked,
        watch: *thresholds,
        passed_over: probe.passed_over.clone(),
        ..SearchQuery::plain(MAX_SUBJECTS)
    };
    let result = match app.database.search(gallery, probe.model, probe.vector, &query) {
        Ok(result) => result,
        // Other cameras may well be of other models.
        Err(GalleryError::ModelMismatch { .. }) => return Ok(Vec::new()),
        Err(error @ GalleryError::Store(StoreError::Io(_) | StoreError::Damaged(_))) => return Err(error.into()),
        Err(error) => {
            app.watches.note_trouble(watch.id, Some(error.to_string()));
            return Ok(Vec::new());
        }
    };
    app.watches.note_trouble(watch.id, None);
    let decider = result.decider;
    let found = result.candidates.into_iter().filter(|candidate| candidate.decision >= *min_decision);
    let hit = |candidate: vultus_engine::gallery::Candidate| NewHit {
        source: source.clone(),
        gallery: gallery.clone(),
        subject: candidate.subject,
        face: candidate.face,
        score: candidate.score,
        fpir: candidate.fpir,
        decision: candidate.decision,
        threshold: decider.matching,
        review_threshold: decider.review,
        coherence: probe.coherence,
    };
    Ok(found.map(hit).collect())
}

/// After searches: hits of the watches of these galleries, and of the one that the request names. Gives back the searches.
pub(crate) async fn searches(
    app: &App,
    searched: Vec<Searched>,
    model: &ModelId,
    named: Option<WatchId>,
    query: &SearchQuery,
) -> Result<Vec<Searched>, Problem> {
    let galleries: HashSet<GalleryId> =
        searched.iter().flat_map(|one| one.results.iter().map(|(gallery, _)| gallery.clone())).collect();
    let watches = app.watches.book().looking(|settings| galleries.contains(&settings.gallery));
    let interested = |watch: &Arc<Watch>| match watch.settings.sources.searches {
        WatchedSearches::All => true,
        WatchedSearches::Named => named == Some(watch.id),
        WatchedSearches::None => false,
    };
    let watches: Vec<Arc<Watch>> = watches.into_iter().filter(interested).collect();
    if watches.is_empty() {
        return Ok(searched);
    }
    let (model, asked, passed_over) = (model.clone(), query.thresholds, query.passed_over.clone());
    app.blocking(move |app| {
        for watch in &watches {
            let asked = if named == Some(watch.id) { asked } else { Thresholds::default() };
            let mut new = Vec::new();
            for Searched { id, probe, .. } in &searched {
                let template = &probe.template;
                let probe = Passing {
                    model: &model,
                    vector: &template.vector,
                    coherence: Some(template.coherence),
                    asked,
                    passed_over: &passed_over,
                };
                new.extend(hits(app, watch, &probe, &HitSource::Search { search_id: *id })?);
            }
            app.watches.add(watch.id, new)?;
        }
        Ok(searched)
    })
    .await
}

/// After frames were added to a track. Blocks.
pub(crate) fn frames(app: &App, id: &TrackId, held: &Held) -> Result<(), Problem> {
    let watches = app.watches.book().looking(|settings| settings.sources.tracks);
    if watches.is_empty() {
        return Ok(());
    }
    // Held over search and commit, so that of two posts at a time only one tells of a subject.
    let mut seen = held.sightings.0.lock();
    let (summary, frames) = {
        let mut track = held.track();
        (summary(&mut track)?, track.len() as u64)
    };
    let Some(summary) = summary else { return Ok(()) };
    let probe = Passing {
        model: &held.model.served().id,
        vector: &summary.vector,
        coherence: Some(summary.coherence),
        asked: Thresholds::default(),
        passed_over: &HashMap::new(),
    };
    let source = HitSource::Track { track: id.clone(), frames };
    for watch in &watches {
        let mut new = hits(app, watch, &probe, &source)?;
        new.retain(|hit| {
            let before = seen.get(&(watch.id, hit.subject.clone()));
            before.is_none_or(|before| *before < hit.decision)
        });
        for hit in app.watches.add(watch.id, new)? {
            seen.insert((watch.id, hit.subject), hit.decision);
        }
    }
    Ok(())
}

/// After a track of a video is complete. Blocks.
pub(crate) fn video(app: &App, job: Uuid, model: &ModelId, number: usize, track: &FoundTrack) -> Result<(), Problem> {
    let source = HitSource::Video { job, video_track: number as u64, first_s: track.first_s, last_s: track.last_s };
    let probe = Passing {
        model,
        vector: &track.summary.vector,
        coherence: Some(track.summary.coherence),
        asked: Thresholds::default(),
        passed_over: &HashMap::new(),
    };
    for watch in app.watches.book().looking(|settings| settings.sources.video) {
        let new = hits(app, &watch, &probe, &source)?;
        app.watches.add(watch.id, new)?;
    }
    Ok(())
}

/// After faces were enrolled, each with its subject: each of them is a probe.
pub(crate) async fn enrolment(app: &App, gallery: &GalleryId, faces: Vec<(SubjectId, FaceId)>) -> Result<(), Problem> {
    let watches = app.watches.book().looking(|settings| settings.sources.enrolments.contains(gallery));
    if watches.is_empty() {
        return Ok(());
    }
    let gallery = gallery.clone();
    app.blocking(move |app| {
        for (subject, face) in faces {
            // Enrolled into the watchlist itself, a face would find its own subject.
            let own = HashMap::from([(gallery.clone(), HashSet::from([subject.clone()]))]);
            let stored = match app.database.stored_probe(&gallery, &subject, Some(face), None) {
                Ok(stored) => stored,
                // It is gone again already.
                Err(GalleryError::Store(
                    StoreError::NoFace(..) | StoreError::NoSubject(..) | StoreError::NoGallery(_),
                )) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let source = HitSource::Enrolment { gallery: gallery.clone(), subject: subject.clone(), face };
            for watch in &watches {
                let probe = Passing {
                    model: &stored.model,
                    vector: &stored.template.vector,
                    coherence: None,
                    asked: Thresholds::default(),
                    passed_over: &own,
                };
                let new = hits(app, watch, &probe, &source)?;
                app.watches.add(watch.id, new)?;
            }
        }
        Ok(())
    })
    .await
}
