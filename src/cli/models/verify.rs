//! `vultus models verify`.

use std::io::Write;

use clap::Args;
use vultus_engine::model::import::{Verdict, verify};
use vultus_engine::model::{Registry, select_device};

use super::{color_name, warn};

/// Reads the weights of a model again, compares checksum, tensors and values, and runs it on drawn faces.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    device: String,
    /// Name or id of the model
    model: String,
}

impl Verify {
    pub(super) fn run(self, registry: &Registry) -> anyhow::Result<()> {
        let model = registry.find(&self.model)?;
        let verified = verify(&model, &select_device(&self.device)?)?;
        let check = verified.color_check;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&verified)?)?;
        } else {
            writeln!(
                out,
                "{}: SHA-256 and {} tensors as they should be; {} drawn faces embedded, mean norm {:.1}",
                verified.model_id, verified.tensors, verified.crops, verified.mean_norm
            )?;
        }
        let color = color_name(check.color);
        match check.verdict {
            Verdict::Agrees => {}
            Verdict::Unclear => warn(&format!("norms do not say whether the colour order {color} is right")),
            Verdict::OtherIsBetter => {
                let percent = -100.0 * check.mean;
                warn(&format!(
                    "the colour order {color} is probably wrong: norms are {percent:.1} % larger in the other"
                ));
            }
        }
        Ok(())
    }
}
