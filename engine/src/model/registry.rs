//! The models that are at hand: the embedded one, and those in a folder.
//!
//! An installed model is two files of one name in the folder, `NAME.safetensors` and its manifest `NAME.json`. Looking
//! models up reads manifests only, so it stays cheap with weights of any size: what a manifest says of its weights is
//! verified when they are loaded. A network for set fusion lies beside as `NAME.caface.safetensors`; it is a part of its
//! model and not listed. A model is asked for by its name or by its model id, with or without `+flip`.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::{Form, Manifest, Model, ModelError, id_of};
use crate::ids::ModelId;

/// Extension of weights files.
pub const WEIGHTS_EXTENSION: &str = "safetensors";
/// Extension of manifests.
pub const MANIFEST_EXTENSION: &str = "json";
/// What stands before the extension in the name of a network for set fusion.
const AGGREGATOR_SUFFIX: &str = ".caface";
/// Most bytes of a manifest; a longer file is none.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Suffix of a model id under flip fusion.
/// Characters of the hash in a model id, with the hyphen before them.
const HASH_CHARACTERS: usize = 17;

/// Why a model cannot be found or listed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folder or a file in it cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A manifest that cannot be used.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ModelError,
    },
    /// A manifest that lies beside the weights of a model of another name.
    #[error("{}: the manifest is of a model named {name}; the file has to have that name", path.display())]
    Renamed {
        /// The manifest's file.
        path: PathBuf,
        /// The name in it.
        name: String,
    },
    /// No model of this name or id.
    #[error("there is no model {wanted} (known: {}; more are looked for in {})", known.join(", "), directory.display())]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// The ids of the models that are there.
        known: Vec<String>,
    },
    /// The model cannot be loaded.
    #[error("model {name} cannot be loaded: {source}")]
    Load {
        /// Its name.
        name: String,
        /// Why.
        source: ModelError,
    },
}

/// A model that is at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its id without flip fusion, in f32.
    pub model_id: ModelId,
    /// The weights file. `None` for the embedded model.
    pub path: Option<PathBuf>,
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes of its weights.
    pub bytes: u64,
    /// The file of its network for set fusion, where there is one.
    pub aggregator: Option<PathBuf>,
}

impl Installed {
    pub(crate) fn new(manifest: Manifest, path: Option<PathBuf>, bytes: u64) -> Self {
        let (name, model_id) = (manifest.name.clone(), id_of(&manifest, Form::default()));
        let aggregator = path.as_deref().map(aggregator_path).filter(|path| path.exists());
        Self { name, model_id, path, manifest, bytes, aggregator }
    }

    /// The id in a form.
    pub fn id(&self, form: impl Into<Form>) -> ModelId {
        id_of(&self.manifest, form.into())
    }

    /// Loads it, verifying checksum, names, shapes and values of its weights.
    pub fn load(&self, form: impl Into<Form>, device: &Device) -> Result<Model, RegistryError> {
        let loaded = match &self.path {
            Some(path) => Model::from_file(path, form, device),
            None => Model::embedded(form, device),
        };
        loaded.map_err(|source| RegistryError::Load { name: self.name.clone(), source })
    }
}

/// The embedded model and a folder of models.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

