//! Measures whether calibrations hold: the figures of `docs/CALIBRATION.md`.
//!
//! ```text
//! cargo run --release -p vultus-engine --example calibration_coverage -- VECTORS FACES SPLITS SEED
//! ```
//!
//! VECTORS: unit embeddings, raw little-endian f32, row after row. FACES: a line a row, subject and norm separated by a
//! space, the photos of a subject in one block.
//!
//! A split draws the people of a gallery at random; all others are non-mated. The gallery is calibrated on itself, then
//! searched with the first photo of each of the others. `in` is the share of splits whose observed FPIR lies in the
//! interval; `with noise` widens the interval by the 2.5 % and 97.5 % points of the binomial number that the test itself
//! would show at its ends, since 0.1 % of some thousand searches is a handful.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use rayon::prelude::*;
use vultus_engine::calibration::{Calibration, FitOptions, MaximaCollector, Prober};
use vultus_engine::quality::NormStats;
use vultus_engine::template::{FusionRule, TemplateFace, fuse};

const RATES: [f64; 4] = [0.1, 0.03, 0.01, 0.001];

/// Scores of every person's probe against every person's reference.
struct Scores {
    people: usize,
    rows: Vec<f32>,
}

impl Scores {
    fn new(probes: &[Vec<f32>], references: &[Vec<f32>]) -> Self {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let row = |probe: &Vec<f32>| references.iter().map(|r| dot(probe, r)).collect::<Vec<f32>>();
        Self { people: probes.len(), rows: probes.par_iter().flat_map_iter(row).collect() }
    }

    fn of(&self, probe: usize, reference: usize) -> f32 {
        self.rows[probe * self.people + reference]
    }
}

/// Sums over splits at one rate.
#[derive(Default)]
struct Row {
    observed: Vec<f64>,
    within: usize,
    with_noise: usize,
    low: Vec<f64>,
    high: Vec<f64>,
    score: Vec<f64>,
    extrapolated: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("give VECTORS, FACES, SPLITS and SEED");
    let (vectors, faces, splits, seed) = (next()?, next()?, next()?.parse()?, next()?.parse()?);
    let (singles, fused) = load(&vectors, &faces)?;
    println!("{} people", singles.len());
    let single = Scores::new(&singles, &singles);
    let template = Scores::new(&fused, &fused);
    let mixed = Scores::new(&singles, &fused);
    for (size, growth) in [(100, 1), (300, 1), (500, 1), (1000, 1), (3000, 1), (100, 10), (300, 10), (400, 10)] {
        if size * growth + 100 > singles.len() {
            continue;
        }
        measure("one photo a person", &single, &single, (size, growth), splits, seed)?;
        measure("templates, calibrated with templates", &template, &mixed, (size, growth), splits, seed)?;
        measure("templates, calibrated with first photos", &mixed, &mixed, (size, growth), splits, seed)?;
    }
    Ok(())
}

