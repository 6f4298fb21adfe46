//! Drawn vectors that lie as those of faces do, for benches and tests.
//!
//! Vectors of real faces do not fill their space evenly: the variance of their principal directions falls off, here so that the
//! participation ratio (Σλ)²/Σλ² is about 0.4 of the dimension. An image of a person is the person's centre and noise of a
//! strength drawn for each image. At 512 dimensions cosines are about 0.62 between images of a person and spread by about 0.07
//! between strangers. A rotation mixes the directions, so that no value of a vector says more than another.

use crate::random::Random;

/// Draws people and images of them.
pub struct Faces {
    random: Random,
    /// Standard deviation along each principal direction.
    spread: Vec<f32>,
    /// A step exchanges what pairs of values hold; who are pairs, and the cosine and sine of each.
    rotation: Vec<Vec<(usize, usize, f32, f32)>>,
}

impl Faces {
    /// Draws vectors of `dim` values, the same for the same seed.
    pub fn new(dim: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let spread = (0..dim).map(|at| (-(at as f32) * 2.56 / dim as f32).exp()).collect();
        // So many steps let every direction reach every value twice over.
        let steps = 2 * dim.next_power_of_two().ilog2() as usize;
        let rotation = (0..steps)
            .map(|_| {
                let order = random.order(dim);
                let turn = |pair: &[usize]| {
                    let (sine, cosine) = random.uniform(0.0, std::f64::consts::TAU).sin_cos();
                    (pair[0], pair[1], cosine as f32, sine as f32)
                };
                order.chunks_exact(2).map(turn).collect()
            })
            .collect();
        Self { random, spread, rotation }
    }

    /// Draws others of the same kind: along the same directions, with a seed of their own.
    pub fn others(&self, seed: u64) -> Self {
        Self { random: Random::new(seed), spread: self.spread.clone(), rotation: self.rotation.clone() }
    }

    /// A person nobody has seen.
    pub fn person(&mut self) -> Vec<f32> {
        let Self { random, spread, rotation } = self;
        let mut vector: Vec<f32> = spread.iter().map(|spread| spread * random.normal() as f32).collect();
        for step in rotation {
            for &mut (a, b, cosine, sine) in step {
                let (x, y) = (vector[a], vector[b]);
                (vector[a], vector[b]) = (cosine * x - sine * y, sine * x + cosine * y);
            }
        }
        unit(vector)
    }

    /// So many of them.
    pub fn people(&mut self, count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.person()).collect()
    }

    /// An image of a person.
    pub fn image(&mut self, person: &[f32]) -> Vec<f32> {
        let noise = self.person();
        let strength = self.random.uniform(0.25, 1.0).sqrt() as f32;
        unit(person.iter().zip(noise).map(|(person, noise)| person + strength * noise).collect())
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32;
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_person_are_alike_and_strangers_are_not() {
        let mut faces = Faces::new(512, 3);
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        let mut before = faces.person();
        for _ in 0..200 {
            let person = faces.person();
            let (one, other) = (faces.image(&person), faces.image(&person));
            assert!((cosine(&one, &one) - 1.0).abs() < 1e-5);
            own.push(cosine(&one, &other));
            others.push(cosine(&one, &before));
            before = one;
        }
        own.sort_by(f32::total_cmp);
        let spread = (others.iter().map(|score| score * score).sum::<f32>() / others.len() as f32).sqrt();
        assert!((0.58..0.66).contains(&own[100]), "{}", own[100]);
        assert!((0.055..0.09).contains(&spread), "{spread}");
    }

    #[test]
    fn others_vary_along_the_same_directions() {
        let dim = 64;
        // Squared lengths of people of one within the directions in which those of another vary most.
        let kept = |faces: &mut Faces, of: &Faces| {
            let most: Vec<Vec<f32>> = (0..dim / 4)
                .map(|at| {
                    let mut only = of.others(1);
                    only.spread.iter_mut().enumerate().for_each(|(other, spread)| *spread *= f32::from(other == at));
                    only.person()
                })
                .collect();
            let of_one = |person: &[f32]| {
                most.iter().map(|way| way.iter().zip(person).map(|(a, b)| a * b).sum::<f32>().powi(2)).sum::<f32>()
            };
            (0..200).map(|_| of_one(&faces.person())).sum::<f32>() / 200.0
        };
        let faces = Faces::new(dim, 3);
        let (same, turned) = (kept(&mut faces.others(4), &faces), kept(&mut Faces::new(dim, 4), &faces));
        assert!(same > 0.7 && turned < 0.4, "{same} {turned}");
        assert_ne!(faces.others(4).person(), faces.others(5).person());
    }
}
