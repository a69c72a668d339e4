//! The binary `orderbell`: everything is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    orderbell::cli::main()
}
