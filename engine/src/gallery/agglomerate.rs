//! Clusters of vectors that share a cluster only if nothing forbids it: average linkage over a graph of neighbours.
//!
//! The two clusters whose members are most alike on average are joined, again and again, down to a threshold. The
//! average over all pairs of unit vectors, weighted by their weights, is the dot product of the weighted sums, so it is
//! exact however large the clusters are, and takes one vector a cluster. Only clusters that are neighbours somewhere in the graph
//! are compared.
//!
//! **Cannot-link.** A vector carries marks `(group, side)`. Two marks of one group and different sides forbid that their
//! vectors share a cluster. A cluster carries the marks of all its members, and is asked before each step, so that
//! nothing joins what is kept apart in a roundabout way either.
//!
//! **Weak vectors** are added to the cluster that they are most alike, once clusters of the others are finished: they
//! count for nothing in the averages that clusters are joined by, so they never join two. Those that no cluster takes
//! are clustered among themselves at a higher threshold.
//!
//! The result depends on the vectors' order only where scores are exactly equal.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::GalleryError;

/// What forbids that vectors share a cluster: a group and a side of it.
pub(super) type Mark = (u32, u32);

/// A vector to be clustered.
pub(super) struct Item {
    /// Of unit length.
    pub(super) vector: Vec<f32>,
    /// Above 0.
    pub(super) weight: f32,
    /// Whether it may be added to clusters only.
    pub(super) weak: bool,
    /// Sorted, each group once.
    pub(super) marks: Vec<Mark>,
}

/// From where on vectors belong together.
pub(super) struct Linkage {
    /// Average score of two clusters that are joined, and of a weak vector and its cluster.
    pub(super) threshold: f64,
    /// The same of weak vectors among themselves.
    pub(super) weak_threshold: f64,
}

/// Clusters as lists of positions in `items`, each sorted; every item is in one. `edges` are pairs of neighbours.
/// `check` is asked now and then and can end it.
pub(super) fn agglomerate(
    items: &[Item],
    edges: &[(u32, u32)],
    linkage: &Linkage,
    check: &mut dyn FnMut() -> Result<(), GalleryError>,
) -> Result<Vec<Vec<u32>>, GalleryError> {
    let all = 0..items.len() as u32;
    let weak = |item: u32| items[item as usize].weak;
    let strong: Vec<u32> = all.clone().filter(|&item| !weak(item)).collect();
    let mut clusters = join(items, &strong, edges, linkage.threshold, check)?;
    let taken = attach(items, &mut clusters, edges, linkage.threshold);
    let left: Vec<u32> = all.filter(|item| weak(*item) && !taken.contains(item)).collect();
    clusters.extend(join(items, &left, edges, linkage.weak_threshold, check)?);
    let mut members: Vec<Vec<u32>> = clusters.into_iter().map(|cluster| cluster.members).collect();
    members.iter_mut().for_each(|members| members.sort_unstable());
    members.sort_unstable();
    Ok(members)
}

/// The average score of all pairs within a cluster, weighted; `None` of a single vector.
pub(super) fn coherence<'a>(members: impl Iterator<Item = &'a Item>) -> Option<f64> {
    let (mut sum, mut weights, mut squares, mut count) = (Vec::new(), 0.0, 0.0, 0);
    for item in members {
        sum.resize(item.vector.len(), 0.0);
        let weight = f64::from(item.weight);
        sum.iter_mut().zip(&item.vector).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        weights += weight;
        squares += weight * weight;
        count += 1;
    }
    let length: f64 = sum.iter().map(|value| value * value).sum();
    (count > 1).then(|| ((length - squares) / (weights * weights - squares)).clamp(-1.0, 1.0))
}

struct Cluster {
    sum: Vec<f32>,
    weight: f64,
    marks: Vec<Mark>,
    members: Vec<u32>,
}

impl Cluster {
    fn of(item: &Item, at: u32) -> Self {
        let sum = item.vector.iter().map(|value| value * item.weight).collect();
        Self { sum, weight: f64::from(item.weight), marks: item.marks.clone(), members: vec![at] }
    }

