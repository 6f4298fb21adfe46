//! One delivery of a hit: signed, posted, acknowledged or not.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use ureq::Agent;
use ureq::config::Config;
use ureq::unversioned::transport::DefaultConnector;
use vultus_engine::gallery::{Hit, Secret, Webhook};

use super::address::{Guarded, Reach};
use super::view::HitView;
use crate::config::WatchSettings;

/// Most bytes of the head of an answer. Its body is not read.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Posts hits.
pub(super) struct Post {
    agent: Agent,
}

impl Post {
    pub(super) fn new(settings: &WatchSettings, reach: Reach) -> Self {
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("vultus/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(MAX_HEAD_BYTES)
            .timeout_global(Some(Duration::from_millis(settings.webhook_timeout_ms)))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Guarded(reach));
        Self { agent }
    }

    /// Posts a hit; `Ok` when the other side acknowledged it with a status of 200 to 299. Blocks.
    pub(super) fn send(&self, webhook: &Webhook, hit: &Hit) -> Result<(), String> {
        let body = serde_json::to_vec(&HitView::from(hit)).map_err(|error| error.to_string())?;
        let timestamp = Timestamp::now().as_second();
        let sent = self
            .agent
            .post(&webhook.url)
            .header("content-type", "application/json")
            .header("vultus-timestamp", timestamp.to_string())
            .header("vultus-signature", signature(&webhook.secret, timestamp, &body))
            .header("vultus-watch", hit.watch.to_string())
            .header("vultus-hit", hit.number.to_string())
            .send(&body[..]);
        let status = sent.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("answered with status {}", status.as_u16())) }
    }
}

/// `v1=` and the hex of HMAC-SHA-256 (RFC 2104) under the secret over timestamp, a full stop and body.
fn signature(secret: &Secret, timestamp: i64, body: &[u8]) -> String {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else { return String::new() };
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body);
    let mut text = "v1=".to_owned();
    for byte in mac.finalize().into_bytes() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_another_implementation() {
        // Python: hmac.new(b"0123456789abcdef", b'1700000000.{"a":1}', "sha256").hexdigest()
        let secret = Secret::new("0123456789abcdef".to_owned());
        let expected = "v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(signature(&secret, 1_700_000_000, br#"{"a":1}"#), expected);
    }
}
