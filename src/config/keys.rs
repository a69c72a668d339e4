//! Every key of the configuration: one table from which the file's form, the printed default file, the JSON Schema and the reload rule follow.
//!
//! A key stands here once, with its description, type and default. `restart` keys make the boot half: they take effect when the process
//! starts. `reload` keys make the live half: a SIGHUP replaces it as a whole. `sections` have keys of both kinds and are themselves such
//! tables. So what may be reloaded is a type: code that is given a [`LiveConfig`] can ask for nothing else.
//!
//! Descriptions are read by operators, in `orderbell config default` and in their editors: plain sentences on what the value is, why somebody
//! would change it, and what limits it.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::SecretMap;
use super::units::{ByteSize, HumanDuration};
use orderbell_orders::Mapping;
use orderbell_orders::event_time::Zone;
use orderbell_orders::notices::VisibleFields;

/// Mark of a key in the JSON Schema: true when a SIGHUP changes it.
pub(super) const RELOAD_MARK: &str = "x-reload";

/// One table of keys: `$file` as it is written, `$boot` and `$live` as it is used.
macro_rules! keys {
    (
        $(#[$doc:meta])*
        $file:ident = $boot:ident + $live:ident
        restart { $( $(#[$boot_doc:meta])* $boot_key:ident: $boot_type:ty = $boot_default:expr, )* }
        reload { $( $(#[$live_doc:meta])* $live_key:ident: $live_type:ty = $live_default:expr, )* }
        sections { $( $(#[$part_doc:meta])* $part:ident: $part_file:ident = $part_boot:ident + $part_live:ident, )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $file {
            $( $(#[$boot_doc])* #[schemars(extend("x-reload" = false))] pub(super) $boot_key: $boot_type, )*
            $( $(#[$live_doc])* #[schemars(extend("x-reload" = true))] pub(super) $live_key: $live_type, )*
            $( $(#[$part_doc])* pub(super) $part: $part_file, )*
        }

        impl Default for $file {
            fn default() -> Self {
                Self {
                    $( $boot_key: $boot_default, )*
                    $( $live_key: $live_default, )*
                    $( $part: $part_file::default(), )*
                }
            }
        }

        $(#[$doc])*
        ///
        /// The half that takes effect when the process starts.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $boot {
            $( $(#[$boot_doc])* pub $boot_key: $boot_type, )*
            $( $(#[$part_doc])* pub $part: $part_boot, )*
        }

        $(#[$doc])*
        ///
        /// The half that a SIGHUP replaces.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $live {
            $( $(#[$live_doc])* pub $live_key: $live_type, )*
            $( $(#[$part_doc])* pub $part: $part_live, )*
        }

        impl $file {
            pub(super) fn split(self) -> ($boot, $live) {
                $( let $part = self.$part.split(); )*
                (
                    $boot { $( $boot_key: self.$boot_key, )* $( $part: $part.0, )* },
                    $live { $( $live_key: self.$live_key, )* $( $part: $part.1, )* },
                )
            }
        }

        impl $boot {
            /// Names of the keys whose values differ, each behind `prefix`.
            pub(super) fn differences(&self, new: &Self, prefix: &str, found: &mut Vec<String>) {
                let _unused_in_an_empty_table = (new, prefix, &found);
                $( if self.$boot_key != new.$boot_key { found.push(format!("{prefix}{}", stringify!($boot_key))); } )*
                $( self.$part.differences(&new.$part, concat!(stringify!($part), "."), found); )*
            }
        }

        impl $live {
            /// Names of the keys whose values differ, each behind `prefix`.
            pub(super) fn differences(&self, new: &Self, prefix: &str, found: &mut Vec<String>) {
                let _unused_in_an_empty_table = (new, prefix, &found);
                $( if self.$live_key != new.$live_key { found.push(format!("{prefix}{}", stringify!($live_key))); } )*
                $( self.$part.differences(&new.$part, concat!(stringify!($part), "."), found); )*
            }
        }
    };
}

keys! {
    /// The whole configuration.
    ConfigFile = BootConfig + LiveConfig
    restart {
        /// Directory of the ledger. Exactly one process may use it.
        data_dir: PathBuf = PathBuf::from("orderbell-data"),
        /// How long orders, event ids and the embedded stream are kept after an order's last event. At least `"24h"`, which is longer than any
        /// notice lives.
        state_retention: HumanDuration = HumanDuration::from_hours(72),
        /// How long the delivery log is kept: when each notice was sent to, acknowledged and displayed by each device, for
        /// `GET /v1/orders/ID`. `"0s"` keeps nothing. Complaints about a lost order usually come on the same day.
        timeline_retention: HumanDuration = HumanDuration::from_hours(24),
        /// Addresses to listen on.
        listen: Listen = Listen::default(),
        /// The Kafka cluster that order events are read from. Without this section they come from the embedded stream, which
        /// `POST /v1/events` fills.
        kafka: Option<KafkaConfig> = None,
        /// Where the members of an event are: RFC 6901 pointers into the JSON, for CloudEvents into `data`.
        mapping: Mapping = Mapping::default(),
    }
    reload {
        /// Notices that one mailbox keeps. Above it the oldest notices of ended orders are removed, and a client whose position is below them
        /// gets 410. Notices of live orders are never removed; when they alone exceed the limit, the alert `mailbox_overflow` is raised.
        max_mailbox_rows: u64 = 20_000,
        /// When the ledger's file system has less free space than this, nothing new is taken in until there is more again; reading goes on.
        /// Must exceed the ledger's journal and memory tables together, so that writes in progress can always complete.
        min_free_space: ByteSize = ByteSize::from_mib(512),
        /// Clients are told that their data is stale when the stream has not been read to its end for this long.
        stale_after: HumanDuration = HumanDuration::from_secs(30),
        /// Longest time that a graceful stop may take.
        drain_timeout: HumanDuration = HumanDuration::from_secs(20),
        /// Issuer, audience and keys of tokens: JWT, HS256.
        tokens: TokenConfig = TokenConfig::default(),
        /// Which fields of an order each kind of notice shows. A field that is not listed reaches nobody. `details` are all extra fields of
        /// the mapping, `details.NAME` is one of them.
        notice_fields: VisibleFields = VisibleFields::default(),
    }
    sections {
        /// Limits of WebSocket clients.
        sessions: SessionsFile = BootSessions + LiveSessions,
        /// What `GET /v1/wall` and its page show.
        wall: WallFile = BootWall + LiveWall,
    }
}

keys! {
    /// Limits of WebSocket clients.
    SessionsFile = BootSessions + LiveSessions
    restart {
        /// WebSocket connections at once. Must stay below the open-file limit of the process, with room for the ledger's files.
        max_connections: usize = 15_000,
    }
    reload {
        /// Unacknowledged notices of one client at once.
        max_in_flight: u16 = 64,
        /// Interval of heartbeat frames. Must be shorter than the idle time after which proxies and phones cut a connection.
        heartbeat_interval: HumanDuration = HumanDuration::from_secs(25),
        /// A client that sent nothing for this long is disconnected. Must be longer than `heartbeat_interval`.
        idle_timeout: HumanDuration = HumanDuration::from_secs(70),
        /// A notice that was not acknowledged for this long is sent again.
        ack_timeout: HumanDuration = HumanDuration::from_secs(10),
        /// A client that acknowledged nothing after so many attempts is disconnected with `ack-timeout`.
        max_delivery_attempts: u32 = 4,
    }
    sections {}
}

keys! {
    /// What `GET /v1/wall` and its page show.
    WallFile = BootWall + LiveWall
    restart {
        /// IANA time zone whose midnight begins a day of the counters; by default that of `mapping.time_zone`. Days that were counted before a
        /// change stay as they were.
        time_zone: Option<Zone> = None,
        /// ISO 4217 code of the chain's currency. Amounts without a currency are taken for it; amounts in another one are counted, not
        /// summed.
        currency: String = "CNY".into(),
        /// Viewers at once. Together with `sessions.max_connections` below the open-file limit of the process.
        max_viewers: usize = 2_000,
    }
    reload {
        /// The chain's name, at the top of the wall.
        name: String = "Orderbell".into(),
        /// Decimal digits of the currency.
        currency_digits: u8 = 2,
        /// A CSV file with the columns `id`, `name` and `city`: names and places of the stores.
        stores: Option<PathBuf> = None,
        /// `true` shows the numbers without a token to everybody who can reach the public listener.
        open: bool = false,
    }
    sections {}
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// For tills, customers and producers. Put TLS in front.
    pub public: SocketAddr,
    /// For `/live`, `/ready`, `/metrics`, and on loopback also what `orderbell stores`, `ledger` and `dlq` ask for. Keep it inside.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { public: SocketAddr::from(([127, 0, 0, 1], 8377)), admin: SocketAddr::from(([127, 0, 0, 1], 8378)) }
    }
}

/// Issuer, audience and keys of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// `iss` that every token must have.
    pub issuer: String,
    /// `aud` that every token must have.
    pub audience: String,
    /// Keys by `kid`, for instance `[{ kid = "2026-11", secret_file = "/etc/orderbell/key" }]`; the first one signs. Without any, one is
    /// generated and kept in `data_dir`.
    pub keys: Vec<KeyConfig>,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self { issuer: "orderbell".into(), audience: "orderbell".into(), keys: Vec::new() }
    }
}

/// One HS256 key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The token header's `kid`.
    pub kid: String,
    /// A file with the secret, at least 32 bytes. A secret never stands on a command line or in this file.
    pub secret_file: PathBuf,
}

/// A Kafka cluster to read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of brokers, separated by commas.
    pub bootstrap: String,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Consumer group. Exactly one process may use it.
    #[serde(default = "default_group")]
    pub group: String,
    /// Topic for the events that Orderbell publishes: what tills report, what was posted, what it decides itself. It is read as well. By
    /// default the group's name with `.events`, so that Orderbell needs no right to write to the order system's topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_topic: Option<String>,
    /// A name for the cluster, for brokers and proxies that tell no cluster id: checkpoints are kept under it. Set it before the first start
    /// and never change it, or the topics are read as if for the first time. By default the id that the brokers tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// For `sasl.mechanism = OAUTHBEARER`: a file that holds a token alone, which whatever issues tokens keeps good. It is read again about
    /// every two minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_token_file: Option<PathBuf>,
    /// For `sasl.mechanism = OAUTHBEARER`, instead of a file: a program and its arguments that print a token alone within 10 seconds. It is run
    /// again about every two minutes, and for each client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oauth_token_command: Vec<String>,
    /// Further properties of librdkafka (TLS, SASL), for instance `"security.protocol" = "SASL_SSL"`. Properties that delivery guarantees
    /// depend on are refused. Values are never printed.
    #[serde(default)]
    pub properties: SecretMap,
}

fn default_group() -> String {
    "orderbell".into()
}

impl KafkaConfig {
    /// Name of the output topic.
    #[must_use]
    pub fn output_topic(&self) -> String {
        self.output_topic.clone().unwrap_or_else(|| format!("{}.events", self.group))
    }

    #[cfg(feature = "kafka")]
    fn token(&self) -> Option<orderbell_consumers::kafka::TokenSource> {
        use orderbell_consumers::kafka::TokenSource;

        let command = Some(&self.oauth_token_command).filter(|words| !words.is_empty());
        let file = self.oauth_token_file.clone().map(TokenSource::File);
        file.or_else(|| command.cloned().map(TokenSource::Command))
    }

    /// For tools that inspect this cluster: they join no group and leave the output topic out.
    #[cfg(feature = "kafka")]
    #[must_use]
    pub fn options(&self) -> orderbell_consumers::kafka::KafkaOptions {
        orderbell_consumers::kafka::KafkaOptions {
            bootstrap: self.bootstrap.clone(),
            group: self.group.clone(),
            instance: None,
            topics: self.topics.clone(),
            cluster: self.cluster.clone(),
            token: self.token(),
            properties: self.properties.expose(),
        }
    }
}
