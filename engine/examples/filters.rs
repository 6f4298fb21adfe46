//! How long a search takes of which a filter lets a part of the rows through, and whether it finds all of them.
//!
//! ```text
//! cargo run --release -p vultus-engine --example filters -- ROWS DIM
//! ```
//!
//! Prints a JSON line for all rows and for filters that let 50 %, 10 % and 1 % of the subjects through: the median and 99 % of 300
//! searches on one thread where each row that may be on the list is asked about (`asked`) and where it is known (`masked`), what
//! making the mask took, and the share of the ten best by sums in double precision that were found.

use std::time::Instant;

use vultus_engine as engine;
use vultus_engine::ids::SubjectId;
use vultus_engine::index::{GalleryIndex, IndexConfig, SearchMode, SearchOutcome};

#[path = "../benches/fixture/mod.rs"]
mod fixture;

use fixture::{Faces, key};

const LIMIT: usize = 10;
const SEARCHES: usize = 300;
/// Searches that are compared with sums in double precision.
const COMPARED: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, dim] = &arguments[..] else { return Err("filters ROWS DIM".into()) };
    let (rows, dim): (u64, usize) = (rows.parse()?, dim.parse()?);
    let mut faces = Faces::new(dim, 3);
    let index = GalleryIndex::new(dim, IndexConfig::default());
    let mut all = Vec::new();
    for number in 0..rows {
        let person = faces.person();
        let image = faces.image(&person);
        index.upsert(key(number, None), &image)?;
        all.push(image);
    }
    let step = (all.len() / SEARCHES).max(1);
    let people: Vec<Vec<f32>> = all.iter().step_by(step).cloned().collect();
    let probes: Vec<Vec<f32>> = people.iter().map(|person| faces.image(person)).collect();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    for one_in in [1, 2, 10, 100] {
        // The number is at the end of the name.
        let number = |subject: &SubjectId| subject.as_str()[1..].parse::<u64>().unwrap_or(0);
        let accept = |subject: &SubjectId| number(subject).is_multiple_of(one_in);
        let time = |search: &(dyn Fn(&[f32]) -> SearchOutcome + Sync)| {
            let mut times = Vec::with_capacity(probes.len());
            let mut answers = Vec::with_capacity(probes.len());
            one_thread.install(|| {
                for probe in &probes {
                    let since = Instant::now();
                    answers.push(search(probe));
                    times.push(since.elapsed().as_secs_f64() * 1e3);
                }
            });
            times.sort_by(f64::total_cmp);
            ([times[times.len() / 2], times[times.len() * 99 / 100]], answers)
        };
        let (asked, masked, mask_ms, answers) = if one_in == 1 {
            let (times, answers) = time(&|probe| index.search(probe, LIMIT, SearchMode::Exact).expect("a unit probe"));
            (times, times, 0.0, answers)
        } else {
            let (asked, _) = time(&|probe| index.search_where(probe, LIMIT, &accept).expect("a unit probe"));
            let since = Instant::now();
            let mask = index.mask(&accept);
            let mask_ms = since.elapsed().as_secs_f64() * 1e3;
            let (masked, answers) =
                time(&|probe| index.search_masked(probe, LIMIT, &mask, &|_| true, &accept).expect("a unit probe"));
            (asked, masked, mask_ms, answers)
        };
        let mut found = 0;
        for (probe, answer) in probes.iter().zip(&answers).take(COMPARED) {
            let dot = |row: &[f32]| row.iter().zip(probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let mut scores: Vec<f64> = all.iter().step_by(one_in as usize).map(|row| dot(row)).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            let last = scores[LIMIT - 1] - 2e-6;
            found += answer.hits.iter().filter(|hit| f64::from(hit.score) >= last && accept(&hit.subject)).count();
        }
        println!(
            "{{\"rows\":{rows},\"dim\":{dim},\"passing\":{},\"asked_ms\":{asked:.3?},\"masked_ms\":{masked:.3?},\
             \"mask_ms\":{mask_ms:.1},\"recall_at_10\":{}}}",
            1.0 / one_in as f64,
            found as f64 / (COMPARED * LIMIT) as f64
        );
    }
    Ok(())
}
