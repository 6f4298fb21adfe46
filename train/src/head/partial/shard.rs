//! The classes of one rank: their directions, what the optimiser keeps of them, and steps on some of them.

use candle_core::{DType, Device, Tensor};
use vultus_engine::random::Random;

use crate::head::{ClassKernel, HeadError, check_setting, check_shape};

/// Which classes a rank has. Shards are contiguous and all of one height; where the classes do not fill them, the last
/// rows of the last shard are padding that is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    first: usize,
    rows: usize,
    height: usize,
    classes: usize,
}

impl Shard {
    /// The shard of a rank.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`] where the rank is none of `ranks` or a shard would have no class.
    pub fn new(classes: usize, rank: usize, ranks: usize) -> Result<Self, HeadError> {
        check_setting("rank", rank as f64, "below the number of ranks", rank < ranks)?;
        let height = classes.div_ceil(ranks);
        let valid = classes > height * (ranks - 1) && u32::try_from(height).is_ok();
        check_setting("ranks", ranks as f64, "so few that each has a class", valid)?;
        let first = rank * height;
        Ok(Self { first, rows: height.min(classes - first), height, classes })
    }

    /// Its first class.
    pub fn first(self) -> usize {
        self.first
    }

    /// How many classes it has, 1 at least.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// How many rows its tensors have, with padding: the same for all ranks.
    pub fn height(self) -> usize {
        self.height
    }

    /// How many classes all shards have.
    pub fn classes(self) -> usize {
        self.classes
    }

    /// The row of a class, if it is one of the shard's.
    pub fn row(self, class: usize) -> Option<u32> {
        class.checked_sub(self.first).filter(|row| *row < self.rows).and_then(|row| u32::try_from(row).ok())
    }
}

/// How [`ShardKernel::update`] moves rows: stochastic gradient descent with momentum as PyTorch has it, v ← μ·v + g + λ·w
/// and w ← w − η·v.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSgd {
    /// Learning rate η.
    pub rate: f64,
    /// Momentum μ.
    pub momentum: f64,
    /// Weight decay λ.
    pub weight_decay: f64,
}

/// The gradient of some rows of a shard.
#[derive(Debug, Clone)]
pub struct RowGradient {
    /// The rows, each once, rising.
    pub rows: Vec<u32>,
    /// Their gradients (rows, dim).
    pub values: Tensor,
}

impl RowGradient {
    /// The sum of two gradients of one shard, row by row: over the rows of either.
    ///
    /// # Errors
    /// [`HeadError::WrongShape`] where rows are of other lengths, [`HeadError::Tensor`].
    pub fn plus(&self, other: &Self) -> Result<Self, HeadError> {
        let dim = self.values.dims().get(1).copied().unwrap_or(0);
        let mut rows: Vec<u32> = self.rows.iter().chain(&other.rows).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        let mut values = Tensor::zeros((rows.len(), dim), self.values.dtype(), self.values.device())?;
        for part in [self, other] {
            check_shape("the gradient", &part.values, &[part.rows.len(), dim])?;
            let places = part.rows.iter().map(|row| rows.partition_point(|before| before < row) as u32).collect();
            let places = Tensor::from_vec::<_, u32>(places, part.rows.len(), values.device())?;
            values = values.index_add(&places, &part.values.detach().contiguous()?, 0)?;
        }
        Ok(Self { rows, values })
    }
}

/// One direction per class of a shard. A row is normalised when it is used, so that only its direction counts.
#[derive(Debug)]
pub struct ShardKernel {
    shard: Shard,
    /// (height, dim), changed in place.
    weight: Tensor,
    /// (height, dim), changed in place.
    momentum: Tensor,
}

