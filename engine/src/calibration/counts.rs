//! From the expected number of candidates to the share of searches that have one, and back.
//!
//! Some faces resemble more of a gallery than others do, so the number of candidates of a non-mated search varies more
//! than a Poisson number. With an expectation that is gamma-distributed over searches the number is negative binomial;
//! of mean μ and dispersion k it gives
//!
//! ```text
//! FPIR = 1 − (1 + μ / k)^−k        k → ∞: 1 − exp(−μ), every search alike
//! ```
//!
//! A gallery g times as large has g times the expected candidates and the same k, which is how a calibration follows
//! growth. All functions are exact at both ends: small rates are not lost in 1 − (1 − x).

/// Bounds of k. Above, it makes no difference any more; below, nearly all searches would have no candidate ever.
const DISPERSION: (f64, f64) = (0.2, 1e6);

/// ln(1 − FPIR).
fn log_none(mean: f64, dispersion: f64) -> f64 {
    -dispersion * (mean / dispersion).ln_1p()
}

/// FPIR of an expected number of candidates.
pub(super) fn rate(mean: f64, dispersion: f64) -> f64 {
    -log_none(mean, dispersion).exp_m1()
}

/// The expected number of candidates of an FPIR below 1.
pub(super) fn mean_of(rate: f64, dispersion: f64) -> f64 {
    dispersion * (-(-rate).ln_1p() / dispersion).exp_m1()
}

/// ln(FPIR / (1 − FPIR)).
pub(super) fn logit(mean: f64, dispersion: f64) -> f64 {
    rate(mean, dispersion).ln() - log_none(mean, dispersion)
}

/// The expected number of candidates of such a logit.
pub(super) fn mean_of_logit(logit: f64, dispersion: f64) -> f64 {
    // −ln(1 − FPIR) = ln(1 + e^logit)
    let log_odds = if logit > 30.0 { logit } else { logit.exp().ln_1p() };
    dispersion * (log_odds / dispersion).exp_m1()
}

/// The k with which an expected number of candidates gives this share of searches with one.
pub(super) fn dispersion(mean: f64, share: f64) -> f64 {
    let (mut low, mut high) = DISPERSION;
    for _ in 0..60 {
        let k = (low * high).sqrt();
        if rate(mean, k) < share {
            low = k;
        } else {
            high = k;
        }
    }
    (low * high).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_means_answer_each_other() {
        for k in [0.2, 3.0, 1e6] {
            for mean in [1e-9, 1e-3, 0.5, 5.0] {
                let share = rate(mean, k);
                approx::assert_relative_eq!(mean_of(share, k), mean, max_relative = 1e-6);
                approx::assert_relative_eq!(mean_of_logit(logit(mean, k), k), mean, max_relative = 1e-6);
            }
        }
        approx::assert_relative_eq!(rate(0.7, 1e6), 1.0 - (-0.7f64).exp(), max_relative = 1e-5);
        approx::assert_relative_eq!(rate(1e-12, 3.0), 1e-12, max_relative = 1e-6);
    }

    #[test]
    fn dispersion_is_found() {
        for k in [0.5, 3.0, 50.0] {
            approx::assert_relative_eq!(dispersion(1.3, rate(1.3, k)), k, max_relative = 1e-6);
        }
        // More searches with a candidate than any mixture allows, and none.
        assert!(dispersion(1.0, 0.9) > 9e5);
        assert!(dispersion(1.0, 0.0) < 0.3);
    }
}
