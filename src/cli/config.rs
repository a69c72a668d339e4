//! `orderbell config check | default | schema`: find mistakes before the server runs. Nothing is written.

use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArgs, failed, file_limit, out_line};
use crate::config;

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration, report every mistake, and check that its secrets can be read and that its connections fit in the limit of open files.
    Check {
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Print every key with its default and its description.
    Default,
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

pub(crate) fn run(command: &ConfigCommand) -> Result<(), ExitCode> {
    match command {
        ConfigCommand::Default => {
            out_line(config::template().trim_end());
            Ok(())
        }
        ConfigCommand::Schema => {
            out_line(&serde_json::to_string_pretty(&config::schema()).map_err(failed)?);
            Ok(())
        }
        ConfigCommand::Check { args } => {
            let config = args.config()?;
            let refused = |why: String| {
                super::err_line(&format!("orderbell: {why}"));
                ExitCode::from(super::CONFIG)
            };
            let left_out = config.check_tokens().map_err(|error| refused(error.to_string()))?;
            file_limit::check_highest(&config.limits()).map_err(refused)?;
            let stream = match &config.boot.kafka {
                Some(kafka) => format!("Kafka at {}, topics {}", kafka.bootstrap, kafka.topics.join(", ")),
                None => String::from("the embedded stream"),
            };
            out_line(&format!(
                "ok: listens on {}, ledger in {}, orders from {stream}",
                config.boot.listen.public,
                config.boot.data_dir.display()
            ));
            for remark in config.boot.mapping.remarks() {
                out_line(&format!("note: {remark}"));
            }
            for key in left_out {
                out_line(&format!("note: left out of the issuer's keys: {key}"));
            }
            Ok(())
        }
    }
}
