//! The binary: see `orderbell --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    orderbell::cli::main()
}
