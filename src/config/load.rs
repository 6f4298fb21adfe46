//! Merges the layers and remembers where each value came from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, Source, Value, ValueKind};

use super::Settings;

/// The file read when no other is named.
const DEFAULT_FILE: &str = "vultus.toml";

/// A setting that a flag gives.
#[derive(Debug, Clone)]
pub struct Override {
    /// Such as `server.listen`.
    pub key: &'static str,
    /// As text; it is read as the setting's type.
    pub value: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was asked for by name is not there.
    #[error("there is no configuration file {0}")]
    NoFile(PathBuf),
    /// A value that is not of its setting's type, or a name that is no setting.
    #[error("configuration: {0}")]
    Invalid(#[from] config::ConfigError),
    /// A number where a setting is a whole number, or something that is none where it is a number.
    #[error("configuration: {key} is a {wanted}, not {value}")]
    WrongKind {
        /// The setting.
        key: String,
        /// Such as whole number.
        wanted: &'static str,
        /// What was given.
        value: String,
    },
}

/// The settings, with the source of each.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Key, value and source of every setting, by key; secrets hidden.
    pub sources: Vec<(String, String, String)>,
}

/// Merges defaults, file, environment and flags. `file` is one named by the operator, which must be there.
pub fn load(
    file: Option<&Path>,
    environment: HashMap<String, String>,
    flags: &[Override],
) -> Result<Loaded, ConfigError> {
    if let Some(path) = file.filter(|path| !path.is_file()) {
        return Err(ConfigError::NoFile(path.to_owned()));
    }
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    // Other variables of ours, such as VULTUS_MODELS_DIR, are not settings.
    let environment = environment.into_iter().filter(|(name, _)| name.contains("__")).collect();
    let mut builder =
        Config::builder().add_source(File::from(path).format(FileFormat::Toml).required(false)).add_source(
            Environment::with_prefix("VULTUS")
                .prefix_separator("_")
                .separator("__")
                .try_parsing(true)
                .source(Some(environment)),
        );
    for flag in flags {
        builder = builder.set_override(flag.key, flag.value.as_str())?;
    }
    let given = builder.build()?;
    let settings: Settings = given.clone().try_deserialize()?;

    // What the layers gave, by key, to name the source of each setting.
    let mut origins = HashMap::new();
    let given = Value::new(None, given.collect()?);
    collect_origins("", &given, &mut origins);
    let understood = Value::new(None, Config::try_from(&settings)?.collect()?);
    require_numbers("", &given, &understood)?;
    let mut values = Vec::new();
    collect_values("", &understood, &mut values);
    let sources = values
        .into_iter()
        .map(|(key, value)| {
            let source = match origins.get(&key) {
                _ if flags.iter().any(|flag| flag.key == key) => "flag".to_owned(),
                Some(origin) => origin.clone(),
                None => "default".to_owned(),
            };
            (key, value, source)
        })
        .collect();
    Ok(Loaded { settings, sources })
}

fn collect_origins(prefix: &str, value: &Value, found: &mut HashMap<String, String>) {
    match &value.kind {
        ValueKind::Table(table) => {
            table.iter().for_each(|(name, value)| collect_origins(&joined(prefix, name), value, found));
        }
        _ => {
            let origin = match value.origin() {
                Some("the environment") => format!("VULTUS_{}", prefix.replace('.', "__").to_uppercase()),
                Some(file) => file.to_owned(),
                None => "flag".to_owned(),
            };
            found.insert(prefix.to_owned(), origin);
        }
    }
}

fn collect_values(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match &value.kind {
        ValueKind::Table(table) => {
            let mut members: Vec<_> = table.iter().collect();
            members.sort_by_key(|(name, _)| name.as_str());
            members.iter().for_each(|(name, value)| collect_values(&joined(prefix, name), value, found));
        }
        ValueKind::Nil => found.push((prefix.to_owned(), "(unset)".to_owned())),
        // Settings are f32; written as f64 they would show digits that nobody gave.
        ValueKind::Float(number) => found.push((prefix.to_owned(), (*number as f32).to_string())),
        ValueKind::String(text) if text.is_empty() => found.push((prefix.to_owned(), "(unset)".to_owned())),
        _ => found.push((prefix.to_owned(), value.to_string())),
    }
}

