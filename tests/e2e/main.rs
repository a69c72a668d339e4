//! The whole, from outside: the real binary, real sockets, real signals. Each scenario reads as a script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]
#![allow(clippy::disallowed_methods, reason = "a scenario waits for its tasks by their handles")]

/// Every scenario runs on the embedded stream and on a real Kafka; `with` a configuration, if it needs one.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        scenarios! { with ""; $($name),* }
    };
    (with $config:expr; $($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::chain::Node::configured($config)).await;
            })*
        }
        #[cfg(feature = "real-kafka")]
        mod on_kafka {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::kafka::node_with($config).await).await;
            })*
        }
    };
}

mod ack_timeout;
mod chain;
mod client_events;
mod crash;
#[cfg(feature = "real-kafka")]
mod dead_letters;
mod demo;
mod disk;
mod dlq;
mod doctor;
mod examples;
mod faulty_records;
mod foreign_types;
#[cfg(feature = "real-kafka")]
mod fsync;
mod full_disk;
mod handshake;
mod http;
mod http_headers;
#[cfg(feature = "real-kafka")]
mod kafka;
mod ledger;
mod limits;
#[cfg(feature = "real-kafka")]
mod losses;
#[cfg(feature = "real-kafka")]
mod members;
#[cfg(feature = "real-kafka")]
mod metadata_proxy;
mod mixed_load;
mod notify;
#[cfg(feature = "real-kafka")]
mod odd_clusters;
mod order_systems;
#[cfg(feature = "real-kafka")]
mod outside;
#[cfg(feature = "real-kafka")]
mod own_topic;
#[cfg(feature = "real-kafka")]
mod pages;
#[cfg(feature = "real-kafka")]
mod producers;
mod reload;
mod resync;
#[cfg(feature = "real-kafka")]
mod sdk;
#[cfg(feature = "real-kafka")]
mod secured;
mod sockets;
#[cfg(feature = "real-kafka")]
mod steps;
mod stores;
mod tokens;
#[cfg(feature = "real-kafka")]
mod topics;
#[cfg(feature = "real-kafka")]
mod transactions;
mod unannounced;
mod wall;
