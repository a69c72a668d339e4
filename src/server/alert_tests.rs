//! A whole server in this process: alerts that it raises, and what ends them. `tests/layering/alerts.rs` lists the proof of every alert.

use std::time::Instant;

use orderbell_protocol::alert::AlertCode;

use super::tests::{alerts, config, post_paid, start_with};
use super::*;

/// Waits until as many alerts with this code are raised.
pub(super) async fn until_raised(server: &Server, code: AlertCode, count: usize) {
    let began = Instant::now();
    while alerts(server, code).await.len() != count {
        assert!(began.elapsed() < Duration::from_secs(30), "{code} is not raised {count} times");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_above_its_limit_is_an_alert_until_the_limit_is_raised() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.live.max_mailbox_rows = 2;
    let server = start_with(&config).await;
    for order in ["o1", "o2"] {
        post_paid(&server, order, "1").await;
    }
    post_paid(&server, "o3", "2").await;
    assert_eq!(alerts(&server, AlertCode::MailboxOverflow).await, []);
    post_paid(&server, "o4", "1").await;
    until_raised(&server, AlertCode::MailboxOverflow, 1).await;
    let alert = alerts(&server, AlertCode::MailboxOverflow).await.remove(0);
    assert_eq!(alert.subject.as_deref(), Some("store:1"));
    assert!(alert.detail.starts_with("3 notices of live orders"), "{}", alert.detail);
    config.live.max_mailbox_rows = 3;
    server.reload(config).unwrap();
    until_raised(&server, AlertCode::MailboxOverflow, 0).await;
    server.stop().await;
}

/// One thread for all tasks, and the test does not give it back: so does a task that never yields.
#[tokio::test]
async fn a_wall_whose_feed_does_not_run_is_an_alert_until_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(&config(dir.path())).await;
    assert_eq!(alerts(&server, AlertCode::WallStalled).await, []);
    let began = Instant::now();
    while !server.alerts.current().iter().any(|alert| alert.code == AlertCode::WallStalled) {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not raised");
        std::thread::sleep(Duration::from_millis(50));
    }
    until_raised(&server, AlertCode::WallStalled, 0).await;
    server.stop().await;
}