/// Refuses what is no number where the setting is one, as it was understood: the library rounds where a whole number is wanted, and takes
/// `true` for 1.
fn require_numbers(key: &str, given: &Value, understood: &Value) -> Result<(), ConfigError> {
    let wanted = match (&given.kind, &understood.kind) {
        (ValueKind::Table(given), ValueKind::Table(understood)) => {
            let both = given.iter().filter_map(|(name, given)| Some((name, given, understood.get(name)?)));
            for (name, given, understood) in both {
                require_numbers(&joined(key, name), given, understood)?;
            }
            return Ok(());
        }
        (ValueKind::Float(_) | ValueKind::Boolean(_), ValueKind::I64(_) | ValueKind::U64(_)) => "whole number",
        (ValueKind::String(text), ValueKind::I64(_) | ValueKind::U64(_)) if text.parse::<i64>().is_err() => {
            "whole number"
        }
        (ValueKind::Boolean(_), ValueKind::Float(_)) => "number",
        (ValueKind::String(text), ValueKind::Float(_)) if text.parse::<f64>().is_err() => "number",
        _ => return Ok(()),
    };
    Err(ConfigError::WrongKind { key: key.to_owned(), wanted, value: written(&given.kind) })
}

/// A value as somebody would write it.
fn written(kind: &ValueKind) -> String {
    match kind {
        // With its point.
        ValueKind::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn source<'a>(loaded: &'a Loaded, key: &str) -> (&'a str, &'a str) {
        let (_, value, source) = loaded.sources.iter().find(|(k, _, _)| k == key).unwrap();
        (value, source)
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        writeln!(file, "[server]\nlisten = \"127.0.0.1:1\"\nrequest_timeout_ms = 5\n[limits]\nmax_body_bytes = 9")
            .unwrap();
        let environment = HashMap::from([
            ("VULTUS_SERVER__REQUEST_TIMEOUT_MS".to_owned(), "7".to_owned()),
            ("VULTUS_AUTH__KEY".to_owned(), "hush".to_owned()),
            ("VULTUS_MODELS_DIR".to_owned(), "elsewhere".to_owned()),
            ("VULTUS_SEARCH__THRESHOLD".to_owned(), "0.4".to_owned()),
        ]);
        let flags = [Override { key: "server.listen", value: "127.0.0.1:3".to_owned() }];
        let loaded = load(Some(file.path()), environment, &flags).unwrap();
        assert_eq!(loaded.settings.server.listen.port(), 3);
        assert_eq!(loaded.settings.server.request_timeout_ms, 7);
        assert_eq!(loaded.settings.limits.max_body_bytes, 9);
        assert_eq!(loaded.settings.search.threshold, Some(0.4));
        assert_eq!(source(&loaded, "server.listen"), ("127.0.0.1:3", "flag"));
        assert_eq!(source(&loaded, "server.request_timeout_ms"), ("7", "VULTUS_SERVER__REQUEST_TIMEOUT_MS"));
        assert_eq!(source(&loaded, "server.insecure"), ("false", "default"));
        assert_eq!(source(&loaded, "auth.key"), ("***", "VULTUS_AUTH__KEY"));
        assert!(!format!("{loaded:?}").contains("hush"));
    }

    #[test]
    fn mistakes_are_named() {
        let environment = HashMap::from([("VULTUS_SERVER__LISTENN".to_owned(), "x".to_owned())]);
        assert!(load(None, environment, &[]).unwrap_err().to_string().contains("listenn"));
        let environment = HashMap::from([("VULTUS_SERVER__REQUEST_TIMEOUT_MS".to_owned(), "soon".to_owned())]);
        assert!(load(None, environment, &[]).is_err());
        assert!(matches!(load(Some(Path::new("/nowhere.toml")), HashMap::new(), &[]), Err(ConfigError::NoFile(_))));
    }

    #[test]
    fn numbers_are_what_was_given() {
        let with = |name: &str, value: &str| load(None, HashMap::from([(name.to_owned(), value.to_owned())]), &[]);
        for value in ["1.5", "-0.5", "true", "yes", "7.0", "99999999999999999999"] {
            let error = with("VULTUS_SEARCH__MEMORY_LIMIT_MB", value).unwrap_err().to_string();
            assert!(error.contains("search.memory_limit_mb is a whole number"), "{error}");
        }
        let error = with("VULTUS_SEARCH__RECALL_TARGET", "true").unwrap_err().to_string();
        assert!(error.contains("search.recall_target is a number"), "{error}");
        assert_eq!(with("VULTUS_SEARCH__MEMORY_LIMIT_MB", "7").unwrap().settings.search.memory_limit_mb, Some(7));
        assert_eq!(with("VULTUS_SEARCH__RECALL_TARGET", "1").unwrap().settings.search.recall_target, 1.0);
    }
}
