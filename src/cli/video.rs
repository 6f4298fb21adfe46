//! `vultus search --video`: who is in this video?
//!
//! The video is sent to the server, which looks at it in a job; this waits for the job and prints a line for each track.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::client::Client;
use super::local::progress;
use crate::api::probes::{VIDEO_PATH, VideoResult, VideoTrack};
use crate::jobs::{JobView, StateName};

/// How often the job is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Sends a video, waits for its job and prints its tracks. `options` are parameters of the request.
pub(super) fn search(
    client: &Client,
    video: &Path,
    options: &[(&str, Option<String>)],
    as_json: bool,
) -> anyhow::Result<()> {
    let given: Vec<(&str, &String)> =
        options.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?))).collect();
    let path = format!("{VIDEO_PATH}?{}", serde_urlencoded::to_string(given)?);
    let job: JobView = client.post_file(&path, video)?;
    let result = wait(client, &job)?;
    let mut out = std::io::stdout().lock();
    for track in &result.tracks {
        print(&mut out, video, &result, track, as_json)?;
    }
    if !as_json {
        let VideoResult { frames, seconds, tracks, .. } = &result;
        eprintln!("{} tracks in {seconds:.1} s, {frames} frames looked at", tracks.len());
    }
    Ok(())
}

/// Waits until a job has ended. A bar on stderr shows how far it is.
fn wait(client: &Client, job: &JobView) -> anyhow::Result<VideoResult> {
    let bar = progress(0, "frames");
    let path = format!("/v1/jobs/{}", job.id);
    loop {
        let job: JobView = client.get(&path)?;
        if let Some(total) = job.progress.total {
            bar.set_length(total);
        }
        bar.set_position(job.progress.done);
        match job.state {
            StateName::Queued | StateName::Running => std::thread::sleep(ASK_EVERY),
            StateName::Done => {
                bar.finish_and_clear();
                let result = job.result.context("the job is done and has no result")?;
                return serde_json::from_str(result.get()).context("the job's result is not ours");
            }
            StateName::Failed => {
                let problem = job.problem().context("the job failed and does not say why")?;
                return Err(problem.into());
            }
            StateName::Cancelled => anyhow::bail!("the job was cancelled"),
        }
    }
}

fn print(
    out: &mut impl Write,
    video: &Path,
    result: &VideoResult,
    track: &VideoTrack,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        let candidate = |c: &crate::api::search::CandidateView| json!({ "subject": c.subject, "rank": c.rank, "score": c.score, "fpir": c.fpir });
        let mut timings = json!(result.timings_ms);
        timings["search"] = json!(track.search_ms);
        let line = json!({
            "path": video.display().to_string(), "track": track.track, "first_s": track.first_s,
            "last_s": track.last_s, "frames": track.frames, "coherence": track.coherence, "quality": track.quality,
            "decision": track.decision, "threshold": track.threshold,
            "candidates": track.candidates.iter().map(candidate).collect::<Vec<Value>>(), "timings_ms": timings
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let decision = serde_json::to_value(track.decision)?;
    let VideoTrack { track: number, first_s, last_s, frames, .. } = track;
    let name = video.display();
    writeln!(
        out,
        "{name}  track {number}  {first_s:.1}–{last_s:.1} s  {frames} frames  {}",
        decision.as_str().unwrap_or_default()
    )?;
    for candidate in &track.candidates {
        writeln!(out, "{:>5}  {:6.3}  {}", candidate.rank, candidate.score, candidate.subject)?;
    }
    Ok(())
}
