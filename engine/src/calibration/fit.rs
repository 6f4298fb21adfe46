//! From non-mated searches to a calibration.
//!
//! 1. Every search counts once for its prober; every pair of people is one observation, even where both have searched.
//! 2. The threshold u is put as high as [`PAIRS`] pairs allow, and not lower than [`MOST_CANDIDATES`] a search.
//! 3. Pairs far outside of what the tail explains are suspected to be one person and set aside.
//! 4. Above u: the expected number of candidates, and a generalised Pareto tail. Below: the measured maxima.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::maxima::{DEPTH, MaximaCollector, Who};
use super::random::Random;
use super::tail::{self, Excess, Pareto};
use super::{Calibration, CalibrationError, Draws, FitOptions, Knot, Suspect, counts};

/// Fewest probers.
pub(super) const REQUIRED_PROBERS: usize = 20;
/// Fewest pairs above the threshold.
pub(super) const REQUIRED_PAIRS: usize = 10;
/// Pairs above the threshold that are enough. More would put it lower, where the tail's form holds less well.
const PAIRS: usize = 500;
/// Candidates a search expected at the threshold at most, and as a share of the comparisons.
const MOST_CANDIDATES: f64 = 2.0;
const LARGEST_RATE: f64 = 0.2;
/// Share of searches whose list may end above the threshold.
const CUT_SHORT: f64 = 0.05;
/// Share of the pairs above the threshold that may be outliers.
const DOUBTED: f64 = 0.1;
/// A pair is suspected when fewer than this many are expected at or above its score.
const SUSPICION: f64 = 0.01;
/// Rounds of looking for suspects.
const ROUNDS: usize = 6;
/// Suspected pairs listed.
const LISTED: usize = 32;
/// Points of the measured part.
const KNOTS: usize = 32;
/// Most that shared subjects may take from the number of independent pairs.
const LARGEST_EFFECT: f64 = 4.0;

/// Two people, the lower number first.
type Pair = (Who, Who);

/// A candidate of a search.
struct Entry {
    score: f64,
    /// Its part of the mean number of candidates a search.
    weight: f64,
    pair: Pair,
}

/// The threshold and what lies above.
struct Cut {
    threshold: f64,
    /// Mean candidates a search.
    mean: f64,
    /// Weight and best score of each pair.
    pairs: BTreeMap<Pair, (f64, f64)>,
    excesses: Vec<Excess>,
    /// Independent pairs.
    independent: f64,
}

/// The searches with what is needed of them again and again.
struct Data<'a> {
    maxima: &'a MaximaCollector,
    /// Best first.
    entries: Vec<Entry>,
    /// Weight of each search, summing to 1.
    weights: Vec<f64>,
    probers: HashSet<Who>,
    /// Subjects compared with, a search.
    compared: f64,
    /// Below it lists are cut short.
    floor: f64,
}

pub(super) fn fit(maxima: &MaximaCollector, options: &FitOptions) -> Result<Calibration, CalibrationError> {
    let data = Data::new(maxima)?;
    let mut random = Random::new(options.seed);
    let different: HashSet<Pair> = options
        .known_different
        .iter()
        .filter_map(|(a, b)| Some(ordered(maxima.known(true, a)?, maxima.known(true, b)?)))
        .collect();
    let suspected = data.suspects(&different, &mut random)?;

    let set_aside: HashSet<Pair> = suspected.keys().copied().collect();
    let cut = data.cut(&set_aside)?;
    let draws = tail::posterior(&cut.excesses, None, (cut.mean / data.compared).clamp(1e-300, 0.5), &mut random);
    let spread = cut.independent.max(1.0).recip().sqrt();
    let mut factors: Vec<f64> = draws.iter().map(|_| (spread * random.normal()).exp()).collect();
    let mean_factor = factors.iter().sum::<f64>() / factors.len() as f64;
    factors.iter_mut().for_each(|factor| *factor = digits(*factor / mean_factor));

    // Searches that left their own subject out met one subject less than others will.
    let size = maxima.gallery_size().max(1) as f64;
    let grown = size / data.compared;
    let best = data.best(&set_aside);
    let above: f64 = best.iter().filter(|b| b.0 > cut.threshold).map(|b| b.1).sum();
    let dispersion = counts::dispersion(cut.mean, above);
    let body = body(&best, &cut, dispersion, grown, data.probers.len());
    let suspects_total = suspected.len() as u64;
    let mut suspects: Vec<Suspect> = suspected
        .into_iter()
        .map(|((a, b), (weight, score))| {
            // An outsider comes first, false being the lesser.
            let (first, second) = (maxima.name(a).min(maxima.name(b)), maxima.name(a).max(maxima.name(b)));
            Suspect {
                first: first.1.to_owned(),
                second: second.1.to_owned(),
                outsider: !first.0,
                score: digits(score),
                mean: digits(weight * grown),
            }
        })
        .collect();
    suspects.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.first.cmp(&b.first)));
    suspects.truncate(LISTED);

    Ok(Calibration {
        gallery_size: maxima.gallery_size() as u64,
        searches: maxima.len() as u64,
        probers: data.probers.len() as u64,
        threshold: digits(cut.threshold),
        mean: digits(cut.mean * grown),
        dispersion: digits(dispersion),
        pairs: cut.pairs.len() as u64,
        independent_pairs: digits(cut.independent),
        body,
        tail: Draws {
            factor: factors,
            scale: draws.iter().map(|draw| digits(draw.scale)).collect(),
            shape: draws.iter().map(|draw| digits(draw.shape)).collect(),
        },
        suspects,
        suspects_total,
    })
}

