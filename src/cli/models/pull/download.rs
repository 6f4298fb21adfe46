//! Files of a repository of the hub, over HTTP.
//!
//! Addresses, the token and the shared cache are hf-hub's. The transfer is our own, since that crate's neither verifies
//! what it got nor ever gives up on a silent server. A download goes to `FILE.part`, beside which `FILE.etag` names the
//! version; a dropped connection is taken up where it broke, in this run or in a later one, as long as the version is
//! the same. The file gets its name when its length and SHA-256 are those that the hub states for it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::{HeaderMap, Response, StatusCode, header};

use super::super::warn;
use super::error::PullError;

/// Attempts without a byte of progress before giving up.
const ATTEMPTS: u32 = 5;
/// Hops from the hub's address to where it keeps the file.
const HOPS: usize = 5;
/// A server that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// A repository of the hub.
pub(super) struct Hub {
    id: String,
    repository: ApiRepo,
    token: Option<String>,
    agent: Agent,
}

/// What the hub says of a file.
struct Facts {
    /// Names the version; the SHA-256 for large files.
    etag: Option<String>,
    bytes: Option<u64>,
    revision: Option<String>,
}

impl Hub {
    /// A repository at a hub's address.
    pub(super) fn new(endpoint: &str, id: &str) -> Result<Self, PullError> {
        let endpoint = endpoint.trim_end_matches('/');
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(PullError::Endpoint(endpoint.to_owned()));
        }
        let cache = super::cache();
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let token = token.or_else(|| cache.as_ref().and_then(Cache::token));
        let api = ApiBuilder::from_cache(cache.unwrap_or_else(|| Cache::new(PathBuf::new())))
            .with_endpoint(endpoint.to_owned())
            .with_progress(false)
            .build()
            .map_err(|error| PullError::Endpoint(error.to_string()))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("vultus/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::new_with_config(config);
        Ok(Self { id: id.to_owned(), repository: api.model(id.to_owned()), token, agent })
    }

    /// OWNER/NAME.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The address of a file.
    pub(super) fn address(&self, file: &str) -> String {
        self.repository.url(file)
    }

    /// The bytes of a small file.
    pub(super) fn small(&self, file: &str, limit: u64) -> Result<Vec<u8>, PullError> {
        let address = self.address(file);
        let mut attempt = 1;
        loop {
            let got = self.get(&address, None).and_then(|mut response| {
                let mut bytes = Vec::new();
                let read = response.body_mut().as_reader().take(limit + 1).read_to_end(&mut bytes);
                read.map_err(|error| offline(&address, error)).map(|_| bytes)
            });
            match got {
                Ok(bytes) if bytes.len() as u64 > limit => return Err(PullError::TooLarge { address, limit }),
                Err(PullError::Offline { .. }) if attempt < ATTEMPTS => pause(&mut attempt),
                other => return other,
            }
        }
    }

    /// Downloads a large file to `path`, with a progress bar on a terminal. Gives the revision it is of.
    pub(super) fn large(&self, file: &str, path: &Path, limit: u64) -> Result<Option<String>, PullError> {
        let address = self.address(file);
        let facts = self.facts(&address)?;
        if facts.bytes.is_some_and(|bytes| bytes > limit) {
            return Err(PullError::TooLarge { address, limit });
        }
        let io = |source| PullError::Io { path: path.to_path_buf(), source };
        let (part, tag) = (with_suffix(path, "part"), with_suffix(path, "etag"));
        let version = facts.etag.clone().unwrap_or_default();
        let known = std::fs::read_to_string(&tag).is_ok_and(|known| known == version && !version.is_empty());
        if !known {
            let _ = std::fs::remove_file(&part);
            std::fs::write(&tag, &version).map_err(io)?;
        }
        let limit = facts.bytes.unwrap_or(limit);
        let bar = bar(file, facts.bytes);
        let transferred = self.transfer(&address, &part, facts.bytes, limit, &bar);
        bar.finish_and_clear();
        transferred?;

        let found = sha256_of(&part).map_err(io)?;
        match facts.etag.filter(|etag| is_sha256(etag)) {
            Some(expected) if expected != found => {
                let _ = std::fs::remove_file(&part);
                return Err(PullError::Checksum { address, expected, found });
            }
            Some(_) => {}
            None => warn(&format!("{address}: the hub states no SHA-256, so the download could not be verified")),
        }
        std::fs::rename(&part, path).map_err(io)?;
        let _ = std::fs::remove_file(&tag);
        Ok(facts.revision)
    }

