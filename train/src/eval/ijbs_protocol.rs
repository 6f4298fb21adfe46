//! The protocol files of IJB-S, as the benchmark is handed out.
//!
//! | file | columns after a header |
//! |---|---|
//! | `cs6_metadata.csv` | subject, file (`videos/N.mp4` or `img/N.jpg`), … |
//! | `cs6_surveillance_to_single-booking_probe.csv`, `cs6_surveillance_to_surveillance_probe.csv`, `cs6_uav_to_single-booking_probe.csv` | file |
//! | `galleries/cs6_surveillance_to_<single\|booking\|surveillance>_g<1\|2>.csv` | template, subject, file, … |
//!
//! The detected frames are listed in a file of the user's: one path a line, `…/SUBJECT/videos_N_FRAME.jpg` for frame FRAME
//! of `videos/N.mp4` and `…/SUBJECT/img_N.jpg` for `img/N.jpg`, in the order of the features. A video shows several persons;
//! each person in each video is a template. The multi-view probes are all videos of a person, whichever list they are in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use super::EvalError;

/// One of the five protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A person in a video against one good photo of each.
    SurveillanceToSingle,
    /// A person in a video against several booking photos of each.
    SurveillanceToBooking,
    /// A person in all of their videos against booking photos.
    MultiViewToBooking,
    /// A person in a video against other videos.
    SurveillanceToSurveillance,
    /// A person seen from a drone against booking photos.
    UavToBooking,
}

/// All protocols, in the order of the published tables.
pub const PROTOCOLS: [Protocol; 5] = [
    Protocol::SurveillanceToSingle,
    Protocol::SurveillanceToBooking,
    Protocol::MultiViewToBooking,
    Protocol::SurveillanceToSurveillance,
    Protocol::UavToBooking,
];

impl Protocol {
    /// As papers write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::SurveillanceToSingle => "Surveillance-to-Single",
            Self::SurveillanceToBooking => "Surveillance-to-Booking",
            Self::MultiViewToBooking => "Multi-view-Surveillance-to-Booking",
            Self::SurveillanceToSurveillance => "Surveillance-to-Surveillance",
            Self::UavToBooking => "UAV-Surveillance-to-Booking",
        }
    }
}

/// A template: whom it shows and the rows of the frames in it, none where the detector found nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameList {
    /// The subject.
    pub subject: i64,
    /// Rows of the features.
    pub frames: Vec<usize>,
}

/// Probes and galleries of one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    /// The probes.
    pub probes: Vec<FrameList>,
    /// The two galleries.
    pub galleries: [Vec<FrameList>; 2],
}

/// Everything the protocol files say, with the frames there are.
#[derive(Debug)]
pub struct IjbsProtocols {
    /// Frames by subject and file as in the protocol files, without extension.
    frames: HashMap<(i64, String), Vec<usize>>,
    /// Persons in videos, in order of subject and file.
    videos: BTreeSet<(i64, String)>,
    /// Whom an image shows; of several the first that is listed.
    images: HashMap<String, i64>,
    probes: HashMap<&'static str, Vec<String>>,
    /// Subject and file by name of the gallery.
    galleries: HashMap<String, Vec<(i64, String)>>,
}

const TO_STILL: &str = "cs6_surveillance_to_single-booking_probe.csv";
const TO_VIDEO: &str = "cs6_surveillance_to_surveillance_probe.csv";
const UAV: &str = "cs6_uav_to_single-booking_probe.csv";

