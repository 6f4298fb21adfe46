//! What an approximate search is tried with, and where it is prepared.

use std::collections::HashMap;

use super::flat::{FlatRows, Row};
use super::scan::Query;
use super::vector::{dot, mean_of};
use crate::ids::SubjectId;

/// The cosine between two images of one person, if the rows of the gallery do not show a lower one. As that of subjects below, it is
/// for galleries whose strangers have one of 0.
const LIKENESS: f32 = 0.625;
/// Probes are not less like the rows of their people than this, however little these are like each other.
const LEAST_LIKENESS: f32 = 0.25;
/// Nor are they more like what the rows have in common: some disturbance there always is.
const MOST_ALIKE: f32 = 0.95;
/// Subjects with a row as like as this are taken for the same person, enrolled twice, where that is so many standard deviations more
/// than strangers are; and so many subjects are looked at for that.
const SAME: f32 = 0.5;
const DEVIATIONS: f32 = 5.0;
const ALIKE: usize = 10;

/// Probes like the ones to come: persons of the first `covers` slots seen anew, up to `sample` of them.
///
/// A row itself would flatter a search that was prepared with it, which finds what it was made from more surely than a new
/// image of the same person. So what is common to a person's rows is disturbed, by the mirror image of a row from elsewhere: that
/// varies as faces of this gallery vary, and nobody is near it. A disturbed row would be too far from the other rows of its person,
/// and they would be found less often than they are when a person comes again.
pub(super) fn seen_anew(rows: &FlatRows, sample: usize, covers: usize) -> Vec<Vec<f32>> {
    // Evenly spread, so that every part of the gallery has its say.
    let sample = sample.min(covers);
    let seen: Vec<(usize, Row<'_>)> = (0..sample)
        .filter_map(|number| {
            let slot = number * covers / sample;
            let other = (slot + covers / 2 + number) % covers;
            Some((other, rows.row(slot)?))
        })
        .collect();
    let mut persons: Vec<Person> = seen.iter().map(|_| Person::default()).collect();
    let mut persons_of: HashMap<SubjectId, Vec<usize>> = HashMap::new();
    let strangers = Strangers::of(rows, &seen);
    let same = strangers.likeness(SAME).max(strangers.mean + DEVIATIONS * strangers.deviation);
    let queries: Vec<Query<'_>> = seen.iter().map(|(_, row)| Query { probe: row.vector, limit: ALIKE }).collect();
    for (number, ((_, row), alike)) in seen.iter().zip(rows.scan_many(&queries)).enumerate() {
        let own = &row.key.subject;
        let others = alike.into_hits().into_iter().filter(|hit| hit.score >= same && hit.subject != *own);
        for subject in others.map(|hit| hit.subject).chain([own.clone()]) {
            persons_of.entry(subject).or_default().push(number);
            persons[number].subjects += 1;
        }
    }
    for (_, row) in rows.live_rows(0..rows.slots()) {
        for number in persons_of.get(&row.key.subject).into_iter().flatten() {
            persons[*number].add(row.vector);
        }
    }
    // Of one person few rows are known, so that all of them say how like images of one person are.
    let between: Vec<f32> = persons.iter().filter_map(Person::between).collect();
    let mean = between.iter().sum::<f32>() / between.len() as f32;
    let most = strangers.likeness(LIKENESS);
    let likeness = if between.is_empty() { most } else { mean.clamp(LEAST_LIKENESS, most) };
    let anew = |(person, (other, _)): (&Person, (usize, _))| {
        let (other, _) = strangers.past_middle(rows.row(other)?.vector)?;
        person.seen_anew(&strangers, &other, likeness)
    };
    persons.iter().zip(seen).filter_map(anew).collect()
}

/// Rows that have nothing to do with each other.
struct Strangers {
    /// Their cosines.
    mean: f32,
    deviation: f32,
    /// What all rows have in common.
    middle: Vec<f32>,
}

impl Strangers {
    /// Of rows, each with the number of another.
    fn of(rows: &FlatRows, seen: &[(usize, Row<'_>)]) -> Self {
        let cosines: Vec<f32> =
            seen.iter().filter_map(|(other, row)| Some(dot(row.vector, rows.row(*other)?.vector))).collect();
        let count = cosines.len().max(1) as f32;
        let mean = cosines.iter().sum::<f32>() / count;
        let variance = cosines.iter().map(|cosine| (cosine - mean).powi(2)).sum::<f32>() / count;
        let vectors: Vec<&[f32]> = seen.iter().map(|(_, row)| row.vector).collect();
        Self { mean, deviation: variance.sqrt(), middle: mean_of(&vectors, rows.dim()) }
    }

    /// A cosine between 0 and 1 as far between that of strangers and 1.
    fn likeness(&self, cosine: f32) -> f32 {
        let least = self.mean.clamp(0.0, 1.0);
        least + (1.0 - least) * cosine
    }

    /// How a vector lies from the middle: direction, of length 1, and distance. `None` where it lies there.
    fn past_middle(&self, vector: &[f32]) -> Option<(Vec<f32>, f32)> {
        let apart: Vec<f32> = vector.iter().zip(&self.middle).map(|(value, middle)| value - middle).collect();
        let distance = dot(&apart, &apart).sqrt();
        (distance > 0.01).then(|| (apart.iter().map(|value| value / distance).collect(), distance))
    }
}

/// The rows of a person, of length 1 each, added.
#[derive(Default)]
struct Person {
    sum: Vec<f32>,
    rows: f32,
    /// Of so many subjects.
    subjects: usize,
}

impl Person {
    fn add(&mut self, vector: &[f32]) {
        self.sum.resize(vector.len(), 0.0);
        self.sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
        self.rows += 1.0;
    }

    /// The length of the mean of the rows, which is also their mean cosine with it.
    fn mean(&self) -> f32 {
        dot(&self.sum, &self.sum).sqrt() / self.rows
    }

    /// The mean cosine between two of several rows of one subject: the square of the mean's length is (1 + (n - 1) r) / n. Rows of
    /// several subjects are together because they are alike.
    fn between(&self) -> Option<f32> {
        let mean = self.mean();
        (self.rows > 1.0 && self.subjects == 1).then(|| (self.rows * mean * mean - 1.0) / (self.rows - 1.0))
    }

    /// Such that the mean cosine with the rows is `likeness`, where the direction `other` from the middle has nothing to do with them:
    /// what all rows have in common is left as it is, the rest disturbed. `None` of rows that cancel one another out.
    fn seen_anew(&self, strangers: &Strangers, other: &[f32], likeness: f32) -> Option<Vec<f32>> {
        let mean = self.mean();
        if mean < 0.01 {
            return None;
        }
        let common: Vec<f32> = self.sum.iter().map(|value| value / (mean * self.rows)).collect();
        let (direction, distance) = strangers.past_middle(&common)?;
        let left = (likeness / mean).min(MOST_ALIKE);
        // The cosine with what is left as it is and with the rest, which is disturbed, add up to that.
        let cosine = (1.0 - (1.0 - left) / (distance * distance)).max(LEAST_LIKENESS);
        let apart = away(&direction, other, cosine)?;
        let anew: Vec<f32> =
            strangers.middle.iter().zip(apart).map(|(middle, apart)| middle + distance * apart).collect();
        let length = dot(&anew, &anew).sqrt();
        (length > 0.01).then(|| anew.iter().map(|value| value / length).collect())
    }
}

/// A row as another image of the same person would be: disturbed by the mirror image of another row of the gallery, both of
/// length 1 and of the same dimension. `None` where they leave nothing.
pub fn disturbed(row: &[f32], other: &[f32]) -> Option<Vec<f32>> {
    away(row, other, LIKENESS)
}

/// So far from a direction that this is the cosine, away from another one that is across; both have length 1.
fn away(direction: &[f32], other: &[f32], cosine: f32) -> Option<Vec<f32>> {
    let disturbance = (1.0 / (cosine * cosine) - 1.0).sqrt();
    let mixed: Vec<f32> = direction.iter().zip(other).map(|(x, y)| x - disturbance * y).collect();
    let norm = dot(&mixed, &mixed).sqrt();
    // Length 0 only if the two point the same way and the disturbance were 1.
    (norm > 0.01).then(|| mixed.iter().map(|x| x / norm).collect())
}

/// Does work on so many threads, 0 for half of the processors. They are not the shared ones: the scan of a search would wait
/// behind all rows that are still to be worked on.
pub(super) fn on_own_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2)),
        threads => threads,
    };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(threads) => threads.install(work),
        Err(error) => {
            tracing::warn!(%error, "no threads of its own for the work on an index, using the shared ones");
            work()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Faces, key};
    use super::super::flat::FlatEdit;
    use super::*;

    const DIM: usize = 256;

    /// The mean cosine of probes with all rows of the person they are of.
    fn mean_cosine(rows: &FlatRows, images: usize, probes: impl Iterator<Item = (usize, Vec<f32>)>) -> f32 {
        let cosines: Vec<f32> = probes
            .flat_map(|(person, probe)| {
                (0..images).map(move |image| dot(&probe, rows.row(person * images + image).unwrap().vector))
            })
            .collect();
        cosines.iter().sum::<f32>() / cosines.len() as f32
    }

    #[test]
    fn persons_seen_anew_are_as_like_their_rows_as_new_images_are() {
        const PEOPLE: usize = 600;
        let mut faces = Faces::new(DIM, 7);
        let people = faces.people(PEOPLE);
        for (images, apart, tolerance) in [(1, false, 0.02), (2, false, 0.02), (4, false, 0.02), (4, true, 0.03)] {
            let mut edit = FlatEdit::new(&FlatRows::new(DIM));
            for (number, person) in people.iter().enumerate() {
                for image in 0..images {
                    // Under one subject, or each under one of its own.
                    let subject = if apart { number * images + image } else { number };
                    edit.push(key(subject as u64, Some(image as u64)), &faces.image(person));
                }
            }
            let rows = edit.finish();
            let anew = seen_anew(&rows, PEOPLE, rows.slots());
            assert_eq!(anew.len(), PEOPLE);
            assert!(anew.iter().all(|probe| (dot(probe, probe) - 1.0).abs() < 1e-5));
            let like = mean_cosine(&rows, images, anew.into_iter().enumerate());
            let expected = if images == 1 {
                LIKENESS
            } else {
                mean_cosine(&rows, images, people.iter().map(|person| faces.image(person)).enumerate())
            };
            assert!((like - expected).abs() < tolerance, "{images} images: {like}, not {expected}");
        }
    }

    #[test]
    fn what_all_rows_have_in_common_people_seen_anew_have_too() {
        const PEOPLE: usize = 600;
        let mut faces = Faces::new(DIM, 8);
        let side = faces.person();
        let people = faces.people(PEOPLE);
        let mut image = |person: &[f32]| -> Vec<f32> {
            let vector: Vec<f32> = faces.image(person).iter().zip(&side).map(|(value, side)| value + side).collect();
            let length = dot(&vector, &vector).sqrt();
            vector.iter().map(|value| value / length).collect()
        };
        let mut edit = FlatEdit::new(&FlatRows::new(DIM));
        for (number, person) in people.iter().enumerate() {
            edit.push(key(number as u64, None), &image(person));
        }
        let rows = edit.finish();
        let anew = seen_anew(&rows, PEOPLE, PEOPLE);
        let expected = people.iter().map(|person| image(person)).collect::<Vec<_>>();
        let of = |probes: &[Vec<f32>]| mean_cosine(&rows, 1, probes.iter().cloned().enumerate());
        assert!((of(&anew) - of(&expected)).abs() < 0.02, "{} {}", of(&anew), of(&expected));
        let along = |probes: &[Vec<f32>]| probes.iter().map(|probe| dot(probe, &side)).sum::<f32>() / PEOPLE as f32;
        assert!((along(&anew) - along(&expected)).abs() < 0.05, "{} {}", along(&anew), along(&expected));
    }

    #[test]
    fn nothing_is_made_of_what_leaves_nothing() {
        let vector = [0.6, 0.8];
        assert!(away(&vector, &vector, std::f32::consts::FRAC_1_SQRT_2).is_none());
        let no_middle = |dim| Strangers { mean: 0.0, deviation: 0.1, middle: vec![0.0; dim] };
        let mut opposite = Person::default();
        opposite.add(&vector);
        assert_eq!(opposite.between(), None);
        opposite.add(&vector.map(|value| -value));
        assert!(opposite.seen_anew(&no_middle(2), &[1.0, 0.0], LIKENESS).is_none());
        let mut across = Person { subjects: 1, ..Person::default() };
        across.add(&[1.0, 0.0, 0.0]);
        across.add(&[0.0, 1.0, 0.0]);
        assert!(across.between().unwrap().abs() < 1e-6);
        let anew = across.seen_anew(&no_middle(3), &[0.0, 0.0, 1.0], 0.3).unwrap();
        assert!((anew[0] - 0.3).abs() < 1e-5 && (anew[1] - 0.3).abs() < 1e-5, "{anew:?}");
        // Rows that have little in common are seen anew near their mean.
        across.add(&[-1.0, 0.0, 0.0]);
        let anew = across.seen_anew(&no_middle(3), &[0.0, 0.0, 1.0], LIKENESS).unwrap();
        assert!((anew[1] - MOST_ALIKE).abs() < 1e-5, "{anew:?}");
        // Of an empty state nobody is seen.
        assert!(seen_anew(&FlatRows::new(2), 10, 0).is_empty());
    }
}