    /// Reads until the file is complete, going on after each break.
    fn transfer(
        &self,
        address: &str,
        part: &Path,
        bytes: Option<u64>,
        limit: u64,
        bar: &ProgressBar,
    ) -> Result<(), PullError> {
        let io = |source| PullError::Io { path: part.to_path_buf(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(io)?;
        let mut have = file.metadata().map_err(io)?.len();
        if have > limit {
            file.set_len(0).map_err(io)?;
            have = 0;
        }
        let mut attempt = 1;
        while bytes != Some(have) {
            let before = have;
            let ended = self.go_on(address, &mut file, &mut have, limit, bar, &io);
            match ended {
                Ok(()) if bytes.is_none_or(|bytes| bytes == have) => break,
                Ok(()) | Err(PullError::Offline { .. }) if have > before => attempt = 1,
                Ok(()) if attempt >= ATTEMPTS => return Err(offline(address, "the answer was too short")),
                Err(PullError::Offline { .. }) if attempt < ATTEMPTS => {}
                Ok(()) => {}
                Err(error) => return Err(error),
            }
            pause(&mut attempt);
        }
        file.sync_all().map_err(io)
    }

    /// One request for what is missing.
    fn go_on(
        &self,
        address: &str,
        file: &mut File,
        have: &mut u64,
        limit: u64,
        bar: &ProgressBar,
        io: &impl Fn(std::io::Error) -> PullError,
    ) -> Result<(), PullError> {
        let mut response = match self.get(address, (*have > 0).then_some(*have)) {
            // What is here is no beginning of what is there.
            Err(PullError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if *have > 0 => {
                file.set_len(0).map_err(io)?;
                *have = 0;
                self.get(address, None)?
            }
            other => other?,
        };
        let continues =
            response.status() == StatusCode::PARTIAL_CONTENT && range_start(response.headers()) == Some(*have);
        if *have > 0 && !continues {
            // The server sends the whole file again.
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(offline(address, "the answer is of another part of the file"));
            }
            file.set_len(0).map_err(io)?;
            *have = 0;
        }
        bar.set_position(*have);
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(offline(address, error)),
            };
            if *have + count as u64 > limit {
                return Err(PullError::TooLarge { address: address.to_owned(), limit });
            }
            file.write_all(&buffer[..count]).map_err(io)?;
            *have += count as u64;
            bar.set_position(*have);
        }
    }

    /// `GET` of a file from a byte on, following redirects.
    fn get(&self, address: &str, from: Option<u64>) -> Result<Response<ureq::Body>, PullError> {
        let mut request = self.agent.get(address).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        checked(address, request.call())
    }

    /// What the hub says of a file. The hub's own answer carries it, not that of the store it redirects to.
    fn facts(&self, address: &str) -> Result<Facts, PullError> {
        let mut attempt = 1;
        loop {
            match self.ask(address) {
                Err(PullError::Offline { .. }) if attempt < ATTEMPTS => pause(&mut attempt),
                other => return other,
            }
        }
    }

