//! `vultus enrol`: a folder of photos, one folder a subject.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::folder::{entries, is_photo};
use super::local::progress;
use super::parallel;
use super::target::Target;
use crate::api::faces::{EnrolmentView, FaceView};
use crate::api::paging::Page;
use crate::problem::Code;
use crate::service::select::Select;

/// Code under which photos of a folder whose name is no subject id are counted.
const SKIPPED_NAME: &str = "invalid_subject_name";

/// Enrols FOLDER/SUBJECT/PHOTO: the folder's name is the subject's id, the file's name the media id. Photos that are
/// enrolled already are passed over, so an interrupted run can be started again.
#[derive(Debug, Args)]
pub(super) struct Enrol {
    /// The gallery; made when it is not there
    #[arg(long)]
    gallery: String,
    #[command(flatten)]
    target: Target,
    /// Which face of a photo with several: only, main, largest, central or best
    #[arg(long, default_value = "main", value_parser = select)]
    select: Select,
    /// Where the gallery is made: keep aligned crops, which a later change of model needs
    #[arg(long)]
    keep_crops: bool,
    /// Enrol at most this many photos of each subject, first by name
    #[arg(long, value_name = "N")]
    max_per_subject: Option<usize>,
    /// Requests at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Print the summary as one JSON line
    #[arg(long)]
    json: bool,
    /// The folder
    folder: PathBuf,
}

/// A face selection rule by name.
pub(super) fn select(text: &str) -> Result<Select, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "one of only, main, largest, central, best".to_owned())
}

/// What came of one subject's photos.
#[derive(Default)]
struct Outcome {
    faces: usize,
    already: usize,
    rejected: BTreeMap<String, usize>,
    messages: Vec<String>,
}

impl Outcome {
    fn reject(&mut self, code: &str, path: &Path, detail: &str) {
        *self.rejected.entry(code.to_owned()).or_default() += 1;
        self.messages.push(format!("{}: {detail}", path.display()));
    }
}

pub(super) struct SubjectFolder {
    pub(super) name: String,
    pub(super) photos: Vec<PathBuf>,
}

impl Enrol {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let subjects = subject_folders(&self.folder, self.max_per_subject)?;
        let photos: usize = subjects.iter().map(|subject| subject.photos.len()).sum();
        anyhow::ensure!(photos > 0, "{} holds no folder with photos in it", self.folder.display());
        let connected = self.target.connect()?;
        let made = ensure_gallery(&connected.client, &self.gallery, self.keep_crops)?;

        let started = Instant::now();
        let bar = progress(photos, "photos");
        let mut total = Outcome::default();
        let mut subjects_enrolled = 0;
        let work =
            |subject: &SubjectFolder| enrol_subject(&connected.client, &self.gallery, subject, self.select, made);
        parallel::ordered(&subjects, self.jobs.into(), work, |subject, outcome| {
            let outcome = outcome.with_context(|| format!("enrolment stopped at subject {}", subject.name))?;
            bar.inc(subject.photos.len() as u64);
            bar.suspend(|| outcome.messages.iter().for_each(|message| eprintln!("{message}")));
            subjects_enrolled += usize::from(outcome.faces + outcome.already > 0);
            total.faces += outcome.faces;
            total.already += outcome.already;
            for (code, count) in outcome.rejected {
                *total.rejected.entry(code).or_default() += count;
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        connected.close()?;
        Ok(report(&self.gallery, subjects_enrolled, &total, seconds, self.json)?)
    }
}

fn report(gallery: &str, subjects: usize, total: &Outcome, seconds: f64, as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let rate = if seconds > 0.0 { total.faces as f64 / seconds } else { 0.0 };
    if as_json {
        let line = json!({
            "gallery": gallery, "subjects": subjects, "faces": total.faces, "already_enrolled": total.already,
            "rejected": total.rejected, "seconds": (seconds * 1e3).round() / 1e3, "faces_per_s": (rate * 10.0).round() / 10.0
        });
        return writeln!(out, "{line}");
    }
    let faces = total.faces;
    writeln!(
        out,
        "gallery {gallery}: {faces} faces of {subjects} subjects enrolled in {seconds:.1} s ({rate:.1} faces/s)"
    )?;
    if total.already > 0 {
        writeln!(out, "  {} were enrolled already", total.already)?;
    }
    total.rejected.iter().try_for_each(|(code, count)| writeln!(out, "  {count} rejected: {code}"))
}

/// Subject folders by name, the photos of each by name.
pub(super) fn subject_folders(folder: &Path, max_per_subject: Option<usize>) -> anyhow::Result<Vec<SubjectFolder>> {
    let mut subjects = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let photos = entries(&path)?.into_iter().filter(|path| is_photo(path));
        let photos = photos.take(max_per_subject.unwrap_or(usize::MAX)).collect();
        subjects.push(SubjectFolder { name, photos });
    }
    Ok(subjects)
}

/// Makes the gallery unless it is there; gives whether it did.
fn ensure_gallery(client: &Client, gallery: &str, keep_crops: bool) -> anyhow::Result<bool> {
    match client.post::<Value>("/v1/galleries", &json!({ "id": gallery, "keep_crops": keep_crops })) {
        Ok(_) => Ok(true),
        Err(ClientError::Problem(problem)) if problem.code == Code::GalleryExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("gallery {gallery} cannot be made")),
    }
}