impl IjbsProtocols {
    /// Reads the protocol files of a folder. `images` are the paths of the detected frames, as described above.
    ///
    /// # Errors
    /// [`EvalError::Missing`], [`EvalError::Io`], [`EvalError::Line`].
    pub fn read<P: AsRef<Path>>(folder: &Path, images: &[P]) -> Result<Self, EvalError> {
        let mut probes = HashMap::new();
        for name in [TO_STILL, TO_VIDEO, UAV] {
            probes.insert(name, rows(&folder.join(name), |fields| Some((*fields.first()?).to_owned()))?);
        }
        let mut galleries = HashMap::new();
        for kind in ["single", "booking", "surveillance"] {
            for number in 1..=2 {
                let name = format!("cs6_surveillance_to_{kind}_g{number}.csv");
                let list = rows(&folder.join("galleries").join(&name), |fields| {
                    Some((fields.get(1)?.parse().ok()?, (*fields.get(2)?).to_owned()))
                })?;
                galleries.insert(format!("{kind}{number}"), list);
            }
        }
        let wanted: BTreeSet<&str> = probes[UAV].iter().map(String::as_str).collect();
        let (mut videos, mut subjects) = (BTreeSet::new(), HashMap::new());
        each_row(&folder.join("cs6_metadata.csv"), |fields| {
            let (subject, file) = (fields.first()?.parse::<i64>().ok()?, *fields.get(1)?);
            if file.starts_with("videos") {
                // The list has a line for each frame.
                if !videos.contains(&(subject, file.to_owned())) {
                    videos.insert((subject, file.to_owned()));
                }
            } else if wanted.contains(file) {
                subjects.entry(file.to_owned()).or_insert(subject);
            }
            Some(())
        })?;
        let mut frames: HashMap<(i64, String), Vec<usize>> = HashMap::new();
        for (row, path) in images.iter().enumerate() {
            if let Some(key) = key_of(path.as_ref()) {
                frames.entry(key).or_default().push(row);
            }
        }
        Ok(Self { frames, videos, images: subjects, probes, galleries })
    }

    /// Templates that no frame was found for, among all videos.
    pub fn videos_without_frames(&self) -> usize {
        self.videos.iter().filter(|(subject, file)| self.frames_of(*subject, file).is_empty()).count()
    }

    /// Probes and galleries of a protocol.
    ///
    /// # Errors
    /// [`EvalError::File`] for a file that the metadata does not list.
    pub fn sides(&self, protocol: Protocol) -> Result<Sides, EvalError> {
        let (probes, kind) = match protocol {
            Protocol::SurveillanceToSingle => (self.in_videos(TO_STILL), "single"),
            Protocol::SurveillanceToBooking => (self.in_videos(TO_STILL), "booking"),
            Protocol::MultiViewToBooking => (self.multi_view(), "booking"),
            Protocol::SurveillanceToSurveillance => (self.in_videos(TO_VIDEO), "surveillance"),
            Protocol::UavToBooking => (self.uav()?, "booking"),
        };
        let gallery = |number: u8| self.gallery(kind, number);
        Ok(Sides { probes, galleries: [gallery(1)?, gallery(2)?] })
    }

    fn frames_of(&self, subject: i64, file: &str) -> &[usize] {
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        self.frames.get(&(subject, stem.to_owned())).map_or(&[], Vec::as_slice)
    }

