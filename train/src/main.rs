//! The `vultus-train` program. See [`vultus_train::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vultus_train::cli::main()
}
