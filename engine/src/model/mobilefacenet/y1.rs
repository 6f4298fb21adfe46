//! The published form of MobileFaceNet y1, with batch normalisation apart, and its folding into the layer table.
//!
//! The published file names layers after the original graph (`res_3_block0_conv_dw.bn.gamma`). Batch normalisation
//! has eps 1e-3, except for the last, behind the linear layer, with 2e-5 and a scale fixed at 1: the file holds a
//! tensor `fc1_gamma` that the graph does not use.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use super::{Variant, steps};
use crate::kernel::conv::{Activation, ConvSpec};
use crate::model::weights::{WeightsError, check};

const EPS: f64 = 1e-3;
const LAST_EPS: f64 = 2e-5;
/// The linear layer's name in the layer table.
const HEAD: &str = "head";

/// Name in the published file of a layer of the table.
fn published(name: &str) -> String {
    let (block, part) = match name.rsplit_once('.') {
        Some((block, part)) => (block, part),
        None => {
            let name = match name {
                "conv1" => "conv_1",
                "dw1" => "conv_2_dw",
                "conv7" => "conv_6sep",
                "gdc" => "conv_6dw7_7",
                other => other,
            };
            return name.to_owned();
        }
    };
    let block = match block {
        "stage2.0" => "dconv_23".to_owned(),
        "stage3.0" => "dconv_34".to_owned(),
        "stage5.0" => "dconv_45".to_owned(),
        _ => {
            let (stage, index) = block.rsplit_once('.').unwrap_or((block, "0"));
            let index: usize = index.parse().unwrap_or_default();
            match stage {
                // The first of stage 2 has a name of its own.
                "stage2" => format!("res_3_block{}", index.saturating_sub(1)),
                "stage4" => format!("res_4_block{index}"),
                _ => format!("res_5_block{index}"),
            }
        }
    };
    let part = match part {
        "expand" => "conv_sep",
        "dw" => "conv_dw",
        _ => "conv_proj",
    };
    format!("{block}_{part}")
}

fn convolutions(dim: usize) -> impl Iterator<Item = ConvSpec> {
    steps(Variant::Y1, dim).into_iter().flat_map(|step| step.convolutions).filter(|spec| spec.name != HEAD)
}

/// Names and shapes of the tensors of the published file for an embedding of `dim` values.
pub fn source_tensors(dim: usize) -> Vec<(String, Vec<usize>)> {
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    for spec in convolutions(dim) {
        let name = published(&spec.name);
        tensors.push((format!("{name}.weight"), spec.weight_shape().to_vec()));
        for part in ["gamma", "beta", "moving_mean", "moving_var"] {
            tensors.push((format!("{name}.bn.{part}"), vec![spec.output]));
        }
        if spec.activation == Activation::PRelu {
            tensors.push((format!("{name}.prelu"), vec![spec.output]));
        }
    }
    tensors.push(("fc1_weight".into(), vec![dim, 512]));
    for part in ["pre_fc1_bias", "fc1_beta", "fc1_gamma", "fc1_moving_mean", "fc1_moving_var"] {
        tensors.push((part.into(), vec![dim]));
    }
    tensors
}

/// The tensors of [`crate::model::Architecture::MobilefacenetY1`] from those of the published file. Names, shapes and
/// values are checked first; the length of the embedding is that of `fc1_weight`.
pub fn fold(tensors: HashMap<String, Tensor>) -> std::result::Result<HashMap<String, Tensor>, WeightsError> {
    let dim = match tensors.get("fc1_weight").map(Tensor::dims) {
        Some([dim, _]) => *dim,
        _ => 128,
    };
    let tensors = check(tensors, &source_tensors(dim), &Device::Cpu)?;
    folded(&tensors, dim).map_err(WeightsError::Unreadable)
}