    fn list<'a>(&self, subject: i64, files: impl IntoIterator<Item = &'a str>) -> FrameList {
        let frames = files.into_iter().flat_map(|file| self.frames_of(subject, file)).copied().collect();
        FrameList { subject, frames }
    }

    /// Every person in every video of a list.
    fn in_videos(&self, list: &str) -> Vec<FrameList> {
        let listed: BTreeSet<&str> = self.probes[list].iter().map(String::as_str).collect();
        let shown = self.videos.iter().filter(|(_, file)| listed.contains(file.as_str()));
        shown.map(|(subject, file)| self.list(*subject, [file.as_str()])).collect()
    }

    fn multi_view(&self) -> Vec<FrameList> {
        let subjects: BTreeSet<i64> = self.in_videos(TO_VIDEO).into_iter().map(|list| list.subject).collect();
        let videos = |subject: i64| self.videos.iter().filter(move |(other, _)| *other == subject);
        subjects.into_iter().map(|one| self.list(one, videos(one).map(|(_, file)| file.as_str()))).collect()
    }

    fn uav(&self) -> Result<Vec<FrameList>, EvalError> {
        let mut lists = Vec::new();
        for file in &self.probes[UAV] {
            if file.starts_with("videos") {
                let shown = self.videos.iter().filter(|(_, video)| video == file);
                lists.extend(shown.map(|(subject, file)| self.list(*subject, [file.as_str()])));
            } else {
                let subject = self.images.get(file);
                let subject = subject.ok_or_else(|| EvalError::file(Path::new(UAV), format!("nobody is in {file}")))?;
                lists.push(self.list(*subject, [file.as_str()]));
            }
        }
        Ok(lists)
    }

    fn gallery(&self, kind: &str, number: u8) -> Result<Vec<FrameList>, EvalError> {
        let records = &self.galleries[&format!("{kind}{number}")];
        match kind {
            "single" => Ok(records.iter().map(|(subject, file)| self.list(*subject, [file.as_str()])).collect()),
            "booking" => {
                let mut by_subject: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
                records.iter().for_each(|(subject, file)| by_subject.entry(*subject).or_default().push(file));
                Ok(by_subject.into_iter().map(|(subject, files)| self.list(subject, files)).collect())
            }
            _ => {
                let videos: BTreeSet<&(i64, String)> = records.iter().collect();
                if let Some((subject, file)) = videos.iter().find(|video| !self.videos.contains(**video)) {
                    let what = format!("subject {subject} is not in {file}");
                    return Err(EvalError::file(Path::new("cs6_metadata.csv"), what));
                }
                Ok(videos.into_iter().map(|(subject, file)| self.list(*subject, [file.as_str()])).collect())
            }
        }
    }
}

/// Subject and file, without extension, of a frame's path.
fn key_of(path: &Path) -> Option<(i64, String)> {
    let subject = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let stem = path.file_stem()?.to_str()?;
    let mut parts = stem.split('_');
    let (kind, number) = (parts.next()?, parts.next()?);
    match kind {
        "videos" => Some((subject, format!("videos/{number}"))),
        kind if kind.starts_with("img") => Some((subject, stem.replacen('_', "/", 1))),
        _ => None,
    }
}

/// What `read` makes of each line after the header.
fn rows<T>(path: &Path, read: impl Fn(&[&str]) -> Option<T>) -> Result<Vec<T>, EvalError> {
    let mut items = Vec::new();
    each_row(path, |fields| {
        items.push(read(fields)?);
        Some(())
    })?;
    Ok(items)
}

