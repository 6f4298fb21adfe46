//! Photos in folders, by their names alone.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Files taken for photos.
const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp"];
/// How deep [`photos`] looks.
const DEPTH: usize = 3;

/// Whether a file's name is one of a photo.
pub(super) fn is_photo(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) && path.is_file()
}

/// What lies in a folder, by name.
pub(super) fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let found = std::fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = found.with_context(|| format!("cannot read {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

/// The first photos of a folder and of those in it, by path; at least one.
pub(super) fn photos(folder: &Path, most: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    collect(folder, DEPTH, &mut paths)?;
    paths.sort();
    paths.truncate(most);
    anyhow::ensure!(!paths.is_empty(), "{} holds no photos", folder.display());
    Ok(paths)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for path in entries(folder)? {
        if is_photo(&path) {
            found.push(path);
        } else if depth > 0 && path.is_dir() {
            collect(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_found_by_name_and_depth() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        assert!(photos(folder.path(), 9).unwrap_err().to_string().contains("holds no photos"));
        std::fs::create_dir_all(at("b/c/d/e")).unwrap();
        std::fs::create_dir(at("folder.jpg")).unwrap();
        for file in ["b/2.PNG", "b/c/d/3.webp", "b/c/d/e/too_deep.jpg", "b/notes.txt", "a.jpeg"] {
            std::fs::write(at(file), "").unwrap();
        }
        assert_eq!(photos(folder.path(), 9).unwrap(), [at("a.jpeg"), at("b/2.PNG"), at("b/c/d/3.webp")]);
        assert_eq!(photos(folder.path(), 1).unwrap(), [at("a.jpeg")]);
        assert!(photos(&at("none"), 9).unwrap_err().to_string().contains("cannot read"));
    }
}
