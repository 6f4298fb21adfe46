//! The entries of a batch's logits that belong to each embedding's own class.

use std::f64::consts::PI;

use candle_core::{DType, Tensor};

use super::{HeadError, check_shape};

/// The own classes of a batch.
pub(super) struct Targets {
    /// (batch, 1), u32.
    index: Tensor,
    /// (batch, classes): 1 at each own class, 0 elsewhere, without gradient.
    mask: Tensor,
}

impl Targets {
    /// Checks `labels` (batch), u32 or i64, against the cosines (batch, classes).
    pub(super) fn new(labels: &Tensor, cosines: &Tensor) -> Result<Self, HeadError> {
        let (batch, classes) = cosines.dims2()?;
        check_shape("the labels", labels, &[batch])?;
        for label in labels.to_dtype(DType::I64)?.to_vec1::<i64>()? {
            if usize::try_from(label).is_ok_and(|label| label < classes) {
                continue;
            }
            return Err(HeadError::NoSuchClass { label, classes });
        }
        let device = cosines.device();
        let index = labels.to_dtype(DType::U32)?.to_device(device)?.reshape((batch, 1))?;
        let all = Tensor::arange(0, classes as u32, device)?.reshape((1, classes))?;
        let mask = index.broadcast_eq(&all)?.to_dtype(cosines.dtype())?.detach();
        Ok(Self { index, mask })
    }

    /// The own classes where only some classes have a column: the column of each embedding's class, if it has one.
    /// [`of`](Self::of) of an embedding without one is a cosine of no meaning, and [`add`](Self::add) leaves its row be.
    pub(super) fn among(columns: &[Option<u32>], cosines: &Tensor) -> Result<Self, HeadError> {
        let device = cosines.device();
        let batch = columns.len();
        let index: Vec<u32> = columns.iter().map(|column| column.unwrap_or(0)).collect();
        let index = Tensor::from_vec(index, (batch, 1), device)?;
        let has_one: Vec<u8> = columns.iter().map(|column| u8::from(column.is_some())).collect();
        let has_one = Tensor::from_vec(has_one, (batch, 1), device)?.to_dtype(cosines.dtype())?;
        let all = Tensor::arange(0, cosines.dims()[1] as u32, device)?.reshape((1, ()))?;
        let mask = index.broadcast_eq(&all)?.to_dtype(cosines.dtype())?.broadcast_mul(&has_one)?;
        Ok(Self { index, mask })
    }

    /// (batch, classes): 1 at each own class, 0 elsewhere, without gradient.
    pub(super) fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// The cosine of each embedding to its own class, (batch, 1).
    pub(super) fn of(&self, cosines: &Tensor) -> Result<Tensor, HeadError> {
        Ok(cosines.gather(&self.index, 1)?)
    }

    /// `cosines` with `change` (batch, 1) added at each own class. An addition under a mask and not a scatter, whose
    /// gradient candle 0.11 gets wrong for a source smaller than its target.
    pub(super) fn add(&self, cosines: &Tensor, change: &Tensor) -> Result<Tensor, HeadError> {
        Ok((cosines + self.mask.broadcast_mul(change)?)?)
    }
}

/// cos(clip(θ + g, ε, π − ε)) for the cosines cos θ (batch, 1) and turns g (batch, 1), |g| below π; cos(θ + g) where
/// `epsilon` is none.
///
/// candle has no arc cosine, so it is the addition theorem: cos θ cos g − sin θ sin g. Whether the clip binds is told
/// by comparing cosines, as the cosine falls over 0 to π; where it binds, the value is constant and the gradient 0.
pub(super) fn turned_cosine(cosine: &Tensor, turn: &Tensor, epsilon: Option<f64>) -> Result<Tensor, HeadError> {
    let sine = (1.0 - cosine.sqr()?)?.sqrt()?;
    let turned = ((cosine * turn.cos()?)? - (sine * turn.sin()?)?)?;
    let Some(epsilon) = epsilon else {
        return Ok(turned);
    };
    let turn = turn.detach();
    // θ + g < ε, that is θ < ε − g: never where ε − g is not above 0, as the cosine is not above 1.
    let below = cosine.detach().gt(&turn.affine(-1.0, epsilon)?.clamp(0.0, PI)?.cos()?)?;
    let above = cosine.detach().lt(&turn.affine(-1.0, PI - epsilon)?.clamp(0.0, PI)?.cos()?)?;
    let nearest = (cosine.detach().zeros_like()? + epsilon.cos())?;
    let turned = below.where_cond(&nearest, &turned)?;
    Ok(above.where_cond(&nearest.neg()?, &turned)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn equals_the_arc_cosine_and_its_gradient() {
        let epsilon = 1e-3;
        for turn in [-0.9, -0.4, -1e-4, 0.0, 1e-4, 0.4, 0.9] {
            let cosines: Vec<f64> = (-99..=99).map(|i| f64::from(i) * 0.01).chain([-0.999, 0.999]).collect();
            let count = cosines.len();
            let cosine = Var::from_vec(cosines.clone(), (count, 1), &Device::Cpu).unwrap();
            let turns = Tensor::full(turn, (count, 1), &Device::Cpu).unwrap();
            let turned = turned_cosine(&cosine, &turns, Some(epsilon)).unwrap();
            let grads = turned.sum_all().unwrap().backward().unwrap();
            let values = turned.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let slopes = grads.get(&cosine).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for ((c, value), slope) in cosines.iter().zip(values).zip(slopes) {
                let angle = c.acos() + turn;
                let clipped = angle.clamp(epsilon, PI - epsilon);
                let expected = if clipped == angle { angle.sin() / c.acos().sin() } else { 0.0 };
                assert!((value - clipped.cos()).abs() < 1e-12, "cosine {c}, turn {turn}");
                assert!((slope - expected).abs() < 1e-10, "cosine {c}, turn {turn}: {slope}, {expected}");
            }
        }
    }

    #[test]
    fn embeddings_without_a_column_are_left_be() {
        let cosines = Tensor::new(&[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], &Device::Cpu).unwrap();
        let targets = Targets::among(&[Some(2), None], &cosines).unwrap();
        let change = Tensor::new(&[[1.0], [1.0]], &Device::Cpu).unwrap();
        let changed = targets.add(&cosines, &change).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(changed, [[0.1, 0.2, 1.3], [0.4, 0.5, 0.6]]);
        assert_eq!(targets.of(&cosines).unwrap().to_vec2::<f64>().unwrap()[0], [0.3]);
    }

    #[test]
    fn labels_are_checked() {
        let cosines = Tensor::zeros((3, 5), DType::F64, &Device::Cpu).unwrap();
        for good in [&[0i64, 4, 2], &[1, 1, 1]] {
            assert!(Targets::new(&Tensor::new(good, &Device::Cpu).unwrap(), &cosines).is_ok());
        }
        for (bad, label) in [([0i64, 5, 2], 5), ([-1, 0, 0], -1)] {
            let labels = Tensor::new(&bad, &Device::Cpu).unwrap();
            let result = Targets::new(&labels, &cosines);
            assert!(matches!(result, Err(HeadError::NoSuchClass { label: l, classes: 5 }) if l == label));
        }
        let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
        assert!(matches!(Targets::new(&labels, &cosines), Err(HeadError::WrongShape { .. })));
    }
}