fn each_row(path: &Path, mut read: impl FnMut(&[&str]) -> Option<()>) -> Result<(), EvalError> {
    let what = "a protocol file of IJB-S";
    let file = std::fs::File::open(path).map_err(EvalError::io(path, what))?;
    for (number, line) in BufReader::new(file).lines().enumerate().skip(1) {
        let line = line.map_err(EvalError::io(path, what))?;
        if line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        read(&fields).ok_or_else(|| EvalError::line(path, number + 1, "not a line of such a file"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol files of three subjects: 1 and 2 in video 10, 1 in 11 and 12 (a gallery's), 3 in a drone's image.
    fn write(folder: &Path) {
        std::fs::create_dir(folder.join("galleries")).unwrap();
        let put = |name: &str, lines: &str| std::fs::write(folder.join(name), format!("HEADER,X,Y\n{lines}")).unwrap();
        put(
            "cs6_metadata.csv",
            "1,videos/10.mp4,5\n1,videos/10.mp4,6\n2,videos/10.mp4,5\n1,videos/11.mp4,1\n1,videos/12.mp4,1\n3,img/90.jpg\n1,img/1.jpg\n",
        );
        put(TO_STILL, "videos/10.mp4\nvideos/11.mp4\n");
        put(TO_VIDEO, "videos/10.mp4\n");
        put(UAV, "img/90.jpg\nvideos/11.mp4\n");
        put("galleries/cs6_surveillance_to_single_g1.csv", "100,1,img/1.jpg\n");
        put("galleries/cs6_surveillance_to_single_g2.csv", "200,2,img/2.jpg\n");
        put("galleries/cs6_surveillance_to_booking_g1.csv", "100,1,img/1.jpg,x\n100,1,img/5.jpg,x\n");
        put("galleries/cs6_surveillance_to_booking_g2.csv", "200,2,img/2.jpg\n");
        put("galleries/cs6_surveillance_to_surveillance_g1.csv", "1,1,videos/12.mp4\n1,1,videos/12.mp4\n");
        put("galleries/cs6_surveillance_to_surveillance_g2.csv", "");
    }

    fn lists(of: &[(i64, &[usize])]) -> Vec<FrameList> {
        of.iter().map(|(subject, frames)| FrameList { subject: *subject, frames: frames.to_vec() }).collect()
    }

    #[test]
    fn templates_are_those_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let frames = [
            "x/1/videos_10_5.jpg",
            "x/1/videos_10_6.jpg",
            "x/2/videos_10_5.jpg",
            "x/1/videos_12_1.jpg",
            "x/3/img_90.jpg",
            "x/1/img_1.jpg",
            "x/1/img_5.png",
            "x/notes.txt",
            "x/1/videos.jpg",
        ];
        let protocols = IjbsProtocols::read(folder.path(), &frames).unwrap();
        assert_eq!(protocols.videos_without_frames(), 1);
        let single = protocols.sides(Protocol::SurveillanceToSingle).unwrap();
        assert_eq!(single.probes, lists(&[(1, &[0, 1]), (1, &[]), (2, &[2])]));
        assert_eq!(single.galleries, [lists(&[(1, &[5])]), lists(&[(2, &[])])]);
        let booking = protocols.sides(Protocol::SurveillanceToBooking).unwrap();
        assert_eq!(booking.galleries[0], lists(&[(1, &[5, 6])]));
        let multi_view = protocols.sides(Protocol::MultiViewToBooking).unwrap();
        assert_eq!(multi_view.probes, lists(&[(1, &[0, 1, 3]), (2, &[2])]));
        let surveillance = protocols.sides(Protocol::SurveillanceToSurveillance).unwrap();
        assert_eq!(surveillance.probes, lists(&[(1, &[0, 1]), (2, &[2])]));
        assert_eq!(surveillance.galleries, [lists(&[(1, &[3])]), lists(&[])]);
        assert_eq!(protocols.sides(Protocol::UavToBooking).unwrap().probes, lists(&[(3, &[4]), (1, &[])]));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let none: [&str; 0] = [];
        assert!(matches!(IjbsProtocols::read(folder.path(), &none), Err(EvalError::Missing { .. })));
        write(folder.path());
        std::fs::write(folder.path().join(UAV), "H\nimg/404.jpg\n").unwrap();
        let protocols = IjbsProtocols::read(folder.path(), &none).unwrap();
        let error = protocols.sides(Protocol::UavToBooking).unwrap_err().to_string();
        assert!(error.contains("nobody is in img/404.jpg"), "{error}");
        let gallery = folder.path().join("galleries/cs6_surveillance_to_surveillance_g2.csv");
        std::fs::write(&gallery, "H\n1,9,videos/10.mp4\n").unwrap();
        let protocols = IjbsProtocols::read(folder.path(), &none).unwrap();
        let error = protocols.sides(Protocol::SurveillanceToSurveillance).unwrap_err().to_string();
        assert!(error.contains("subject 9 is not in videos/10.mp4"), "{error}");
        std::fs::write(&gallery, "H\n1,nine,videos/10.mp4\n").unwrap();
        let error = IjbsProtocols::read(folder.path(), &none).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
