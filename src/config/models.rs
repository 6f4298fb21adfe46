//! Where models are kept.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Settings;

/// The environment variable that names the folder.
pub const MODELS_DIR_VARIABLE: &str = "VULTUS_MODELS_DIR";
/// Name of the folder where no other is given.
const FOLDER: &str = "models";

/// Where models are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSettings {
    /// The folder. Unset: `models` beside the data directory, or in the user's data folder where that cannot be made.
    pub dir: Option<PathBuf>,
}

impl Settings {
    /// The folder of models: `VULTUS_MODELS_DIR`, the setting `models.dir`, or the first place of the two that is
    /// there. Where neither is, it is the one beside the data directory, unless `make` is set and it cannot be made.
    pub fn models_dir(&self, make: bool) -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(folder) = variable(MODELS_DIR_VARIABLE).or_else(|| self.models.dir.clone()) {
            return folder;
        }
        let user = variable("XDG_DATA_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(std::env::home_dir()?.join(".local/share")))
            .map(|folder| folder.join("vultus").join(FOLDER));
        usual(&self.server.data_dir, user, make)
    }
}

fn usual(data_dir: &Path, user: Option<PathBuf>, make: bool) -> PathBuf {
    let beside = data_dir.parent().unwrap_or(Path::new("")).join(FOLDER);
    match user {
        Some(user) if !beside.is_dir() && user.is_dir() => user,
        Some(user) if make && !beside.is_dir() && std::fs::create_dir_all(&beside).is_err() => user,
        _ => beside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_is_there_or_can_be_made_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (data, user) = (folder.path().join("data"), folder.path().join("home/vultus/models"));
        let beside = folder.path().join("models");
        assert_eq!(usual(&data, Some(user.clone()), false), beside);
        assert!(!beside.exists());
        std::fs::create_dir_all(&user).unwrap();
        assert_eq!(usual(&data, Some(user.clone()), false), user);
        std::fs::create_dir(&beside).unwrap();
        assert_eq!(usual(&data, Some(user.clone()), true), beside);
        assert_eq!(usual(Path::new("data"), None, false), Path::new("models"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::remove_dir(&user).unwrap();
        assert_eq!(usual(&file.join("data"), Some(user.clone()), true), user);
    }
}
