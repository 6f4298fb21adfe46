//! The `vultus` program. See [`vultus::cli`].

use std::process::ExitCode;

// The store and the index allocate and free much while galleries are built again; this allocator gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vultus::cli::main()
}
