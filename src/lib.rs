//! The Vultus server and command line.
