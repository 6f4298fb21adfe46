//! The networks that can be loaded, by name: their tensors, what they want to see and what they give.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::form::Precision;
use super::manifest::{Color, Input};
use super::{ir, mobilefacenet, vit};

/// Network architectures. The text form is the `architecture` of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Architecture {
    /// MobileFaceNet with batch normalisation folded.
    Mobilefacenet,
    /// The y1 variant of MobileFaceNet, with batch normalisation folded ([`mobilefacenet::y1`]).
    MobilefacenetY1,
    /// Improved residual network of 18 layers, basic units.
    Ir18,
    /// As [`Architecture::Ir18`] with 34 layers.
    Ir34,
    /// As [`Architecture::Ir18`] with 50 layers.
    Ir50,
    /// As [`Architecture::Ir18`] with 100 layers, which is published as 101.
    Ir101,
    /// Improved residual network of 152 layers, bottleneck units.
    Ir152,
    /// As [`Architecture::Ir152`] with 200 layers.
    Ir200,
    /// [`Architecture::Ir50`] with squeeze and excitation.
    IrSe50,
    /// [`Architecture::Ir101`] with squeeze and excitation.
    IrSe101,
    /// Vision transformer of dimension 512, 24 blocks, 16 heads, patches of 8 pixels.
    VitBase,
    /// [`Architecture::VitBase`] with position encoding relative to landmarks.
    VitBaseKprpe,
}

