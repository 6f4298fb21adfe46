//! Integration tests: the server driven through its router and its binary.
