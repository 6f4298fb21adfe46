//! The lists that come with IJB-B and IJB-C in the form of the InsightFace toolbox.
//!
//! | file in `meta/` | a line |
//! |---|---|
//! | `<set>_name_5pts_score.txt` | image, five landmarks as x y, score of the detector |
//! | `<set>_face_tid_mid.txt` | image, template, medium |
//! | `<set>_template_pair_label.txt` | template, template, 1 for one person |
//! | `<set>_1N_gallery_<G1\|G2\|S1\|S2>.csv`, `<set>_1N_probe_mixed.csv` | after a header: template, subject, … |
//!
//! `<set>` is `ijbb` or `ijbc`. Images are in the same order in the first two, and in that of the features.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vultus_engine::face::Landmarks;

use super::EvalError;

/// Which of the two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IjbSet {
    /// IJB-B.
    B,
    /// IJB-C.
    C,
}

/// Templates that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplatePairs {
    /// Ids of the templates of each pair.
    pub pairs: Vec<(i64, i64)>,
    /// For each pair whether it is of one person.
    pub mated: Vec<bool>,
}

impl FromStr for IjbSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "ijbb" => Ok(Self::B),
            "ijbc" => Ok(Self::C),
            _ => Err("the sets are ijbb and ijbc"),
        }
    }
}

impl IjbSet {
    /// As in the names of its files.
    pub fn name(self) -> &'static str {
        if self == Self::B { "ijbb" } else { "ijbc" }
    }

    /// As papers write it.
    pub fn title(self) -> &'static str {
        if self == Self::B { "IJB-B" } else { "IJB-C" }
    }

    /// A file in the folder `meta` of the set's folder.
    fn file(self, folder: &Path, rest: &str) -> PathBuf {
        folder.join("meta").join(format!("{}_{rest}", self.name()))
    }

    /// The list of images with their landmarks.
    ///
    /// # Errors
    /// [`EvalError::Missing`], [`EvalError::Io`], [`EvalError::Line`].
    pub fn images(self, folder: &Path) -> Result<Vec<(String, Landmarks)>, EvalError> {
        let path = self.file(folder, "name_5pts_score.txt");
        lines(&path, "the list of images with landmarks", 0, |fields| {
            let [name, numbers @ .., _] = fields else { return None };
            let numbers: Vec<f32> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
            let points: Vec<[f32; 2]> = numbers.as_chunks().0.to_vec();
            let points: [[f32; 2]; 5] = points.try_into().ok()?;
            (numbers.len() == 10).then(|| ((*name).to_owned(), Landmarks(points)))
        })
    }

    /// Template and medium of each image.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn media(self, folder: &Path) -> Result<(Vec<i64>, Vec<i64>), EvalError> {
        let path = self.file(folder, "face_tid_mid.txt");
        let list: Vec<(i64, i64)> = lines(&path, "the list of templates and media", 0, |fields| match fields {
            [_, template, medium, ..] => Some((template.parse().ok()?, medium.parse().ok()?)),
            _ => None,
        })?;
        Ok(list.into_iter().unzip())
    }

    /// Pairs of templates with whether they are of one person.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn pairs(self, folder: &Path) -> Result<TemplatePairs, EvalError> {
        let path = self.file(folder, "template_pair_label.txt");
        let list = lines(&path, "the list of pairs", 0, |fields| match fields {
            [a, b, label] => {
                let mated = label.parse().ok().filter(|label: &i64| (0..=1).contains(label))? == 1;
                Some(((a.parse().ok()?, b.parse().ok()?), mated))
            }
            _ => None,
        })?;
        let (pairs, mated) = list.into_iter().unzip();
        Ok(TemplatePairs { pairs, mated })
    }

    /// Template and subject of both galleries, one after the other.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn galleries(self, folder: &Path) -> Result<Vec<(i64, i64)>, EvalError> {
        let names = if self == Self::B { ["S1", "S2"] } else { ["G1", "G2"] };
        let mut records = Vec::new();
        for name in names {
            records.extend(self.records(folder, &format!("1N_gallery_{name}.csv"))?);
        }
        Ok(records)
    }

    /// Template and subject of the probes.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn probes(self, folder: &Path) -> Result<Vec<(i64, i64)>, EvalError> {
        self.records(folder, "1N_probe_mixed.csv")
    }

    fn records(self, folder: &Path, rest: &str) -> Result<Vec<(i64, i64)>, EvalError> {
        lines(&self.file(folder, rest), "a list of templates and subjects", 1, |fields| match fields {
            [template, subject, ..] => Some((template.parse().ok()?, subject.parse().ok()?)),
            _ => None,
        })
    }
}

