//! `vultus serve`: the server.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use vultus_engine::model::Precision;

use crate::app::App;
use crate::config::{LogFormat, LogSettings, Override, Settings, load};
use crate::server::{Server, build, open_store};

/// Runs the server. Settings: built-in defaults, then vultus.toml, then VULTUS_SECTION__KEY, then flags.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where everything is kept [default: ./vultus-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Name or id of an installed model, `mobilefacenet` for the embedded one, or a safetensors file with its
    /// manifest beside it
    #[arg(long, value_name = "ID|FILE")]
    model: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N` [default: auto]
    #[arg(long)]
    device: Option<String>,
    /// Add the raw features of a face and its mirror image
    #[arg(long)]
    flip: bool,
    /// Precision of the network: `f32` or `bf16` [default: f32]
    #[arg(long)]
    dtype: Option<Precision>,
    /// Who looks for faces where a request does not say: `yunet`, `mtcnn` or `mtcnn_compat` [default: yunet]
    #[arg(long, value_parser = name_of_detector)]
    detector: Option<String>,
    /// Listen beyond loopback without a key
    #[arg(long)]
    insecure: bool,
    /// Configuration file [default: vultus.toml where it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its source, secrets hidden, and stop
    #[arg(long)]
    print_config: bool,
}

/// Settings from flags are text, so the name stays one once it is known to be right.
fn name_of_detector(text: &str) -> Result<String, String> {
    super::local::detector(text).map(|_| text.to_owned())
}

/// The settings cannot be served as they stand.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let loaded = load(self.config.as_deref(), std::env::vars().collect(), &self.overrides());
        let loaded = loaded.map_err(|error| Usage(error.to_string()))?;
        loaded.settings.check().map_err(Usage)?;
        if self.print_config {
            let mut out = std::io::stdout().lock();
            for (key, value, source) in &loaded.sources {
                writeln!(out, "{key} = {value}  ({source})")?;
            }
            return Ok(());
        }
        let settings = loaded.settings;
        check_exposure(&settings)?;
        init_log(&settings.log);
        runtime()?.block_on(serve(settings))
    }

    fn overrides(&self) -> Vec<Override> {
        let text = |key, value: Option<String>| value.map(|value| Override { key, value });
        [
            text("server.data_dir", self.data_dir.as_ref().map(|dir| dir.display().to_string())),
            text("server.listen", self.listen.map(|address| address.to_string())),
            text("server.insecure", self.insecure.then(|| "true".to_owned())),
            text("model.name", self.model.clone()),
            text("model.device", self.device.clone()),
            text("detect.detector", self.detector.clone()),
            text("model.dtype", self.dtype.map(|dtype| dtype.to_string())),
            text("model.flip", self.flip.then(|| "true".to_owned())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Beyond loopback anybody may ask, so a key is needed unless the operator says otherwise.
fn check_exposure(settings: &Settings) -> Result<(), Usage> {
    let address = settings.server.listen;
    let keyless = settings.auth.key.expose_secret().is_empty();
    if keyless && !address.ip().is_loopback() && !settings.server.insecure {
        return Err(Usage(format!(
            "{address} can be reached from other machines and no key is set; set VULTUS_AUTH__KEY or [auth] key, \
             or start with --insecure"
        )));
    }
    Ok(())
}

/// The async runtime of the server.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Log lines go to stderr. A second call does nothing.
pub(super) fn init_log(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match settings.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let opening = tokio::task::spawn_blocking(move || {
        let store = Arc::new(open_store(&settings.server.data_dir)?);
        build(settings, store)
    });
    let app = opening.await??;
    let server = Server::bind(app.clone()).await?;
    // Before the address is told: whoever knows it may also ask us to stop.
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    greet(&app, server.address)?;
    server.run(stop).await?;
    // Dropping the last reference joins the worker threads and flushes the store, which blocks.
    tokio::task::spawn_blocking(move || drop(app)).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Tells where the server is. The first line on stdout is what scripts wait for; they may close the pipe after it.
fn greet(app: &App, address: SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    let mut text = format!("listening on {url}\ndocs: {url}/docs\n");
    if app.database.galleries()?.is_empty() {
        let key = if app.key.is_some() { " -H \"authorization: Bearer $VULTUS_AUTH__KEY\"" } else { "" };
        text += &format!(
            "\nEnrol a photo and search with another:\n  \
             curl{key} {url}/v1/galleries --json '{{\"id\":\"people\"}}'\n  \
             curl{key} {url}/v1/galleries/people/subjects/ada/faces -F image=@ada.jpg\n  \
             curl{key} {url}/v1/galleries/people/search -F image=@probe.jpg\n"
        );
    }
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads stdout");
    }
    tracing::info!(%address, model = %app.database.model().id, kernels = app.default_model().model().kernels(), "serving");
    Ok(())
}

/// Cancels `stop` when the process is asked to end. Signals are caught from the return of this function on.
#[cfg(unix)]
fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Cancels `stop` when the process is asked to end.
#[cfg(not(unix))]
fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(())
}
