//! Features of images in a safetensors file, for evaluations that go without the images.
//!
//! | tensor | shape | what |
//! |---|---|---|
//! | `embeddings` | (N, D) | unit vectors ê, one an image, in the order of the protocol's list of images |
//! | `norms` | (N) or (N, 1) | their norms n; 1 where the tensor is missing |
//! | `flipped_embeddings`, `flipped_norms` | the same | those of the mirror images, where they are to be fused here |
//! | `labels` | (N) | subjects, where the protocol has no list of its own; I64 or I32 |
//!
//! Numbers may be F16, BF16, F32 or F64; they are taken as F32, in which networks make them. Features that are fused with
//! those of mirror images already come without the flipped tensors.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::error::check_length;
use super::fusion::{FlipFusion, Normed};
use super::{EvalError, Rows};

/// Features of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Of the images.
    pub plain: Normed,
    /// Of their mirror images.
    pub flipped: Option<Normed>,
    /// Whom they show.
    pub labels: Option<Vec<i64>>,
}

impl Features {
    /// Reads a file.
    ///
    /// # Errors
    /// [`EvalError::Missing`], [`EvalError::Io`], and [`EvalError::File`] for a file that is not as described.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let bytes = std::fs::read(path).map_err(EvalError::io(path, "a file of features"))?;
        Self::parse(&bytes).map_err(|what| EvalError::file(path, what))
    }

    /// Reads the bytes of such a file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| format!("no safetensors file: {error}"))?;
        let plain = normed(&tensors, "embeddings", "norms")?.ok_or("it has no tensor named embeddings")?;
        let flipped = normed(&tensors, "flipped_embeddings", "flipped_norms")?;
        if let Some(flipped) = &flipped {
            check_length("mirror images", flipped.norms.len(), plain.norms.len()).map_err(|error| error.to_string())?;
        }
        let labels = tensors.tensor("labels").ok().map(|tensor| integers("labels", &tensor)).transpose()?;
        if let Some(labels) = &labels {
            check_length("labels", labels.len(), plain.norms.len()).map_err(|error| error.to_string())?;
        }
        Ok(Self { plain, flipped, labels })
    }

    /// Writes a file, in F32.
    ///
    /// # Errors
    /// [`EvalError::File`] or [`EvalError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), EvalError> {
        let mut parts: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut add = |names: [&'static str; 2], normed: &Normed| {
            let shape = vec![normed.embeddings.len(), normed.embeddings.dim()];
            parts.push((names[0], Dtype::F32, shape, floats(normed.embeddings.values())));
            parts.push((names[1], Dtype::F32, vec![normed.norms.len()], floats(&normed.norms)));
        };
        add(["embeddings", "norms"], &self.plain);
        if let Some(flipped) = &self.flipped {
            add(["flipped_embeddings", "flipped_norms"], flipped);
        }
        if let Some(labels) = &self.labels {
            let bytes = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
            parts.push(("labels", Dtype::I64, vec![labels.len()], bytes));
        }
        let views: Result<HashMap<&str, TensorView<'_>>, _> = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect();
        let written = views.and_then(|views| safetensors::serialize(views, None));
        let bytes = written.map_err(|error: safetensors::SafeTensorError| EvalError::file(path, error))?;
        std::fs::write(path, bytes).map_err(EvalError::io(path, "a folder for the file"))
    }

    /// What is odd about the numbers, which are taken as they are: embeddings that are not of length 1 (to 0.01, which half
    /// precision keeps), and norms below 0.
    pub fn oddities(&self) -> Vec<String> {
        let flipped = self.flipped.as_ref().map(|of| ("flipped_embeddings", "flipped_norms", of));
        let both = [Some(("embeddings", "norms", &self.plain)), flipped];
        let mut found = Vec::new();
        for (embeddings, norms, normed) in both.into_iter().flatten() {
            let lengths = normed.embeddings.iter().map(|row| {
                let squares = row.iter().map(|value| f64::from(*value) * f64::from(*value));
                squares.sum::<f64>().sqrt()
            });
            let lengths: Vec<f64> = lengths.collect();
            // Some write zeros for images without a face: these are as like to everybody.
            if let Some(row) = lengths.iter().position(|length| *length == 0.0) {
                let count = lengths.iter().filter(|length| **length == 0.0).count();
                found.push(format!("{embeddings} has {count} rows of zeros, the first is row {row}"));
            }
            let odd = |length: &f64| *length != 0.0 && (length - 1.0).abs() > 0.01;
            if let Some((row, length)) = lengths.iter().enumerate().find(|(_, length)| odd(length)) {
                found.push(format!("{embeddings} are no unit vectors (row {row} has length {length:.4})"));
            }
            if let Some((row, norm)) = normed.norms.iter().enumerate().find(|(_, norm)| **norm < 0.0) {
                found.push(format!("{norms} has values below 0 (row {row}: {norm})"));
            }
        }
        found
    }

    /// The raw features ê·n of the images themselves, of which templates of IJB-S are made.
    ///
    /// # Errors
    /// As [`Normed::raw`].
    pub fn raw(&self) -> Result<Rows<f32>, EvalError> {
        self.plain.raw()
    }

    /// Unit vectors, fused with those of the mirror images where they are there.
    ///
    /// # Errors
    /// As [`FlipFusion::fuse`].
    pub fn unit(self) -> Result<Rows<f32>, EvalError> {
        match self.flipped {
            Some(flipped) => Ok(FlipFusion::PreNormVectorAdd.fuse(&self.plain, &flipped)?.embeddings),
            None => Ok(self.plain.embeddings),
        }
    }

    /// What templates of IJB-B and IJB-C are made of. Features without mirror images are taken as fused already.
    ///
    /// # Errors
    /// [`EvalError::None`] where [`FlipFusion::Concat`] lacks the mirror images, and as [`FlipFusion::fuse`].
    pub fn fused(self, fusion: FlipFusion) -> Result<Rows<f32>, EvalError> {
        match self.flipped {
            Some(flipped) => fusion.template_input(fusion.fuse(&self.plain, &flipped)?),
            None if fusion == FlipFusion::Concat => Err(EvalError::None("features of mirror images to append")),
            None => fusion.template_input(self.plain),
        }
    }
}

