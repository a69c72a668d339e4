//! What a test logged, one JSON object a line, as `--log-format json` writes it.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value;
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

/// Subscribers that live as long as the tests do. While a process has only one, tracing asks just the thread that meets a line of the code first
/// whether anyone hears it, and keeps the answer for all threads: a test without a capture would take the line from the test that has one.
static ALWAYS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(tracing_subscriber::registry())));

/// The log of this thread, until it is dropped.
pub struct LogCapture {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogCapture {
    /// Captures what this thread logs at `level` and above.
    #[must_use]
    pub fn at(level: tracing::Level) -> Self {
        LazyLock::force(&ALWAYS);
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let writer = bytes.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .with_span_list(false)
            .with_max_level(level)
            .with_writer(move || Writer(writer.clone()))
            .finish();
        Self { bytes, _guard: tracing::subscriber::set_default(log) }
    }

    /// Everything as one text.
    ///
    /// # Panics
    ///
    /// When a line is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("a log is text")
    }

    /// The first line with this message.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn line(&self, message: &str) -> Value {
        let lines = self.text();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of the log is JSON"));
        let mut found = lines.filter(|line| line["fields"]["message"] == message);
        found.next().unwrap_or_else(|| panic!("{message} was not logged: {}", self.text()))
    }
}
