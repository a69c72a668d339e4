//! What `doctor` says of Kafka in a binary that cannot speak to it.

use orderbell_protocol::command_output::DoctorFinding;

use super::failure;
use crate::config::Config;

pub(super) fn check(config: &Config) -> Vec<DoctorFinding> {
    let fix = "build with the feature `kafka`";
    config.boot.kafka.iter().map(|_| failure("kafka", "this binary was built without Kafka", fix)).collect()
}