impl<'a> Data<'a> {
    fn new(maxima: &'a MaximaCollector) -> Result<Self, CalibrationError> {
        let searches = maxima.searches();
        let mut times: HashMap<Who, f64> = HashMap::new();
        for search in searches {
            *times.entry(search.who).or_default() += 1.0;
        }
        if times.len() < REQUIRED_PROBERS {
            return Err(CalibrationError::TooFew { probes: times.len(), required: REQUIRED_PROBERS });
        }
        let total = times.len() as f64;
        let weights: Vec<f64> = searches.iter().map(|search| 1.0 / (times[&search.who] * total)).collect();
        let compared = searches.iter().zip(&weights).map(|(search, weight)| weight * search.compared as f64).sum();
        let mut entries: Vec<Entry> = searches
            .iter()
            .zip(&weights)
            .flat_map(|(search, &weight)| {
                search.hits.iter().map(move |&(candidate, score)| Entry {
                    score: f64::from(score),
                    weight,
                    pair: ordered(search.who, candidate),
                })
            })
            .collect();
        entries.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.pair.cmp(&b.pair)));

        let mut ends: Vec<(f64, f64)> = searches
            .iter()
            .zip(&weights)
            .filter(|(search, _)| search.hits.len() < search.compared)
            .map(|(search, &weight)| (search.hits.last().map_or(f64::MAX, |hit| f64::from(hit.1)), weight))
            .collect();
        ends.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut allowed = CUT_SHORT;
        let past = ends.iter().find(|(_, weight)| {
            allowed -= weight;
            allowed < 0.0
        });
        let floor = past.map_or(f64::MIN, |&(end, _)| end);
        Ok(Self { maxima, entries, weights, probers: times.into_keys().collect(), compared, floor })
    }

    /// Puts the threshold where there are enough pairs above it.
    fn cut(&self, without: &HashSet<Pair>) -> Result<Cut, CalibrationError> {
        let most = MOST_CANDIDATES.min(LARGEST_RATE * self.compared);
        let usable: Vec<&Entry> = self.entries.iter().filter(|entry| !without.contains(&entry.pair)).collect();
        let (mut mean, mut end) = (0.0, 0);
        let mut pairs: BTreeMap<Pair, (f64, f64)> = BTreeMap::new();
        for entry in &usable {
            let tie = end > 0 && usable[end - 1].score == entry.score;
            let full = pairs.len() >= PAIRS || (mean + entry.weight > most && pairs.len() >= REQUIRED_PAIRS);
            if entry.score <= self.floor || (full && !tie) {
                break;
            }
            mean += entry.weight;
            pairs.entry(entry.pair).or_insert((0.0, entry.score)).0 += entry.weight;
            end += 1;
        }
        if pairs.len() < REQUIRED_PAIRS {
            return Err(match self.floor > f64::MIN {
                true => CalibrationError::ListsTooShort { required: DEPTH },
                false => CalibrationError::TooFewScores { scores: pairs.len(), required: REQUIRED_PAIRS },
            });
        }
        let last = usable[end - 1].score;
        let next = usable.get(end).map(|entry| entry.score).filter(|&next| next < last);
        // Where nothing follows, the threshold lies just below what there is.
        let threshold = next.unwrap_or(last - 1e-6);
        let independent = self.independent(&pairs);
        let excesses = usable[..end]
            .iter()
            .map(|entry| Excess { by: entry.score - threshold, weight: entry.weight / mean * independent })
            .collect();
        Ok(Cut { threshold, mean, pairs, excesses, independent })
    }

    /// How many independent pairs would tell as much as these: fewer where weights differ, and where a few subjects are
    /// in many of the pairs (a face that resembles everybody).
    fn independent(&self, pairs: &BTreeMap<Pair, (f64, f64)>) -> f64 {
        let total: f64 = pairs.values().map(|(weight, _)| weight).sum();
        let squares: f64 = pairs.values().map(|(weight, _)| weight * weight).sum();
        // Sum of weights, and of their squares, over the pairs of each prober.
        let mut by_prober: BTreeMap<Who, (f64, f64)> = BTreeMap::new();
        for (&(a, b), (weight, _)) in pairs {
            for who in [a, b] {
                if self.probers.contains(&who) {
                    let sums = by_prober.entry(who).or_default();
                    sums.0 += weight;
                    sums.1 += weight * weight;
                }
            }
        }
        let sum: f64 = by_prober.values().map(|sums| sums.0).sum();
        // Products of two pairs of one prober, less what there would be if nobody were special.
        let shared: f64 = by_prober.values().map(|sums| sums.0 * sums.0 - sums.1).sum();
        let excess = (shared - sum * sum / self.probers.len() as f64).max(0.0);
        total * total / squares / (1.0 + excess / squares).min(LARGEST_EFFECT)
    }

    /// Pairs that score so high that they are probably one person, with weight and score.
    fn suspects(
        &self,
        different: &HashSet<Pair>,
        random: &mut Random,
    ) -> Result<BTreeMap<Pair, (f64, f64)>, CalibrationError> {
        let mut suspected: BTreeMap<Pair, (f64, f64)> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let cut = self.cut(&suspected.keys().copied().collect())?;
            let mut ranking: Vec<(Pair, f64, f64)> =
                cut.pairs.iter().map(|(&pair, &(weight, score))| (pair, weight, score)).collect();
            ranking.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
            // The doubtful ones have no part in what they are judged by, so they cannot vouch for each other.
            let doubted = (ranking.len() as f64 * DOUBTED).ceil() as usize;
            let Some(&(_, _, good)) = ranking.get(doubted) else { break };
            let rate = (cut.mean / self.compared).clamp(1e-300, 0.5);
            let draws = tail::posterior(&cut.excesses, Some(good - cut.threshold), rate, random);
            // Pairs expected at or above a score, when those that are not doubted are all up to theirs.
            let expected = |score: f64| {
                let at = |draw: &Pareto| {
                    let all = (ranking.len() - doubted) as f64 / (1.0 - draw.survival(good - cut.threshold)).max(1e-9);
                    all * draw.survival(score - cut.threshold)
                };
                draws.iter().map(at).sum::<f64>() / draws.len() as f64
            };
            let before = suspected.len();
            for &(pair, weight, score) in ranking[..doubted].iter().take_while(|entry| expected(entry.2) < SUSPICION) {
                if !different.contains(&pair) {
                    suspected.insert(pair, (weight, score));
                }
            }
            if suspected.len() == before {
                break;
            }
        }
        Ok(suspected)
    }

    /// The best score of each search and its weight, best first. A search with no candidate has the lowest score.
    fn best(&self, without: &HashSet<Pair>) -> Vec<(f64, f64)> {
        let mut best: Vec<(f64, f64)> = self
            .maxima
            .searches()
            .iter()
            .zip(&self.weights)
            .map(|(search, &weight)| {
                let hit = search.hits.iter().find(|hit| !without.contains(&ordered(search.who, hit.0)));
                (hit.map_or(f64::MIN, |hit| f64::from(hit.1)), weight)
            })
            .collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best
    }
}

