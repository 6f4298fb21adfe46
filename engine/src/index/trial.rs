//! What an approximate search is tried with, and where it is prepared.

use super::flat::FlatRows;
use super::vector::dot;

/// How much a row is disturbed: 1.25 leaves a cosine of about 0.62 between the row and the probe, as between two images of one
/// person.
const DISTURBANCE: f32 = 1.25;

/// A probe like the ones to come, `number` of `sample`: a row of the first `covers` slots, seen anew.
///
/// The row itself would flatter a search that was prepared with it, which finds what it was made from more surely than a new
/// image of the same person. So the row is disturbed, by the mirror image of a row from elsewhere: that varies as faces of this
/// gallery vary, and nobody is near it.
pub(super) fn seen_anew(rows: &FlatRows, number: usize, sample: usize, covers: usize) -> Option<Vec<f32>> {
    // Evenly spread, so that every part of the gallery has its say.
    let slot = number * covers / sample;
    let other = (slot + covers / 2 + number) % covers;
    disturbed(rows.row(slot)?.vector, rows.row(other)?.vector)
}

/// A row as another image of the same person would be: disturbed by the mirror image of another row of the gallery, both of
/// length 1 and of the same dimension. `None` where they leave nothing.
pub fn disturbed(row: &[f32], other: &[f32]) -> Option<Vec<f32>> {
    let mixed: Vec<f32> = row.iter().zip(other).map(|(x, y)| x - DISTURBANCE * y).collect();
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
