//! Images in folders, one folder an identity.

use std::path::{Path, PathBuf};

use super::{Crop, DataError, Dataset, read_file};

/// Files taken for images.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// The images of `root/IDENTITY/*`. Classes are numbered by the names of the folders as text, so that `10` comes before
/// `2`, and samples by class, then by file name. Other files are left alone, and so is what begins with a point.
#[derive(Debug, Clone)]
pub struct FolderDataset {
    root: PathBuf,
    classes: Vec<String>,
    /// Class and file name.
    samples: Vec<(u32, String)>,
}

impl FolderDataset {
    /// Lists the images of a folder.
    ///
    /// # Errors
    /// [`DataError::Read`]; [`DataError::Nothing`] where there are no folders or one is without images.
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let mut classes = Vec::new();
        let mut samples = Vec::new();
        for class in names(root)? {
            let folder = root.join(&class);
            if !folder.is_dir() {
                continue;
            }
            let before = samples.len();
            let label = classes.len() as u32;
            samples.extend(names(&folder)?.into_iter().filter(|name| is_image(name)).map(|name| (label, name)));
            if samples.len() == before {
                return Err(DataError::Nothing { path: folder, what: "images" });
            }
            classes.push(class);
        }
        if classes.is_empty() {
            return Err(DataError::Nothing { path: root.to_owned(), what: "folders with images" });
        }
        Ok(Self { root: root.to_owned(), classes, samples })
    }

    /// Name of a class.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_name(&self, class: u32) -> &str {
        &self.classes[class as usize]
    }

    /// The folder of all of them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a sample.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn path(&self, index: usize) -> PathBuf {
        let (class, name) = &self.samples[index];
        self.root.join(self.class_name(*class)).join(name)
    }
}

impl Dataset for FolderDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.samples[index].0
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn own_name(&self, index: usize) -> String {
        let (class, name) = &self.samples[index];
        format!("{}/{name}", self.class_name(*class))
    }

    fn image(&self, index: usize) -> Result<Crop, DataError> {
        let bytes = read_file(&self.path(index))?;
        Crop::decode(&bytes, || self.name(index))
    }
}

/// Names in a folder, ordered by their bytes. Names that are no UTF-8 are an error: they could not be said again.
fn names(folder: &Path) -> Result<Vec<String>, DataError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().into_string().map_err(|name| {
                std::io::Error::new(std::io::ErrorKind::InvalidData, format!("the name {name:?} is not UTF-8"))
            })?;
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    read().map_err(DataError::reading(folder))
}

fn is_image(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;
    use vultus_engine::image::encode_png;

    #[test]
    fn classes_are_in_the_order_of_their_names_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let png = encode_png(&RgbImage::new(112, 112)).unwrap();
        for file in ["2/b.png", "2/a.PNG", "10/c.jpeg", "2/notes.txt", ".hidden/d.png"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &png).unwrap();
        }
        std::fs::write(folder.path().join("list.txt"), "").unwrap();
        let dataset = FolderDataset::open(folder.path()).unwrap();
        assert_eq!((dataset.len(), dataset.classes()), (3, 2));
        assert_eq!([dataset.class_name(0), dataset.class_name(1)], ["10", "2"]);
        assert_eq!([0, 1, 2].map(|index| dataset.label(index)), [0, 1, 1]);
        assert!(dataset.name(1).ends_with("2/a.PNG") && dataset.image(1).is_ok());

        std::fs::create_dir(folder.path().join("2/c.png")).unwrap();
        let dataset = FolderDataset::open(folder.path()).unwrap();
        assert!(dataset.image(3).unwrap_err().to_string().ends_with("2/c.png: it is no regular file"));

        std::fs::create_dir(folder.path().join("3")).unwrap();
        assert!(FolderDataset::open(folder.path()).unwrap_err().to_string().ends_with("3 has no images"));
        assert!(FolderDataset::open(&folder.path().join("none")).unwrap_err().to_string().starts_with("cannot read"));
        let empty = tempfile::tempdir().unwrap();
        assert!(FolderDataset::open(empty.path()).unwrap_err().to_string().ends_with("has no folders with images"));
    }
}