fn folded(tensors: &HashMap<String, Tensor>, dim: usize) -> Result<HashMap<String, Tensor>> {
    let get = |name: &str| match tensors.get(name) {
        // Folding in double precision leaves nothing but the rounding of the result.
        Some(tensor) => tensor.to_dtype(DType::F64),
        None => candle_core::bail!("{name} is missing"),
    };
    let mut result = HashMap::new();
    let mut put = |name: String, value: Tensor| result.insert(name, value);
    for spec in convolutions(dim) {
        let name = published(&spec.name);
        let part = |part: &str| get(&format!("{name}.{part}"));
        let scale = (part("bn.gamma")? / (part("bn.moving_var")? + EPS)?.sqrt()?)?;
        let weight = part("weight")?.broadcast_mul(&scale.reshape((spec.output, 1, 1, 1))?)?;
        let bias = (part("bn.beta")? - (part("bn.moving_mean")? * scale)?)?;
        put(format!("{}.weight", spec.name), weight.to_dtype(DType::F32)?);
        put(format!("{}.bias", spec.name), bias.to_dtype(DType::F32)?);
        if spec.activation == Activation::PRelu {
            put(format!("{}.prelu.weight", spec.name), part("prelu")?.to_dtype(DType::F32)?);
        }
    }
    let scale = (get("fc1_moving_var")? + LAST_EPS)?.sqrt()?.recip()?;
    let weight = get("fc1_weight")?.broadcast_mul(&scale.reshape((dim, 1))?)?;
    let bias = (((get("pre_fc1_bias")? - get("fc1_moving_mean")?)? * scale)? + get("fc1_beta")?)?;
    put(format!("{HEAD}.weight"), weight.reshape((dim, 512, 1, 1))?.to_dtype(DType::F32)?);
    put(format!("{HEAD}.bias"), bias.to_dtype(DType::F32)?);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::safetensors::load;
    use candle_nn::VarBuilder;

    use super::*;
    use crate::kernel::conv::Arithmetic;
    use crate::model::mobilefacenet::{MobileFaceNet, tensors};
    use crate::model::{Backbone, Batch};

    #[test]
    fn folded_tensors_are_those_of_the_table() {
        let source = source_tensors(128).into_iter().map(|(name, shape)| {
            let tensor = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
            (name, tensor)
        });
        let mut source: HashMap<_, _> = source.collect();
        assert_eq!(source.len(), 284);
        let folded = fold(source.clone()).unwrap();
        assert!(check(folded, &tensors(Variant::Y1, 128), &Device::Cpu).is_ok());
        let removed = source.remove("res_5_block1_conv_proj.bn.gamma").unwrap();
        assert!(
            matches!(fold(source.clone()), Err(WeightsError::Missing(names)) if names == ["res_5_block1_conv_proj.bn.gamma"])
        );
        source.insert("res_5_block1_conv_proj.bn.gamma".into(), removed.narrow(0, 0, 3).unwrap());
        assert!(matches!(fold(source), Err(WeightsError::Misshaped { .. })));
        assert!(matches!(fold(HashMap::new()), Err(WeightsError::Missing(_))));
    }

    #[test]
    fn features_agree_with_the_published_network() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let weights = shared.join("models/mobilefacenet_y1.safetensors");
        if !weights.exists() {
            return eprintln!("skipped: {} is missing", weights.display());
        }
        let device = Device::Cpu;
        let folder = shared.join("golden/models");
        let golden = load(folder.join("mobilefacenet_y1/golden.safetensors"), &device).unwrap();
        let pixels = &load(folder.join("mobilefacenet_tf/golden.safetensors"), &device).unwrap()["images_u8_nhwc"];
        let folded = fold(load(weights, &device).unwrap()).unwrap();
        let vb = VarBuilder::from_tensors(folded, DType::F32, &device);
        for (arithmetic, count) in [(Arithmetic::Kernels, 24), (Arithmetic::Stock, 2)] {
            let pixels = pixels.narrow(0, 0, count).unwrap().permute((0, 3, 1, 2)).unwrap();
            let pixels = pixels.to_dtype(DType::F32).unwrap().affine(1.0 / 128.0, -127.5 / 128.0).unwrap();
            let network = MobileFaceNet::new(Variant::Y1, 128, &vb, &device, arithmetic).unwrap();
            let found = network.forward(&Batch { pixels, landmarks: None }).unwrap();
            let expected = golden["embedding_raw"].narrow(0, 0, count).unwrap();
            let worst = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            println!("{arithmetic:?}: {worst:.2e}");
            assert!(worst < 1e-4);
        }
    }
}
