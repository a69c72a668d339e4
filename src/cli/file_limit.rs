//! The limit of open files: raised at the start, and never too small for the connections that are allowed.
//!
//! Many systems start a process with 1,024 files and allow it hundreds of thousands. Connections above the limit would take the descriptors that the
//! ledger needs for its own files, and a ledger that cannot open a file ends the process. So every place for a connection is counted against the
//! limit before the first one is given out, and some descriptors are kept back.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::NetLimits;

/// Descriptors that are kept back: the ledger's tables and journals, connections to Kafka, the log, and connections that are being turned away.
const RESERVED: u64 = 400;

/// Descriptors that a server with these limits may need.
pub(super) fn needed(limits: &NetLimits) -> u64 {
    limits.max_descriptors() as u64 + RESERVED
}

/// The most that this process may raise its limit to; none when there is no limit.
pub(super) fn highest() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Whether [`raise`] will succeed. The limit stays as it is.
///
/// # Errors
/// A sentence for the operator, when the highest that is allowed is too low.
pub(super) fn check_highest(limits: &NetLimits) -> Result<(), String> {
    check(highest(), needed(limits))
}

/// Raises the limit to the highest that is allowed.
///
/// # Errors
/// A sentence for the operator, when even that is too low.
pub(super) fn raise(limits: &NetLimits) -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit of open files cannot be raised");
    }
    check(getrlimit(Resource::Nofile).current, needed(limits))
}

fn check(limit: Option<u64>, needed: u64) -> Result<(), String> {
    match limit {
        Some(limit) if limit < needed => Err(format!(
            "{needed} open files are needed for the connections that the configuration allows, and {limit} are allowed: set LimitNOFILE={needed} \
             in the unit (or `ulimit -n {needed}`), or a smaller sessions.max_connections or wall.max_viewers"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_hold_the_connections_is_refused_and_one_that_just_can_is_taken() {
        let needed = needed(&NetLimits::default());
        assert_eq!((check(Some(needed), needed), check(None, needed)), (Ok(()), Ok(())));
        let refused = check(Some(needed - 1), needed).unwrap_err();
        assert!(refused.contains("sessions.max_connections") && refused.contains(&needed.to_string()), "{refused}");
        let fewer = NetLimits { max_connections: 1, ..NetLimits::default() };
        assert_eq!(super::needed(&fewer), needed - NetLimits::default().max_connections as u64 + 1);
    }

    #[test]
    fn the_limit_of_this_process_is_raised_to_the_highest() {
        let _fits = raise(&NetLimits::default());
        assert_eq!(getrlimit(Resource::Nofile).current, highest());
    }
}
