//! Searches that wait at the same time are done together.
//!
//! Whoever comes first searches at once and alone, with all threads. Who comes meanwhile waits; when the first is done, one of
//! those who wait searches for all of them, in one walk over the rows, which costs little more than one search.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::SearchOutcome;

/// Who waits, and whether somebody searches.
#[derive(Default)]
pub(super) struct Combiner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Somebody searches, or was told to.
    busy: bool,
    waiting: VecDeque<Arc<Ticket>>,
}

/// One who waits.
struct Ticket {
    probe: Vec<f32>,
    limit: usize,
    turn: Mutex<Turn>,
}

enum Turn {
    Waits,
    /// It is to search, for all who wait.
    Leads,
    Answered(SearchOutcome),
    /// Whoever searched for it failed.
    Abandoned,
}

impl Combiner {
    /// The answer for a probe. `search` answers one to `most` probes, each with its limit, in their order; what it searches in is
    /// to be looked up when it is called, so that an answer is never older than its question.
    pub(super) fn search(
        &self,
        probe: &[f32],
        limit: usize,
        most: usize,
        search: impl Fn(&[(&[f32], usize)]) -> Vec<SearchOutcome>,
    ) -> SearchOutcome {
        let alone = || search(&[(probe, limit)]).pop().expect("an answer for each probe");
        let mut state = self.state.lock();
        if !state.busy {
            state.busy = true;
            drop(state);
            let handing_over = HandingOver { combiner: self, led: Vec::new() };
            let answer = alone();
            drop(handing_over);
            return answer;
        }
        let ticket = Arc::new(Ticket { probe: probe.to_vec(), limit, turn: Mutex::new(Turn::Waits) });
        state.waiting.push_back(Arc::clone(&ticket));
        loop {
            let turn = std::mem::replace(&mut *ticket.turn.lock(), Turn::Waits);
            match turn {
                Turn::Waits => self.changed.wait(&mut state),
                Turn::Answered(answer) => return answer,
                Turn::Abandoned => {
                    drop(state);
                    return alone();
                }
                Turn::Leads => break,
            }
        }
        let count = state.waiting.len().min(most.max(1) - 1);
        let led: Vec<Arc<Ticket>> = state.waiting.drain(..count).collect();
        drop(state);
        let handing_over = HandingOver { combiner: self, led };
        let mut probes = vec![(probe, limit)];
        probes.extend(handing_over.led.iter().map(|ticket| (&ticket.probe[..], ticket.limit)));
        let mut answers = search(&probes).into_iter();
        let own = answers.next().expect("an answer for each probe");
        for (ticket, answer) in handing_over.led.iter().zip(answers) {
            *ticket.turn.lock() = Turn::Answered(answer);
        }
        own
    }
}

/// Lets the next one search when this one is done, also where it panics.
struct HandingOver<'a> {
    combiner: &'a Combiner,
    /// For whom it searches.
    led: Vec<Arc<Ticket>>,
}

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        for ticket in &self.led {
            let mut turn = ticket.turn.lock();
            if matches!(*turn, Turn::Waits) {
                *turn = Turn::Abandoned;
            }
        }
        let mut state = self.combiner.state.lock();
        match state.waiting.pop_front() {
            Some(next) => *next.turn.lock() = Turn::Leads,
            None => state.busy = false,
        }
        drop(state);
        self.combiner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::index::Hit;
    use crate::index::fixture::key;

    /// An answer that says what was asked.
    fn answer(probe: &[f32], limit: usize) -> SearchOutcome {
        let subject = key(limit as u64, None).subject;
        SearchOutcome::exact(vec![Hit { subject, score: probe[0], face: None }])
    }

    #[test]
    fn everybody_gets_the_answer_to_their_own_question() {
        const THREADS: usize = 12;
        const EACH: usize = 200;
        let combiner = Combiner::default();
        let (calls, largest, together) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(THREADS));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (combiner, calls, largest, together) = (&combiner, &calls, &largest, &together);
                scope.spawn(move || {
                    together.wait();
                    for number in 0..EACH {
                        let probe = [(thread * EACH + number) as f32];
                        let found = combiner.search(&probe, thread, 4, |probes| {
                            calls.fetch_add(1, Ordering::Relaxed);
                            largest.fetch_max(probes.len(), Ordering::Relaxed);
                            std::thread::sleep(std::time::Duration::from_micros(50));
                            probes.iter().map(|(probe, limit)| answer(probe, *limit)).collect()
                        });
                        assert_eq!(found, answer(&probe, thread));
                    }
                });
            }
        });
        assert_eq!(largest.into_inner(), 4);
        assert!(calls.into_inner() < THREADS * EACH / 2);
        assert!(!combiner.state.lock().busy);
    }

    #[test]
    fn a_search_that_fails_takes_nobody_with_it() {
        let combiner = Combiner::default();
        let (first, second) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let blocker = scope.spawn(|| {
                combiner.search(&[1.0], 1, 16, |probes| {
                    first.wait();
                    second.wait();
                    vec![answer(probes[0].0, 1)]
                })
            });
            first.wait();
            // Two wait: the first of them leads and panics, the other is answered all the same.
            let waiters: Vec<_> = (0..2)
                .map(|number| {
                    let combiner = &combiner;
                    let waiter = scope.spawn(move || {
                        catch_unwind(AssertUnwindSafe(|| {
                            combiner.search(&[2.0], 2, 16, |probes| {
                                assert!(probes.len() == 1, "more than one");
                                vec![answer(probes[0].0, probes[0].1)]
                            })
                        }))
                    });
                    while combiner.state.lock().waiting.len() <= number {
                        std::thread::yield_now();
                    }
                    waiter
                })
                .collect();
            second.wait();
            assert_eq!(blocker.join().unwrap(), answer(&[1.0], 1));
            let results: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            assert!(results[0].is_err());
            assert_eq!(results[1].as_ref().unwrap(), &answer(&[2.0], 2));
        });
        assert_eq!(combiner.search(&[3.0], 3, 16, |probes| vec![answer(probes[0].0, 3)]), answer(&[3.0], 3));
    }
}
