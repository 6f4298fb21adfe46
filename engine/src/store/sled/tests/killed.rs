//! A process that is killed while it writes loses nothing it acknowledged and leaves no half of a write.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::store::sled::SledStore;
use crate::store::suite::*;
use crate::store::{Operation, Store};

const ROUND: &str = "VULTUS_TEST_ROUND";
const THREADS: usize = 4;
/// Faces of each subject, committed with it.
const FACES: u128 = 2;

fn number(round: u64, thread: usize, subject: u64) -> u128 {
    (u128::from(round) << 64) + ((thread as u128) << 32) + u128::from(subject) * FACES
}

fn enrol(id: &str, first: u128) -> Vec<Operation> {
    let faces = (first..first + FACES).map(|number| add_face("a", id, number));
    [create_subject("a", id)].into_iter().chain(faces).collect()
}

#[test]
fn child_that_enrols_until_it_is_killed() {
    let (Some(folder), Ok(round)) = (child_folder(), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    report("started");
    let store = SledStore::open(&folder).unwrap();
    // A gallery to delete, so that clean-up is cut off too.
    let big = format!("big-{round}");
    let faces = (0..700).map(|number| add_face(&big, "x", number * 7 + 1));
    let setup = [create_gallery(&big), create_subject(&big, "x")].into_iter().chain(faces);
    if store.gallery(&gid("a")).unwrap().is_none() {
        commit(&store, &[create_gallery("a")]).unwrap();
    }
    commit(&store, &setup.collect::<Vec<_>>()).unwrap();
    commit(&store, &[delete_gallery(&big)]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for subject in 0.. {
                    let id = format!("{round}-{thread}-{subject}");
                    commit(store, &enrol(&id, number(round, thread, subject))).unwrap();
                    report(&format!("enrolled {id}"));
                    if subject % 5 == 4 {
                        report(&format!("deleting {id}"));
                        commit(store, &[delete_subject("a", &id)]).unwrap();
                        report(&format!("deleted {id}"));
                    }
                }
            });
        }
    });
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (mut enrolled, mut deleting, mut deleted) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    // Lines to wait for and microseconds on top: from the very start to well into the writes.
    let moments = [(0, 0), (1, 300), (1, 4_000), (1, 20_000), (5, 900), (40, 0), (77, 1_700), (160, 400), (300, 50)];
    for (round, (wanted, on_top)) in (0..).zip(moments) {
        let arguments = [(ROUND, format!("{round}"))];
        let mut child = start_child("killed::child_that_enrols_until_it_is_killed", folder.path(), &arguments);
        let mut lines = lines(&mut child);
        let mut take = |line: String| {
            let Some((what, id)) = line.split_once(' ') else { return };
            let Some(set) = [("enrolled", &mut enrolled), ("deleting", &mut deleting), ("deleted", &mut deleted)]
                .into_iter()
                .find_map(|(name, set)| (name == what).then_some(set))
            else {
                panic!("the child says: {line}");
            };
            set.insert(id.to_owned());
        };
        lines.by_ref().take(wanted).for_each(&mut take);
        std::thread::sleep(Duration::from_micros(on_top));
        child.kill().unwrap();
        // What it said before it died counts.
        lines.for_each(&mut take);
        child.wait().unwrap();

        let store = SledStore::open(folder.path()).unwrap();
        dump(&store);
        if store.gallery(&gid("a")).unwrap().is_none() {
            assert!(enrolled.is_empty());
            continue;
        }
        for id in enrolled.difference(&deleting) {
            assert!(store.subject(&gid("a"), &sid(id)).unwrap().is_some(), "{id} was acknowledged");
        }
        for id in &deleted {
            assert_eq!(store.subject(&gid("a"), &sid(id)).unwrap(), None, "{id} was deleted");
        }
        for subject in store.subjects(&gid("a"), None, usize::MAX).unwrap() {
            let id = subject.id.as_str();
            let mut parts = id.split('-').map(|part| part.parse::<u64>().unwrap());
            let mut part = || parts.next().unwrap();
            let first = number(part(), part() as usize, part());
            let faces = store.faces(&gid("a"), &subject.id).unwrap();
            assert_eq!(faces, [face(id, first), face(id, first + 1)], "all of a write or nothing");
            for number in [first, first + 1] {
                assert_eq!(store.crop(&gid("a"), fid(number)).unwrap(), Some(crop(number)));
            }
        }
    }
    assert!(enrolled.len() > 100, "{}", enrolled.len());
    assert!(!deleted.is_empty());
}