/// The measured part: the expected number of candidates that explains the share of searches with one, at falling scores
/// from the threshold on. Score by score it rises.
fn body(best: &[(f64, f64)], cut: &Cut, dispersion: f64, grown: f64, probers: usize) -> Vec<Knot> {
    let mut body = vec![Knot { score: digits(cut.threshold), mean: digits(cut.mean * grown) }];
    // The last half prober's worth cannot be told from all of them.
    let whole = 1.0 - 0.5 / probers as f64;
    let first = counts::mean_of(counts::rate(cut.mean, dispersion), dispersion).max(1e-12).ln();
    let last = counts::mean_of(whole, dispersion).ln();
    let mut step = 1;
    let mut share = 0.0;
    for (i, &(score, weight)) in best.iter().enumerate() {
        share += weight;
        // A share belongs to the last of equal scores.
        if best.get(i + 1).is_some_and(|next| next.0 == score) || score == f64::MIN {
            continue;
        }
        let mean = counts::mean_of(share.min(whole), dispersion);
        let wanted = first + (last - first) * step as f64 / KNOTS as f64;
        let previous = body[body.len() - 1];
        let closing = i + 1 == best.len();
        if digits(score) < previous.score && mean * grown > previous.mean && (mean.ln() >= wanted || closing) {
            body.push(Knot { score: digits(score), mean: digits(mean * grown) });
            while step < KNOTS && first + (last - first) * step as f64 / KNOTS as f64 <= mean.ln() {
                step += 1;
            }
        }
    }
    body.reverse();
    body
}

fn ordered(a: Who, b: Who) -> Pair {
    (a.min(b), a.max(b))
}

/// Eight significant digits: more than the estimates are worth, and JSON gives them back as they were.
fn digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let power = 10f64.powi(7 - value.abs().log10().floor() as i32);
    let rounded = (value * power).round() / power;
    if rounded.is_finite() { rounded } else { value }
}
