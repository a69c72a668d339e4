//! The errors of the crate's traits. Each keeps the error that caused it as its [`source`](std::error::Error::source), and repeats it in
//! its own message, so that a log line that prints only the outermost error is complete.

/// Any error that can cross a thread.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An operation on a partitioned log failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operation may succeed later: a broker is unreachable, or a request timed out.
    #[error("{operation}: {source}")]
    Transient {
        /// What was tried, as in "fetch metadata".
        operation: &'static str,
        /// The client library's error.
        source: BoxError,
    },
    /// The operation will fail again: the configuration is wrong, or the log has rejected this consumer.
    #[error("{operation}: {source}")]
    Fatal {
        /// What was tried, as in "create consumer".
        operation: &'static str,
        /// The client library's error.
        source: BoxError,
    },
}

impl SourceError {
    /// An error after which `operation` may be tried again.
    pub fn transient(operation: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Transient { operation, source: source.into() }
    }

    /// An error after which trying `operation` again is useless.
    pub fn fatal(operation: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Fatal { operation, source: source.into() }
    }
}

/// A checkpoint store could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read checkpoints: {0}")]
pub struct CheckpointError(#[source] BoxError);

impl CheckpointError {
    /// Wraps the storage's error.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

/// A dead letter could not be written; the shard tries again.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the dead letter: {0}")]
pub struct DeadLetterError(#[source] BoxError);

impl DeadLetterError {
    /// Wraps the error of the place that did not take the dead letter.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

/// A record was not appended to an output log.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The log may take the record later: it should be sent again.
    #[error("cannot append the record yet: {0}")]
    Transient(#[source] BoxError),
    /// The log will never take this record, for instance because it is too large.
    #[error("the log refuses the record: {0}")]
    Refused(#[source] BoxError),
}
