//! x
use std::process::ExitCode;
/// d
#[derive(clap::Args)]
pub(crate) struct DemoOptions {}
pub(crate) fn run(_: &DemoOptions) -> Result<(), ExitCode> { Ok(()) }
