//! The server that `enrol` and `search` talk to: a running one, or one of our own over a data directory.
//!
//! Both ways are the same requests, so the command line can do nothing that the API cannot.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use crate::config::Settings;
use crate::server::{Server, build, open_store};

/// Which server.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The server to talk to
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", conflicts_with = "data_dir")]
    url: String,
    /// Work on a data directory that no server has open
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The server's key
    #[arg(long, env = "VULTUS_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    key: Option<SecretString>,
}

fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// A client, and the server behind it when it is ours.
pub(super) struct Connected {
    pub(super) client: Client,
    own: Option<Own>,
}

struct Own {
    runtime: tokio::runtime::Runtime,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Target {
    /// Fails when a data directory was named that is none yet.
    pub(super) fn require_data_dir(&self) -> anyhow::Result<()> {
        self.data_dir.as_deref().map_or(Ok(()), crate::server::require_data_dir)
    }

    /// Connects, starting a server on loopback when a data directory was named.
    pub(super) fn connect(self) -> anyhow::Result<Connected> {
        let Some(data_dir) = self.data_dir else {
            return Ok(Connected { client: Client::new(&self.url, self.key), own: None });
        };
        let mut settings = Settings::default();
        settings.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.server.data_dir = data_dir;
        // Whether and where to is the business of the server proper, whose settings are not read here; hits wait for it.
        settings.watch.allow_webhooks = false;
        settings.log.filter = "warn".to_owned();
        super::serve::init_log(&settings.log);
        let runtime = super::serve::runtime()?;
        let app = build(settings.clone(), Arc::new(open_store(&settings.server.data_dir)?))?;
        let server = runtime.block_on(Server::bind(app))?;
        let url = format!("http://{}", server.address);
        let stop = CancellationToken::new();
        let running = runtime.spawn(server.run(stop.clone()));
        Ok(Connected { client: Client::new(&url, None), own: Some(Own { runtime, stop, running }) })
    }
}

impl Connected {
    /// Stops a server of our own, waiting until its data is safe.
    pub(super) fn close(self) -> anyhow::Result<()> {
        // Idle connections would keep the server waiting.
        drop(self.client);
        if let Some(own) = self.own {
            own.stop.cancel();
            own.runtime.block_on(own.running)??;
        }
        Ok(())
    }
}