impl Registry {
    /// Over a folder, which need not be there.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the weights of a model of this name are or would be.
    pub fn weights_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{WEIGHTS_EXTENSION}"))
    }

    /// Every model: the embedded one, then those of the folder by name. A model that cannot be used is listed with the
    /// reason. Fails when the folder is there and cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Installed, RegistryError>>, RegistryError> {
        let mut models = vec![embedded()];
        let io = |source| RegistryError::Io { path: self.directory.clone(), source };
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(models),
            Err(error) => return Err(io(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == WEIGHTS_EXTENSION) && !is_aggregator(&path) {
                paths.push(path);
            }
        }
        paths.sort();
        models.extend(paths.into_iter().map(read));
        Ok(models)
    }

    /// The model of a name, or of a model id in any form.
    pub fn find(&self, wanted: &str) -> Result<Installed, RegistryError> {
        let (id, _) = Form::split(wanted);
        let embedded = embedded()?;
        if embedded.name == wanted || embedded.model_id.0 == id {
            return Ok(embedded);
        }
        if is_name(wanted) && self.weights_path(wanted).is_file() {
            return read(self.weights_path(wanted));
        }
        // Before the suffixes: the name and the start of the hash.
        let base = id.split('+').next().unwrap_or(id);
        let name = base.len().checked_sub(HASH_CHARACTERS).and_then(|end| base.get(..end)).filter(|name| is_name(name));
        if let Some(path) = name.map(|name| self.weights_path(name)).filter(|path| path.is_file()) {
            let model = read(path)?;
            if model.model_id.0 == id {
                return Ok(model);
            }
        }
        let known = self.list()?.into_iter().flatten().map(|model| model.model_id.0).collect();
        Err(RegistryError::NotFound { wanted: wanted.to_owned(), directory: self.directory.clone(), known })
    }

    /// Loads the model of a name in the given form, or the one of a model id in the form of that id.
    pub fn load(&self, wanted: &str, form: impl Into<Form>, device: &Device) -> Result<Model, RegistryError> {
        let model = self.find(wanted)?;
        let form = if model.name == wanted { form.into() } else { Form::split(wanted).1 };
        model.load(form, device)
    }
}

/// Where the network for set fusion of a model lies: beside its weights, `NAME.caface.safetensors`.
pub fn aggregator_path(weights: &Path) -> PathBuf {
    weights.with_extension(format!("{}.{WEIGHTS_EXTENSION}", &AGGREGATOR_SUFFIX[1..]))
}

fn is_aggregator(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.as_encoded_bytes().ends_with(AGGREGATOR_SUFFIX.as_bytes()))
}

/// The model that is compiled in.
fn embedded() -> Result<Installed, RegistryError> {
    let manifest = Manifest::parse(super::EMBEDDED_MANIFEST)
        .map_err(|source| RegistryError::Manifest { path: PathBuf::from("(embedded)"), source })?;
    Ok(Installed::new(manifest, None, super::EMBEDDED_WEIGHTS.len() as u64))
}

/// Reads the manifest beside a weights file.
fn read(weights: PathBuf) -> Result<Installed, RegistryError> {
    let path = weights.with_extension(MANIFEST_EXTENSION);
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| RegistryError::Io { path, source }
    };
    let bytes = std::fs::metadata(&weights).map_err(io(&weights))?.len();
    let too_long = std::fs::metadata(&path).map_err(io(&path))?.len() > MAX_MANIFEST_BYTES;
    let text = if too_long {
        Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "too long for a manifest"))
    } else {
        std::fs::read_to_string(&path)
    };
    let manifest = Manifest::parse(&text.map_err(io(&path))?)
        .map_err(|source| RegistryError::Manifest { path: path.clone(), source })?;
    if weights.file_stem().is_none_or(|stem| stem != manifest.name.as_str()) {
        return Err(RegistryError::Renamed { path, name: manifest.name });
    }
    Ok(Installed::new(manifest, Some(weights), bytes))
}