    /// The average score of all pairs of vectors of two clusters.
    fn score(&self, other: &Self) -> f64 {
        dot(&self.sum, &other.sum) / (self.weight * other.weight)
    }

    fn absorb(&mut self, other: Self) {
        self.sum.iter_mut().zip(&other.sum).for_each(|(sum, value)| *sum += value);
        self.weight += other.weight;
        self.marks = united(&self.marks, &other.marks);
        self.members.extend(other.members);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Whether two sorted lists hold different sides of a group.
fn forbid(a: &[Mark], b: &[Mark]) -> bool {
    let (mut at, mut other) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(at), b.get(other)) {
        match x.0.cmp(&y.0) {
            Ordering::Less => at += 1,
            Ordering::Greater => other += 1,
            Ordering::Equal if x.1 != y.1 => return true,
            Ordering::Equal => (at, other) = (at + 1, other + 1),
        }
    }
    false
}

fn united(a: &[Mark], b: &[Mark]) -> Vec<Mark> {
    let mut marks = [a, b].concat();
    marks.sort_unstable();
    marks.dedup();
    marks
}

/// Two clusters that may be joined, the most alike first.
#[derive(PartialEq)]
struct Step {
    score: f64,
    pair: (u32, u32),
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.pair.cmp(&self.pair))
    }
}

/// Average linkage of some of the items.
fn join(
    items: &[Item],
    among: &[u32],
    edges: &[(u32, u32)],
    threshold: f64,
    check: &mut dyn FnMut() -> Result<(), GalleryError>,
) -> Result<Vec<Cluster>, GalleryError> {
    // A cluster that comes of two takes the next number, so a step that names one that is gone is out of date.
    let mut clusters: Vec<Option<Cluster>> =
        among.iter().map(|&at| Some(Cluster::of(&items[at as usize], at))).collect();
    let number: BTreeMap<u32, u32> = among.iter().zip(0..).map(|(&at, number)| (at, number)).collect();
    let mut near: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); clusters.len()];
    let mut steps = BinaryHeap::new();
    for (a, b) in edges {
        let (Some(&a), Some(&b)) = (number.get(a), number.get(b)) else { continue };
        let (Some(first), Some(second)) = (&clusters[a as usize], &clusters[b as usize]) else { continue };
        if a == b || near[a as usize].contains(&b) || forbid(&first.marks, &second.marks) {
            continue;
        }
        near[a as usize].insert(b);
        near[b as usize].insert(a);
        let score = first.score(second);
        if score >= threshold {
            steps.push(Step { score, pair: (a.min(b), a.max(b)) });
        }
    }
    let mut asked = 0u32;
    while let Some(Step { pair: (a, b), .. }) = steps.pop() {
        if clusters[a as usize].is_none() || clusters[b as usize].is_none() {
            continue;
        }
        if asked.is_multiple_of(256) {
            check()?;
        }
        asked = asked.wrapping_add(1);
        let (Some(mut joined), Some(other)) = (clusters[a as usize].take(), clusters[b as usize].take()) else {
            continue;
        };
        joined.absorb(other);
        let new = clusters.len() as u32;
        let mut neighbours = std::mem::take(&mut near[a as usize]);
        neighbours.extend(std::mem::take(&mut near[b as usize]));
        neighbours.retain(|&of| of != a && of != b);
        neighbours.retain(|&of| {
            near[of as usize].remove(&a);
            near[of as usize].remove(&b);
            // What is forbidden once stays so, since clusters only grow.
            let Some(cluster) = clusters[of as usize].as_ref().filter(|of| !forbid(&of.marks, &joined.marks)) else {
                return false;
            };
            near[of as usize].insert(new);
            // A pair below the threshold stays: it can come to it when the neighbour has been joined with another.
            let score = joined.score(cluster);
            if score >= threshold {
                steps.push(Step { score, pair: (of, new) });
            }
            true
        });
        near.push(neighbours);
        clusters.push(Some(joined));
    }
    Ok(clusters.into_iter().flatten().collect())
}

