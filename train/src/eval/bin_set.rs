//! The verification sets of InsightFace: `lfw.bin`, `cfp_fp.bin`, `cplfw.bin`, `calfw.bin`, `agedb_30.bin`.
//!
//! A set is a pickle of two lists: images of aligned crops as JPEG or PNG files, and for each two of them whether they show
//! one person. The published files were written by several versions of Python and NumPy; all their forms are read.

use std::borrow::Cow;
use std::path::Path;

use super::EvalError;
use super::pickle::{Pickle, Ref};

/// The five sets whose mean papers print, in their order: file name without extension, and name.
pub const FIVE_SETS: [(&str, &str); 5] =
    [("lfw", "LFW"), ("cfp_fp", "CFP-FP"), ("cplfw", "CPLFW"), ("calfw", "CALFW"), ("agedb_30", "AgeDB")];

/// A verification set.
#[derive(Debug)]
pub struct BinSet {
    pickle: Pickle,
    images: Vec<Ref>,
    same: Vec<bool>,
}

impl BinSet {
    /// Reads a file.
    ///
    /// # Errors
    /// [`EvalError::Missing`], [`EvalError::Io`], and [`EvalError::File`] for a file that is no such set.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let bytes = std::fs::read(path).map_err(EvalError::io(path, "a verification set"))?;
        Self::parse(bytes).map_err(|what| EvalError::file(path, what))
    }

    /// Reads the bytes of such a file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let pickle = Pickle::parse(bytes).map_err(|error| error.to_string())?;
        let Some(&[images, labels]) = pickle.members(pickle.root()) else {
            return Err("it is not a pair of images and labels".to_owned());
        };
        let images = pickle.members(images).ok_or("its images are not a list")?.to_vec();
        let same: Option<Vec<bool>> = match pickle.members(labels) {
            Some(labels) => labels.iter().map(|label| pickle.truth(*label)).collect(),
            None => pickle.bytes(labels).map(|labels| labels.iter().map(|label| *label != 0).collect()),
        };
        let same = same.ok_or("its labels are not a list of truth values")?;
        if same.is_empty() || images.len() != 2 * same.len() {
            return Err(format!(
                "it has {} images and {} labels, it should have two a label",
                images.len(),
                same.len()
            ));
        }
        if let Some(bad) = images.iter().position(|image| pickle.bytes(*image).is_none()) {
            return Err(format!("image {bad} is not made of bytes"));
        }
        Ok(Self { pickle, images, same })
    }

    /// How many images there are, twice as many as pairs.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The encoded image at a place below [`len`](Self::len). Images 0 and 1 are pair 0, 2 and 3 pair 1 and so on.
    pub fn image(&self, at: usize) -> Cow<'_, [u8]> {
        self.pickle.bytes(self.images[at]).unwrap_or_default()
    }

    /// For each pair whether it is of one person.
    pub fn same(&self) -> &[bool] {
        &self.same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps(([b'\xff\xd8abc', b'x\nyz'], [True, False]), protocol)` of Python 3, protocols 2 to 4.
    const PICKLES: [&[u8]; 4] = [
        b"\x80\x02]q\x00(c_codecs\nencode\nq\x01X\x07\x00\x00\x00\xc3\xbf\xc3\x98abcq\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05h\x01X\x04\x00\x00\x00x\nyzq\x06h\x03\x86q\x07Rq\x08e]q\t(\x88\x89e\x86q\n.",
        b"\x80\x03]q\x00(C\x05\xff\xd8abcq\x01C\x04x\nyzq\x02e]q\x03(\x88\x89e\x86q\x04.",
        b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00]\x94(C\x05\xff\xd8abc\x94C\x04x\nyz\x94e]\x94(\x88\x89e\x86\x94.",
        // Python 2 with protocol 2, as most of the published files, with large strings.
        b"\x80\x02]q\x00(T\x05\x00\x00\x00\xff\xd8abcq\x01U\x04x\nyzq\x02e]q\x03(\x88\x89e\x86q\x04.",
    ];

    fn check(bytes: &[u8]) {
        let set = BinSet::parse(bytes.to_vec()).unwrap();
        assert_eq!((set.len(), set.same()), (2 * set.same().len(), &[true][..]));
        assert_eq!(set.image(0).as_ref(), b"\xff\xd8abc");
        assert_eq!(set.image(1).as_ref(), b"x\nyz");
    }

    /// The pickle with one label instead of two.
    fn one_label(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for second in [&b"I00\na"[..], b"\x89"] {
            if let Some(at) = bytes.windows(second.len()).rposition(|window| window == second) {
                bytes.drain(at..at + second.len());
            }
        }
        bytes
    }

    #[test]
    fn every_protocol_is_read() {
        for bytes in PICKLES {
            check(&one_label(bytes));
        }
        // Protocol 0 of Python 2.
        check(b"((lp0\nS'\\xff\\xd8abc'\np1\naS'x\\nyz'\np2\na(lp3\nI01\natp4\n.");
        // An array of NumPy in place of bytes, and one of its truth values.
        check(
            b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06(K\x01K\x05\x85cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87q\x08Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x05\xff\xd8abctbC\x04x\nyze]q\n(cnumpy.core.multiarray\nscalar\nh\x07U\x02b1K\x00K\x01\x87RU\x01\x01\x86Re\x86.",
        );
        // Arrays in protocol 5.
        check(
            b"\x80\x05\x95\xbb\x00\x00\x00\x00\x00\x00\x00]\x94(\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(C\x05\xff\xd8abc\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x05\x85\x94\x8c\x01C\x94t\x94R\x94C\x04x\nyz\x94eh\x03(\x96\x01\x00\x00\x00\x00\x00\x00\x00\x01\x94h\x07\x8c\x02b1\x94\x89\x88\x87\x94R\x94(K\x03h\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x01\x85\x94h\x0et\x94R\x94\x86\x94.",
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let text = |bytes: &[u8]| BinSet::parse(bytes.to_vec()).unwrap_err();
        assert!(text(b"").contains("cut short"));
        assert!(text(PICKLES[2]).contains("2 images and 2 labels"));
        assert!(text(b"\x80\x02].").contains("not a pair"));
        assert!(text(b"\x80\x02]]K\x05a\x86.").contains("labels are not"));
        assert!(text(b"\x80\x02](K\x01K\x02e]\x88a\x86.").contains("image 0"));
        assert!(text(b"\x80\x02}.").contains("0x7d"));
        assert!(text(b"\x80\x02B\xff\xff\xff\xffabc.").contains("cut short"));
        assert!(text(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.").contains("cut short"));
        assert!(text(b"e.").contains("does not fit"));
        assert!(text(b"(.").contains("does not fit"));
        assert!(text(&vec![b'N'; 5 << 20]).contains("too many"));
        // Lists that contain themselves end like any other.
        assert!(text(b"]q\x00h\x00a.").contains("not a pair"));
    }

    #[test]
    fn no_cut_or_changed_file_panics() {
        for bytes in PICKLES {
            let whole = one_label(bytes);
            for end in 0..whole.len() {
                let _ = BinSet::parse(whole[..end].to_vec());
            }
            for at in 0..whole.len() {
                for value in [0, 0x2e, 0x28, 0x52, 0x62, 0x85, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    if let Ok(set) = BinSet::parse(changed) {
                        (0..set.len()).for_each(|image| drop(set.image(image)));
                    }
                }
            }
        }
    }
}
