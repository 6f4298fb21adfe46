//! From the norm of a feature to a quality between 0 and 1.
//!
//! Norms differ from network to network, so they are standardised with the mean and standard deviation that the
//! network shows on ordinary portraits: z = (norm - mean) / std. Quality is the normal distribution function of z: the
//! share of ordinary portraits with a smaller norm, if their norms were normally distributed.

use serde::{Deserialize, Serialize};

/// Mean and standard deviation of a model's norms over ordinary portraits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormStats {
    /// Mean norm.
    pub mean: f32,
    /// Standard deviation of the norm, above 0.
    pub std: f32,
}

/// The standardised norm. Not a number when `stats` are not (a manifest with such values is refused).
pub fn z(norm: f32, stats: NormStats) -> f32 {
    (norm - stats.mean) / stats.std
}

/// Quality of a face from its norm, 0 to 1: 0.5 is an ordinary portrait.
pub fn quality(norm: f32, stats: NormStats) -> f32 {
    normal_cdf(f64::from(z(norm, stats))) as f32
}

/// Distribution function of the standard normal distribution.
fn normal_cdf(z: f64) -> f64 {
    libm::erfc(-z / std::f64::consts::SQRT_2) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: NormStats = NormStats { mean: 68.796, std: 8.191 };

    #[test]
    fn quality_is_the_normal_distribution_function() {
        for (z, expected) in
            [(0.0, 0.5), (1.0, 0.841_344_7), (-1.0, 0.158_655_3), (1.96, 0.975_002_1), (-3.0, 0.001_349_9)]
        {
            assert!((quality(STATS.mean + z * STATS.std, STATS) - expected).abs() < 1e-6, "{z}");
        }
        assert_eq!(quality(-1e30, STATS), 0.0);
        assert_eq!(quality(1e30, STATS), 1.0);
    }

    #[test]
    fn quality_grows_with_the_norm() {
        let values: Vec<f32> = (20..120).map(|norm| quality(norm as f32, STATS)).collect();
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(values.iter().all(|q| (0.0..=1.0).contains(q)));
    }
}
