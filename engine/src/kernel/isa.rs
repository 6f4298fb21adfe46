//! Which instructions the kernels use.

use std::str::FromStr;
use std::sync::OnceLock;

/// Environment variable that names the instruction set to use, or [`STOCK`], for tests and comparisons.
pub const VARIABLE: &str = "VULTUS_KERNELS";
/// Candle's own operations instead of the kernels.
pub const STOCK: &str = "stock";

/// An instruction set, the widest first. A value other than `Portable` says that the machine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// AVX-512 with products of bf16 pairs.
    Avx512Bf16,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What every machine has.
    Portable,
}

impl Isa {
    /// All that the machine has, the best first; the last is `Portable`.
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(detect)
    }

    /// The one to use: what [`VARIABLE`] names where the machine has it, else the best. `None` says that candle's own
    /// operations are the better choice: because the processor has no AVX2, or because the variable is `stock`.
    pub fn preferred() -> Option<Self> {
        static PREFERRED: OnceLock<Option<Isa>> = OnceLock::new();
        *PREFERRED.get_or_init(|| {
            asked().unwrap_or_else(|reason| {
                tracing::warn!("{reason}");
                best()
            })
        })
    }

    /// What is wrong with [`VARIABLE`], for programs that would rather not start than compute otherwise than they were told.
    ///
    /// # Errors
    /// A sentence, where it names nothing or nothing that this machine has.
    pub fn check_variable() -> Result<(), String> {
        asked().map(drop)
    }

    /// As [`Isa::preferred`], for networks that run on the kernels whatever is faster.
    pub fn current() -> Self {
        Self::preferred().unwrap_or(Self::available()[0])
    }

    /// As [`VARIABLE`] spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// The best of the machine's; `None` for candle's own operations.
fn best() -> Option<Isa> {
    Some(Isa::available()[0]).filter(|isa| *isa != Isa::Portable)
}

/// What [`VARIABLE`] asks for, the best where it asks for nothing; else what is wrong with it.
fn asked() -> Result<Option<Isa>, String> {
    let name = std::env::var_os(VARIABLE).unwrap_or_default();
    let name = name.to_string_lossy();
    match name.parse::<Isa>() {
        _ if name.is_empty() => Ok(best()),
        _ if name == STOCK => Ok(None),
        Ok(isa) if Isa::available().contains(&isa) => Ok(Some(isa)),
        Ok(_) => Err(format!("this machine has no {name}, which {VARIABLE} asks for")),
        Err(UnknownIsa) => Err(format!("{VARIABLE} is avx512bf16, avx512, avx2, portable or stock, not {name:?}")),
    }
}

/// No such instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such instruction set")]
pub struct UnknownIsa;

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        let all = [Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];
        all.into_iter().find(|isa| isa.name() == name).ok_or(UnknownIsa)
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<Isa> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    let all = [(bf16, Isa::Avx512Bf16), (avx512, Isa::Avx512), (avx2, Isa::Avx2), (true, Isa::Portable)];
    all.into_iter().filter_map(|(has, isa)| has.then_some(isa)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Vec<Isa> {
    vec![Isa::Portable]
}
