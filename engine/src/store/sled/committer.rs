//! Group commit: one thread makes writes durable for all writers that wait.
//!
//! A writer applies its transaction, takes note of it with [`Committer::applied`] while it still keeps readers out, and
//! waits in [`Committer::settle`]. The thread notes how many writes are applied, syncs once and wakes all whose writes
//! that covered. Writers that come during a sync share the next one, so the rate of commits is not bound by that of
//! syncs.
//!
//! Readers settle too: what they saw may be a write whose sync is still on its way, and what was shown must not be lost
//! afterwards.
//!
//! After a sync has failed nobody knows what is on disk (the kernel may have dropped the pages and reports the error
//! only once), so nothing is answered from then on until the store is opened anew and reads what is there.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::store::StoreError;

/// What the thread does.
pub(super) trait Work: Send + Sync + 'static {
    /// Makes all applied writes durable.
    fn sync(&self) -> io::Result<()>;

    /// Does some of the work that can wait, called while no writer waits. Returns whether some is left.
    fn tidy(&self) -> io::Result<bool>;
}

/// Handle on the thread, which ends when this is dropped.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those who wait for it.
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Writes applied.
    applied: u64,
    /// Writes known to be on disk, at most `applied`.
    durable: u64,
    syncs: u64,
    failed: Option<String>,
    untidy: bool,
    stopping: bool,
}

impl Committer {
    /// Starts the thread.
    pub(super) fn start(work: Arc<impl Work>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::default()), work: Condvar::new(), done: Condvar::new() });
        let thread = std::thread::Builder::new().name("store-commit".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&*work)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes note of a write that was applied and has to be made durable.
    pub(super) fn applied(&self) {
        self.shared.state.lock().applied += 1;
        self.shared.work.notify_one();
    }

    /// Takes note of work for [`Work::tidy`].
    pub(super) fn untidy(&self) {
        self.shared.state.lock().untidy = true;
        self.shared.work.notify_one();
    }

    /// Waits until all writes applied so far are durable.
    ///
    /// # Errors
    /// When this or an earlier sync failed.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        let target = state.applied;
        while state.durable < target && state.failed.is_none() {
            self.shared.done.wait(&mut state);
        }
        state.failed.as_deref().map_or(Ok(()), |reason| Err(failed(reason)))
    }

    /// Fails when the store has failed, without waiting.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        self.shared.state.lock().failed.as_deref().map_or(Ok(()), |reason| Err(failed(reason)))
    }

    /// Makes the store fail: a write was applied in part.
    pub(super) fn fail(&self, reason: &str) {
        self.shared.fail(reason);
    }

    /// How many syncs were done.
    pub(super) fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }
}

fn failed(reason: &str) -> StoreError {
    StoreError::Io(io::Error::other(format!("a write failed and the store has to be opened anew: {reason}")))
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's commit thread panicked");
        }
    }
}

impl Shared {
    fn fail(&self, reason: &str) {
        tracing::error!(reason, "the store failed");
        self.state.lock().failed.get_or_insert_with(|| reason.to_owned());
        self.done.notify_all();
        self.work.notify_one();
    }

    fn run(&self, work: &impl Work) {
        let mut state = self.state.lock();
        loop {
            let pending = state.applied > state.durable;
            if state.failed.is_some() || (state.stopping && !pending) {
                return;
            } else if pending {
                let target = state.applied;
                drop(state);
                let result = guarded(|| work.sync());
                state = self.state.lock();
                match result {
                    Ok(()) => {
                        state.durable = target;
                        state.syncs += 1;
                        self.done.notify_all();
                    }
                    Err(error) => {
                        drop(state);
                        return self.fail(&format!("it could not be made durable: {error}"));
                    }
                }
            } else if state.untidy {
                // Cleared first: more may come in meanwhile.
                state.untidy = false;
                drop(state);
                let result = guarded(|| work.tidy());
                state = self.state.lock();
                match result {
                    Ok(left) => state.untidy |= left,
                    Err(error) => {
                        drop(state);
                        return self.fail(&format!("what a deleted gallery left could not be removed: {error}"));
                    }
                }
            } else {
                self.work.wait(&mut state);
            }
        }
    }
}

/// sled panics where it finds its own state broken; here that is an error like others, so that nobody waits for ever.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other("the database panicked")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Fails or panics at the sync of that number.
    struct Fragile {
        syncs: AtomicU64,
        fails_at: u64,
        panics: bool,
        chores: AtomicU64,
    }

    impl Work for Fragile {
        fn sync(&self) -> io::Result<()> {
            if self.syncs.fetch_add(1, Ordering::SeqCst) + 1 < self.fails_at {
                return Ok(());
            }
            assert!(!self.panics, "as asked");
            Err(io::Error::other("the disk is gone"))
        }

        fn tidy(&self) -> io::Result<bool> {
            Ok(self.chores.fetch_sub(1, Ordering::SeqCst) > 1)
        }
    }

    fn start(fails_at: u64, panics: bool, chores: u64) -> (Arc<Fragile>, Committer) {
        let chores = AtomicU64::new(chores);
        let work = Arc::new(Fragile { syncs: AtomicU64::new(0), fails_at, panics, chores });
        let committer = Committer::start(Arc::clone(&work)).unwrap();
        (work, committer)
    }

    #[test]
    fn a_failed_sync_reaches_everyone_and_stays() {
        for panics in [false, true] {
            let (_, committer) = start(2, panics, 0);
            committer.applied();
            committer.settle().unwrap();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        committer.applied();
                        assert!(matches!(committer.settle(), Err(StoreError::Io(_))));
                    });
                }
            });
            assert!(committer.usable().is_err());
            assert!(committer.settle().is_err());
            assert_eq!(committer.syncs(), 1);
        }
    }

    #[test]
    fn dropping_syncs_what_was_applied() {
        let (work, committer) = start(u64::MAX, false, 0);
        committer.applied();
        drop(committer);
        assert_eq!(work.syncs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn nothing_to_wait_for_is_no_sync() {
        let (work, committer) = start(1, false, 0);
        committer.settle().unwrap();
        drop(committer);
        assert_eq!(work.syncs.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn failing_by_hand_ends_waiting() {
        let (_, committer) = start(u64::MAX, false, 0);
        committer.fail("half a write");
        committer.applied();
        assert!(committer.settle().unwrap_err().to_string().contains("half a write"));
    }
}
