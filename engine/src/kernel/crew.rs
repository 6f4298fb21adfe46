//! How the layers of a network divide their work among threads.
//!
//! A layer of a small network is done in twenty microseconds, less than it takes to wake a thread that sleeps. So while one
//! network runs ([`together`]), other threads of the pool stand by and watch for its next layer, and a layer is handed to
//! them without any of them having slept. The thread that runs the network never waits for one that has not come: it works
//! itself, and whoever is busy elsewhere takes no part. Nobody stands by where enough networks run or wait to keep every thread
//! busy, and who stands by when a network comes to wait ([`called`]) makes way for it.
//!
//! Each of the crew begins with a share of its own, the same one layer after layer: what it wrote of one layer, it reads of
//! the next, from its core's own cache. Whoever is done takes over from the others, from the end.
//!
//! Which thread computes what has no influence on any value.

use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Networks that run with a crew now.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// Pieces of work that a thread was called for and that none has begun.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Threads that have gone home to begin one of them.
static LEAVING: AtomicUsize = AtomicUsize::new(0);

/// Turns without work after which a waiting thread lets the operating system, and then the pool, run something else.
const PATIENCE: usize = 256;
/// Pauses of that kind after which a helper goes home: the network is at something that cannot be shared.
const LIMIT: usize = 2000;

thread_local! {
    /// Who shares the work of this thread's layers.
    static SHARED_BY: Cell<Hands> = const { Cell::new(Hands::Pool) };
}

#[derive(Clone, Copy)]
enum Hands {
    /// The thread pool, as it comes.
    Pool,
    /// Nobody.
    Alone,
    /// Threads that stand by, for as long as [`together`] lasts.
    Crew(*const Crew),
}

/// Sets who shares the work, and puts it back also when the work panics.
struct Restored(Hands);

impl Restored {
    fn set(hands: Hands) -> Self {
        Self(SHARED_BY.replace(hands))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        SHARED_BY.set(self.0);
    }
}

/// A piece of work waits for a thread, until this is dropped.
#[derive(Debug)]
pub(crate) struct Called(());

/// Says that a piece of work waits for a thread.
pub(crate) fn called() -> Called {
    WAITING.fetch_add(1, Ordering::Relaxed);
    Called(())
}

impl Drop for Called {
    fn drop(&mut self) {
        // Whoever left and found nothing to begin is forgotten when nothing waits any more.
        if WAITING.fetch_sub(1, Ordering::Relaxed) == 1 {
            LEAVING.store(0, Ordering::Relaxed);
        } else {
            let _ = LEAVING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |leaving| leaving.checked_sub(1));
        }
    }
}

