//! A client whose state cannot be stored.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::time::Duration;

use orderbell_client::protocol::client::{Output, PersistedState, Timings};
use orderbell_client::{App, MailboxClient};
use tokio::sync::mpsc;

/// A client that ends does so at once; one that goes on never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A till whose disk is full.
struct FullDisk;

impl App for FullDisk {
    fn on_output(&mut self, _: Output) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn persist(&mut self, _: &PersistedState) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

/// The bug: a till had to end its process itself when its state could not be stored. One that did not acknowledged notices that it then lost.
#[tokio::test]
async fn a_state_that_cannot_be_stored_ends_the_client_before_it_sends_anything() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let (_inputs, receiver) = mpsc::channel(1);
    let client = MailboxClient::new(server, "token", "till", PersistedState::default(), Timings::default(), 1);
    let ended = tokio::time::timeout(PATIENCE, client.run(&mut FullDisk, receiver)).await;
    let ended = ended.expect("it goes on without its state");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::StorageFull);
    // The client and its connections are gone, so what it sent is complete.
    listener.set_nonblocking(true).unwrap();
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        let mut sent = String::new();
        stream.read_to_string(&mut sent).unwrap();
        assert!(sent.is_empty() || sent.starts_with("GET /v1/ws "), "more than an upgrade: {sent}");
    }
}
