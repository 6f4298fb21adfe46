//! Watches: standing searches whose hits are told to others.
//!
//! ```text
//! search, track, video, enrolment ─► look: which watches? search for each ─► book: hits durable ─► answer
//!                                                                              ├─► feed: event streams
//!                                                                              └─► courier: webhooks
//! ```
//!
//! A request that causes a hit waits until the hit is durable, and for no delivery. What is delivered is always read from
//! the book, so a slow reader or a dead endpoint costs no memory and loses nothing that is still kept.

mod address;
mod courier;
mod delivery;
mod feed;
pub(crate) mod look;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use vultus_engine::gallery::{Hit, NewHit, Watch, WatchBook, WatchSettings as Wanted};
use vultus_engine::ids::WatchId;
use vultus_engine::store::Store;

pub use self::courier::DeliveryState;
pub use self::feed::events;
pub use self::view::{HitKind, HitSourceView, HitView};

use self::address::Reach;
use self::courier::{Backoff, Couriers};
use self::delivery::Post;
use crate::config::{Settings, WatchSettings};
use crate::problem::{Code, Problem};

/// Why nothing is delivered where the settings say so.
const NOT_ALLOWED: &str = "this server posts to no webhooks (watch.allow_webhooks)";

/// All watches, their event streams and their couriers.
pub struct Watches {
    book: Arc<WatchBook>,
    settings: WatchSettings,
    reach: Reach,
    couriers: Couriers,
    /// The number of each watch's last hit, for streams that wait for more.
    feeds: Mutex<HashMap<WatchId, watch::Sender<u64>>>,
    /// Why a watch could not look at the last probe.
    troubles: Mutex<HashMap<WatchId, String>>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Watches {
    /// Reads the watches of a store and goes on with what was not delivered.
    pub fn open(store: Arc<dyn Store>, settings: &Settings) -> anyhow::Result<Self> {
        let reach = Reach {
            private: settings.watch.allow_private_addresses,
            loopback: settings.server.listen.ip().is_loopback(),
        };
        let settings = settings.watch.clone();
        let book = Arc::new(WatchBook::open(store, settings.max_hits)?);
        let backoff = Backoff {
            min: Duration::from_millis(settings.retry_min_ms),
            max: Duration::from_millis(settings.retry_max_ms),
        };
        let couriers = Couriers::new(Arc::clone(&book), Post::new(&settings, reach), backoff);
        let watches = Self {
            book,
            reach,
            couriers,
            feeds: Mutex::default(),
            troubles: Mutex::default(),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            stop: CancellationToken::new(),
            settings,
        };
        for watch in watches.book.watches() {
            watches.follow(watch.id)?;
        }
        Ok(watches)
    }

    /// Brings the courier of a watch after a change. Where webhooks are not allowed there is none, and hits wait.
    fn follow(&self, id: WatchId) -> std::io::Result<()> {
        if self.settings.allow_webhooks { self.couriers.follow(id) } else { Ok(()) }
    }

    /// What is kept of them.
    pub fn book(&self) -> &WatchBook {
        &self.book
    }

    /// Makes a watch. Blocks.
    pub fn create(&self, settings: Wanted) -> Result<Arc<Watch>, Problem> {
        let most = self.settings.max_watches;
        let watch = self.book.create(settings, most)?;
        let full = || Problem { required: Some(most as f64), ..Problem::new(Code::WatchesFull) };
        let watch = watch.ok_or_else(full)?;
        self.follow(watch.id).map_err(Problem::internal)?;
        Ok(watch)
    }

    /// Changes a watch. Blocks.
    pub fn update(
        &self,
        id: WatchId,
        change: impl FnOnce(&Watch) -> Result<Wanted, Problem>,
    ) -> Result<Arc<Watch>, Problem> {
        let watch = self.book.update(id, change)?;
        self.troubles.lock().remove(&id);
        self.follow(id).map_err(Problem::internal)?;
        Ok(watch)
    }

    /// Removes a watch with its hits; its streams end. Blocks.
    pub fn remove(&self, id: WatchId) -> Result<(), Problem> {
        self.book.remove(id)?;
        self.follow(id).map_err(Problem::internal)?;
        self.feeds.lock().remove(&id);
        self.troubles.lock().remove(&id);
        Ok(())
    }

    /// Keeps hits of a watch and tells who waits for them. Blocks until they are durable.
    fn add(&self, id: WatchId, new: Vec<NewHit>) -> Result<Vec<Hit>, Problem> {
        let hits = self.book.add_hits(id, new)?;
        if let Some(last) = hits.last() {
            if let Some(feed) = self.feeds.lock().get(&id) {
                feed.send_replace(last.number);
            }
            self.couriers.more(id);
        }
        Ok(hits)
    }

    /// Whether a URL can be a webhook's, as far as its text tells; its addresses are looked at before each delivery.
    pub fn check_url(&self, url: &str) -> Result<(), Problem> {
        if !self.settings.allow_webhooks {
            return Err(Problem::with(Code::WebhookRefused, NOT_ALLOWED));
        }
        self.reach.check(url).map_err(|why| Problem::with(Code::WebhookRefused, why))
    }

    /// How delivery of a watch stands.
    pub fn delivery(&self, id: WatchId) -> DeliveryState {
        if self.settings.allow_webhooks {
            return self.couriers.state(id);
        }
        DeliveryState { last_error: Some(NOT_ALLOWED.to_owned()), next_attempt_at: None }
    }

    /// Why the watch could not look at the last probe; `None` when it could.
    pub fn trouble(&self, id: WatchId) -> Option<String> {
        self.troubles.lock().get(&id).cloned()
    }

    fn note_trouble(&self, id: WatchId, trouble: Option<String>) {
        let mut troubles = self.troubles.lock();
        match trouble {
            None => drop(troubles.remove(&id)),
            Some(trouble) => {
                // Once for each kind, not once for each probe.
                if troubles.get(&id) != Some(&trouble) {
                    tracing::warn!(watch = %id, %trouble, "a watch cannot look");
                    troubles.insert(id, trouble);
                }
            }
        }
    }

    /// A place for an event stream.
    fn stream_place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Problem {
            required: Some(self.settings.max_streams as f64),
            ..Problem::new(Code::StreamsFull)
        })
    }

    /// Told of each hit from now on.
    fn subscribe(&self, id: WatchId) -> watch::Receiver<u64> {
        self.feeds.lock().entry(id).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Ends event streams and deliveries; what was not delivered is after the next start.
    pub fn close(&self) {
        self.stop.cancel();
        self.couriers.stop();
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.close();
    }
}
