//! What is published where.

use vultus_engine::model::Architecture;

/// The hub.
pub(super) const ENDPOINT: &str = "https://huggingface.co";
/// What stands before a name in the id of its repository.
const PREFIX: &str = "minchul/cvlface_";

/// The AdaFace models of CVLFace: name and network.
const MODELS: [(&str, Architecture); 13] = [
    ("adaface_ir18_casia", Architecture::Ir18),
    ("adaface_ir18_vgg2", Architecture::Ir18),
    ("adaface_ir18_webface4m", Architecture::Ir18),
    ("adaface_ir50_casia", Architecture::Ir50),
    ("adaface_ir50_ms1mv2", Architecture::Ir50),
    ("adaface_ir50_webface4m", Architecture::Ir50),
    ("adaface_ir101_ms1mv2", Architecture::Ir101),
    ("adaface_ir101_ms1mv3", Architecture::Ir101),
    ("adaface_ir101_webface4m", Architecture::Ir101),
    ("adaface_ir101_webface12m", Architecture::Ir101),
    ("adaface_vit_base_webface4m", Architecture::VitBase),
    ("adaface_vit_base_kprpe_webface4m", Architecture::VitBaseKprpe),
    ("adaface_vit_base_kprpe_webface12m", Architecture::VitBaseKprpe),
];

/// A repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    /// OWNER/NAME.
    pub(super) id: String,
    /// The network, for a model of the list.
    pub(super) architecture: Option<Architecture>,
}

impl Published {
    /// The name it is installed under.
    pub(super) fn name(&self) -> String {
        let name = self.id.strip_prefix(PREFIX).or_else(|| self.id.rsplit('/').next()).unwrap_or(&self.id);
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '_' };
        name.chars().map(allowed).take(64).collect()
    }
}

/// A name that is neither one of the list nor a repository's id.
#[derive(Debug, thiserror::Error)]
#[error("there is no published model {wanted:?}; the names are {}; or give the id of a repository, OWNER/NAME", names().join(", "))]
pub(super) struct Unknown {
    wanted: String,
}

/// Finds a model by its name, with or without `cvlface_`, or by the id of its repository.
pub(super) fn find(wanted: &str) -> Result<Published, Unknown> {
    let name = wanted.strip_prefix(PREFIX).or_else(|| wanted.strip_prefix("cvlface_")).unwrap_or(wanted);
    if let Some((name, architecture)) = MODELS.iter().find(|(known, _)| *known == name) {
        return Ok(Published { id: format!("{PREFIX}{name}"), architecture: Some(*architecture) });
    }
    let part = |part: &str| {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
    };
    match wanted.split_once('/') {
        Some((owner, name)) if part(owner) && part(name) && wanted.len() <= 128 => {
            Ok(Published { id: wanted.to_owned(), architecture: None })
        }
        _ => Err(Unknown { wanted: wanted.to_owned() }),
    }
}

fn names() -> Vec<&'static str> {
    MODELS.iter().map(|(name, _)| *name).collect()
}

/// The list of names, for the command's help.
pub(super) fn help() -> String {
    format!("Published names:\n  {}", names().join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_go_by_name_and_by_repository() {
        for wanted in ["adaface_ir50_ms1mv2", "cvlface_adaface_ir50_ms1mv2", "minchul/cvlface_adaface_ir50_ms1mv2"] {
            let found = find(wanted).unwrap();
            assert_eq!(found.id, "minchul/cvlface_adaface_ir50_ms1mv2");
            assert_eq!((found.architecture, found.name().as_str()), (Some(Architecture::Ir50), "adaface_ir50_ms1mv2"));
        }
        let other = find("Some.One/My.Model").unwrap();
        assert_eq!((other.architecture, other.name().as_str()), (None, "my_model"));
        for wrong in ["", "nothing", "a/b/c", "../x", "a/..", "a/b?c", "/x"] {
            assert!(find(wrong).is_err(), "{wrong}");
        }
        assert!(find("x").unwrap_err().to_string().contains("adaface_vit_base_kprpe_webface12m"));
    }
}
