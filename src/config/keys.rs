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

use super::key_set_url::KeySetUrl;
use super::secret::SecretMap;
use super::units::{ByteSize, HumanDuration};
use crate::net::origin::Origin;
use crate::net::tokens::TokenAlgorithm;
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
        /// Clients see that their data is stale when the stream has not been read to its end for this long.
        stale_after: HumanDuration = HumanDuration::from_secs(30),
        /// Longest time that a graceful stop may take.
        drain_timeout: HumanDuration = HumanDuration::from_secs(20),
        /// Origins whose pages may use mailboxes and their WebSocket, for instance `["https://chain.example"]`; programs send none. Pages of this
        /// server may too; where a proxy changes the `Host`, list their own origin here. Empty: those of every origin, because each request needs
        /// a token that no browser adds by itself.
        allowed_origins: Vec<Origin> = Vec::new(),
        /// Issuer, audience and keys of tokens, which are JWTs.
        tokens: TokenConfig = TokenConfig::default(),
        /// Which fields of an order each kind of notice shows. A field that is not listed reaches nobody. `details` are all extra fields of
        /// the mapping, `details.NAME` is one of them.
        notice_fields: VisibleFields = VisibleFields::default(),
    }
    sections {
        /// Limits of WebSocket clients.
        sessions: SessionsFile = BootSessions + LiveSessions,
        /// How much one store or customer may ask for, and one device of it. A customer may ask for a tenth of what a store may.
        rates: RatesFile = BootRates + LiveRates,
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
    /// How much one store or customer may ask for, and one device of it. A customer may ask for a tenth of what a store may.
    RatesFile = BootRates + LiveRates
    restart {}
    reload {
        /// Events that the tills of one store may report in a minute, on average; two thousand at once, which is what two tills collect during
        /// an outage. Above it an event is answered `unavailable`, or a request 429. An event is kept for `state_retention`, and takes about 700 bytes.
        max_events_per_minute: u32 = 240,
        /// The same of one till: two events a second for as long as its store is busy, a thousand at once. As with each key of one device, at most
        /// half of what its store or customer may is allowed, so that a device that loops leaves something for the others.
        max_device_events_per_minute: u32 = 120,
        /// Polls, waiting ones and requests for orders that one store may send in a minute, on average; two thousand at once, which is what two
        /// clients send after a week offline. Above it a request is answered 429.
        max_polls_per_minute: u32 = 1_200,
        /// The same of one device: ten a second, a thousand at once. Requests that name no device count as one device.
        max_device_polls_per_minute: u32 = 600,
        /// WebSockets that one store may open with a `hello` in a minute, on average: eight tills that reconnect without end. At once 640, which
        /// is ten times as many as it may have open: a balancer that restarts again and again turns no till away. Above it one is closed with
        /// `rate-limited`.
        max_hellos_per_minute: u32 = 240,
        /// The same of one device; 60 at once, which is a minute of connections that are cut as soon as they stand. A till that goes on to
        /// reconnect in a loop is closed with `rate-limited` and takes nothing more from its store.
        max_device_hellos_per_minute: u32 = 30,
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
        /// Viewers at once with one token, which screens often share: one that is passed on leaves places for the others. By default half of
        /// `max_viewers`.
        max_viewers_per_token: Option<usize> = None,
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
        /// Origins whose pages may view the wall, besides those of this server.
        allowed_origins: Vec<Origin> = Vec::new(),
        /// Host names under which an open wall may be asked for, besides `localhost` and addresses. Empty: all, but on a loopback address none:
        /// a page of any site may let its own name lead to this machine. A proxy in front that passes its own name on needs it here.
        allowed_hosts: Vec<String> = Vec::new(),
    }
    sections {}
}

impl LiveRates {
    /// Every rate with its key.
    pub(super) fn by_key(&self) -> [(&'static str, u32); 6] {
        [
            ("max_events_per_minute", self.max_events_per_minute),
            ("max_device_events_per_minute", self.max_device_events_per_minute),
            ("max_polls_per_minute", self.max_polls_per_minute),
            ("max_device_polls_per_minute", self.max_device_polls_per_minute),
            ("max_hellos_per_minute", self.max_hellos_per_minute),
            ("max_device_hellos_per_minute", self.max_device_hellos_per_minute),
        ]
    }
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
    /// `aud` that every token must have, or have in its list.
    pub audience: String,
    /// Tolerated difference between the clocks of issuer and server: a token is taken for so long after its `exp` and before its `nbf`.
    /// Connections whose tokens end together end spread over the second half of this time. `"5s"` to `"5m"`.
    pub clock_skew: HumanDuration,
    /// Keys by `kid`, for instance `[{ kid = "2026-11", secret_file = "/etc/orderbell/key" }]` for HS256; for EdDSA, ES256 and RS256 with
    /// `algorithm` and `public_key_file` in place of `secret_file`. A token is checked by the algorithm of its key, whatever its header says.
    /// The first secret signs. Without any key and without `jwks_file`, a secret is generated and kept in `data_dir`.
    pub keys: Vec<KeyConfig>,
    /// A file with the public keys of an issuer as it publishes them, a JWKS: besides `keys`, and read again with each reload. Of its keys
    /// those for EdDSA, ES256 and RS256 count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// Instead of a file: the address at which an issuer publishes its keys, `https://`, or `http://` on loopback. Fetched every five minutes,
    /// and soon after a token named an unknown key. The last good set is kept in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<KeySetUrl>,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            issuer: "orderbell".into(),
            audience: "orderbell".into(),
            clock_skew: HumanDuration::from_secs(60),
            keys: Vec::new(),
            jwks_file: None,
            jwks_url: None,
        }
    }
}

/// One key and its algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The token header's `kid`.
    pub kid: String,
    /// The one algorithm that this key is used with.
    #[serde(default)]
    pub algorithm: TokenAlgorithm,
    /// For HS256: a file with the secret, at least 32 bytes. A secret never stands on a command line or in this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// For the other algorithms: a file with the public key as PEM or JWK. RSA keys have at least 2,048 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    /// Instead of a file: the public key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
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
    /// For `sasl.mechanism = OAUTHBEARER`: a file that holds a token alone, which whatever issues tokens keeps good. It is read again every
    /// minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_token_file: Option<PathBuf>,
    /// For `sasl.mechanism = OAUTHBEARER`, instead of a file: a program and its arguments that print a token alone within 10 seconds. It is run
    /// again every minute, and 5 seconds after a failure. Until then the last token counts, for an hour at most. Whatever it started in its
    /// process group is ended with it.
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
        let file = self.oauth_token_file.clone().map(TokenSource::file);
        file.or_else(|| command.cloned().map(TokenSource::command))
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
