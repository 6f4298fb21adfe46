//! Which faces of a video are one track: frame by frame, by overlap of boxes and agreement of embeddings.
//!
//! A face goes on with a track when its box overlaps the place where the track should be by now and its embedding does
//! not speak against it, or when the embedding alone says so, wherever the box is: that is how a track survives a gap.
//! Overlap without agreement is not enough, so that a cut to another person at the same place begins a new track. Of all
//! pairs that may be, the best are taken first, each track and each face once: two faces of a frame are never one track.
//!
//! Pure computation on boxes and embeddings; the same input gives the same tracks.

use crate::face::BoundingBox;
use crate::model::ServedModel;

/// A face of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Where it is, in pixels.
    pub bbox: BoundingBox,
    /// Unit embedding.
    pub embedding: &'a [f32],
    /// Length of the raw feature.
    pub norm: f32,
}

/// What makes two faces one track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AssociateOptions {
    /// Intersection over union from which a box is where the track should be.
    pub min_iou: f32,
    /// Cosine that a face at the right place must reach. Low: frames of one person can be poor.
    pub overlap_score: f32,
    /// Cosine at which a face is the track's wherever it is.
    pub reappear_score: f32,
    /// The place of a face says nothing when the track's last one is longer ago than this, in seconds.
    pub overlap_gap_s: f64,
    /// A track without a face for longer than this has ended, in seconds.
    pub max_gap_s: f64,
}

/// False match rates of the two scores, for models that have measured them.
const OVERLAP_FMR: f64 = 0.1;
const REAPPEAR_FMR: f64 = 0.001;

impl AssociateOptions {
    /// Scores as a model's embeddings need them: at the right place a stranger in ten would pass, elsewhere one in a
    /// thousand. For models without measurements, shares of their threshold.
    pub fn for_model(model: &ServedModel) -> Self {
        let at = |fmr, share: f32| model.impostors.score_at(fmr).unwrap_or(share * model.threshold);
        Self {
            min_iou: 0.2,
            overlap_score: at(OVERLAP_FMR, 0.4),
            reappear_score: at(REAPPEAR_FMR, 0.85),
            overlap_gap_s: 1.0,
            max_gap_s: 5.0,
        }
    }
}

/// A track that can go on.
#[derive(Debug)]
struct Open {
    id: usize,
    bbox: BoundingBox,
    /// Pixels per second of the centre, smoothed.
    velocity: [f64; 2],
    last_s: f64,
    /// Sum of raw features, whose direction is how the face looks.
    appearance: Vec<f64>,
}

/// Longest time for which a movement is assumed to go on, in seconds.
const MAX_PREDICTION_S: f64 = 0.6;
/// Share of the newest displacement in the velocity.
const VELOCITY_SHARE: f64 = 0.5;

impl Open {
    fn new(id: usize, at_s: f64, face: &Observation<'_>) -> Self {
        let mut track =
            Self { id, bbox: face.bbox, velocity: [0.0; 2], last_s: at_s, appearance: vec![0.0; face.embedding.len()] };
        track.see(face);
        track
    }

    fn see(&mut self, face: &Observation<'_>) {
        let norm = f64::from(face.norm);
        self.appearance.iter_mut().zip(face.embedding).for_each(|(sum, value)| *sum += norm * f64::from(*value));
    }

    fn go_on(&mut self, at_s: f64, face: &Observation<'_>) {
        let elapsed = at_s - self.last_s;
        if elapsed > 0.0 {
            let (from, to) = (self.bbox.centre(), face.bbox.centre());
            for axis in 0..2 {
                let now = f64::from(to[axis] - from[axis]) / elapsed;
                self.velocity[axis] += VELOCITY_SHARE * (now - self.velocity[axis]);
            }
        }
        (self.bbox, self.last_s) = (face.bbox, at_s);
        self.see(face);
    }

    /// Where its face should be.
    fn predicted(&self, at_s: f64) -> BoundingBox {
        let ahead = (at_s - self.last_s).clamp(0.0, MAX_PREDICTION_S);
        let [dx, dy] = self.velocity.map(|v| (v * ahead) as f32);
        let BoundingBox { x1, y1, x2, y2 } = self.bbox;
        BoundingBox { x1: x1 + dx, y1: y1 + dy, x2: x2 + dx, y2: y2 + dy }
    }

