//! Delivery of hits: one thread for each watch with a webhook, so that one dead endpoint holds up no other.
//!
//! A courier posts the hit after the last acknowledged one, notes the acknowledgement durably, and goes on. What fails is
//! tried again, later each time, and nothing overtakes it. A hit that was acknowledged just before the process ended is
//! delivered once more: at least once, in order.
//!
//! A courier holds the book for the time of a read or a write only, never while it waits for an endpoint, so that a slow
//! one does not keep the store open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Condvar, Mutex, RwLock};
use vultus_engine::gallery::{GalleryError, Hit, Watch, WatchBook};
use vultus_engine::ids::WatchId;

use super::delivery::Post;

/// How delivery of a watch stands, beside its numbers.
#[derive(Debug, Clone, Default)]
pub struct DeliveryState {
    /// Why the last attempt failed; `None` when it did not.
    pub last_error: Option<String>,
    /// When the next attempt is, after one that failed.
    pub next_attempt_at: Option<Timestamp>,
}

/// All couriers.
pub(super) struct Couriers {
    shared: Arc<Shared>,
    at_work: Mutex<HashMap<WatchId, Arc<Courier>>>,
}

struct Shared {
    /// Taken out when the server stops.
    book: RwLock<Option<Arc<WatchBook>>>,
    post: Post,
    backoff: Backoff,
}

/// How long to wait after a failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

struct Courier {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    stop: bool,
    /// There may be more hits.
    hits: bool,
    /// The settings have changed, so that it is worth trying again at once.
    changed: bool,
    failures: u32,
    state: DeliveryState,
}

impl Couriers {
    pub(super) fn new(book: Arc<WatchBook>, post: Post, backoff: Backoff) -> Self {
        let shared = Arc::new(Shared { book: RwLock::new(Some(book)), post, backoff });
        Self { shared, at_work: Mutex::default() }
    }

    /// Brings a watch's courier after a change of its settings or its removal.
    ///
    /// Reads the settings itself, so that of two changes at a time the later counts.
    pub(super) fn follow(&self, id: WatchId) -> std::io::Result<()> {
        let mut at_work = self.at_work.lock();
        let wanted = self.shared.with_book(|book| book.watch(id));
        let wanted =
            wanted.and_then(Result::ok).is_some_and(|watch| watch.settings.enabled && watch.settings.webhook.is_some());
        if !wanted {
            if let Some(courier) = at_work.remove(&id) {
                courier.tell(|inner| inner.stop = true);
            }
            return Ok(());
        }
        if let Some(courier) = at_work.get(&id) {
            courier.tell(|inner| inner.changed = true);
            return Ok(());
        }
        let courier = Arc::new(Courier { inner: Mutex::default(), wake: Condvar::new() });
        let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&courier));
        std::thread::Builder::new().name("courier".to_owned()).spawn(move || own.run(&shared, id))?;
        at_work.insert(id, courier);
        Ok(())
    }

    /// Says that a watch has more hits.
    pub(super) fn more(&self, id: WatchId) {
        if let Some(courier) = self.at_work.lock().get(&id) {
            courier.tell(|inner| inner.hits = true);
        }
    }

    /// How delivery of a watch stands.
    pub(super) fn state(&self, id: WatchId) -> DeliveryState {
        self.at_work.lock().get(&id).map(|courier| courier.inner.lock().state.clone()).unwrap_or_default()
    }

    /// Ends all couriers. When this returns, none holds the book, though one may still wait for an endpoint.
    pub(super) fn stop(&self) {
        *self.shared.book.write() = None;
        for (_, courier) in self.at_work.lock().drain() {
            courier.tell(|inner| inner.stop = true);
        }
    }
}

impl Shared {
    /// Works with the book; `None` once the server stops.
    fn with_book<T>(&self, work: impl FnOnce(&WatchBook) -> T) -> Option<T> {
        self.book.read().as_deref().map(work)
    }
}

/// What a courier does next.
enum Turn {
    Wait,
    Deliver(Arc<Watch>, Box<Hit>),
}