    fn ask(&self, address: &str) -> Result<Facts, PullError> {
        let mut facts = Facts { etag: None, bytes: None, revision: None };
        let mut at = address.to_owned();
        for _ in 0..HOPS {
            let mut request = self.agent.head(&at).config().max_redirects(0).build();
            request = request.header(header::ACCEPT_ENCODING, "identity");
            // Never to another host.
            if let (Some(token), true) = (&self.token, same_host(address, &at)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call();
            let redirected = response.as_ref().is_ok_and(|response| response.status().is_redirection());
            let response =
                if redirected { response.map_err(|e| offline(address, e))? } else { checked(address, response)? };
            let headers = response.headers();
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            let tag = |text: &str| text.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
            let own = !redirected;
            facts.revision = facts.revision.or_else(|| text("x-repo-commit").map(revision));
            let linked = text("x-linked-etag").or_else(|| text("etag").filter(|_| own));
            facts.etag = facts.etag.or_else(|| linked.map(tag));
            let size = text("x-linked-size").or_else(|| text("content-length").filter(|_| own));
            facts.bytes = facts.bytes.or_else(|| size.and_then(|size| size.parse().ok()));
            let complete = facts.etag.is_some() && facts.bytes.is_some();
            match text("location") {
                Some(location) if redirected && !complete => at = joined(&at, location),
                _ => return Ok(facts),
            }
        }
        Ok(facts)
    }
}

/// Turns answers that are no success into errors.
fn checked(
    address: &str,
    response: Result<Response<ureq::Body>, ureq::Error>,
) -> Result<Response<ureq::Body>, PullError> {
    let response = response.map_err(|error| offline(address, error))?;
    let address = address.to_owned();
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(PullError::NoFile { address }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PullError::Denied { address }),
        // It may do better in a moment.
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(offline(&address, format!("it answered {status}")))
        }
        status => Err(PullError::Status { address, status }),
    }
}

fn offline(address: &str, cause: impl std::fmt::Display) -> PullError {
    PullError::Offline { address: address.to_owned(), cause: cause.to_string() }
}

/// Waits a little longer each time.
fn pause(attempt: &mut u32) {
    std::thread::sleep(Duration::from_millis(100 << *attempt));
    *attempt += 1;
}

/// First byte of a partial answer.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// A commit as it may stand in a manifest.
fn revision(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

fn host(address: &str) -> Option<&str> {
    address.split_once("://")?.1.split(['/', '?', '#']).next()
}

fn same_host(one: &str, other: &str) -> bool {
    host(one) == host(other) && one.split_once("://").map(|p| p.0) == other.split_once("://").map(|p| p.0)
}

/// A redirect's target, which may be relative to the host.
fn joined(base: &str, location: &str) -> String {
    match (location.starts_with('/') && !location.starts_with("//"), base.split_once("://"), host(base)) {
        (true, Some((scheme, _)), Some(host)) => format!("{scheme}://{host}{location}"),
        _ => location.to_owned(),
    }
}

/// Whether a text is a SHA-256 in hex.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit())
}

/// The SHA-256 of a file in hex.
pub(super) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// A progress bar of bytes on stderr, hidden where that is no terminal.
fn bar(file: &str, bytes: Option<u64>) -> ProgressBar {
    let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style).with_message(file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_hubs() {
        let hub = Hub::new("http://127.0.0.1:9/", "some/one").unwrap();
        assert_eq!(hub.address("a/b.yaml"), "http://127.0.0.1:9/some/one/resolve/main/a/b.yaml");
        assert!(matches!(Hub::new("ftp://x", "some/one"), Err(PullError::Endpoint(_))));
    }

    #[test]
    fn redirects_are_joined_and_hosts_told_apart() {
        assert_eq!(joined("https://a.b:1/x/y", "/z?q"), "https://a.b:1/z?q");
        assert_eq!(joined("https://a.b/x", "https://c.d/z"), "https://c.d/z");
        assert!(same_host("https://a.b/x", "https://a.b/y?z"));
        assert!(!same_host("https://a.b/x", "https://c.d/x") && !same_host("https://a.b/x", "http://a.b/x"));
    }
}