    /// Cosine with a face.
    fn score(&self, face: &Observation<'_>) -> f32 {
        let dot: f64 = self.appearance.iter().zip(face.embedding).map(|(a, b)| a * f64::from(*b)).sum();
        let length = self.appearance.iter().map(|a| a * a).sum::<f64>().sqrt();
        if length > 0.0 { (dot / length) as f32 } else { 0.0 }
    }
}

/// Follows faces from frame to frame.
#[derive(Debug)]
pub struct Associator {
    options: AssociateOptions,
    open: Vec<Open>,
    next: usize,
}

/// What a frame did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Associated {
    /// Each face's track, numbered from 0 in the order they began; in the order of the faces.
    pub tracks: Vec<usize>,
    /// Tracks that have ended, which no later face will go on with.
    pub ended: Vec<usize>,
}

impl Associator {
    /// Nobody seen yet.
    pub fn new(options: AssociateOptions) -> Self {
        Self { options, open: Vec::new(), next: 0 }
    }

    /// Takes the faces of the next frame, `at_s` seconds into the video. Times do not fall.
    pub fn frame(&mut self, at_s: f64, faces: &[Observation<'_>]) -> Associated {
        let (ended, open): (Vec<Open>, Vec<Open>) =
            std::mem::take(&mut self.open).into_iter().partition(|track| at_s - track.last_s > self.options.max_gap_s);
        self.open = open;
        let mut tracks = vec![None; faces.len()];
        let mut taken = vec![false; self.open.len()];
        for (_, track, face) in self.pairs(at_s, faces) {
            if !taken[track] && tracks[face].is_none() {
                taken[track] = true;
                self.open[track].go_on(at_s, &faces[face]);
                tracks[face] = Some(self.open[track].id);
            }
        }
        let begin = |(track, face): (Option<usize>, &Observation<'_>)| {
            track.unwrap_or_else(|| {
                let id = self.next;
                self.next += 1;
                self.open.push(Open::new(id, at_s, face));
                id
            })
        };
        let tracks = tracks.into_iter().zip(faces).map(begin).collect();
        Associated { tracks, ended: ended.into_iter().map(|track| track.id).collect() }
    }

    /// Pairs of a track and a face that may be one, best first.
    fn pairs(&self, at_s: f64, faces: &[Observation<'_>]) -> Vec<(f32, usize, usize)> {
        let AssociateOptions { min_iou, overlap_score, reappear_score, overlap_gap_s, .. } = self.options;
        let mut pairs = Vec::new();
        for (t, track) in self.open.iter().enumerate() {
            let place = track.predicted(at_s);
            for (f, face) in faces.iter().enumerate() {
                // A face that stopped is where it was, one that goes on is ahead.
                let iou = place.iou(&face.bbox).max(track.bbox.iou(&face.bbox));
                let iou = if at_s - track.last_s > overlap_gap_s { 0.0 } else { iou };
                let score = track.score(face);
                if (iou >= min_iou && score >= overlap_score) || score >= reappear_score {
                    // How the face looks counts more than where it is: people cross.
                    pairs.push((score + iou / 2.0, t, f));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: AssociateOptions =
        AssociateOptions { min_iou: 0.2, overlap_score: 0.2, reappear_score: 0.45, overlap_gap_s: 1.0, max_gap_s: 2.0 };
    const DIM: usize = 64;
    /// Sampled frames a second.
    const FPS: f64 = 5.0;

    /// A person's face at a place, with noise of its own in every frame: the cosine of two frames is about 0.5.
    struct Person(usize);

    impl Person {
        fn embedding(&self, frame: usize) -> Vec<f32> {
            let mut state = (self.0 * 1000 + frame) as u64 + 1;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            };
            let mut values: Vec<f32> = (0..DIM).map(|_| 0.4 * noise()).collect();
            values[self.0] += 1.0;
            let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
            values.iter().map(|v| v / length).collect()
        }
    }

    fn at(x: f32, y: f32) -> BoundingBox {
        BoundingBox { x1: x - 25.0, y1: y - 30.0, x2: x + 25.0, y2: y + 30.0 }
    }

    /// The tracks of frames, each a list of (person, box).
    fn follow(frames: &[Vec<(usize, BoundingBox)>]) -> Vec<Vec<usize>> {
        let mut associator = Associator::new(OPTIONS);
        frames
            .iter()
            .enumerate()
            .map(|(i, faces)| {
                let embeddings: Vec<Vec<f32>> = faces.iter().map(|(who, _)| Person(*who).embedding(i)).collect();
                let observations: Vec<Observation<'_>> = faces
                    .iter()
                    .zip(&embeddings)
                    .map(|((_, bbox), embedding)| Observation { bbox: *bbox, embedding, norm: 50.0 })
                    .collect();
                associator.frame(i as f64 / FPS, &observations).tracks
            })
            .collect()
    }

    #[test]
    fn two_people_who_cross_keep_their_tracks() {
        let frames: Vec<_> = (0..40)
            .map(|i| {
                let step = 10.0 * i as f32;
                let (left, right) = (at(50.0 + step, 100.0), at(450.0 - step, 104.0));
                // While they overlap, the one in front hides the other; the order of detection changes too.
                match i {
                    19..=21 => vec![(1, right)],
                    _ if i % 2 == 0 => vec![(1, right), (0, left)],
                    _ => vec![(0, left), (1, right)],
                }
            })
            .collect();
        let tracks = follow(&frames);
        let of = |who: usize| -> Vec<usize> {
            let each = frames.iter().zip(&tracks);
            each.flat_map(|(faces, tracks)| faces.iter().zip(tracks))
                .filter(|((person, _), _)| *person == who)
                .map(|(_, track)| *track)
                .collect()
        };
        assert!(of(0).iter().all(|track| *track == of(0)[0]), "{:?}", of(0));
        assert!(of(1).iter().all(|track| *track == of(1)[0]), "{:?}", of(1));
        assert_ne!(of(0)[0], of(1)[0]);
    }

    #[test]
    fn a_track_survives_a_gap_and_ends_after_a_long_one() {
        // Six frames hidden, and seen again elsewhere; then fourteen frames hidden.
        let seen = |x: f32, frames: usize| (0..frames).map(move |i| vec![(3, at(x + 5.0 * i as f32, 80.0))]);
        let frames: Vec<_> = seen(50.0, 5)
            .chain(vec![Vec::new(); 6])
            .chain(seen(300.0, 5))
            .chain(vec![Vec::new(); 14])
            .chain(seen(300.0, 3))
            .collect();
        let tracks: Vec<usize> = follow(&frames).into_iter().flatten().collect();
        assert_eq!(tracks, [vec![0; 10], vec![1; 3]].concat());
    }

    #[test]
    fn a_cut_to_another_face_at_the_same_place_begins_a_track() {
        let frames: Vec<_> = (0..12).map(|i| vec![(if i < 6 { 4 } else { 5 }, at(200.0, 150.0))]).collect();
        let tracks: Vec<usize> = follow(&frames).into_iter().flatten().collect();
        assert_eq!(tracks, [vec![0; 6], vec![1; 6]].concat());
    }

    #[test]
    fn two_faces_of_a_frame_are_never_one_track() {
        // Twins, or a face and its picture on the wall: alike in every frame, one of them overlapping both tracks.
        let frames: Vec<_> = (0..8).map(|_| vec![(6, at(100.0, 100.0)), (6, at(120.0, 100.0))]).collect();
        let tracks = follow(&frames);
        assert!(tracks.iter().all(|pair| pair[0] != pair[1]), "{tracks:?}");
        assert!(tracks.iter().flatten().all(|track| *track < 2), "{tracks:?}");
    }

    #[test]
    fn ended_tracks_are_told_once() {
        let mut associator = Associator::new(OPTIONS);
        let embedding = Person(0).embedding(0);
        let face = Observation { bbox: at(50.0, 50.0), embedding: &embedding, norm: 50.0 };
        assert_eq!(associator.frame(0.0, &[face]).ended, [0usize; 0]);
        assert_eq!(associator.frame(2.0, &[]).ended, [0usize; 0]);
        assert_eq!(associator.frame(2.1, &[]).ended, [0]);
        let later = associator.frame(2.2, &[face]);
        assert_eq!((later.tracks, later.ended), (vec![1], vec![]));
    }
}
