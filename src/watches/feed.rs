//! Hits as a stream of server-sent events.
//!
//! A stream reads its watch's hits from the book, page after page, from the number its reader has. A new hit only wakes
//! it. A reader that takes its time therefore holds one page and nothing else; the next page is read when there is room
//! to send.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use vultus_engine::gallery::Hit;
use vultus_engine::ids::WatchId;

use super::HitView;
use crate::app::App;
use crate::problem::Problem;

/// Hits read at a time.
const PAGE: usize = 100;

struct Feed {
    app: App,
    id: WatchId,
    /// The number that was sent last.
    after: u64,
    page: VecDeque<Hit>,
    more: watch::Receiver<u64>,
    /// Given back when the stream ends or its reader goes.
    _place: OwnedSemaphorePermit,
}

/// The hits of a watch with numbers above `after`; where that is left out, those from now on. Ends when the server stops
/// or the watch is removed.
pub async fn events(
    app: &App,
    id: WatchId,
    after: Option<u64>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Problem> {
    let place = app.watches.stream_place()?;
    let last = app.blocking(move |app| Ok(app.watches.book().progress(id)?.last)).await?;
    // After the look at the last number, which the first page is read behind: nothing falls in between.
    let more = app.watches.subscribe(id);
    let after = after.unwrap_or(last);
    let feed = Feed { app: app.clone(), id, after, page: VecDeque::new(), more, _place: place };
    let keep_alive = Duration::from_millis(app.config.watch.keep_alive_ms);
    let stream = futures::stream::unfold(feed, |mut feed| async move { Some((Ok(feed.next().await?), feed)) });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(keep_alive)))
}

impl Feed {
    async fn next(&mut self) -> Option<Event> {
        let stop = self.app.watches.stop.clone();
        loop {
            if stop.is_cancelled() {
                return None;
            }
            if let Some(hit) = self.page.pop_front() {
                self.after = hit.number;
                return event(&hit);
            }
            self.more.borrow_and_update();
            let (id, after) = (self.id, self.after);
            let page = self.app.blocking(move |app| Ok(app.watches.book().hits(id, after, PAGE)?)).await;
            // The watch is gone, or the store is; a reader that comes back is told.
            self.page = page.ok()?.into();
            if self.page.is_empty() {
                tokio::select! {
                    changed = self.more.changed() => changed.ok()?,
                    () = stop.cancelled() => return None,
                }
            }
        }
    }
}

fn event(hit: &Hit) -> Option<Event> {
    let event = Event::default().id(hit.number.to_string()).event("hit").json_data(HitView::from(hit));
    event.map_err(|error| tracing::error!(%error, "a hit cannot be written as an event")).ok()
}