impl Courier {
    fn tell(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock());
        self.wake.notify_all();
    }

    fn run(&self, shared: &Shared, id: WatchId) {
        loop {
            {
                let mut inner = self.inner.lock();
                if inner.stop {
                    return;
                }
                inner.hits = false;
            }
            let turn = shared.with_book(|book| -> Result<Turn, GalleryError> {
                let watch = book.watch(id)?;
                Ok(book.undelivered(id)?.map_or(Turn::Wait, |hit| Turn::Deliver(watch, Box::new(hit))))
            });
            let outcome = match turn {
                // The server stops, or the watch is gone.
                None | Some(Err(GalleryError::NoWatch(_))) => return,
                Some(Err(error)) => Err((0, error.to_string())),
                Some(Ok(Turn::Wait)) => {
                    self.wait_for_hits();
                    continue;
                }
                Some(Ok(Turn::Deliver(watch, hit))) => match deliver(shared, &watch, &hit) {
                    Some(outcome) => outcome.map_err(|error| (hit.number, error)),
                    None => return,
                },
            };
            match outcome {
                Ok(()) => {
                    let mut inner = self.inner.lock();
                    inner.failures = 0;
                    inner.state = DeliveryState::default();
                }
                Err((number, error)) => self.wait_after_failure(shared.backoff, id, number, error),
            }
        }
    }

    fn wait_for_hits(&self) {
        let mut inner = self.inner.lock();
        while !(inner.stop || inner.hits || inner.changed) {
            self.wake.wait(&mut inner);
        }
        inner.changed = false;
    }

    fn wait_after_failure(&self, backoff: Backoff, id: WatchId, number: u64, error: String) {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        let delay = backoff.delay(id, number, inner.failures);
        tracing::warn!(watch = %id, hit = number, failures = inner.failures, %error, "a hit was not delivered");
        inner.state = DeliveryState {
            last_error: Some(error),
            next_attempt_at: SignedDuration::try_from(delay)
                .ok()
                .and_then(|delay| Timestamp::now().checked_add(delay).ok()),
        };
        let until = Instant::now() + delay;
        while !(inner.stop || inner.changed) {
            if self.wake.wait_until(&mut inner, until).timed_out() {
                return;
            }
        }
        if inner.changed {
            (inner.changed, inner.failures) = (false, 0);
        }
    }
}

/// Posts a hit and notes that it was acknowledged. `None` once the server stops.
fn deliver(shared: &Shared, watch: &Watch, hit: &Hit) -> Option<Result<(), String>> {
    let Some(webhook) = &watch.settings.webhook else { return None };
    if let Err(error) = shared.post.send(webhook, hit) {
        return Some(Err(error));
    }
    shared.with_book(|book| book.set_delivered(watch.id, hit.number).map_err(|error| error.to_string()))
}

impl Backoff {
    /// Doubles with each failure up to the longest; of it, between a half and the whole, differently for each watch and
    /// hit, so that couriers do not come back all at once.
    fn delay(self, id: WatchId, number: u64, failures: u32) -> Duration {
        let full = self.min.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = full.min(self.max);
        let mut hash = blake3::Hasher::new();
        hash.update(id.0.as_bytes()).update(&number.to_le_bytes()).update(&failures.to_le_bytes());
        let share = f64::from(hash.finalize().as_bytes()[0]) / 255.0;
        full.mul_f64(0.5 + 0.5 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_differ() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) };
        let ids: Vec<WatchId> = (0..9).map(|n| WatchId(uuid::Uuid::from_u128(n))).collect();
        for (failures, full_s) in
            [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (40, 300.0), (u32::MAX, 300.0)]
        {
            let delays: Vec<f64> = ids.iter().map(|id| backoff.delay(*id, 7, failures).as_secs_f64()).collect();
            assert!(delays.iter().all(|delay| (0.499 * full_s..=full_s).contains(delay)), "{failures}: {delays:?}");
            assert!(delays.iter().any(|delay| *delay != delays[0]));
        }
    }
}
