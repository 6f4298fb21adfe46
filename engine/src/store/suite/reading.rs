//! Order, pages, long values, answers, and reading while others write.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

pub(crate) fn order_and_pages(store: &dyn Store) {
    let ids: Vec<String> = (0..50).map(|n| format!("s{:02}", n * 37 % 50)).collect();
    let mut operations = vec![create_gallery("a"), create_gallery("b"), create_subject("b", "s10x")];
    for (number, id) in (0..).zip(&ids) {
        operations.push(create_subject("a", id));
        operations.push(add_face("a", id, 1000 - number));
        operations.push(add_face("a", id, number));
    }
    commit(store, &operations).unwrap();
    dump(store);
    let mut sorted = ids.clone();
    sorted.sort();
    for limit in [1, 7, 50, 51, usize::MAX] {
        let mut seen: Vec<String> = Vec::new();
        let mut after = None;
        loop {
            let page = store.subjects(&gid("a"), after.as_ref(), limit).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            seen.extend(page.iter().map(|subject| subject.id.as_str().to_owned()));
        }
        assert_eq!(seen, sorted);
    }
    assert_eq!(store.subjects(&gid("a"), None, 0).unwrap(), []);
    // `after` need not be there.
    let page = store.subjects(&gid("a"), Some(&sid("s10x")), 1).unwrap();
    assert_eq!(page[0].id, sid("s11"));
}

pub(crate) fn scans_can_stop(store: &dyn Store) {
    let faces = (0..1200).map(|number| add_face("a", "x", number));
    let setup: Vec<Operation> = [create_gallery("a"), create_subject("a", "x")].into_iter().chain(faces).collect();
    commit(store, &setup).unwrap();
    for stop_at in [1, 3, 512, 513, 1200] {
        let mut seen = Vec::new();
        let visited = store.scan_faces(&gid("a"), &mut |face| {
            seen.push(face.face.id);
            // The store can be used meanwhile.
            assert_eq!(store.last_seq().unwrap(), 1202);
            if seen.len() == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        visited.unwrap();
        assert_eq!(seen, (0..stop_at as u128).map(fid).collect::<Vec<_>>());
    }
    assert_eq!(scan(store, &gid("a")).len(), 1200);
}

pub(crate) fn changes_in_pages(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    for number in 0..20 {
        commit(store, &[create_subject("a", &format!("s{number}"))]).unwrap();
    }
    let all = store.changes(0, usize::MAX).unwrap();
    assert_eq!(all.len(), 21);
    let mut seen = Vec::new();
    loop {
        let page = store.changes(seen.last().map_or(0, |change: &Change| change.seq), 4).unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, all);
    assert_eq!(store.changes(0, 0).unwrap(), []);
    assert_eq!(store.changes(21, 5).unwrap(), []);
    assert_eq!(store.changes(u64::MAX, 5).unwrap(), []);
}

pub(crate) fn missing_galleries(store: &dyn Store) {
    let (g, s) = (gid("nowhere"), sid("x"));
    assert_eq!(store.gallery(&g).unwrap(), None);
    let missing = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::NoGallery(id)) if id == g));
    missing(store.counts(&g).map(drop));
    missing(store.subject(&g, &s).map(drop));
    missing(store.subjects(&g, None, 1).map(drop));
    missing(store.faces(&g, &s).map(drop));
    missing(store.face(&g, fid(1)).map(drop));
    missing(store.crop(&g, fid(1)).map(drop));
    missing(store.scan_faces(&g, &mut |_| ControlFlow::Continue(())));
}