/// Calibrates on `own` scores, tests on `test` scores.
fn measure(
    name: &str,
    own: &Scores,
    test: &Scores,
    (size, growth): (usize, usize),
    splits: u64,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = (0..own.people).map(|i| i.to_string()).collect();
    let mut rows: Vec<Row> = RATES.iter().map(|_| Row::default()).collect();
    let (mut smallest, mut suspects) = (Vec::new(), 0);
    for split in 0..splits {
        let order = shuffled(own.people, seed.wrapping_mul(1_000_003).wrapping_add(split));
        let (then, now, others) = (&order[..size], &order[..size * growth], &order[size * growth..]);
        let mut maxima = MaximaCollector::new(size);
        for &probe in then {
            let mut scores: Vec<(usize, f32)> =
                then.iter().filter(|&&r| r != probe).map(|&r| (r, own.of(probe, r))).collect();
            scores.sort_by(|a, b| b.1.total_cmp(&a.1));
            let best = scores.iter().take(64).map(|&(r, score)| (&names[r], score));
            maxima.add(Prober::Enrolled(&names[probe]), size - 1, best);
        }
        let calibration = Calibration::fit(&maxima, &FitOptions { seed: split, ..FitOptions::default() })?;
        suspects += calibration.suspects_total();
        let view = calibration.at_size((size * growth) as u64);
        smallest.push(view.smallest_fpir());
        let best = |&probe: &usize| now.iter().map(|&r| test.of(probe, r)).fold(f32::MIN, f32::max);
        let best: Vec<f64> = others.par_iter().map(|probe| f64::from(best(probe))).collect();
        for (&rate, row) in RATES.iter().zip(&mut rows) {
            let estimate = view.score_at(rate);
            let count = best.iter().filter(|&&score| score >= estimate.score).count();
            let observed = count as f64 / best.len() as f64;
            row.observed.push(observed);
            row.within += usize::from(estimate.low <= observed && observed <= estimate.high);
            let least = binomial_quantile(best.len(), estimate.low, 0.025);
            let most = binomial_quantile(best.len(), estimate.high, 0.975);
            row.with_noise += usize::from((least..=most).contains(&count));
            row.low.push(estimate.low);
            row.high.push(estimate.high);
            row.score.push(estimate.score);
            row.extrapolated += usize::from(estimate.extrapolated);
        }
    }
    println!(
        "{name}: {size} subjects x {growth}, {} non-mated, {splits} splits, smallest FPIR {:.3} %, {suspects} suspects",
        own.people - size * growth,
        100.0 * median(&mut smallest)
    );
    for (&rate, row) in RATES.iter().zip(&mut rows) {
        let mean = row.observed.iter().sum::<f64>() / splits as f64;
        let share = |count: usize| 100.0 * count as f64 / splits as f64;
        println!(
            "  {:>5} %: observed {:.3} % (x{:.2}), interval {:.4}..{:.3} %, in {:.0} %, with noise {:.0} %, \
             extrapolated {:.0} %, score {:.3}",
            100.0 * rate,
            100.0 * mean,
            mean / rate,
            100.0 * median(&mut row.low),
            100.0 * median(&mut row.high),
            share(row.within),
            share(row.with_noise),
            share(row.extrapolated),
            median(&mut row.score),
        );
    }
    Ok(())
}

/// First photos and templates by the rule `softmax_quality`, a row a person.
#[allow(clippy::type_complexity)]
fn load(vectors: &str, faces: &str) -> Result<(Vec<Vec<f32>>, Vec<Vec<f32>>), Box<dyn Error>> {
    let faces = fs::read_to_string(faces)?;
    let faces: Vec<(&str, f32)> = faces
        .lines()
        .map(|line| line.rsplit_once(' ').ok_or("a line is a subject and a norm"))
        .map(|pair| pair.map_err(Into::into).and_then(|(name, norm)| Ok((name, norm.parse()?))))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let values: Vec<f32> =
        fs::read(vectors)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let dim = values.len() / faces.len().max(1);
    let mean = faces.iter().map(|f| f.1).sum::<f32>() / faces.len() as f32;
    let std = (faces.iter().map(|f| (f.1 - mean).powi(2)).sum::<f32>() / faces.len() as f32).sqrt();
    let media: Vec<String> = (0..faces.len()).map(|i| i.to_string()).collect();
    let mut people: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, (name, _)) in faces.iter().enumerate() {
        people.entry(name).or_default().push(row);
    }
    let (mut singles, mut fused) = (Vec::new(), Vec::new());
    for rows in people.values() {
        let embedding = |row: usize| &values[row * dim..][..dim];
        let set: Vec<TemplateFace<'_>> = rows
            .iter()
            .map(|&row| TemplateFace { embedding: embedding(row), norm: faces[row].1, media: &media[row], style: None })
            .collect();
        singles.push(embedding(rows[0]).to_vec());
        fused.push(fuse(&set, FusionRule::SoftmaxQuality.into(), NormStats { mean, std }, None)?.vector);
    }
    Ok((singles, fused))
}

fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut order: Vec<(u64, usize)> = (0..count).map(|i| (random(), i)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}

/// Smallest number whose binomial distribution function reaches `p`.
fn binomial_quantile(trials: usize, rate: f64, p: f64) -> usize {
    let odds = rate / (1.0 - rate);
    let mut log_mass = trials as f64 * (-rate).ln_1p();
    let mut sum = log_mass.exp();
    let mut count = 0;
    while sum < p && count < trials {
        log_mass += ((trials - count) as f64 / (count + 1) as f64 * odds).ln();
        sum += log_mass.exp();
        count += 1;
    }
    count
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