/// What `read` makes of the fields of each line but the first `skip` and empty ones. Fields lie between blanks or commas.
fn lines<T>(
    path: &Path,
    what: &'static str,
    skip: usize,
    read: impl Fn(&[&str]) -> Option<T>,
) -> Result<Vec<T>, EvalError> {
    let file = std::fs::File::open(path).map_err(EvalError::io(path, what))?;
    let mut items = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(EvalError::io(path, what))?;
        if number < skip || line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> =
            line.split(|c: char| c == ',' || c.is_whitespace()).filter(|field| !field.is_empty()).collect();
        items.push(read(&fields).ok_or_else(|| EvalError::line(path, number + 1, format!("not a line of {what}")))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_bad_lines_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("meta")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(path.join("meta").join(name), text).unwrap();
        write("ijbc_name_5pts_score.txt", "1.jpg 1 2 3 4 5 6 7 8 9 10.5 0.99\n");
        write("ijbc_face_tid_mid.txt", "1.jpg 7 70\n2.jpg 7 71\n\n");
        write("ijbc_template_pair_label.txt", "7 8 1\n7 9 0\n");
        write("ijbc_1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID,FILENAME\n7,100,img/1.jpg\n");
        write("ijbc_1N_gallery_G2.csv", "TEMPLATE_ID,SUBJECT_ID\n8,200\n");
        let images = IjbSet::C.images(path).unwrap();
        assert_eq!((images[0].0.as_str(), images[0].1.0[4]), ("1.jpg", [9.0, 10.5]));
        assert_eq!(IjbSet::C.media(path).unwrap(), (vec![7, 7], vec![70, 71]));
        let pairs = IjbSet::C.pairs(path).unwrap();
        assert_eq!((pairs.pairs, pairs.mated), (vec![(7, 8), (7, 9)], vec![true, false]));
        assert_eq!(IjbSet::C.galleries(path).unwrap(), [(7, 100), (8, 200)]);
        assert!(matches!(IjbSet::C.probes(path), Err(EvalError::Missing { .. })));
        assert!(matches!(IjbSet::B.media(path), Err(EvalError::Missing { .. })));
        for (name, text) in [
            ("ijbc_name_5pts_score.txt", "1.jpg 1 2 3 4 5 6 7 8 9 0.99\n"),
            ("ijbc_name_5pts_score.txt", "1.jpg 1 2 3 4 5 6 7 8 9 10 11 12 0.99\n"),
            ("ijbc_name_5pts_score.txt", "1.jpg\n"),
            ("ijbc_name_5pts_score.txt", "\n1.jpg 1 2 3 4 5 6 7 8 9 x 0.99\n"),
        ] {
            write(name, text);
            let error = IjbSet::C.images(path).unwrap_err().to_string();
            assert!(error.contains(&format!("line {}", 1 + usize::from(text.starts_with('\n')))), "{error}");
        }
        for pair in ["7 8\n", "7 8 2\n", "7 8 -1\n"] {
            write("ijbc_template_pair_label.txt", pair);
            assert!(IjbSet::C.pairs(path).unwrap_err().to_string().contains("line 1"));
        }
        assert_eq!("IJBC".parse(), Ok(IjbSet::C));
        assert!("ijba".parse::<IjbSet>().is_err());
    }
}
