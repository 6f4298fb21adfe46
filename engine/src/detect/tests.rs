//! Detection against reference values and over large photos.