fn normed(tensors: &SafeTensors<'_>, embeddings: &str, norms: &str) -> Result<Option<Normed>, String> {
    let Ok(tensor) = tensors.tensor(embeddings) else { return Ok(None) };
    let &[count, dim] = tensor.shape() else {
        return Err(format!("{embeddings} has shape {:?}, it should be (images, values)", tensor.shape()));
    };
    if dim == 0 {
        return Err(format!("{embeddings} has rows of no values"));
    }
    let rows = Rows::new("embedding", dim, floats(embeddings, &tensor)?).map_err(|error| error.to_string())?;
    let norms = match tensors.tensor(norms) {
        Ok(tensor) => match tensor.shape() {
            [_] | [_, 1] => floats(norms, &tensor)?,
            shape => return Err(format!("{norms} has shape {shape:?}, it should be (images)")),
        },
        Err(_) => vec![1.0; count],
    };
    Ok(Some(Normed::new(rows, norms).map_err(|error| error.to_string())?))
}

fn floats(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => return Err(format!("{name} is of type {other:?}, it should be F32")),
    })
}

fn integers(name: &str, tensor: &TensorView<'_>) -> Result<Vec<i64>, String> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::I64 => data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        other => return Err(format!("{name} is of type {other:?}, it should be I64")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(flipped: bool) -> Features {
        let normed = |sign: f32| {
            let rows = Rows::new("row", 2, vec![0.6, 0.8 * sign, 1.0, 0.0]).unwrap();
            Normed::new(rows, vec![20.0, 10.0]).unwrap()
        };
        Features { plain: normed(1.0), flipped: flipped.then(|| normed(-1.0)), labels: Some(vec![7, -100]) }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        for flipped in [false, true] {
            features(flipped).write(&path).unwrap();
            assert_eq!(Features::read(&path).unwrap(), features(flipped));
        }
        let missing = Features::read(&folder.path().join("none")).unwrap_err();
        assert!(matches!(missing, EvalError::Missing { .. }), "{missing}");
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            assert!(Features::parse(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn fusion_needs_mirror_images_only_to_append_them() {
        let rows = features(false).fused(FlipFusion::PreNormVectorAdd).unwrap();
        assert_eq!(rows.row(0), [12.0, 16.0]);
        assert_eq!(features(false).fused(FlipFusion::Average).unwrap().row(0), [0.6, 0.8]);
        assert!(matches!(features(false).fused(FlipFusion::Concat), Err(EvalError::None(_))));
        assert_eq!(features(true).fused(FlipFusion::PreNormVectorAdd).unwrap().row(0), [24.0, 0.0]);
        assert_eq!(features(true).fused(FlipFusion::Concat).unwrap().dim(), 4);
    }

    #[test]
    fn odd_numbers_are_told() {
        assert!(features(true).oddities().is_empty());
        let mut odd = features(true);
        let rows = Rows::new("row", 2, vec![0.0, 0.0, 6.0, 8.0]).unwrap();
        odd.flipped = Some(Normed::new(rows, vec![3.0, -2.5]).unwrap());
        assert_eq!(
            odd.oddities(),
            [
                "flipped_embeddings has 1 rows of zeros, the first is row 0",
                "flipped_embeddings are no unit vectors (row 1 has length 10.0000)",
                "flipped_norms has values below 0 (row 1: -2.5)"
            ]
        );
    }

    #[test]
    fn wrong_tensors_are_named() {
        let parse = |name: &str, dtype, shape: &[usize], bytes: &[u8]| {
            let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
            Features::parse(&safetensors::serialize([(name, view)], None).unwrap()).unwrap_err()
        };
        assert!(parse("x", Dtype::F32, &[1, 1], &[0; 4]).contains("no tensor named embeddings"));
        assert!(parse("embeddings", Dtype::F32, &[1], &[0; 4]).contains("shape"));
        assert!(parse("embeddings", Dtype::F32, &[3, 0], &[]).contains("no values"));
        assert!(parse("embeddings", Dtype::I8, &[1, 1], &[0; 1]).contains("type"));
        assert!(parse("embeddings", Dtype::F32, &[1, 1], &f32::NAN.to_le_bytes()).contains("not finite"));
    }
}
