//! Measures whether calibrations hold: the figures of `docs/CALIBRATION.md`.
//!
//! ```text
//! cargo run --release -p vultus-engine --example calibration_coverage -- photos VECTORS FACES SPLITS SEED
//! cargo run --release -p vultus-engine --example calibration_coverage -- made SPLITS SEED
//! ```
//!
//! `photos`: VECTORS are unit embeddings, raw little-endian f32, row after row; FACES has a line a row, subject and norm
//! separated by a space. A split draws the people of a gallery at random; all others are non-mated. The gallery is
//! calibrated on itself, then searched with the others. `in` is the share of splits whose observed FPIR lies in the
//! interval; `with noise` widens the interval by the 2.5 % and 97.5 % points of the binomial number that the test itself
//! would show at its ends, since 0.1 % of some thousand searches is a handful.
//!
//! `made`: scores are drawn from known distributions, so the true rate of a threshold is known.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use rayon::prelude::*;
use vultus_engine::calibration::{Calibration, FitOptions, MaximaCollector, Prober};
use vultus_engine::quality::NormStats;
use vultus_engine::template::{FusionRule, TemplateFace, fuse};

const RATES: [f64; 3] = [0.1, 0.01, 0.001];

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

/// A kind of gallery and of probes.
struct Way<'a> {
    name: &'a str,
    /// What the calibration searches with, one score table each.
    own: Vec<&'a Scores>,
    /// What the others search with.
    test: &'a Scores,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["photos", vectors, faces, splits, seed] => photos(vectors, faces, splits.parse()?, seed.parse()?),
        ["made", splits, seed] => made(splits.parse()?, seed.parse()?),
        _ => Err("give: photos VECTORS FACES SPLITS SEED, or: made SPLITS SEED".into()),
    }
}

fn photos(vectors: &str, faces: &str, splits: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    let (singles, fused) = load(vectors, faces)?;
    println!("{} people", singles.len());
    let single = Scores::new(&singles, &singles);
    let template = Scores::new(&fused, &fused);
    let mixed = Scores::new(&singles, &fused);
    let ways = [
        Way { name: "one photo a person", own: vec![&single], test: &single },
        Way { name: "templates, calibrated with photos, searched with photos", own: vec![&mixed], test: &mixed },
        Way { name: "templates, calibrated with templates, searched with photos", own: vec![&template], test: &mixed },
        Way {
            name: "templates, calibrated with both, searched with photos",
            own: vec![&mixed, &template],
            test: &mixed,
        },
        Way { name: "templates, calibrated with photos, searched with templates", own: vec![&mixed], test: &template },
        Way {
            name: "templates, calibrated with templates, searched with templates",
            own: vec![&template],
            test: &template,
        },
    ];
    for (size, growth) in [(100, 1), (300, 1), (1000, 1), (3000, 1), (100, 10), (300, 10)] {
        if size * growth + 100 > singles.len() {
            continue;
        }
        for way in &ways {
            measure(way, (size, growth), splits, seed)?;
        }
    }
    Ok(())
}

/// How often intervals hold the true rate, of normal scores all alike and of normal scores that are higher within each
/// of eight groups of people.
fn made(splits: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    for (name, shift) in [("normal", 0.0), ("eight groups, 1 sigma", 1.0), ("eight groups, 2 sigma", 2.0)] {
        for size in [100, 300, 1000] {
            made_of(name, shift, size, splits, seed)?;
        }
    }
    Ok(())
}

/// One kind of scores and one size. A subject's group is its number modulo eight.
fn made_of(name: &str, shift: f64, size: usize, splits: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    const SIGMA: f64 = 0.1;
    const GROUPS: usize = 8;
    let names: Vec<String> = (0..size).map(|i| i.to_string()).collect();
    let cases: Vec<(f64, usize)> = [1, 10].iter().flat_map(|&g| RATES.map(|rate| (rate, g))).collect();
    let mut results: Vec<Vec<(f64, bool, f64)>> = vec![Vec::new(); cases.len()];
    for split in 0..splits {
        let mut random = uniform(seed.wrapping_mul(1_000_003).wrapping_add(split));
        let mut rows = vec![vec![0f32; size]; size];
        for (a, b) in (0..size).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let (radius, angle) = (random(), random());
            let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
            let mean = if a % GROUPS == b % GROUPS { shift } else { 0.0 };
            rows[a][b] = (SIGMA * (normal + mean)) as f32;
            rows[b][a] = rows[a][b];
        }
        let mut maxima = MaximaCollector::new(size);
        for (probe, row) in rows.iter().enumerate() {
            let mut hits: Vec<_> = names.iter().zip(row.iter().copied()).collect();
            hits.swap_remove(probe);
            hits.sort_by(|a, b| b.1.total_cmp(&a.1));
            maxima.add(Prober::Enrolled(&names[probe]), size - 1, hits.into_iter().take(64));
        }
        let calibration = Calibration::fit(&maxima, &FitOptions { seed: split, ..FitOptions::default() })?;
        for (&(rate, growth), results) in cases.iter().zip(&mut results) {
            let at = calibration.at_size((size * growth) as u64).score_at(rate);
            let z = at.score / SIGMA;
            let (same, other) = ((-survival(z - shift)).ln_1p(), (-survival(z)).ln_1p());
            let none = (size * growth) as f64 * (same + (GROUPS - 1) as f64 * other) / GROUPS as f64;
            let truth = -none.exp_m1();
            results.push((truth, at.low <= truth && truth <= at.high, at.high / rate));
        }
    }
    for ((rate, growth), results) in cases.iter().zip(&mut results) {
        let count = results.len() as f64;
        println!(
            "{name}: {size} x {growth}, {} %: true rate x{:.2} on average, in {:.1} %, upper end x{:.2}",
            100.0 * rate,
            results.iter().map(|r| r.0).sum::<f64>() / count / rate,
            100.0 * results.iter().filter(|r| r.1).count() as f64 / count,
            median(&mut results.iter().map(|r| r.2).collect::<Vec<_>>()),
        );
    }
    Ok(())
}

/// P(X > x), X standard normal, by the trapezoid rule.
fn survival(x: f64) -> f64 {
    let density = |z: f64| (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let width = 10.0 / 4000.0;
    (0..4000).map(|i| (density(x + f64::from(i) * width) + density(x + f64::from(i + 1) * width)) / 2.0 * width).sum()
}

fn measure(way: &Way<'_>, (size, growth): (usize, usize), splits: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    let Way { name, own, test } = way;
    let people = test.people;
    let names: Vec<String> = (0..people).map(|i| i.to_string()).collect();
    let mut rows: Vec<Row> = RATES.iter().map(|_| Row::default()).collect();
    let (mut smallest, mut suspects) = (Vec::new(), 0);
    for split in 0..splits {
        let order = shuffled(people, seed.wrapping_mul(1_000_003).wrapping_add(split));
        let (then, now, others) = (&order[..size], &order[..size * growth], &order[size * growth..]);
        let mut maxima = MaximaCollector::new(size);
        for (&probe, own) in then.iter().flat_map(|probe| own.iter().map(move |own| (probe, own))) {
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
        people - size * growth,
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
    let mut random = uniform(seed);
    let mut order: Vec<(f64, usize)> = (0..count).map(|i| (random(), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.into_iter().map(|(_, i)| i).collect()
}

/// Numbers above 0 and below 1 (SplitMix64).
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
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
