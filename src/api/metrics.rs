//! `/metrics`: what a Prometheus server collects.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::app::App;
use crate::problem::Problem;

/// The text format of Prometheus.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Figures of this process for a monitoring system, in the text format of Prometheus. Galleries are summed up and not named.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, description = "The figures.", body = String, content_type = "text/plain")))]
pub async fn collect(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let text = app.blocking(|app| Ok(exposition(app))).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn exposition(app: &App) -> String {
    let mut out = String::new();
    let mut figure = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
        // Writing to a text cannot fail.
        let _ = writeln!(out, "# HELP vultus_{name} {help}\n# TYPE vultus_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "vultus_{name}{labels} {value}");
        }
    };
    let indexes = app.database.index_totals();
    let plain = |value: usize| [("", value as u64)];
    figure("galleries", "gauge", "Galleries that can be searched.", &plain(indexes.galleries));
    figure("index_rows", "gauge", "Rows of their indexes.", &plain(indexes.rows));
    figure("index_tombstones", "gauge", "Rows that were removed and still take room.", &plain(indexes.tombstones));
    figure("index_bytes", "gauge", "Memory that indexes take, estimated.", &plain(indexes.bytes));
    figure("index_filed_bytes", "gauge", "Bytes of vectors in files.", &plain(indexes.filed_bytes));
    let parts = indexes.memory;
    let by_part = [
        ("{part=\"vectors\"}", parts.vectors as u64),
        ("{part=\"digits\"}", parts.digits as u64),
        ("{part=\"keys\"}", parts.keys as u64),
        ("{part=\"sketches\"}", parts.sketches as u64),
        ("{part=\"graph\"}", parts.graph as u64),
    ];
    figure("index_part_bytes", "gauge", "The same by part of the indexes.", &by_part);
    if let Some(memory) = app.database.memory_totals() {
        if let Some(limit) = memory.limit {
            figure("index_memory_limit_bytes", "gauge", "Memory that indexes may take.", &plain(limit));
        }
        let actions = [
            ("{action=\"vectors_filed\"}", memory.filed_chunks),
            ("{action=\"graph_withheld\"}", memory.graphs_withheld),
            ("{action=\"graph_dropped\"}", memory.graphs_dropped),
            ("{action=\"cascade_withheld\"}", memory.cascades_withheld),
            ("{action=\"cascade_dropped\"}", memory.cascades_dropped),
        ];
        let help = "What was done for the memory limit since the start: chunks of vectors that went to files, graphs and \
                    cascades that were not made, and that were dropped.";
        figure("index_memory_actions_total", "counter", help, &actions);
    }
    let counts = app.database.snapshot_counts();
    let outcomes = [
        ("{outcome=\"read\"}", counts.read.load(Ordering::Relaxed)),
        ("{outcome=\"refused\"}", counts.refused.load(Ordering::Relaxed)),
        ("{outcome=\"written\"}", counts.written.load(Ordering::Relaxed)),
    ];
    figure(
        "index_snapshots_total",
        "counter",
        "Snapshots of indexes since the start: read, found damaged or outdated and refused, written.",
        &outcomes,
    );
    let graphs = [
        ("{outcome=\"read\"}", counts.graphs_read.load(Ordering::Relaxed)),
        ("{outcome=\"refused\"}", counts.graphs_refused.load(Ordering::Relaxed)),
        ("{outcome=\"withheld\"}", counts.graphs_withheld.load(Ordering::Relaxed)),
        ("{outcome=\"written\"}", counts.graphs_written.load(Ordering::Relaxed)),
    ];
    figure(
        "index_snapshot_graphs_total",
        "counter",
        "Graphs of snapshots since the start: read, found damaged and built anew, not read for the memory limit, written.",
        &graphs,
    );
    figure("images_in_work", "gauge", "Images that are looked at now.", &plain(app.pipeline.health().in_work));
    out
}
