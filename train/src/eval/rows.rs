//! Vectors of one length, side by side.

use super::EvalError;

/// Vectors of one length, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    dim: usize,
    values: Vec<T>,
}

impl<T: Copy + Into<f64>> Rows<T> {
    /// Takes the values of all rows, `dim` each. `what` names a row in errors.
    ///
    /// # Errors
    /// [`EvalError::Length`] where the values do not make whole rows, [`EvalError::NotFinite`] for NaN and infinities.
    pub fn new(what: &'static str, dim: usize, values: Vec<T>) -> Result<Self, EvalError> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(EvalError::Length {
                what: "values in a row",
                expected: dim,
                actual: values.len() % dim.max(1),
            });
        }
        match values.iter().position(|value| !(*value).into().is_finite()) {
            Some(at) => Err(EvalError::NotFinite { what, index: at / dim }),
            None => Ok(Self { dim, values }),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values in a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A row by its place, which has to be below [`len`](Self::len).
    pub fn row(&self, at: usize) -> &[T] {
        &self.values[at * self.dim..(at + 1) * self.dim]
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        self.values.chunks_exact(self.dim)
    }

    /// All values, row after row.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The same numbers in f64.
    pub fn to_f64(&self) -> Rows<f64> {
        Rows { dim: self.dim, values: self.values.iter().map(|value| (*value).into()).collect() }
    }

    /// These rows and then those of another.
    ///
    /// # Errors
    /// [`EvalError::Length`] for rows of another length.
    pub fn followed_by(&self, other: &Self) -> Result<Self, EvalError> {
        super::error::check_length("values in a row", other.dim, self.dim)?;
        Ok(Self { dim: self.dim, values: [self.values.as_slice(), other.values.as_slice()].concat() })
    }
}

/// Inner product, always summed in the same order, so that equal rows have equal scores.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums, for the compiler to keep in one or two registers.
    let mut sums = [0.0; 8];
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// Euclidean length.
pub(super) fn length(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

/// Scales a row to length 1. One of zeros stays as it is.
pub(super) fn normalise(row: &mut [f64]) {
    let length = length(row);
    if length > 0.0 {
        row.iter_mut().for_each(|value| *value /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_finite_rows_are_taken() {
        assert!(matches!(Rows::new("row", 2, vec![1.0, 2.0, 3.0]), Err(EvalError::Length { actual: 1, .. })));
        assert!(matches!(Rows::new("row", 0, Vec::<f64>::new()), Err(EvalError::Length { .. })));
        let bad = Rows::new("row", 2, vec![1.0f32, 2.0, f32::NAN, 3.0]);
        assert!(matches!(bad, Err(EvalError::NotFinite { what: "row", index: 1 })));
        let rows = Rows::new("row", 2, vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((rows.len(), rows.row(1)), (2, &[3.0, 4.0][..]));
        assert_eq!(rows.followed_by(&rows).unwrap().len(), 4);
    }

    #[test]
    fn inner_products_of_any_length() {
        for n in 0..20 {
            let a: Vec<f64> = (0..n).map(f64::from).collect();
            let expected: f64 = a.iter().map(|value| value * value).sum();
            assert_eq!(dot(&a, &a), expected);
        }
        let mut zero = [0.0; 3];
        normalise(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
