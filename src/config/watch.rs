//! Settings of watches.

use serde::{Deserialize, Serialize};

/// Standing searches and the delivery of their hits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchSettings {
    /// Watches there may be; more are refused with `watches_full`.
    pub max_watches: usize,
    /// Hits kept of each watch; beyond, the oldest go.
    pub max_hits: u64,
    /// Event streams held at a time; more are refused with `streams_full`.
    pub max_streams: usize,
    /// An event stream without events carries a comment this often.
    pub keep_alive_ms: u64,
    /// Whether hits are posted to the addresses that watches name.
    pub allow_webhooks: bool,
    /// Whether such an address may be a private one. Loopback may be one all the same while the server itself listens on
    /// loopback.
    pub allow_private_addresses: bool,
    /// A delivery is given up after this long, and tried again.
    pub webhook_timeout_ms: u64,
    /// How long to wait after a first failure; each further one doubles it.
    pub retry_min_ms: u64,
    /// The longest wait between two attempts.
    pub retry_max_ms: u64,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            max_watches: 100,
            max_hits: 10_000,
            max_streams: 64,
            keep_alive_ms: 15_000,
            allow_webhooks: true,
            allow_private_addresses: false,
            webhook_timeout_ms: 10_000,
            retry_min_ms: 1000,
            retry_max_ms: 300_000,
        }
    }
}

impl WatchSettings {
    /// The first value that cannot work.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = [
            ("watch.max_hits", self.max_hits),
            ("watch.keep_alive_ms", self.keep_alive_ms),
            ("watch.webhook_timeout_ms", self.webhook_timeout_ms),
            ("watch.retry_min_ms", self.retry_min_ms),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is at least 1"));
        }
        if self.retry_max_ms < self.retry_min_ms {
            return Err("watch.retry_max_ms is at least watch.retry_min_ms".to_owned());
        }
        Ok(())
    }
}