/// Whether a text can be a model's name, and so a file's.
pub fn is_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    // What ends like a model id would be taken for one.
    let hash =
        text.rsplit_once('-').is_some_and(|(_, end)| end.len() == 16 && end.bytes().all(|c| c.is_ascii_hexdigit()));
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with copies of the embedded model under other names.
    fn registry(names: &[&str]) -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("models"));
        std::fs::create_dir(registry.directory()).unwrap();
        for name in names {
            let manifest =
                super::super::EMBEDDED_MANIFEST.replace("\"name\": \"mobilefacenet\"", &format!("\"name\": {name:?}"));
            let path = registry.weights_path(name);
            std::fs::write(&path, super::super::EMBEDDED_WEIGHTS).unwrap();
            std::fs::write(path.with_extension(MANIFEST_EXTENSION), manifest).unwrap();
        }
        (folder, registry)
    }

    #[test]
    fn the_embedded_model_comes_first_and_the_rest_by_name() {
        let (_folder, registry) = registry(&["zoe", "amy"]);
        std::fs::write(registry.directory().join("readme.txt"), "").unwrap();
        let beside = aggregator_path(&registry.weights_path("zoe"));
        assert!(beside.ends_with("zoe.caface.safetensors"));
        std::fs::write(&beside, "a network for set fusion").unwrap();
        let models: Vec<Installed> = registry.list().unwrap().into_iter().map(Result::unwrap).collect();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["mobilefacenet", "amy", "zoe"]);
        assert!(models[0].path.is_none() && models[1].path.is_some());
        assert_eq!((models[1].aggregator.as_ref(), models[2].aggregator.as_ref()), (None, Some(&beside)));
        assert!(models.iter().all(|model| model.bytes == 5_184_360));
        assert_eq!(models[1].model_id.0, "amy-17d5763f9ac4054b");
        assert_eq!(models[1].id(true).0, "amy-17d5763f9ac4054b+flip");
        let nowhere = Registry::new(PathBuf::from("/nowhere/at/all"));
        assert_eq!(nowhere.list().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_used_is_listed_with_the_reason_and_spoils_nothing_else() {
        let (_folder, registry) = registry(&["amy", "bob", "cyd"]);
        std::fs::write(registry.directory().join("bob.json"), "{").unwrap();
        std::fs::rename(registry.weights_path("cyd"), registry.weights_path("dan")).unwrap();
        std::fs::copy(registry.directory().join("amy.json"), registry.directory().join("dan.json")).unwrap();
        std::fs::write(registry.weights_path("eve"), "no manifest").unwrap();
        let texts: Vec<String> = registry
            .list()
            .unwrap()
            .into_iter()
            .map(|model| model.map_or_else(|error| error.to_string(), |model| model.name))
            .collect();
        assert_eq!((texts.len(), texts[0].as_str(), texts[1].as_str()), (5, "mobilefacenet", "amy"));
        assert!(texts[2].contains("bob.json") && texts[2].contains("cannot be read"), "{}", texts[2]);
        assert!(texts[3].contains("a model named amy"), "{}", texts[3]);
        assert!(texts[4].contains("eve.json"), "{}", texts[4]);
    }

    #[test]
    fn models_go_by_name_and_by_id() {
        let (_folder, registry) = registry(&["amy"]);
        for wanted in ["amy", "amy-17d5763f9ac4054b", "amy-17d5763f9ac4054b+flip"] {
            assert_eq!(registry.find(wanted).unwrap().name, "amy");
        }
        assert!(registry.find("mobilefacenet-17d5763f9ac4054b+flip").unwrap().path.is_none());
        for wanted in ["bob", "amy-0000000000000000", "../amy", "amy+flip", "", "ü", "amy-17d5763f9ac4054ü"] {
            let error = registry.find(wanted).unwrap_err();
            assert!(matches!(error, RegistryError::NotFound { .. }), "{wanted}: {error}");
            assert!(error.to_string().contains("amy-17d5763f9ac4054b"));
        }
    }

    #[test]
    fn an_id_decides_on_flip_and_a_name_leaves_it_open() {
        let (_folder, registry) = registry(&["amy"]);
        let flip = |wanted: &str, flip| registry.load(wanted, flip, &Device::Cpu).unwrap().flip();
        assert!(flip("amy", true) && !flip("amy", false));
        assert!(flip("amy-17d5763f9ac4054b+flip", false) && !flip("amy-17d5763f9ac4054b", true));
        std::fs::write(registry.weights_path("amy"), "other weights").unwrap();
        let error = registry.load("amy", false, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
    }
}
