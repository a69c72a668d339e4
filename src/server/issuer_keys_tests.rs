//! A whole server in this process whose tokens an issuer signs: how its keys come, and what is said when they do not.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orderbell_lab::log_capture::LogCapture;
use orderbell_protocol::alert::AlertCode;

use super::alert_tests::until_raised;
use super::tests::{alerts, config, start_with};
use super::*;
use crate::config::{KeyConfig, KeySetUrl};

/// An issuer's server: its set, or 503 when there is none, and how often it was asked. It answers while nobody else has the lock.
struct Issuer {
    url: KeySetUrl,
    set: Arc<tokio::sync::Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

/// A set with one key of this name.
fn set(kid: &str) -> String {
    format!(
        r#"{{"keys":[{{"kid":"{kid}","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}}"#
    )
}

impl Issuer {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap()).parse().unwrap();
        let issuer = Self { url, set: Arc::default(), asked: Arc::default() };
        let (set, asked) = (issuer.set.clone(), issuer.asked.clone());
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, mut head) = (socket.unwrap(), [0; 4_096]);
                let _head = socket.read(&mut head);
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = set.blocking_lock().clone().map_or_else(
                    || "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
                    |set| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{set}", set.len()),
                );
                let _answered = socket.write_all(answer.as_bytes());
            }
        });
        issuer
    }

    async fn publish(&self, kid: &str) {
        *self.set.lock().await = Some(set(kid));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A server without a key besides those at this address.
fn config_with(dir: &std::path::Path, issuer: &Issuer) -> Config {
    let mut config = config(dir);
    config.live.min_free_space = crate::config::ByteSize::from_mib(0);
    config.live.tokens.jwks_url = Some(issuer.url.clone());
    config
}

/// Whether a key of this name counts.
fn has_key(server: &Server, kid: &str) -> bool {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#));
    server.state.tokens().key_of(&format!("{header}.e30.AA")).is_some()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The bug: the keys of the configuration were read again for it, and a set that had been written by then was taken for one that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_set_counts_although_a_file_of_the_configuration_is_gone() {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), Issuer::start());
    issuer.publish("a").await;
    let mut config = config_with(dir.path(), &issuer);
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    config.live.tokens.keys = vec![KeyConfig {
        kid: "own".into(),
        algorithm: Default::default(),
        secret_file: Some(secret.clone()),
        public_key_file: None,
        public_key: None,
    }];
    let server = start_with(&config).await;
    assert!(has_key(&server, "own") && has_key(&server, "a"));
    std::fs::remove_file(&secret).unwrap();
    issuer.publish("b").await;
    server.key_fetches.want();
    until("the new key", || has_key(&server, "b")).await;
    assert!(has_key(&server, "own") && !has_key(&server, "a"));
    server.stop().await;
}

/// One thread for all tasks: a log is captured by thread.
#[tokio::test]
async fn a_set_that_cannot_be_kept_counts_and_is_kept_as_soon_as_it_can_be() {
    let (dir, issuer, log) = (tempfile::tempdir().unwrap(), Issuer::start(), LogCapture::at(tracing::Level::WARN));
    issuer.publish("a").await;
    let config = config_with(dir.path(), &issuer);
    let path = dir.path().join("issuer-keys");
    std::fs::create_dir_all(path.join("in-the-way")).unwrap();
    let server = start_with(&config).await;
    assert!(has_key(&server, "a"));
    until("a warning", || log.text().contains("keys count, but cannot be kept")).await;
    // Nothing is in the file for a reload, and the keys count on.
    server.reload(config.clone()).unwrap();
    assert!(has_key(&server, "a"));
    std::fs::remove_dir_all(&path).unwrap();
    server.key_fetches.want();
    until("the file", || std::fs::read_to_string(&path).is_ok_and(|kept| kept.ends_with(&set("a")))).await;
    server.stop().await;
}

/// The bug: what a reload wanted was taken for the wish of a token with an unknown key, which a fetch that was under way had answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_changes_during_a_fetch_is_fetched_at_once() {
    let (dir, before, after) = (tempfile::tempdir().unwrap(), Issuer::start(), Issuer::start());
    before.publish("a").await;
    after.publish("b").await;
    let server = start_with(&config_with(dir.path(), &before)).await;
    let asked = before.asked();
    let held = before.set.lock().await;
    server.key_fetches.want();
    until("a fetch", || before.asked() > asked).await;
    server.reload(config_with(dir.path(), &after)).unwrap();
    assert!(has_key(&server, "a") && !has_key(&server, "b"));
    drop(held);
    until("the key of the new address", || has_key(&server, "b")).await;
    assert!(!has_key(&server, "a"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_fetched_hours_ago_are_an_alert_until_the_issuer_answers() {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), Issuer::start());
    let config = config_with(dir.path(), &issuer);
    // As an earlier process left it.
    config.keep_key_set(&issuer.url, &set("a")).unwrap();
    let hours_ago = SystemTime::now() - Duration::from_secs(2 * 3_600);
    std::fs::File::open(dir.path().join("issuer-keys")).unwrap().set_modified(hours_ago).unwrap();
    let server = start_with(&config).await;
    until_raised(&server, AlertCode::IssuerKeysOld, 1).await;
    let detail = alerts(&server, AlertCode::IssuerKeysOld).await.remove(0).detail;
    assert!(detail.contains("were last fetched 120 min ago") && detail.contains("503"), "{detail}");
    assert!(has_key(&server, "a"), "they count all the same");
    issuer.publish("a").await;
    server.key_fetches.want();
    until_raised(&server, AlertCode::IssuerKeysOld, 0).await;
    server.stop().await;
}
