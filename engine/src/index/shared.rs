//! Walks over chunks that threads share.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Has the threads of the pool walk over parts of some work, which have numbers; gives what each thread came to that took part.
///
/// Each has one state of its own, and takes the next part when it is done with the last. So a thread that comes late takes fewer,
/// nobody waits for longer than a part takes, and what a state costs to make and to finish does not grow with the parts.
pub(super) fn shared_out<S, T: Send>(
    parts: usize,
    new: impl Fn() -> S + Sync,
    walk: impl Fn(S, usize) -> S + Sync,
    finish: impl Fn(S) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let one_thread = |_| {
        let mut state = None;
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return state.map(&finish);
            }
            state = Some(walk(state.take().unwrap_or_else(&new), part));
        }
    };
    (0..rayon::current_num_threads().min(parts)).into_par_iter().with_max_len(1).filter_map(one_thread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_walked_over_once() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for parts in [0, 1, 2, 300] {
                let found = pool.install(|| {
                    let walk = |mut all: Vec<usize>, part| {
                        all.push(part);
                        all
                    };
                    shared_out(parts, Vec::new, walk, |all| all)
                });
                assert!(
                    found.len() <= threads.min(parts) && found.iter().all(|all| all.is_sorted() && !all.is_empty())
                );
                let mut all = found.concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..parts), "{threads} threads, {parts} parts");
            }
        }
    }
}
