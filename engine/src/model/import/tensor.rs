//! Tensors of a checkpoint: where their values lie, and how they become f32.

use half::{bf16, f16};

use super::ImportError;

/// Most values of a tensor. The largest of the published networks has 103 million.
const MAX_VALUES: u64 = 1 << 30;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Type of a value in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    /// A type that weights do not have, by the bytes of a value.
    Other(u8),
}

impl Dtype {
    /// Bytes of a value.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(bytes) => bytes.into(),
        }
    }

    /// The type of a PyTorch storage by the name of its class.
    pub(crate) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "ComplexDoubleStorage" => Self::Other(16),
            "ComplexFloatStorage" => Self::Other(8),
            "IntStorage" | "QInt32Storage" => Self::Other(4),
            "ShortStorage" => Self::Other(2),
            "CharStorage" | "ByteStorage" | "BoolStorage" | "QInt8Storage" | "QUInt8Storage" | "UntypedStorage" => {
                Self::Other(1)
            }
            _ => return None,
        })
    }

    /// The type of a safetensors tensor by its name.
    pub(crate) fn of_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "I64" => Self::I64,
            "C64" | "U64" => Self::Other(8),
            "I32" | "U32" => Self::Other(4),
            "I16" | "U16" => Self::Other(2),
            "I8" | "U8" | "BOOL" | "F8_E5M2" | "F8_E4M3" => Self::Other(1),
            _ => return None,
        })
    }

    /// Reads a value from exactly its bytes, little-endian. `None` for types that weights do not have.
    fn read(self, bytes: &[u8]) -> Option<f32> {
        Some(match self {
            Self::F64 => f64::from_le_bytes(bytes.try_into().ok()?) as f32,
            Self::F32 => f32::from_le_bytes(bytes.try_into().ok()?),
            Self::F16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            Self::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            Self::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f32,
            Self::Other(_) => return None,
        })
    }
}

/// A tensor as a view of values that lie one after the other in a storage. Made by [`View::new`], so every value it
/// names is within the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Which storage.
    pub(crate) storage: String,
    /// Type of its values.
    pub(crate) dtype: Dtype,
    /// Values in the storage.
    pub(crate) storage_values: u64,
    /// Place of the first value, in values.
    offset: u64,
    /// Dimensions.
    pub(crate) shape: Vec<usize>,
    /// Values between neighbours along each dimension.
    strides: Vec<u64>,
}

impl View {
    /// A view of a storage of `storage_values` values. Says what is wrong if it names values that are not there.
    pub(crate) fn new(
        storage: &str,
        dtype: Dtype,
        storage_values: u64,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what} (shape {shape:?}, strides {strides:?}, offset {offset})"));
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return wrong("the view of its storage has unequal or too many dimensions");
        }
        let (Ok(offset), Ok(sizes), Ok(steps)) = (u64::try_from(offset), unsigned(shape), unsigned(strides)) else {
            return wrong("the view of its storage has negative numbers");
        };
        let values = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let Some(values) = values.filter(|values| *values <= MAX_VALUES) else {
            return wrong("the view of its storage is too large");
        };
        // A dimension of one value is never stepped along, whatever its step says.
        let steps: Vec<u64> = sizes.iter().zip(steps).map(|(size, step)| if *size > 1 { step } else { 0 }).collect();
        let last = sizes
            .iter()
            .zip(&steps)
            .try_fold(offset, |last, (size, step)| last.checked_add(size.saturating_sub(1).checked_mul(*step)?));
        let fits = values == 0 || last.is_some_and(|last| last < storage_values);
        let bytes = storage_values.checked_mul(dtype.bytes()).is_some();
        if !fits || !bytes {
            return wrong("the view of its storage goes beyond the end");
        }
        let shape = sizes.iter().map(|size| *size as usize).collect();
        Ok(Self { storage: storage.to_owned(), dtype, storage_values, offset, shape, strides: steps })
    }

    /// A tensor that is all of a storage, row-major.
    pub(crate) fn whole(storage: &str, dtype: Dtype, shape: &[i64]) -> Result<Self, String> {
        let mut strides = vec![1i64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].checked_mul(shape[axis]).ok_or("the shape is too large")?;
        }
        let values = shape.iter().try_fold(1i64, |product, size| product.checked_mul(*size));
        let values = values.and_then(|values| u64::try_from(values).ok()).ok_or("the shape is too large")?;
        Self::new(storage, dtype, values, 0, shape, &strides)
    }

    /// Number of values.
    pub(crate) fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of the storage that hold its values: first, and one past the last.
    pub(crate) fn span(&self) -> (u64, u64) {
        if self.values() == 0 {
            return (0, 0);
        }
        let reach: u64 = self.shape.iter().zip(&self.strides).map(|(size, step)| (*size as u64 - 1) * step).sum();
        let bytes = self.dtype.bytes();
        (self.offset * bytes, (self.offset + reach + 1) * bytes)
    }

    /// Gives the values as f32 in row-major order, some at a time. `bytes` are those of the storage from byte `from`
    /// on. Fails on a value that is not finite.
    pub(crate) fn each(
        &self,
        name: &str,
        bytes: &[u8],
        from: u64,
        mut give: impl FnMut(&[f32]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let size = self.dtype.bytes() as usize;
        let unreadable = || ImportError::Damaged(format!("tensor {name} cannot be read from its storage"));
        let mut chunk = Vec::with_capacity(CHUNK);
        let (mut left, mut index) = (self.values(), vec![0usize; self.shape.len()]);
        let mut place = self.offset;
        while left > 0 {
            let start = (place * size as u64).checked_sub(from).ok_or_else(unreadable)? as usize;
            let value =
                bytes.get(start..start + size).and_then(|bytes| self.dtype.read(bytes)).ok_or_else(unreadable)?;
            if !value.is_finite() {
                return Err(ImportError::NotFinite(name.to_owned()));
            }
            chunk.push(value);
            if chunk.len() == CHUNK {
                give(&chunk)?;
                chunk.clear();
            }
            left -= 1;
            // The next index, the last dimension fastest.
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                place += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                place -= self.strides[axis] * self.shape[axis] as u64;
                index[axis] = 0;
            }
        }
        if chunk.is_empty() { Ok(()) } else { give(&chunk) }
    }
}

