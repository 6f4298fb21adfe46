//! A small HTTP client for our own API.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use crate::problem::Problem;

/// How often a request is sent again when the server says it is busy.
const MAX_ATTEMPTS: u32 = 60;
/// Most bytes of an answer.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Longest time for which a file is sent.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Talks to one server. Safe to share between threads.
pub(super) struct Client {
    agent: Agent,
    base: String,
    key: Option<SecretString>,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The server answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server could not be reached.
    #[error("{base} cannot be reached ({cause}); is `vultus serve` running there?")]
    Unreachable {
        /// The server.
        base: String,
        /// Why.
        cause: String,
    },
    /// The server's answer is not one of ours.
    #[error("the answer of {0} is not Vultus's")]
    Foreign(String),
}

/// Why a file was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(String, #[source] std::io::Error),
    /// The request was not served.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// A client of the server at `base`.
    pub(super) fn new(base: &str, key: Option<SecretString>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(120)))
            .user_agent(concat!("vultus/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(64)
            .build();
        Self { agent: Agent::new_with_config(config), base: base.trim_end_matches('/').to_owned(), key }
    }

    /// `GET`.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(|| {
            let request = self.agent.get(format!("{}{path}", self.base));
            self.authorised(request).call()
        })
    }

    /// `POST` of JSON.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.answer(|| self.authorised(self.agent.post(format!("{}{path}", self.base))).send_json(body))
    }

    /// `POST` of one image file.
    pub(super) fn post_image<T: DeserializeOwned>(&self, path: &str, image: &[u8]) -> Result<T, ClientError> {
        self.answer(|| {
            let request = self.agent.post(format!("{}{path}", self.base)).content_type("application/octet-stream");
            self.authorised(request).send(image)
        })
    }

    /// `POST` of a file, read while it is sent. The server can refuse it before that.
    pub(super) fn post_file<T: DeserializeOwned>(&self, path: &str, file: &Path) -> Result<T, FileError> {
        // Told here, since a file that cannot be read is no fault of the server's.
        let open = || File::open(file).map_err(|error| FileError::Unreadable(file.display().to_string(), error));
        open()?;
        let sent = self.answer(|| {
            let request = self.agent.post(format!("{}{path}", self.base)).content_type("application/octet-stream");
            let request = self.authorised(request).header("expect", "100-continue");
            let request = request.config().timeout_global(Some(FILE_TIMEOUT)).build();
            request.send(File::open(file)?)
        });
        Ok(sent?)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {}", key.expose_secret())),
            None => request,
        }
    }

    /// Sends, again while the server is busy, and reads the answer.
    fn answer<T: DeserializeOwned>(
        &self,
        send: impl Fn() -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let mut attempt = 1;
        loop {
            let mut response = send()
                .map_err(|error| ClientError::Unreachable { base: self.base.clone(), cause: error.to_string() })?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS && attempt < MAX_ATTEMPTS {
                attempt += 1;
                let seconds = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                std::thread::sleep(Duration::from_secs(seconds.unwrap_or(1)));
                continue;
            }
            let ok = response.status().is_success();
            let mut body = Vec::new();
            let read = response.body_mut().as_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut body);
            read.map_err(|error| ClientError::Unreachable { base: self.base.clone(), cause: error.to_string() })?;
            return if ok {
                serde_json::from_slice(&body).map_err(|_| ClientError::Foreign(self.base.clone()))
            } else {
                Err(match serde_json::from_slice(&body) {
                    Ok(problem) => ClientError::Problem(Box::new(problem)),
                    Err(_) => ClientError::Foreign(self.base.clone()),
                })
            };
        }
    }
}