/// A name that is not one of [`Architecture::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no architecture {0:?}: there are {names}", names = Architecture::ALL.map(Architecture::name).join(", "))]
pub struct UnknownArchitecture(pub String);

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Mobilefacenet,
        Self::MobilefacenetY1,
        Self::Ir18,
        Self::Ir34,
        Self::Ir50,
        Self::Ir101,
        Self::Ir152,
        Self::Ir200,
        Self::IrSe50,
        Self::IrSe101,
        Self::VitBase,
        Self::VitBaseKprpe,
    ];

    /// The name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mobilefacenet => "mobilefacenet",
            Self::MobilefacenetY1 => "mobilefacenet_y1",
            Self::Ir18 => "ir_18",
            Self::Ir34 => "ir_34",
            Self::Ir50 => "ir_50",
            Self::Ir101 => "ir_101",
            Self::Ir152 => "ir_152",
            Self::Ir200 => "ir_200",
            Self::IrSe50 => "ir_se_50",
            Self::IrSe101 => "ir_se_101",
            Self::VitBase => "vit_base",
            Self::VitBaseKprpe => "vit_base_kprpe",
        }
    }

    /// Names and shapes of the tensors of a weights file for an embedding of `dim` values, in the order in which
    /// PyTorch registers them: the keys of the published state dictionaries, without `num_batches_tracked`, which no
    /// forward pass reads. Those of the MobileFaceNets are folded and follow our own layer table.
    pub fn tensors(self, dim: usize) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Mobilefacenet => mobilefacenet::tensors(mobilefacenet::Variant::Tf, dim),
            Self::MobilefacenetY1 => mobilefacenet::tensors(mobilefacenet::Variant::Y1, dim),
            Self::VitBase => vit::tensors(false, dim),
            Self::VitBaseKprpe => vit::tensors(true, dim),
            _ => self.ir().map(|design| ir::tensors(design, dim)).unwrap_or_default(),
        }
    }

    /// Whether the network runs in a precision: all in f32, those of the improved residual family in bf16 too.
    pub fn has(self, precision: Precision) -> bool {
        precision == Precision::F32 || self.ir().is_some()
    }

    /// The design of an improved residual network.
    pub const fn ir(self) -> Option<ir::Design> {
        match self {
            Self::Ir18 => Some(ir::Design::basic([2, 2, 2, 2])),
            Self::Ir34 => Some(ir::Design::basic([3, 4, 6, 3])),
            Self::Ir50 => Some(ir::Design::basic([3, 4, 14, 3])),
            Self::Ir101 => Some(ir::Design::basic([3, 13, 30, 3])),
            Self::Ir152 => Some(ir::Design::bottleneck([3, 8, 36, 3])),
            Self::Ir200 => Some(ir::Design::bottleneck([3, 24, 36, 3])),
            Self::IrSe50 => Some(ir::Design::basic([3, 4, 14, 3]).squeezed()),
            Self::IrSe101 => Some(ir::Design::basic([3, 13, 30, 3]).squeezed()),
            _ => None,
        }
    }

    /// What the published weights were trained to see. A file of other weights may differ in the colour order, so an
    /// importer that knows better says so in the manifest.
    pub const fn default_input(self) -> Input {
        // Bytes to -1..1; the MobileFaceNets divide by 128 instead of 127.5.
        let (color, scale) = match self {
            Self::Mobilefacenet | Self::MobilefacenetY1 => (Color::Rgb, 1.0 / 128.0),
            Self::VitBase | Self::VitBaseKprpe => (Color::Rgb, 1.0 / 127.5),
            _ => (Color::Bgr, 1.0 / 127.5),
        };
        Input { size: crate::align::SIZE, color, color_source: None, mean: 127.5, scale }
    }

    /// Length of the embedding of the published weights.
    pub const fn default_dim(self) -> usize {
        match self {
            Self::Mobilefacenet => 192,
            Self::MobilefacenetY1 => 128,
            _ => 512,
        }
    }

    /// Whether the network looks at the landmarks of a crop too ([`super::Batch::landmarks`]).
    pub const fn needs_landmarks(self) -> bool {
        matches!(self, Self::VitBaseKprpe)
    }

    /// Whether the network has a style for set fusion ([`super::Backbone::forward_with_style`]).
    pub fn has_style(self) -> bool {
        self.ir().is_some_and(|design| design.style_units().is_some())
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| UnknownArchitecture(name.to_owned()))
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Architecture> for &'static str {
    fn from(architecture: Architecture) -> Self {
        architecture.name()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.to_string().parse(), Ok(architecture));
            let json = serde_json::to_string(&architecture).unwrap();
            assert_eq!(json, format!("\"{architecture}\""));
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        }
        assert_eq!("ir_19".parse::<Architecture>(), Err(UnknownArchitecture("ir_19".into())));
        assert!(serde_json::from_str::<Architecture>("\"Ir18\"").is_err());
    }

    #[test]
    fn every_network_has_the_published_number_of_tensors_and_values() {
        for (architecture, tensors, values) in [
            (Architecture::Mobilefacenet, 137, 1_292_992),
            (Architecture::MobilefacenetY1, 133, 993_344),
            (Architecture::Ir18, 149, 24_020_352 + 14_592),
            (Architecture::Ir34, 269, 34_134_080 + 25_728),
            (Architecture::Ir50, 389, 43_585_600 + 38_016),
            (Architecture::Ir101, 764, 65_150_912 + 69_504),
            (Architecture::Ir152, 1084, 109_636_736 + 248_320),
            (Architecture::Ir200, 1420, 114_138_240 + 289_280),
            (Architecture::IrSe50, 437, 43_808_320 + 38_016),
            (Architecture::IrSe101, 862, 65_523_136 + 69_504),
            (Architecture::VitBase, 279, 115_076_736 - 18_816 * 11 + 2_048),
            (Architecture::VitBaseKprpe, 281, 115_076_736 + 2_048),
        ] {
            let found = architecture.tensors(architecture.default_dim());
            let count: usize = found.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!((found.len(), count), (tensors, values), "{architecture}");
            let names: std::collections::HashSet<_> = found.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), found.len(), "{architecture}");
        }
    }

    #[test]
    fn tensors_are_those_of_the_published_state_dictionaries() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
        if !folder.exists() {
            return eprintln!("skipped: {} is missing", folder.display());
        }
        for architecture in Architecture::ALL {
            let file = match architecture {
                Architecture::Mobilefacenet | Architecture::MobilefacenetY1 => continue,
                Architecture::VitBase | Architecture::VitBaseKprpe => "keys_vit_kprpe.json".to_owned(),
                _ => format!("keys_{architecture}.json"),
            };
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            let mut expected: Vec<(String, Vec<usize>)> = serde_json::from_str(&text).unwrap();
            expected.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
            if architecture == Architecture::VitBase {
                expected.retain(|(name, _)| !name.starts_with("keypoint_linear"));
            }
            assert_eq!(architecture.tensors(512), expected, "{architecture}");
        }
    }
}
