//! Which colour order an imported network wants: who says so, in the order in which they are believed.
//!
//! The operator; the manifest of a file of our own; a file that came with the weights (`describe`); the kind of
//! checkpoint, where all of a kind are trained with one order. AdaFace trains with blue first, CVLFace with either,
//! InsightFace with red first. Where a wrong guess is likely, there is none.

use std::path::Path;

use super::checkpoint::{Checkpoint, Writer};
use super::layout::Layout;
use super::{ImportError, Options, describe};
use crate::model::manifest::{ColorSource, Input};
use crate::model::{Architecture, Color, Manifest};

/// Colour order and scale, and how they were decided.
pub(super) fn input(
    file: &Path,
    checkpoint: &Checkpoint,
    layout: &Layout,
    own: Option<&Manifest>,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<Input, ImportError> {
    let usual = own.map_or_else(|| layout.architecture.default_input(), |own| own.input);
    let with = |color, source| Ok(Input { color, color_source: Some(source), ..usual });
    let beside = describe::color_beside(file)?;
    if let Some(color) = options.color {
        if let Some((other, path)) = beside.filter(|(other, _)| *other != color) {
            let path = path.display();
            warnings.push(format!("the colour order {} was asked for, but {path} says {}", name(color), name(other)));
        }
        return with(color, ColorSource::Operator);
    }
    if let Some(own) = own {
        return Ok(own.input);
    }
    if let Some((color, _)) = beside {
        return with(color, ColorSource::Config);
    }
    let (color, source) =
        usual_color(layout.architecture, layout.prefix, checkpoint.writer).map_err(ImportError::UnknownColor)?;
    if source == ColorSource::Assumed {
        warnings.push(
            "nothing says which colour order the network wants; bgr is assumed, as AdaFace trains (InsightFace's \
             networks want --color rgb)"
                .into(),
        );
    }
    with(color, source)
}

/// The colour order of files of a kind, or where it should be looked for.
pub(super) fn usual_color(
    architecture: Architecture,
    prefix: &str,
    writer: Writer,
) -> Result<(Color, ColorSource), &'static str> {
    match (architecture, prefix, writer) {
        (Architecture::Mobilefacenet | Architecture::MobilefacenetY1, ..) => Ok((Color::Rgb, ColorSource::Layout)),
        (Architecture::VitBase | Architecture::VitBaseKprpe, ..) | (_, "net." | "model.net.", _) => {
            Err("CVLFace says it in the model.yaml that comes with the weights")
        }
        (_, "model.", Writer::Safetensors) => {
            Err("a file of this form can be CVLFace's (see its model.yaml) or AdaFace's (bgr)")
        }
        (_, "model.", _) => Ok((Color::Bgr, ColorSource::Layout)),
        _ => Ok((Color::Bgr, ColorSource::Assumed)),
    }
}

/// The name of a colour order.
pub(super) fn name(color: Color) -> &'static str {
    match color {
        Color::Rgb => "rgb",
        Color::Bgr => "bgr",
    }
}
