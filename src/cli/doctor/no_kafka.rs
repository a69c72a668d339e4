//! What `doctor` says of Kafka in a binary that cannot speak to it.

use super::{Finding, failure};
use crate::config::Config;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let fix = "build with the feature `kafka`";
    config.boot.kafka.iter().map(|_| failure("kafka", "this binary was built without Kafka", fix)).collect()
}
