//! What a calibration is made from: the best scores of searches that have no mate to find.
//!
//! Two kinds of probe have none: a subject of the gallery searched with the subject itself left out, and a person who
//! is not enrolled. Either gives a list of the best candidates, one score a subject. More than the first is kept,
//! because the second and third of one search tell as much of the tail as the first of another.

use std::collections::HashMap;

/// Candidates of a search to feed and to keep: deep enough that no list ends above the threshold from which the tail is
/// fitted, where two candidates a search are expected.
pub const DEPTH: usize = 64;

/// Whose search it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prober<'a> {
    /// A subject of the gallery; the search left the subject out.
    Enrolled(&'a str),
    /// A person who is not in the gallery.
    Outsider(&'a str),
}

/// An enrolled subject or outsider by number.
pub(super) type Who = u32;

/// One search.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) who: Who,
    /// Subjects the probe was compared with.
    pub(super) compared: usize,
    /// Candidates, best first.
    pub(super) hits: Vec<(Who, f32)>,
}

/// Collects non-mated searches of one gallery.
///
/// A subject may be searched several times, for example with every face of theirs; each subject counts once in the
/// result, however many searches that were. Memory: about 8 bytes a candidate kept.
#[derive(Debug, Clone)]
pub struct MaximaCollector {
    gallery_size: usize,
    numbers: HashMap<(bool, String), Who>,
    names: Vec<(bool, String)>,
    searches: Vec<Search>,
}

impl MaximaCollector {
    /// For a gallery of this many subjects with a template.
    pub fn new(gallery_size: usize) -> Self {
        Self { gallery_size, numbers: HashMap::new(), names: Vec::new(), searches: Vec::new() }
    }

    /// Adds one search: the best candidates in any order, subject and score, each subject once, at least [`DEPTH`] of
    /// them or all there are; and the number of subjects that the probe was `compared` with, whether or not they are
    /// among the candidates (the gallery's size, less one where the probe's own subject was left out).
    ///
    /// Left out: scores that are no numbers, and the probe's own subject. A search that compared with nobody is ignored.
    pub fn add<S: AsRef<str>>(
        &mut self,
        prober: Prober<'_>,
        compared: usize,
        candidates: impl IntoIterator<Item = (S, f32)>,
    ) {
        if compared == 0 {
            return;
        }
        let who = match prober {
            Prober::Enrolled(name) => self.number(true, name),
            Prober::Outsider(name) => self.number(false, name),
        };
        let mut hits: Vec<(Who, f32)> = candidates
            .into_iter()
            .filter(|(_, score)| score.is_finite())
            .map(|(name, score)| (self.number(true, name.as_ref()), score))
            .filter(|&(candidate, _)| candidate != who)
            .collect();
        hits.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        hits.truncate(DEPTH);
        self.searches.push(Search { who, compared: compared.max(hits.len()), hits });
    }

    /// Searches added so far.
    pub fn len(&self) -> usize {
        self.searches.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.searches.is_empty()
    }

    pub(super) fn gallery_size(&self) -> usize {
        self.gallery_size
    }

    pub(super) fn searches(&self) -> &[Search] {
        &self.searches
    }

    /// The name of a number, and whether it is an enrolled subject's.
    pub(super) fn name(&self, who: Who) -> (bool, &str) {
        let (enrolled, name) = &self.names[who as usize];
        (*enrolled, name)
    }

    /// The number of an enrolled subject or outsider that has been seen.
    pub(super) fn known(&self, enrolled: bool, name: &str) -> Option<Who> {
        self.numbers.get(&(enrolled, name.to_owned())).copied()
    }

    fn number(&mut self, enrolled: bool, name: &str) -> Who {
        if let Some(who) = self.known(enrolled, name) {
            return who;
        }
        let who = self.names.len() as Who;
        self.numbers.insert((enrolled, name.to_owned()), who);
        self.names.push((enrolled, name.to_owned()));
        who
    }
}
