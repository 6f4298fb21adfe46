//! How a model is used: what changes its embeddings beside weights and input, and therefore stands in its id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const FLIP: &str = "+flip";
const BF16: &str = "+bf16";

/// What a network's products are made of. Sums are f32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// 8 significant bits: about twice as fast where the machine multiplies pairs of them. Embeddings differ from those in
    /// f32 by a cosine of some 1e-5, and the two are kept apart like any two models.
    Bf16,
}

impl Precision {
    /// As settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No such precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the precisions are f32 and bf16")]
pub struct UnknownPrecision;

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        [Self::F32, Self::Bf16].into_iter().find(|precision| precision.name() == name).ok_or(UnknownPrecision)
    }
}

/// How a model is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// Whether the raw features of a crop and of its mirror image are added.
    pub flip: bool,
    /// Precision of the network.
    pub precision: Precision,
}

/// With or without flip fusion, in f32.
impl From<bool> for Form {
    fn from(flip: bool) -> Self {
        Self { flip, precision: Precision::F32 }
    }
}

impl Form {
    /// The suffixes of a model id.
    pub(super) fn suffix(self) -> String {
        let bf16 = if self.precision == Precision::Bf16 { BF16 } else { "" };
        let flip = if self.flip { FLIP } else { "" };
        format!("{bf16}{flip}")
    }

    /// Divides a model id into what stands before those suffixes, and the form that they say.
    pub fn split(id: &str) -> (&str, Self) {
        let (rest, flip) = id.strip_suffix(FLIP).map_or((id, false), |rest| (rest, true));
        let (rest, bf16) = rest.strip_suffix(BF16).map_or((rest, false), |rest| (rest, true));
        (rest, Self { flip, precision: if bf16 { Precision::Bf16 } else { Precision::F32 } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_form() {
        for flip in [false, true] {
            for precision in [Precision::F32, Precision::Bf16] {
                let form = Form { flip, precision };
                assert_eq!(Form::split(&format!("amy-17d5+rgb{}", form.suffix())), ("amy-17d5+rgb", form));
            }
        }
        assert_eq!(Form { flip: true, precision: Precision::Bf16 }.suffix(), "+bf16+flip");
        assert_eq!(Form::split("+flip+bf16").0, "+flip");
        assert_eq!("bf16".parse(), Ok(Precision::Bf16));
        assert!("f16".parse::<Precision>().is_err());
    }
}