/// Enrols the photos of a subject that are not enrolled yet, which in a `new` gallery none is. Fails when the server does.
fn enrol_subject(
    client: &Client,
    gallery: &str,
    subject: &SubjectFolder,
    select: Select,
    new: bool,
) -> Result<Outcome, ClientError> {
    let mut outcome = Outcome::default();
    if vultus_engine::ids::SubjectId::try_from(subject.name.as_str()).is_err() {
        let detail = "the folder's name is not a subject id (1 to 128 characters out of A-Z a-z 0-9 _ . : -)";
        subject.photos.iter().for_each(|photo| outcome.reject(SKIPPED_NAME, photo, detail));
        return Ok(outcome);
    }
    let faces = format!("/v1/galleries/{gallery}/subjects/{}/faces", subject.name);
    let enrolled = if new { HashSet::new() } else { enrolled_media(client, &faces)? };
    let select = serde_urlencoded::to_string([("select", select)]).unwrap_or_default();
    for photo in &subject.photos {
        // A name that is no text would be stored changed, and taken for another on the next run.
        let Some(media) = photo.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            outcome.reject("invalid_file_name", photo, "the file's name is not UTF-8");
            continue;
        };
        if enrolled.contains(&media) {
            outcome.already += 1;
            continue;
        }
        let bytes = match std::fs::read(photo) {
            Ok(bytes) => bytes,
            Err(error) => {
                outcome.reject("unreadable_file", photo, &error.to_string());
                continue;
            }
        };
        let query = serde_urlencoded::to_string([("media", &media)]).unwrap_or_default();
        match client.post_image::<EnrolmentView>(&format!("{faces}?{select}&{query}"), &bytes) {
            Ok(done) => outcome.faces += done.faces.len(),
            Err(ClientError::Problem(problem)) if is_about_the_photo(problem.status) => {
                outcome.reject(problem.code.text(), photo, &problem.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

fn is_about_the_photo(status: u16) -> bool {
    matches!(status, 400 | 413 | 415 | 422)
}

/// Media ids of the faces a subject has.
fn enrolled_media(client: &Client, faces: &str) -> Result<HashSet<String>, ClientError> {
    let mut media = HashSet::new();
    let mut cursor = String::new();
    loop {
        let page: Page<FaceView> = match client.get(&format!("{faces}?limit=1000{cursor}")) {
            Ok(page) => page,
            Err(ClientError::Problem(problem)) if problem.code == Code::SubjectNotFound => return Ok(media),
            Err(error) => return Err(error),
        };
        media.extend(page.items.into_iter().map(|face| face.media));
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(media),
        }
    }
}