pub(crate) fn answers(store: &dyn Store) {
    let key = |n: u8| [n; 32];
    assert_eq!(store.answer(&key(1)).unwrap(), None);
    for (n, created_s) in [(1, -5), (2, 0), (3, 100), (4, 101)] {
        store.put_answer(&key(n), &answer(created_s, vec![n; usize::from(n) * 5000])).unwrap();
    }
    assert_eq!(store.answer(&key(3)).unwrap(), Some(answer(100, vec![3; 15_000])));
    assert_eq!(store.forget_answers(-5).unwrap(), 0);
    assert_eq!(store.forget_answers(1).unwrap(), 2);
    assert_eq!(store.answer(&key(1)).unwrap(), None);
    assert_eq!(store.answer(&key(2)).unwrap(), None);
    // Put again, an answer has its new time alone.
    store.put_answer(&key(3), &answer(200, vec![])).unwrap();
    assert_eq!(store.forget_answers(150).unwrap(), 1);
    assert_eq!(store.answer(&key(3)).unwrap(), Some(answer(200, vec![])));
    assert_eq!(store.last_seq().unwrap(), 0, "answers are no changes");
    for n in 0..2500_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        if n < 2100 || n % 100 == 0 {
            store.put_answer(&key, &answer(10, vec![])).unwrap();
        }
    }
    assert_eq!(store.forget_answers(11).unwrap(), 2104);
    dump(store);
}

pub(crate) fn long_values(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    for length in [0, 1, 4000, 4095, 4096, 4097, 8191, 8192, 100_000, 5000, 3, 9000] {
        let long = Subject {
            metadata: "m".repeat(length),
            labels: vec!["l".repeat(length / 2)],
            revision: store.last_seq().unwrap() + 1,
            ..subject("x")
        };
        let write = match store.subject(&gid("a"), &sid("x")).unwrap() {
            None => Operation::CreateSubject { gallery: gid("a"), subject: long.clone() },
            Some(_) => Operation::UpdateSubject { gallery: gid("a"), subject: long.clone(), expected: None },
        };
        commit(store, &[write]).unwrap();
        assert!(store.subject(&gid("a"), &sid("x")).unwrap() == Some(long));
        dump(store);
    }
    for (n, dim) in (0_u32..).zip([1, 512, 1023, 1024, 1025, 4096]) {
        let id = format!("d{dim}");
        let wide = Gallery { dim, label: Some("x".repeat(dim as usize * 4)), ..gallery(&id) };
        let of = |number| StoredFace { embedding: vector(number, dim), ..face("x", number) };
        let numbers = || (0..40).map(|number| u128::from(n) * 100 + number);
        let faces = numbers().map(|number| Operation::AddFace { gallery: gid(&id), face: of(number), crop: None });
        commit(store, &[Operation::CreateGallery(wide), create_subject(&id, "x")]).unwrap();
        commit(store, &faces.collect::<Vec<_>>()).unwrap();
        assert_eq!(scan(store, &gid(&id)), numbers().map(of).collect::<Vec<_>>());
        dump(store);
        commit(store, &[delete_subject(&id, "x")]).unwrap();
        dump(store);
    }
    commit(store, &[delete_subject("a", "x")]).unwrap();
    dump(store);
}

/// Each write adds or removes two faces at once; no reader may see one of them.
pub(crate) fn writers_and_readers_at_once(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    let names = ["s0", "s1", "s2"];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..)
            .zip(names)
            .map(|(n, name): (u128, _)| {
                scope.spawn(move || {
                    commit(store, &[create_subject("a", name)]).unwrap();
                    for round in 0..20 {
                        let pair = [n * 1000 + round, n * 1000 + 500 + round];
                        let committed = commit(store, &pair.map(|number| add_face("a", name, number))).unwrap();
                        assert_eq!(committed.changes, 2);
                        assert!(store.last_seq().unwrap() >= committed.last_seq);
                        if round % 3 == 0 {
                            commit(store, &pair.map(|number| delete_face("a", name, number))).unwrap();
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for name in names {
                        assert_eq!(store.faces(&gid("a"), &sid(name)).unwrap().len() % 2, 0);
                    }
                    let changes = store.changes(0, usize::MAX).unwrap();
                    assert!(changes.iter().zip(1..).all(|(change, seq)| change.seq == seq));
                    let faces = changes.iter().filter(|change| {
                        matches!(change.kind, ChangeKind::FaceAdded(..) | ChangeKind::FaceDeleted(..))
                    });
                    assert_eq!(faces.count() % 2, 0);
                    assert_eq!(store.check().unwrap().problems, Vec::<String>::new());
                }
            });
        }
        for writer in writers {
            // A reader that failed would wait for ever if a failed writer left `done` unset.
            let result = writer.join();
            if result.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            result.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.counts(&gid("a")).unwrap().faces, 3 * 2 * (20 - 7));
    dump(store);
}