/// Adds weak items to the clusters they are most alike, the surest first. Clusters are compared as they were without
/// them. Gives those that were added.
fn attach(items: &[Item], clusters: &mut [Cluster], edges: &[(u32, u32)], threshold: f64) -> BTreeSet<u32> {
    let mut of: BTreeMap<u32, usize> = BTreeMap::new();
    for (number, cluster) in clusters.iter().enumerate() {
        of.extend(cluster.members.iter().map(|&member| (member, number)));
    }
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    for (item, neighbour) in edges.iter().flat_map(|&(a, b)| [(a, b), (b, a)]) {
        let Some(&cluster) = of.get(&neighbour) else { continue };
        if !items[item as usize].weak || !seen.insert((item, cluster)) {
            continue;
        }
        let score = dot(&items[item as usize].vector, &clusters[cluster].sum) / clusters[cluster].weight;
        if score >= threshold {
            steps.push((score, item, cluster));
        }
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut taken = BTreeSet::new();
    for (_, item, cluster) in steps {
        let (cluster, marks) = (&mut clusters[cluster], &items[item as usize].marks);
        if !taken.contains(&item) && !forbid(&cluster.marks, marks) {
            taken.insert(item);
            cluster.marks = united(&cluster.marks, marks);
            cluster.members.push(item);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit vector at an angle, in degrees.
    fn item(degrees: f64, weak: bool, marks: &[Mark]) -> Item {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Item { vector: vec![cos as f32, sin as f32], weight: 1.0, weak, marks: marks.to_vec() }
    }

    fn clusters(items: &[Item], threshold: f64) -> Vec<Vec<u32>> {
        let number = items.len() as u32;
        let edges: Vec<(u32, u32)> = (0..number).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        agglomerate(items, &edges, &Linkage { threshold, weak_threshold: 0.999 }, &mut || Ok(())).unwrap()
    }

    #[test]
    fn averages_decide() {
        // Each is near the next; together they are not near enough.
        let chain = [0.0, 20.0, 40.0, 60.0].map(|degrees| item(degrees, false, &[]));
        assert_eq!(clusters(&chain, 20f64.to_radians().cos() - 1e-6), [[0, 1], [2, 3]]);
        assert_eq!(clusters(&chain, 0.7), [[0, 1, 2, 3]]);
        let coherent = coherence(chain[..2].iter()).unwrap();
        assert!((coherent - 20f64.to_radians().cos()).abs() < 1e-6);
        assert_eq!(coherence(chain[..1].iter()), None);
    }

    #[test]
    fn what_is_kept_apart_is_not_joined_by_others_either() {
        let between = [item(0.0, false, &[(7, 0)]), item(2.0, false, &[]), item(5.0, false, &[(7, 1)])];
        assert_eq!(clusters(&between, 0.5), vec![vec![0, 1], vec![2]]);
        let several = [
            item(0.0, false, &[(7, 0)]),
            item(1.0, false, &[(7, 1), (8, 0)]),
            item(1.5, false, &[(8, 1)]),
            item(1.6, false, &[(7, 0)]),
        ];
        assert_eq!(clusters(&several, 0.5), vec![vec![0, 2, 3], vec![1]]);
        let weak = [item(0.0, false, &[]), item(1.0, true, &[(3, 0)]), item(2.0, true, &[(3, 1)])];
        assert_eq!(clusters(&weak, 0.5), vec![vec![0, 1], vec![2]], "the more alike one is added");
    }

    #[test]
    fn weak_vectors_do_not_join_two_clusters() {
        let strong = [0.0, 30.0, 60.0].map(|degrees| item(degrees, false, &[]));
        let bridged = [item(0.0, false, &[]), item(30.0, true, &[]), item(59.0, false, &[])];
        let threshold = 0.64;
        assert_eq!(clusters(&strong, threshold), [[0, 1, 2]]);
        assert_eq!(clusters(&bridged, threshold), vec![vec![0], vec![1, 2]]);
        let alone = [item(0.0, true, &[]), item(1.0, true, &[]), item(9.0, true, &[])];
        assert_eq!(clusters(&alone, threshold), vec![vec![0, 1], vec![2]], "among themselves more is asked");
    }
}