/// Values converted at a time.
const CHUNK: usize = 1 << 16;

fn unsigned(values: &[i64]) -> Result<Vec<u64>, std::num::TryFromIntError> {
    values.iter().map(|value| u64::try_from(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(view: &View, bytes: &[u8]) -> Vec<f32> {
        let mut found = Vec::new();
        view.each("x", bytes, 0, |values| {
            found.extend_from_slice(values);
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn views_are_read_in_row_major_order() {
        let bytes: Vec<u8> = (0..12).flat_map(|value| (value as f32).to_le_bytes()).collect();
        let view =
            |offset, shape: &[i64], strides: &[i64]| View::new("s", Dtype::F32, 12, offset, shape, strides).unwrap();
        assert_eq!(values(&view(0, &[2, 3], &[3, 1]), &bytes), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(values(&view(1, &[3, 2], &[1, 3]), &bytes), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(values(&view(5, &[], &[]), &bytes), [5.]);
        assert_eq!(values(&view(4, &[2, 2], &[0, 1]), &bytes), [4., 5., 4., 5.]);
        assert_eq!(values(&view(0, &[0, 7], &[7, 1]), &bytes), [0f32; 0]);
        assert_eq!(view(1, &[3, 2], &[1, 3]).span(), (4, 28));
        let whole = View::whole("s", Dtype::F32, &[3, 4]).unwrap();
        assert_eq!((whole.span(), whole.strides), ((0, 48), vec![4, 1]));
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        let wrong =
            |offset, shape: &[i64], strides: &[i64]| View::new("s", Dtype::F32, 12, offset, shape, strides).is_err();
        assert!(wrong(0, &[13], &[1]) && wrong(1, &[12], &[1]) && wrong(0, &[2, 2], &[12, 1]));
        assert!(wrong(-1, &[1], &[1]) && wrong(0, &[-1], &[1]) && wrong(0, &[2], &[-1]));
        assert!(wrong(0, &[2, 2], &[1]) && wrong(0, &[1; 9], &[1; 9]));
        assert!(wrong(i64::MAX, &[2], &[i64::MAX]) && wrong(0, &[i64::MAX, 2], &[0, 0]));
        assert!(wrong(0, &[i64::MAX, i64::MAX], &[i64::MAX, i64::MAX]));
        assert!(View::whole("s", Dtype::F64, &[i64::MAX, i64::MAX]).is_err());
        assert!(View::new("s", Dtype::F64, u64::MAX, 0, &[1], &[1]).is_err());
    }

    #[test]
    fn every_type_becomes_f32_and_nothing_infinite_passes() {
        let one = |dtype, bytes: &[u8]| values(&View::whole("s", dtype, &[1]).unwrap(), bytes)[0];
        assert_eq!(one(Dtype::F64, &1.5f64.to_le_bytes()), 1.5);
        assert_eq!(one(Dtype::F16, &f16::from_f32(1.5).to_le_bytes()), 1.5);
        assert_eq!(one(Dtype::Bf16, &bf16::from_f32(1.5).to_le_bytes()), 1.5);
        assert_eq!(one(Dtype::I64, &7i64.to_le_bytes()), 7.0);
        let fails =
            |dtype, bytes: &[u8]| View::whole("s", dtype, &[1]).unwrap().each("x", bytes, 0, |_| Ok(())).unwrap_err();
        assert!(matches!(fails(Dtype::F32, &f32::NAN.to_le_bytes()), ImportError::NotFinite(name) if name == "x"));
        assert!(matches!(fails(Dtype::F64, &1e300f64.to_le_bytes()), ImportError::NotFinite(_)));
        assert!(matches!(fails(Dtype::F32, &[0; 3]), ImportError::Damaged(_)));
        assert!(matches!(fails(Dtype::Other(4), &[0; 4]), ImportError::Damaged(_)));
    }
}
