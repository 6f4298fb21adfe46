//! Documents: what is kept beside subjects and faces.

use super::*;

fn put(gallery: Option<&str>, id: &[u8], length: usize) -> Operation {
    put_document(gallery, Collection::Reviews, id, vec![b'x'; length])
}

fn key(gallery: Option<&str>, id: &[u8]) -> DocumentKey {
    DocumentKey { gallery: gallery.map(gid), collection: Collection::Reviews, id: id.to_vec() }
}

pub(crate) fn put_read_remove(store: &dyn Store) {
    commit(store, &[create_gallery("a"), create_gallery("b")]).unwrap();
    let before = store.last_seq().unwrap();
    // Long ones are cut into pieces; replacing and removing takes the pieces along.
    for (gallery, length) in [(Some("a"), 3), (Some("b"), 9000), (None, 4096)] {
        commit(store, &[put(gallery, b"1", length), put(gallery, b"2", 5000)]).unwrap();
        assert_eq!(store.document(&key(gallery, b"1")).unwrap().unwrap().len(), length);
        commit(store, &[put(gallery, b"2", 1)]).unwrap();
        dump(store);
        assert_eq!(store.document(&key(gallery, b"2")).unwrap().unwrap(), b"x");
        let other = DocumentKey { collection: Collection::Hits, ..key(gallery, b"2") };
        assert_eq!(store.document(&other).unwrap(), None, "each collection for itself");
        commit(store, &[Operation::RemoveDocument { key: key(gallery, b"1") }]).unwrap();
        assert_eq!(store.document(&key(gallery, b"1")).unwrap(), None);
        commit(store, &[Operation::RemoveDocument { key: key(gallery, b"1") }]).unwrap();
    }
    assert_eq!(store.last_seq().unwrap(), before, "documents are not in the change log");
    commit(store, &[delete_gallery("b"), create_gallery("b")]).unwrap();
    assert_eq!(store.document(&key(Some("b"), b"2")).unwrap(), None, "a new gallery has none of the old one's");
    assert!(store.document(&key(None, b"2")).unwrap().is_some());
    dump(store);
}

pub(crate) fn in_pages(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    for gallery in [Some("a"), None] {
        for id in ["ab", "b", "aa", "ac", "a"] {
            commit(store, &[put(gallery, id.as_bytes(), 1)]).unwrap();
        }
        commit(store, &[put_document(gallery, Collection::Pairs, b"a", vec![])]).unwrap();
        let gallery = gallery.map(gid);
        let list = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
            let after = after.map(str::as_bytes);
            let found = store.documents(gallery.as_ref(), Collection::Reviews, prefix.as_bytes(), after, limit);
            found.unwrap().into_iter().map(|(id, _)| String::from_utf8(id).unwrap()).collect()
        };
        assert_eq!(list("", None, 10), ["a", "aa", "ab", "ac", "b"]);
        assert_eq!(list("a", None, 3), ["a", "aa", "ab"]);
        assert_eq!(list("a", Some("ab"), 3), ["ac"]);
        assert_eq!(list("b", Some("a"), 3), ["b"]);
        assert_eq!(list("a", Some("b"), 3), [""; 0]);
    }
}

pub(crate) fn refusals(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    let before = dump(store);
    for operation in [put(Some("b"), b"1", 1), Operation::RemoveDocument { key: key(Some("b"), b"1") }] {
        assert!(matches!(commit(store, &[operation]), Err(StoreError::NoGallery(id)) if id == gid("b")));
    }
    assert!(commit(store, &[put(Some("a"), b"1", 5000), put(None, b"1", 1), create_gallery("a")]).is_err());
    assert_eq!(dump(store), before);
    assert_eq!(store.document(&key(Some("b"), b"1")).unwrap(), None);
    assert!(store.documents(Some(&gid("b")), Collection::Reviews, b"", None, 1).is_err());
}
