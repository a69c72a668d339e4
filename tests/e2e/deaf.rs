//! Connected, but deaf: a client that reads and never acknowledges.

use orderbell::client::Heard;

use crate::chain::{Bell, soon};

scenarios! {
    with "[sessions]\nredeliver_after_ms = 400\n";
    un_acked_notices_come_again_marked_and_a_deaf_client_is_found,
}

async fn un_acked_notices_come_again_marked_and_a_deaf_client_is_found(bell: Bell) {
    let mut till = bell.till("1", "deaf").await;
    bell.pays("o1", "1").await;
    let first = till.notice().await;
    let mut attempts = vec![first.attempt];
    let closed = loop {
        match soon("a repeat or the end", till.socket.next()).await.unwrap() {
            Heard::Notice(again) => {
                assert_eq!((again.position, again.notice.id), (first.position, first.notice.id.clone()));
                attempts.push(again.attempt);
            }
            Heard::Frame(_) => {}
            Heard::Closed(why) => break why,
        }
    };
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert_eq!(closed, Some((4103, "deaf".into())));
    // Nothing is lost: the next connection hears it, marked.
    let mut back = bell.till("1", "deaf").await;
    let again = back.notice().await;
    assert!(again.attempt > 1 && again.notice.id == first.notice.id);
}
