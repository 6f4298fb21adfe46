//! Work on a list by several threads, results in the order of the list.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Calls `work` on every item, on `threads` threads, and `take` with each result in the order of the items, on the
/// calling thread. Stops early when `take` fails.
pub(super) fn ordered<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    // Bounded, so that one slow item does not let the others pile up results without end.
    let (sender, receiver) = mpsc::sync_channel(4 * threads.max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, stop, work) = (sender.clone(), &next, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    if sender.send((index, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        let mut done = Ok(());
        while let Ok((index, result)) = receiver.recv() {
            early.insert(index, result);
            while let Some(result) = early.remove(&wanted) {
                done = take(&items[wanted], result);
                wanted += 1;
                if done.is_err() {
                    break;
                }
            }
            if done.is_err() {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        drop(receiver);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let items: Vec<u64> = (0..200).collect();
        let mut seen = Vec::new();
        let work = |item: &u64| {
            std::thread::sleep(std::time::Duration::from_micros(item * 7919 % 500));
            item * 2
        };
        ordered(&items, 4, work, |item, result| {
            seen.push((*item, result));
            Ok(())
        })
        .unwrap();
        assert!(seen.iter().enumerate().all(|(i, (item, result))| *item == i as u64 && *result == 2 * item));
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn a_failure_stops_the_rest() {
        let items: Vec<u32> = (0..10_000).collect();
        let mut taken = 0;
        let done = ordered(
            &items,
            4,
            |item| *item,
            |_, result| {
                taken += 1;
                anyhow::ensure!(result < 5, "enough");
                Ok(())
            },
        );
        assert!(done.is_err());
        assert_eq!(taken, 6);
    }
}
