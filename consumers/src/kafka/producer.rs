//! A producer whose client is replaced after an error that librdkafka does not get over.
//!
//! Such an error ends a client: it takes no record any more, until the process ends. A right that is missing is one where this user may write to
//! no topic at all, and an operator may grant it at any time.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::sync::Mutex;

use super::KafkaOptions;
use super::oauth::TokenContext;
use crate::error::SourceError;

/// A client is at least so old when it is replaced: each one connects and authenticates.
const REPLACED_AFTER: Duration = Duration::from_secs(1);

/// Something whose drop waits. Once it is replaced, a thread of its own drops it: the last one that uses it may be a task, whose worker has others to
/// serve. At the end of the process it is dropped where it is, and waited for.
struct DroppedApart<T: Send + 'static> {
    inner: Option<T>,
    is_replaced: AtomicBool,
}

impl<T: Send + 'static> DroppedApart<T> {
    fn new(inner: T) -> Self {
        Self { inner: Some(inner), is_replaced: AtomicBool::new(false) }
    }

    fn set_replaced(&self) {
        self.is_replaced.store(true, Ordering::Release);
    }
}

impl<T: Send + 'static> Deref for DroppedApart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("it is taken when it is dropped")
    }
}

impl<T: Send + 'static> Drop for DroppedApart<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        if self.is_replaced.load(Ordering::Acquire) {
            let dropped = std::thread::Builder::new().name("drop".into()).spawn(move || drop(inner));
            if let Err(error) = dropped {
                tracing::warn!(%error, "there is no thread for a client that ended: it was waited for");
            }
        }
    }
}

/// A client of librdkafka, whose drop waits for its thread and flushes.
struct Client {
    producer: DroppedApart<FutureProducer<TokenContext>>,
    made_at: Instant,
}

impl Client {
    fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        let producer = options.producer().create_with_context(options.context());
        let producer = producer.map_err(|error| SourceError::fatal("create producer", error))?;
        Ok(Self { producer: DroppedApart::new(producer), made_at: Instant::now() })
    }
}

/// The error that ended a client, if one did.
fn end_of(producer: &FutureProducer<TokenContext>) -> Option<RDKafkaErrorCode> {
    producer.client().fatal_error().map(|(code, _)| code)
}

pub(super) struct Producer {
    options: KafkaOptions,
    current: Mutex<Arc<Client>>,
}

impl Producer {
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        Ok(Self { options: options.clone(), current: Mutex::new(Arc::new(Client::new(options)?)) })
    }

    /// Sends a record, which waits at most `queue_timeout` for room in the queue.
    ///
    /// # Errors
    /// Why the brokers did not take it; where that ended the client, the error that did.
    pub(super) async fn send(
        &self,
        record: FutureRecord<'_, [u8], [u8]>,
        queue_timeout: Duration,
    ) -> Result<(), KafkaError> {
        let client = self.client().await;
        let sent = client.producer.send(record, queue_timeout).await;
        sent.map(|_| ()).map_err(|(error, _)| end_of(&client.producer).map_or(error, KafkaError::MessageProduction))
    }

    /// The client, or a new one where an error ended it.
    async fn client(&self) -> Arc<Client> {
        // Whoever else sends waits for the new client, which asks nobody: the ended one would take no record.
        let mut current = self.current.lock().await;
        if let Some(code) = end_of(&current.producer).filter(|_| current.made_at.elapsed() >= REPLACED_AFTER) {
            let options = self.options.clone();
            match tokio::task::spawn_blocking(move || Client::new(&options)).await {
                Ok(Ok(made)) => {
                    tracing::warn!(%code, "an error ended the client that writes to Kafka: it is replaced");
                    current.producer.set_replaced();
                    *current = Arc::new(made);
                }
                Ok(Err(error)) => tracing::warn!(%error, "a client that writes to Kafka cannot be made"),
                Err(panic) => tracing::error!(%panic, "making a client that writes to Kafka panicked"),
            }
        }
        current.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    use super::*;

    struct Noted(mpsc::Sender<ThreadId>);

    impl Drop for Noted {
        fn drop(&mut self) {
            let _nobody_waits = self.0.send(thread::current().id());
        }
    }

    /// Regression: the last record of a client that had ended dropped it, and its runtime's worker waited for the client's thread.
    #[test]
    fn a_client_that_was_replaced_is_dropped_by_another_thread() {
        let (noted, dropped_by) = mpsc::channel();
        let client = DroppedApart::new(Noted(noted));
        client.set_replaced();
        drop(client);
        assert_ne!(dropped_by.recv(), Ok(thread::current().id()));
    }

    #[test]
    fn the_last_client_is_dropped_where_it_is() {
        let (noted, dropped_by) = mpsc::channel();
        drop(DroppedApart::new(Noted(noted)));
        assert_eq!(dropped_by.recv(), Ok(thread::current().id()));
    }
}
