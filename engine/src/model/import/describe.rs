//! What comes with the weights: the YAML or JSON file in which CVLFace says which colour order a model wants.

use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use super::ImportError;
use crate::model::Color;

/// Most bytes of such a file.
const MAX_BYTES: u64 = 1 << 20;
/// Deepest nesting of such a file.
const MAX_DEPTH: usize = 64;

/// Where such a file may lie beside the weights. The last is that of the hub, which is JSON, and so YAML too.
const NAMES: &[&str] = &["model.yaml", "model.yml", "pretrained_model/model.yaml", "config.json"];

/// The colour order that a file beside the weights names, and that file. `None` where there is none.
pub(super) fn color_beside(weights: &Path) -> Result<Option<(Color, PathBuf)>, ImportError> {
    let folder = weights.parent().unwrap_or(Path::new(""));
    let own = ["yaml", "yml"].map(|extension| weights.with_extension(extension));
    for path in own.into_iter().chain(NAMES.iter().map(|name| folder.join(name))) {
        let length = match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => found.len(),
            _ => continue,
        };
        if length > MAX_BYTES {
            return Err(ImportError::Config { path, problem: "it is too long".to_owned() });
        }
        let text = std::fs::read_to_string(&path).map_err(ImportError::io(&path))?;
        match color(&text) {
            Ok(Some(color)) => return Ok(Some((color, path))),
            Ok(None) => {}
            Err(problem) => return Err(ImportError::Config { path, problem }),
        }
    }
    Ok(None)
}

/// The value of `color_space`, at whatever depth it stands. Aliases are not followed, so a file costs what its length
/// says.
pub(super) fn color(text: &str) -> Result<Option<Color>, String> {
    let mut found = None;
    // For each open mapping, whether a key comes next; a sequence has no keys.
    let mut open: Vec<Option<bool>> = Vec::new();
    let mut wanted = false;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| format!("it cannot be read: {error}"))?;
        let is_key = matches!(open.last(), Some(Some(true)));
        match &event {
            Event::Scalar(value, ..) if wanted && !is_key => {
                let color = match value.to_ascii_lowercase().as_str() {
                    "rgb" => Color::Rgb,
                    "bgr" => Color::Bgr,
                    _ => return Err(format!("color_space is {value:.32}, not RGB or BGR")),
                };
                if found.is_some_and(|other| other != color) {
                    return Err("color_space is named twice, and differs".to_owned());
                }
                found = Some(color);
            }
            _ if wanted && !is_key => return Err("color_space is no text".to_owned()),
            _ => {}
        }
        wanted = is_key && matches!(&event, Event::Scalar(value, ..) if value == "color_space");
        match event {
            Event::Scalar(..) | Event::Alias(..) => turn(&mut open),
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if open.len() >= MAX_DEPTH {
                    return Err("it is nested too deeply".to_owned());
                }
                open.push(matches!(event, Event::MappingStart(..)).then_some(true));
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                turn(&mut open);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// After a key comes a value, and the other way round.
fn turn(open: &mut [Option<bool>]) {
    if let Some(Some(key)) = open.last_mut() {
        *key = !*key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colour_order_is_found_at_any_depth() {
        let yaml =
            "input_size: [3, 112, 112]\ncolor_space: BGR # as trained\nname: ir50\nyaml:\n  - {a: color_space}\n";
        assert_eq!(color(yaml), Ok(Some(Color::Bgr)));
        assert_eq!(color(r#"{"conf": {"color_space": "RGB", "x": [1, {"y": null}]}}"#), Ok(Some(Color::Rgb)));
        assert_eq!(color("name: color_space\nother: RGB"), Ok(None));
        assert_eq!(color("[color_space, RGB]"), Ok(None));
        assert_eq!(color(""), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        assert!(color("color_space: HSV").unwrap_err().contains("HSV"));
        assert!(color("color_space: [RGB]").unwrap_err().contains("no text"));
        assert!(color("a: {color_space: RGB}\ncolor_space: BGR").unwrap_err().contains("twice"));
        assert!(color("a: [").unwrap_err().contains("cannot be read"));
        assert!(color(&"[".repeat(5000)).is_err());
        let bomb = "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c]";
        assert_eq!(color(bomb), Ok(None));
    }
}
