//! Labeled Faces in the Wild: the pairs of `pairs.txt` (Huang et al. 2007, "View 2").
//!
//! The first line says how many folds there are and how many pairs of each kind a fold has. A fold is that many lines
//! `NAME I J`, photos I and J of one person, and as many lines `NAME I OTHER J`. Photo 3 of a person is the file
//! `NAME/NAME_0003.jpg`.
//!
//! LFW has no protocol for identification that is in general use. [`ClosedSet`] is ours, over the photos of the pairs.

use std::path::{Path, PathBuf};

use super::EvalError;

/// Most folds and pairs of a fold; the published list has 10 and 300.
const MOST: usize = 100_000;

/// A photo by person and number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhotoId {
    /// The person's name, with underscores.
    pub name: String,
    /// Number of the photo, from 1.
    pub number: u32,
}

impl PhotoId {
    /// Where the photo is.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.name).join(format!("{}_{:04}.jpg", self.name, self.number))
    }
}

/// Two photos that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhotoPair {
    /// The photos.
    pub photos: [PhotoId; 2],
    /// Whether they are of one person.
    pub same: bool,
    /// The fold, from 0.
    pub fold: usize,
}

/// All pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairList {
    /// How many folds there are.
    pub folds: usize,
    /// The pairs in their order.
    pub pairs: Vec<PhotoPair>,
}

impl PairList {
    /// Reads `pairs.txt`.
    ///
    /// # Errors
    /// [`EvalError::Missing`], [`EvalError::Io`], and as [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let text = std::fs::read_to_string(path).map_err(EvalError::io(path, "the list of pairs of LFW"))?;
        Self::parse(&text, path)
    }

    /// Reads the text of such a file; `path` is for errors.
    ///
    /// # Errors
    /// [`EvalError::Line`] for the first line that is wrong, [`EvalError::File`] for another number of lines.
    pub fn parse(text: &str, path: &Path) -> Result<Self, EvalError> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let wrong = |line: usize, what: &str| EvalError::line(path, line + 1, what);
        let (first, header) = lines.next().ok_or_else(|| EvalError::file(path, "the file is empty"))?;
        let numbers: Vec<usize> = header.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let &[folds, each] = numbers.as_slice() else {
            return Err(wrong(first, "not a number of folds and a number of pairs"));
        };
        if !(1..=MOST).contains(&folds) || !(1..=MOST).contains(&each) {
            return Err(wrong(first, "there cannot be as many folds or pairs"));
        }
        let mut pairs = Vec::new();
        for (line, text) in lines {
            let fields: Vec<&str> = text.split_whitespace().collect();
            let (a, i, b, j) = match *fields.as_slice() {
                [a, i, j] => (a, i, a, j),
                [a, i, b, j] => (a, i, b, j),
                _ => return Err(wrong(line, "neither NAME I J nor NAME I OTHER J")),
            };
            let photo = |name: &str, number: &str| {
                let number = number.parse().map_err(|_| wrong(line, "the number of a photo cannot be read"))?;
                if name.contains(['/', '\\']) || name.starts_with('.') {
                    return Err(wrong(line, "that is no person's name"));
                }
                Ok(PhotoId { name: name.to_owned(), number })
            };
            let (fold, place) = (pairs.len() / (2 * each), pairs.len() % (2 * each));
            let same = fields.len() == 3;
            if fold >= folds || same != (place < each) {
                return Err(wrong(line, "a pair of the other kind, or no pair, is due here"));
            }
            pairs.push(PhotoPair { photos: [photo(a, i)?, photo(b, j)?], same, fold });
        }
        if pairs.len() != folds * 2 * each {
            return Err(EvalError::file(path, format!("{} pairs, {} were announced", pairs.len(), folds * 2 * each)));
        }
        Ok(Self { folds, pairs })
    }

    /// Every photo that is compared, once, by name and number.
    pub fn photos(&self) -> Vec<PhotoId> {
        let mut photos: Vec<PhotoId> = self.pairs.iter().flat_map(|pair| pair.photos.clone()).collect();
        photos.sort();
        photos.dedup();
        photos
    }
}

/// Who is enrolled and who is searched for, as places in a list of photos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedSet {
    /// One photo of everybody.
    pub gallery: Vec<usize>,
    /// Every other photo of those who are enrolled: each search has one mate.
    pub probes: Vec<usize>,
}

impl ClosedSet {
    /// Enrols of everybody the first photo with a face, as `has_face` says, and searches with all others, those without a
    /// face included: who is not seen is not found. Persons without a face in any photo are left out. Photos are in the
    /// order of [`PairList::photos`].
    pub fn new(photos: &[PhotoId], has_face: &[bool]) -> Self {
        let (mut gallery, mut probes) = (Vec::new(), Vec::new());
        let mut start = 0;
        for of_person in photos.chunk_by(|a, b| a.name == b.name) {
            let places = start..start + of_person.len();
            start = places.end;
            if let Some(enrolled) = places.clone().find(|place| has_face[*place]) {
                gallery.push(enrolled);
                probes.extend(places.filter(|place| *place != enrolled));
            }
        }
        Self { gallery, probes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_enrolled_once_and_searched_with_the_rest() {
        let photo = |name: &str, number| PhotoId { name: name.to_owned(), number };
        let photos = [photo("a", 1), photo("a", 2), photo("a", 3), photo("b", 1), photo("c", 1), photo("c", 4)];
        let set = ClosedSet::new(&photos, &[false, true, true, false, true, false]);
        assert_eq!(set, ClosedSet { gallery: vec![1, 4], probes: vec![0, 2, 5] });
    }

    fn parse(text: &str) -> Result<PairList, String> {
        PairList::parse(text, Path::new("pairs.txt")).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_are_read_fold_by_fold() {
        let list = parse("2\t1\nAmy_Lee\t1\t3\nAmy_Lee\t2\tBob\t1\nBob\t1\t2\nBob\t2\tCyd\t10\n").unwrap();
        assert_eq!((list.folds, list.pairs.len()), (2, 4));
        let kinds: Vec<(bool, usize)> = list.pairs.iter().map(|pair| (pair.same, pair.fold)).collect();
        assert_eq!(kinds, [(true, 0), (false, 0), (true, 1), (false, 1)]);
        let path = list.pairs[3].photos[1].path(Path::new("lfw"));
        assert_eq!(path, Path::new("lfw/Cyd/Cyd_0010.jpg"));
        assert_eq!(list.photos().len(), 6);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("", "empty"),
            ("ten 300\n", "line 1: not a number"),
            ("0 1\n", "line 1: there cannot"),
            ("99999999999 99999999999\n", "line 1: there cannot"),
            ("1 1\na 1 2\n", "1 pairs, 2 were announced"),
            ("1 1\na 1 b 2\na 1 2\n", "line 2: a pair of the other kind"),
            ("1 1\na 1 2\na 1 b 2\na 1 2\n", "line 4: a pair of the other kind, or no pair"),
            ("1 1\na 1 x\n", "line 2: the number"),
            ("1 1\n../a 1 2\n", "line 2: that is no person"),
            ("1 1\na 1\n", "line 2: neither"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