impl ShardKernel {
    /// A shard to start training with: directions drawn for each class by itself, so that it does not matter how many
    /// ranks there are.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    pub fn seeded(shard: Shard, dim: usize, seed: u64, dtype: DType, device: &Device) -> Result<Self, HeadError> {
        let mut values = vec![0.0; shard.height * dim];
        for (row, values) in values.chunks_exact_mut(dim.max(1)).take(shard.rows).enumerate() {
            let mut random = Random::named(seed, &format!("class {}", shard.first + row));
            values.fill_with(|| random.uniform(-1.0, 1.0));
            let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
            values.iter_mut().for_each(|value| *value /= norm);
        }
        Self::with_weight(shard, &Tensor::from_vec(values, (shard.height, dim), &Device::Cpu)?, dtype, device)
    }

    /// The shard of a kernel (dim, classes).
    ///
    /// # Errors
    /// [`HeadError::WrongShape`] where the kernel has another number of classes, [`HeadError::Tensor`].
    pub fn of(shard: Shard, kernel: &ClassKernel) -> Result<Self, HeadError> {
        let dim = kernel.dim();
        check_shape("the class kernel", kernel.var(), &[dim, shard.classes])?;
        let rows = kernel.var().detach().narrow(1, shard.first, shard.rows)?.t()?.contiguous()?;
        let rows = rows.pad_with_zeros(0, 0, shard.height - shard.rows)?;
        Self::with_weight(shard, &rows, rows.dtype(), rows.device())
    }

    fn with_weight(shard: Shard, weight: &Tensor, dtype: DType, device: &Device) -> Result<Self, HeadError> {
        // A copy, as rows are changed in place.
        let weight = weight.to_dtype(dtype)?.to_device(device)?.copy()?;
        let momentum = weight.zeros_like()?;
        Ok(Self { shard, weight, momentum })
    }

    /// Which classes these are.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Values in an embedding.
    pub fn dim(&self) -> usize {
        self.weight.dims()[1]
    }

    /// A copy of the directions (height, dim).
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    pub fn weight(&self) -> Result<Tensor, HeadError> {
        Ok(self.weight.copy()?)
    }

    /// A copy of the optimiser's momentum (height, dim).
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    pub fn momentum(&self) -> Result<Tensor, HeadError> {
        Ok(self.momentum.copy()?)
    }

    /// Takes over the tensors of a checkpoint.
    pub(super) fn restore(&mut self, weight: &Tensor, momentum: &Tensor) -> Result<(), HeadError> {
        let like = |tensor: &Tensor| tensor.to_dtype(self.weight.dtype())?.to_device(self.weight.device())?.copy();
        (self.weight, self.momentum) = (like(weight)?, like(momentum)?);
        Ok(())
    }

    /// A copy of some rows, (rows, dim).
    pub(super) fn select(&self, rows: &[u32]) -> Result<Tensor, HeadError> {
        Ok(self.weight.index_select(&Tensor::new(rows, self.weight.device())?, 0)?)
    }

    /// Gives rows other directions, `values` (rows, dim). Their momentum stays.
    ///
    /// # Errors
    /// [`HeadError::WrongShape`], [`HeadError::BadSetting`] where rows are none of this shard, [`HeadError::Tensor`].
    pub fn set_rows(&mut self, rows: &[u32], values: &Tensor) -> Result<(), HeadError> {
        self.check_rows("the directions", rows, values)?;
        if rows.is_empty() {
            return Ok(());
        }
        let values = values.to_dtype(self.weight.dtype())?.to_device(self.weight.device())?.contiguous()?;
        self.weight.scatter_set(&self.places(rows)?, &values, 0)?;
        Ok(())
    }

    /// Moves the rows of `gradient` and nothing else: directions and momentum of all other rows stay as they are to the
    /// bit, without decay. (CVLFace's code hands its optimiser all rows, with zeros where none were sampled, so that
    /// momentum and decay move those too.)
    ///
    /// # Errors
    /// [`HeadError::WrongShape`] and [`HeadError::BadSetting`] where the gradient is none of this shard,
    /// [`HeadError::Tensor`].
    pub fn update(&mut self, gradient: &RowGradient, sgd: RowSgd) -> Result<(), HeadError> {
        let RowGradient { rows, values } = gradient;
        self.check_rows("the gradient", rows, values)?;
        if rows.is_empty() {
            return Ok(());
        }
        let index = Tensor::new(rows.as_slice(), self.weight.device())?;
        let weight = self.weight.index_select(&index, 0)?;
        let momentum = self.momentum.index_select(&index, 0)?.affine(sgd.momentum, 0.0)?;
        let momentum = ((momentum + values.detach())? + weight.affine(sgd.weight_decay, 0.0)?)?;
        let weight = (weight - momentum.affine(sgd.rate, 0.0)?)?;
        let places = self.places(rows)?;
        self.weight.scatter_set(&places, &weight, 0)?;
        self.momentum.scatter_set(&places, &momentum, 0)?;
        Ok(())
    }

    /// Checks rows of the shard, each once and rising, and what is said of them, (rows, dim).
    fn check_rows(&self, what: &'static str, rows: &[u32], values: &Tensor) -> Result<(), HeadError> {
        check_shape(what, values, &[rows.len(), self.dim()])?;
        let rising = rows.windows(2).all(|pair| pair[0] < pair[1]);
        let last = rows.last().copied().unwrap_or(0);
        let valid = rising && (last as usize) < self.shard.rows;
        check_setting("the last of some rows", f64::from(last), "a row of the shard, each once", valid)
    }

    /// Where values of some rows go, (rows, dim).
    fn places(&self, rows: &[u32]) -> candle_core::Result<Tensor> {
        let index = Tensor::new(rows, self.weight.device())?.unsqueeze(1)?;
        index.broadcast_as((rows.len(), self.dim()))?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_the_classes_in_order() {
        for (classes, ranks) in [(10, 1), (10, 2), (10, 4), (12, 4), (7, 7), (205_990, 8)] {
            let shards: Vec<Shard> = (0..ranks).map(|rank| Shard::new(classes, rank, ranks).unwrap()).collect();
            assert_eq!(shards.iter().map(|shard| shard.rows()).sum::<usize>(), classes);
            let mut next = 0;
            for shard in shards {
                assert_eq!(shard.first(), next);
                assert_eq!(shard.height(), classes.div_ceil(ranks));
                assert_eq!(shard.row(shard.first() + shard.rows()), None);
                assert_eq!(shard.row(shard.first()), Some(0));
                assert_eq!(next.checked_sub(1).and_then(|before| shard.row(before)), None);
                next += shard.rows();
            }
        }
        // 5 classes in 4 shards of 2 leave nothing for the last.
        assert!(matches!(Shard::new(5, 0, 4), Err(HeadError::BadSetting { setting: "ranks", .. })));
        assert!(matches!(Shard::new(5, 2, 2), Err(HeadError::BadSetting { setting: "rank", .. })));
        assert!(matches!(Shard::new(0, 0, 1), Err(HeadError::BadSetting { setting: "ranks", .. })));
    }

    #[test]
    fn a_class_starts_the_same_however_many_ranks_there_are() {
        let rows = |ranks: usize| -> Vec<Vec<f64>> {
            (0..ranks)
                .flat_map(|rank| {
                    let shard = Shard::new(10, rank, ranks).unwrap();
                    let kernel = ShardKernel::seeded(shard, 8, 3, DType::F64, &Device::Cpu).unwrap();
                    kernel.weight().unwrap().narrow(0, 0, shard.rows()).unwrap().to_vec2::<f64>().unwrap()
                })
                .collect()
        };
        assert_eq!(rows(1), rows(4));
        assert!(rows(1).iter().all(|row| (row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12));
        assert_ne!(rows(1)[0], rows(1)[1]);
    }

    #[test]
    fn gradients_are_summed_by_row() {
        let of = |rows: &[u32], first: f64| {
            let count = rows.len();
            let values = Tensor::arange(first, first + 2.0 * count as f64, &Device::Cpu).unwrap();
            RowGradient { rows: rows.to_vec(), values: values.reshape((count, 2)).unwrap() }
        };
        let sum = of(&[1, 4, 9], 0.0).plus(&of(&[0, 4], 100.0)).unwrap();
        assert_eq!(sum.rows, [0, 1, 4, 9]);
        let expected = [[100.0, 101.0], [0.0, 1.0], [102.0 + 2.0, 103.0 + 3.0], [4.0, 5.0]];
        assert_eq!(sum.values.to_vec2::<f64>().unwrap(), expected);
        let narrow = RowGradient { rows: vec![3], values: Tensor::ones((1, 1), DType::F64, &Device::Cpu).unwrap() };
        assert!(matches!(sum.plus(&narrow), Err(HeadError::WrongShape { .. })));
    }

    #[test]
    fn rows_get_other_directions() {
        let shard = Shard::new(5, 1, 2).unwrap();
        let mut kernel = ShardKernel::seeded(shard, 2, 3, DType::F32, &Device::Cpu).unwrap();
        let before = kernel.weight().unwrap().to_vec2::<f32>().unwrap();
        let values = Tensor::new(&[[0.5f64, -2.0]], &Device::Cpu).unwrap();
        kernel.set_rows(&[1], &values).unwrap();
        let expected = [before[0].clone(), vec![0.5, -2.0], before[2].clone()];
        assert_eq!(kernel.weight().unwrap().to_vec2::<f32>().unwrap(), expected);
        // Row 2 is padding.
        assert!(matches!(kernel.set_rows(&[2], &values), Err(HeadError::BadSetting { .. })));
        assert!(matches!(kernel.set_rows(&[0, 1], &values), Err(HeadError::WrongShape { .. })));
    }

    #[test]
    fn gradients_of_other_rows_are_refused() {
        let shard = Shard::new(5, 1, 2).unwrap();
        let mut kernel = ShardKernel::seeded(shard, 4, 3, DType::F64, &Device::Cpu).unwrap();
        let sgd = RowSgd { rate: 0.1, momentum: 0.9, weight_decay: 5e-4 };
        let before = kernel.weight().unwrap().to_vec2::<f64>().unwrap();
        // Row 2 is padding.
        for rows in [vec![2], vec![1, 0], vec![0, 0]] {
            let values = Tensor::ones((rows.len(), 4), DType::F64, &Device::Cpu).unwrap();
            let result = kernel.update(&RowGradient { rows, values }, sgd);
            assert!(matches!(result, Err(HeadError::BadSetting { .. })));
        }
        let values = Tensor::ones((1, 3), DType::F64, &Device::Cpu).unwrap();
        let result = kernel.update(&RowGradient { rows: vec![0], values }, sgd);
        assert!(matches!(result, Err(HeadError::WrongShape { .. })));
        assert_eq!(kernel.weight().unwrap().to_vec2::<f64>().unwrap(), before);
    }
}
