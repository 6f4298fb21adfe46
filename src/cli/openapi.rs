//! `vultus openapi`: the OpenAPI document, as committed in `openapi/openapi.json`.

use std::io::Write;

pub(super) fn run() -> anyhow::Result<()> {
    std::io::stdout().write_all(crate::openapi::text().as_bytes())?;
    Ok(())
}
