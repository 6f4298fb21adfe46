//! Schema versions of the Vultus data directory.