/// Whether this thread, which stands by, should begin something that waits.
fn makes_way() -> bool {
    let waiting = WAITING.load(Ordering::Relaxed);
    let one_more = |leaving: usize| (leaving < waiting).then_some(leaving + 1);
    waiting > 0 && LEAVING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

/// Runs a network on this thread while others of the pool stand by for its layers.
pub(crate) fn together<R>(run: impl FnOnce() -> R) -> R {
    let threads = rayon::current_num_threads();
    if threads < 2 || !matches!(SHARED_BY.get(), Hands::Pool) {
        return run();
    }
    let crew = Arc::new(Crew::new(threads));
    let present = Present::new(Arc::clone(&crew));
    if present.networks + WAITING.load(Ordering::Relaxed) >= threads {
        // Nobody is free to stand by.
        return alone(run);
    }
    for member in 1..threads {
        let crew = Arc::clone(&crew);
        rayon::spawn(move || crew.help(member));
    }
    let _restored = Restored::set(Hands::Crew(Arc::as_ptr(&crew)));
    run()
}

/// Runs something whose layers this thread is to compute alone.
pub(crate) fn alone<R>(run: impl FnOnce() -> R) -> R {
    let _restored = Restored::set(Hands::Alone);
    run()
}

/// Threads that a layer may be divided among.
pub(crate) fn threads() -> usize {
    match SHARED_BY.get() {
        Hands::Alone => 1,
        Hands::Pool | Hands::Crew(_) => rayon::current_num_threads(),
    }
}

/// Does parts of a piece of work, in any order, on any thread, and comes back when all are done.
pub(crate) fn each(parts: usize, work: impl Fn(usize) + Sync) {
    match SHARED_BY.get() {
        _ if parts < 2 => (0..parts).for_each(work),
        Hands::Alone => (0..parts).for_each(work),
        Hands::Pool => {
            use rayon::prelude::*;
            (0..parts).into_par_iter().with_max_len(1).for_each(&work);
        }
        // SAFETY: set by `together`, which keeps the crew until it is unset, and by this thread only.
        Hands::Crew(crew) => unsafe { &*crew }.share(parts, &work),
    }
}

/// Splits jobs into ranges, a few for each thread.
pub(crate) fn in_parallel(jobs: usize, work: impl Fn(usize, usize) + Sync) {
    let threads = threads();
    if threads == 1 || jobs < 2 {
        return work(0, jobs);
    }
    let parts = jobs.min(threads * 4);
    each(parts, |part| work(part * jobs / parts, (part + 1) * jobs / parts));
}

/// Counts a network that runs, and sends its crew home in the end.
struct Present {
    crew: Arc<Crew>,
    /// Networks that ran when this one came, itself included.
    networks: usize,
}

impl Present {
    fn new(crew: Arc<Crew>) -> Self {
        Self { crew, networks: RUNNING.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.crew.over.store(true, Ordering::Release);
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A piece of work that is shared: a function of the number of a part.
type Shared = *const (dyn Fn(usize) + Sync);

/// Parts that nobody has taken: the first above, their end below. On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, first: usize, end: usize) {
        self.0.store((first as u64) << 32 | end as u64, Ordering::Relaxed);
    }

    /// Takes the first or the last part.
    fn take(&self, last: bool) -> Option<usize> {
        let less = |share: u64| {
            let (first, end) = (share >> 32, share & u64::from(u32::MAX));
            let rest = if last { first << 32 | end.saturating_sub(1) } else { (first + 1) << 32 | end };
            (first < end).then_some(rest)
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(if last { (before & u64::from(u32::MAX)) - 1 } else { before >> 32 } as usize)
    }
}

/// What a network's thread and those that stand by for it have in common.
struct Crew {
    /// [`OPEN`] while there is work, with the number of pieces of work so far above it and that of helpers at work below.
    state: AtomicUsize,
    /// The work. Written while the state is closed and nobody is at work; read between entering and leaving.
    work: UnsafeCell<Option<Shared>>,
    /// What each member is yet to do; the first is the network's own thread.
    shares: Vec<Share>,
    /// Whether a part panicked on a helper.
    failed: AtomicBool,
    over: AtomicBool,
}

/// Bit of the state: there is work that may be entered.
const OPEN: usize = 1 << 16;

// SAFETY: `work` is only touched as its documentation says, which the transitions of `state` order.
unsafe impl Send for Crew {}
// SAFETY: as above.
unsafe impl Sync for Crew {}

/// Waits a little, longer after many turns. Gives how often it has let others run.
fn wait(turn: &mut usize) -> usize {
    *turn += 1;
    if turn.is_multiple_of(PATIENCE) {
        std::thread::yield_now();
    } else {
        spin_loop();
    }
    *turn / PATIENCE
}

impl Crew {
    fn new(members: usize) -> Self {
        let mut shares = Vec::with_capacity(members);
        shares.resize_with(members, Share::default);
        let (state, work) = (AtomicUsize::new(0), UnsafeCell::new(None));
        Self { state, work, shares, failed: AtomicBool::new(false), over: AtomicBool::new(false) }
    }

    /// Does work together with whoever stands by.
    fn share(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared: *const (dyn Fn(usize) + Sync + '_) = work;
        // SAFETY: only the lifetime is forgotten; the pointer is used between entering and leaving, and this function does
        // not return before the state is closed and everybody has left.
        let shared =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(shared) };
        // SAFETY: the state is closed and nobody is at work, from the end of the last call on.
        unsafe { *self.work.get() = Some(shared) };
        let members = self.shares.len();
        for (member, share) in self.shares.iter().enumerate() {
            share.set(member * parts / members, (member + 1) * parts / members);
        }
        self.state.fetch_add(OPEN, Ordering::Release);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.take(0, work)));
        // Closes it and goes on to the next number: adding the bit once more carries into the number.
        self.state.fetch_add(OPEN, Ordering::Relaxed);
        let mut turn = 0;
        while self.state.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            wait(&mut turn);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        assert!(!self.failed.load(Ordering::Relaxed), "a part of a layer panicked on another thread");
    }

    /// Does the parts of a member's share, then what others have not begun.
    fn take(&self, member: usize, work: &(dyn Fn(usize) + Sync)) {
        while let Some(part) = self.shares[member].take(false) {
            work(part);
        }
        for other in 1..self.shares.len() {
            let share = &self.shares[(member + other) % self.shares.len()];
            while let Some(part) = share.take(true) {
                work(part);
            }
        }
    }

    /// Stands by until the network is done, or others keep all threads busy.
    fn help(&self, member: usize) {
        let threads = self.shares.len();
        let mut done = 0;
        let mut turn = 0;
        while !self.over.load(Ordering::Acquire) && RUNNING.load(Ordering::Relaxed) < threads {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN == 0 || state / OPEN == done {
                if makes_way() || wait(&mut turn) > LIMIT {
                    return;
                }
                continue;
            }
            // Entering is counted, so that whoever shares the work waits for it; a state that changed is looked at anew.
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: the state was open when this thread entered, so the work stays until it leaves.
            let found = unsafe { (*self.work.get()).map(|work| &*work) };
            if let Some(work) = found
                && catch_unwind(AssertUnwindSafe(|| alone(|| self.take(member, work)))).is_err()
            {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
            done = state / OPEN;
            turn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// How often each part was done.
    fn counts(parts: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        each(parts, |part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_part_is_done_once_layer_after_layer() {
        for threads in [1, 2, 5] {
            pool(threads).install(|| {
                assert_eq!(counts(9), [1; 9], "by the pool");
                assert_eq!(alone(|| (counts(9), super::threads())), (vec![1; 9], 1));
                together(|| {
                    for layer in 0..2000 {
                        assert_eq!(counts(layer % 40), vec![1; layer % 40]);
                    }
                    assert_eq!(alone(|| counts(3)), [1; 3]);
                    assert_eq!(together(|| counts(3)), [1; 3], "a network within a network");
                });
                assert!(matches!(SHARED_BY.get(), Hands::Pool));
            });
        }
    }

    #[test]
    fn ranges_cover_all_jobs_in_shares_of_nearly_one_size() {
        pool(3).install(|| {
            for jobs in [0, 1, 2, 11, 12, 13, 100] {
                let seen = parking_lot::Mutex::new(Vec::new());
                in_parallel(jobs, |first, end| seen.lock().push(first..end));
                let mut seen = seen.into_inner();
                seen.sort_by_key(|range| range.start);
                assert_eq!(seen.iter().cloned().flatten().collect::<Vec<_>>(), (0..jobs).collect::<Vec<_>>());
                let sizes: Vec<usize> = seen.iter().map(ExactSizeIterator::len).collect();
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
            }
        });
    }

    #[test]
    fn networks_run_beside_each_other() {
        let pool = pool(3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.install(|| together(|| (0..50).for_each(|_| assert_eq!(counts(13), [1; 13]))));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_comes_back_whoever_did_the_part() {
        let pool = pool(2);
        for bad in 0..40 {
            let run = || {
                together(|| {
                    // Long enough for the other thread to come.
                    counts(10_000);
                    each(40, |part| assert!(part != bad, "part {part}"));
                });
            };
            assert!(pool.install(|| catch_unwind(AssertUnwindSafe(run))).is_err());
            assert!(pool.install(|| matches!(SHARED_BY.get(), Hands::Pool)));
            assert_eq!(pool.install(|| together(|| counts(20))), [1; 20]);
        }
    }
}
