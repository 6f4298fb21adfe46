//! Gradients brought to a length (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").

/// Added to the length that is divided by, as PyTorch does.
const EPSILON: f64 = 1e-6;

/// The Euclidean length of several gradients taken together, summed in the given order.
pub fn length<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let square = |gradient: &[f32]| gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    gradients.into_iter().map(square).sum::<f64>().sqrt()
}

/// What gradients of a length together are multiplied by so that they are not longer than `most`. 1 where they are not.
pub fn clip(length: f64, most: f64) -> f64 {
    (most / (length + EPSILON)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_get_the_length_and_short_ones_stay() {
        let parts = [vec![3.0f32, 0.0], vec![], vec![0.0, 4.0, 0.0]];
        let whole = length(parts.iter().map(Vec::as_slice));
        assert_eq!(whole, 5.0);
        assert!((clip(whole, 1.0) * whole - 1.0).abs() < 1e-6);
        assert_eq!(clip(whole, 5.1), 1.0);
        assert_eq!(clip(0.0, 1.0), 1.0);
    }
}
