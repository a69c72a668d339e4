//! The configuration: one TOML file, variables of the environment laid over it, or neither.
//!
//! Without a file every key has a default that works on loopback with nothing installed. All mistakes are reported at once, with file, line,
//! column and the key that was probably meant; an unknown key is a mistake. The keys stand in `config::keys`; the rest of the program sees them
//! as [`BootConfig`], which holds until the process ends, and [`LiveConfig`], which a SIGHUP replaces.

mod disclosure;
mod encoding;
mod key_set_url;
mod keys;
#[cfg(test)]
mod mapping_tests;
mod reading;
mod secret;
mod template;
mod token_keys;
mod tokens;
mod units;

use std::path::{Path, PathBuf};

use orderbell_consumers::{Offset, TopicPartition};
use orderbell_protocol::session;

use crate::net::NetLimits;
use crate::net::origin::PageRules;
use crate::net::tokens::{BadKeySet, BadPublicKey, shown_kid};
use crate::wall::WallConfig;
use crate::wall::directory::DirectoryFileError;
use keys::ConfigFile;
use orderbell_ledger::embedded_log::TOPIC;
use orderbell_ledger::{LedgerOptions, PublishTo};
use orderbell_orders::counting::CountingRules;
use orderbell_orders::mapping::Mapping;
use orderbell_orders::order::OrderPolicy;

pub use encoding::NotUtf8;
pub use key_set_url::KeySetUrl;
pub use keys::{
    BootConfig, BootRates, BootSessions, BootWall, KafkaConfig, KeyConfig, Listen, LiveConfig, LiveRates, LiveSessions,
    LiveWall, TokenConfig,
};
pub use reading::{ENV_PREFIX, Mistake, Mistakes};
pub use secret::SecretMap;
pub use template::{schema, template};
pub use token_keys::TokenKeys;
pub(crate) use tokens::KEY_SET_BYTES_MAX;
pub use units::{ByteSize, HumanDuration};

/// The whole configuration, by when a change takes effect.
#[derive(Clone, Debug)]
pub struct Config {
    /// Takes effect when the process starts.
    pub boot: BootConfig,
    /// Replaced by a SIGHUP.
    pub live: LiveConfig,
    /// Partitions to start at an offset of the operator's choice instead of their checkpoint; from the command line only.
    pub skip_to: Vec<(TopicPartition, Offset)>,
    /// Serve the playground: a till and a phone in the browser, and tokens for whoever asks. From the command line only, and on loopback only.
    pub playground: bool,
}

impl From<ConfigFile> for Config {
    fn from(file: ConfigFile) -> Self {
        let (boot, live) = file.split();
        Self { boot, live, skip_to: Vec::new(), playground: false }
    }
}

impl Default for Config {
    fn default() -> Self {
        ConfigFile::default().into()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file's path.
        path: PathBuf,
        /// What the operating system reports.
        source: std::io::Error,
    },
    /// A file or a variable is in another encoding.
    #[error(transparent)]
    NotUtf8(#[from] NotUtf8),
    /// Everything that is wrong with the file and the environment, with places.
    #[error("{0}")]
    Mistakes(Box<Mistakes>),
    /// The store directory cannot be read.
    #[error(transparent)]
    Stores(#[from] DirectoryFileError),
    /// A secret is too short to sign with.
    #[error("{}: the secret is shorter than {} bytes", .0.display(), tokens::SECRET_BYTES_MIN)]
    ShortSecret(PathBuf),
    /// The file of a secret or of a key and its folder do not exist: what stands there may be the secret itself.
    #[error(
        "there is no such file or folder, or it may not be entered; the name is not shown, since it may be the secret itself"
    )]
    NoSecretFile,
    /// A public key cannot be used.
    #[error(transparent)]
    PublicKey(BadPublicKey),
    /// A public key in a file cannot be used.
    #[error("{}: {source}", .path.display())]
    PublicKeyFile {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with it.
        source: BadPublicKey,
    },
    /// The set of an issuer's keys cannot be used.
    #[error("{}: {source}", .path.display())]
    KeySet {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with it.
        source: BadKeySet,
    },
    /// The same, with the configuration's key.
    #[error("tokens.jwks_file: {0}")]
    KeySetFile(#[source] Box<Self>),
    /// One of several keys for tokens cannot be used.
    #[error("tokens.keys, the {key} of kid {}: {source}", shown_kid(.kid))]
    TokenKey {
        /// The name of the configuration's key that leads to it.
        key: &'static str,
        /// The key's id.
        kid: String,
        /// What is wrong with it.
        source: Box<Self>,
    },
}

/// Result of reading the configuration again while the server runs: names of the keys whose values differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// In effect from now on.
    pub applied: Vec<String>,
    /// In effect after the next start.
    pub needs_restart: Vec<String>,
}

/// Shortest state retention: twice the 12 hours of the longest-lived notice.
const MIN_STATE_RETENTION: HumanDuration = HumanDuration::from_hours(24);
/// The most connections of one kind: no machine has more descriptors.
const CONNECTIONS_MAX: usize = 1_000_000;

impl Config {
    /// The defaults, with the ledger in `dir`.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        let mut config = Self::default();
        config.boot.data_dir = dir.to_owned();
        config
    }

    /// Reads a file, or takes the defaults, and lays over them what `variables` of the environment say, such as
    /// `ORDERBELL__SESSIONS__MAX_IN_FLIGHT=32`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: Option<&Path>, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let (name, text) = match path {
            None => ("environment".into(), String::new()),
            Some(path) => (path.display().to_string(), encoding::read(path)?),
        };
        reading::read(&name, &text, variables).map_err(|mistakes| ConfigError::Mistakes(Box::new(mistakes)))
    }

    /// Values that cannot be right, by their keys.
    fn mistakes(&self) -> Vec<(Vec<&'static str>, String)> {
        let mut found = Vec::new();
        let mut must = |holds: bool, path: &[&'static str], what: &str| {
            if !holds {
                found.push((path.to_vec(), what.to_owned()));
            }
        };
        let (boot, live) = (&self.boot, &self.live);
        let least = format!("at least \"{MIN_STATE_RETENTION}\": longer than any notice lives");
        must(boot.state_retention >= MIN_STATE_RETENTION, &["state_retention"], &least);
        must(live.max_mailbox_rows > 0, &["max_mailbox_rows"], "at least 1");
        must(live.stale_after > HumanDuration::ZERO, &["stale_after"], "longer than \"0s\"");
        let possible = format!("1 to {CONNECTIONS_MAX}");
        must(
            (1..=CONNECTIONS_MAX).contains(&boot.sessions.max_connections),
            &["sessions", "max_connections"],
            &possible,
        );
        must(boot.wall.max_viewers <= CONNECTIONS_MAX, &["wall", "max_viewers"], &format!("at most {CONNECTIONS_MAX}"));
        for (key, what) in live.tokens.mistakes() {
            must(false, &["tokens", key], &what);
        }
        let sessions = &live.sessions;
        must(sessions.max_in_flight > 0, &["sessions", "max_in_flight"], "at least 1");
        must(sessions.max_delivery_attempts > 0, &["sessions", "max_delivery_attempts"], "at least 1");
        for (key, value) in [("heartbeat_interval", sessions.heartbeat_interval), ("ack_timeout", sessions.ack_timeout)]
        {
            must(value > HumanDuration::ZERO, &["sessions", key], "longer than \"0s\"");
        }
        for (key, rate) in live.rates.by_key() {
            must(rate > 0, &["rates", key], "at least 1");
        }
        let longer = "longer than heartbeat_interval, or clients are disconnected between two heartbeats";
        must(sessions.idle_timeout > sessions.heartbeat_interval, &["sessions", "idle_timeout"], longer);
        let same = boot.listen.public == boot.listen.admin && boot.listen.public.port() != 0;
        must(!same, &["listen", "admin"], "another address than listen.public");
        must(boot.wall.max_viewers_per_token != Some(0), &["wall", "max_viewers_per_token"], "at least 1");
        let is_name = |host: &String| !host.is_empty() && !host.contains([':', '/', '*', '@']);
        let names = "host names alone, such as \"wall.chain.example\"";
        must(live.wall.allowed_hosts.iter().all(is_name), &["wall", "allowed_hosts"], names);
        let wall = self.wall();
        for (key, what) in wall.mistakes() {
            must(false, &["wall", key], &what);
        }
        if let Some(kafka) = &boot.kafka {
            must(!kafka.topics.is_empty(), &["kafka", "topics"], "at least one topic");
            must(!kafka.bootstrap.trim().is_empty(), &["kafka", "bootstrap"], "host:port of at least one broker");
            let unknown = boot.mapping.topics.keys().find(|topic| !kafka.topics.contains(topic));
            let what = unknown.map(|topic| format!("{topic} is none of kafka.topics"));
            must(unknown.is_none(), &["mapping", "topics"], what.as_deref().unwrap_or_default());
            let is_named = kafka.cluster.as_ref().is_none_or(|name| !name.trim().is_empty());
            must(is_named, &["kafka", "cluster"], "a name, or leave the key out");
            let is_one = kafka.oauth_token_file.is_none() || kafka.oauth_token_command.is_empty();
            must(is_one, &["kafka", "oauth_token_command"], "either a file or a command");
            #[cfg(feature = "kafka")]
            if let Err(error) = kafka.options().check() {
                must(false, &["kafka", "properties"], &error.to_string());
            }
        }
        found
    }

    /// Names of the keys in which `new` differs, by when they take effect.
    #[must_use]
    pub fn differences(&self, new: &Self) -> Reloaded {
        let (mut applied, mut needs_restart) = (Vec::new(), Vec::new());
        self.live.differences(&new.live, "", &mut applied);
        self.boot.differences(&new.boot, "", &mut needs_restart);
        Reloaded { applied, needs_restart }
    }

    /// This configuration with the live half of `new`.
    #[must_use]
    pub fn with_live(&self, new: Self) -> Self {
        Self { live: new.live, ..self.clone() }
    }

    /// The bounds of the public listener.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        let base = NetLimits::default();
        let sessions = &self.live.sessions;
        let session = session::SessionLimits {
            max_in_flight: sessions.max_in_flight,
            page_size: base.session.page_size.min(sessions.max_in_flight),
            heartbeat_interval: sessions.heartbeat_interval.get(),
            idle_timeout: sessions.idle_timeout.get(),
            ack_timeout: sessions.ack_timeout.get(),
            max_delivery_attempts: sessions.max_delivery_attempts,
            ..base.session
        };
        let rates = &self.live.rates;
        NetLimits {
            session,
            clock_skew: self.live.tokens.clock_skew.get(),
            events: base.events.per_minute(rates.max_events_per_minute, rates.max_device_events_per_minute),
            polls: base.polls.per_minute(rates.max_polls_per_minute, rates.max_device_polls_per_minute),
            hellos: base.hellos.per_minute(rates.max_hellos_per_minute, rates.max_device_hellos_per_minute),
            max_connections: self.boot.sessions.max_connections,
            max_viewers: self.boot.wall.max_viewers,
            max_viewers_per_token: self.max_viewers_per_token(),
            stale_after: self.live.stale_after.get(),
            ..base
        }
    }

    fn max_viewers_per_token(&self) -> usize {
        let wall = &self.boot.wall;
        wall.max_viewers_per_token.unwrap_or(wall.max_viewers.div_ceil(2))
    }

    /// Which pages of other servers may ask.
    #[must_use]
    pub fn page_rules(&self) -> PageRules {
        let LiveWall { allowed_origins, allowed_hosts, .. } = &self.live.wall;
        let hosts: Vec<_> = allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let is_judged = self.boot.listen.public.ip().is_loopback() || !hosts.is_empty();
        PageRules {
            mailboxes: self.live.allowed_origins.clone(),
            wall: allowed_origins.clone(),
            wall_hosts: is_judged.then_some(hosts),
        }
    }

    /// How long orders are kept after their last event. Milliseconds.
    #[must_use]
    pub fn retention_ms(&self) -> i64 {
        self.boot.state_retention.as_ms()
    }

    /// What decides about an order besides the table of transitions.
    #[must_use]
    pub fn order_policy(&self) -> OrderPolicy {
        self.live.order_policy(self.counting(), self.retention_ms())
    }

    /// The mapping of the chain's events, and that of the topic which Orderbell writes.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        let own = self.boot.kafka.as_ref().map_or_else(|| TOPIC.to_owned(), KafkaConfig::output_topic);
        self.boot.mapping.clone().with_own_topic(&own).with_chain_currency(&self.boot.wall.currency)
    }

    /// Days and currency that counters are kept in.
    #[must_use]
    pub fn counting(&self) -> CountingRules {
        let zone = self.boot.wall.time_zone.as_ref().unwrap_or(&self.boot.mapping.time_zone);
        CountingRules { zone: zone.time_zone().clone(), currency: self.boot.wall.currency.clone() }
    }

    /// Both halves of the section `wall`.
    #[must_use]
    pub fn wall(&self) -> WallConfig {
        let BootWall { time_zone, currency, max_viewers, .. } = self.boot.wall.clone();
        let LiveWall { name, currency_digits, stores, open, .. } = self.live.wall.clone();
        WallConfig { name, time_zone, currency, currency_digits, stores, open, max_viewers }
    }

    /// What the ledger keeps, and where it publishes events.
    #[must_use]
    pub fn ledger(&self) -> LedgerOptions {
        let publish_to = if self.boot.kafka.is_some() { PublishTo::Outbox } else { PublishTo::EmbeddedLog };
        LedgerOptions {
            state_retention_ms: self.retention_ms(),
            max_mailbox_rows: self.live.max_mailbox_rows,
            timeline_retention_ms: self.boot.timeline_retention.as_ms(),
            min_free_space: self.live.min_free_space.bytes(),
            publish_to,
            rolled_back: false,
        }
    }
}

impl LiveConfig {
    fn order_policy(&self, counting: CountingRules, retention_ms: i64) -> OrderPolicy {
        OrderPolicy { retention_ms, visible_fields: self.notice_fields.clone(), counting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orderbell.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &[])
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_places_and_what_was_meant() {
        let text = "state_retention = \"3h\"\n\
                    [listen]\npublik = \"127.0.0.1:1\"\nadmin = \"here\"\n\
                    [sessions]\nmax_in_flight = \"many\"\nheartbeat_interval = \"90s\"\n\
                    [mapping]\ntime_zone = \"Asia/Atlantis\"\namount_unit = \"majr\"\n\
                    [notice_fields]\nready = [\"store\", \"phone\"]\n";
        let error = read(text).unwrap_err().to_string();
        for wanted in [
            "8 mistakes",
            "sessions.idle_timeout: longer than heartbeat_interval",
            "orderbell.toml:1:19",
            "state_retention: at least \"24h\"",
            "orderbell.toml:3:1",
            "unknown field `publik`",
            "did you mean `public`?",
            "orderbell.toml:4:9",
            "orderbell.toml:6:17",
            "orderbell.toml:9:13",
            "Asia/Atlantis",
            "did you mean `major`?",
            "phone",
        ] {
            assert!(error.contains(wanted), "{wanted} is not in:\n{error}");
        }
        let error = read(
            "[sessions]\nmax_in_flight = 0\nmax_delivery_attempts = 0\nidle_timeout = \"5ms\"\n\
             [kafka]\nbootstrap = \"a:1\"\ntopics = []\n",
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("4 mistakes") && error.contains("kafka.topics: at least one"), "{error}");
        let error = read("a = = 1\n[b\n").unwrap_err().to_string();
        assert!(error.contains("orderbell.toml:1:5"), "{error}");
    }

    #[test]
    fn numbers_that_no_machine_has_and_two_keys_of_one_name_are_mistakes() {
        let keys = |second: &str| {
            format!(
                "[tokens]\nkeys = [{{ kid = \"a\", secret_file = \"1\" }}, {{ kid = \"{second}\", secret_file = \"2\" }}]\n"
            )
        };
        for (text, what) in [
            (
                "[sessions]\nmax_connections = 4611686018427387904\n".to_owned(),
                "sessions.max_connections: 1 to 1000000",
            ),
            ("[sessions]\nmax_connections = 1000001\n".to_owned(), "sessions.max_connections: 1 to 1000000"),
            ("[wall]\nmax_viewers = 1000001\n".to_owned(), "wall.max_viewers: at most 1000000"),
            ("[rates]\nmax_polls_per_minute = 0\n".to_owned(), "rates.max_polls_per_minute: at least 1"),
            (
                "[rates]\nmax_device_hellos_per_minute = 0\n".to_owned(),
                "rates.max_device_hellos_per_minute: at least 1",
            ),
            (keys("a"), "tokens.keys: each key has a kid of its own"),
            ("[tokens]\nclock_skew = \"4999ms\"\n".to_owned(), "tokens.clock_skew: \"5s\" to \"5m\""),
            ("[tokens]\nclock_skew = \"301s\"\n".to_owned(), "tokens.clock_skew: \"5s\" to \"5m\""),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        read("[sessions]\nmax_connections = 1000000\n[wall]\nmax_viewers = 1000000\n").unwrap();
        read(&keys("b")).unwrap();
        for skew in ["5s", "5m"] {
            let config = read(&format!("[tokens]\nclock_skew = \"{skew}\"\n")).unwrap();
            assert_eq!(config.limits().clock_skew, config.live.tokens.clock_skew.get());
        }
    }

    #[test]
    fn a_duration_or_size_without_a_unit_is_refused_with_what_is_accepted() {
        let text = "stale_after = 30\nmin_free_space = \"512\"\n[sessions]\nack_timeout = \"10 seconds\"\n";
        let error = read(text).unwrap_err().to_string();
        for wanted in [
            "3 mistakes",
            "orderbell.toml:1:15",
            "orderbell.toml:2:18",
            "orderbell.toml:4:15",
            "\"10 seconds\" is not a duration such as \"30s\": a whole number with ms, s, m, h or d",
            "\"512\" is not a size such as \"512MiB\"",
            "invalid type: integer `30`, expected a duration such as",
        ] {
            assert!(error.contains(wanted), "{wanted} is not in:\n{error}");
        }
        let config = read("state_retention = \"3d\"\nmin_free_space = \"1GiB\"\ndrain_timeout = \"250ms\"\n").unwrap();
        assert_eq!(config.boot.state_retention, HumanDuration::from_hours(72));
        assert_eq!(config.live.min_free_space.bytes(), 1 << 30);
        assert_eq!(config.live.drain_timeout.as_ms(), 250);
    }

    /// The bug: what was wrong beside a password was shown with the password.
    #[test]
    fn a_mistake_beside_a_secret_does_not_show_the_secret() {
        let text = "[kafka]\nbootstrap = \"a:1\"\ntopics = [\"o\"]\nproperties = { \"sasl.password\" = \"S3CRET\", \"retries\" = 5 }\n";
        let error = read(text).unwrap_err().to_string();
        assert!(
            error.contains("kafka.properties") && error.contains("orderbell.toml:4:") && !error.contains("S3CRET"),
            "{error}"
        );
        let variable = (format!("{ENV_PREFIX}KAFKA__PROPERTIES"), "sasl.password=S3CRET".to_owned());
        let error = Config::load(None, &[variable]).unwrap_err().to_string();
        assert!(error.contains("KAFKA__PROPERTIES") && !error.contains("S3CRET"), "{error}");
        let iam = text.replace(
            "\"retries\" = 5",
            "\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"AWS_MSK_IAM\"",
        );
        let error = read(&iam.replace("\"a:1\"\n", "\"\"\n")).unwrap_err().to_string();
        assert!(
            error.contains("2 mistakes") && error.contains("use SCRAM-SHA-512") && !error.contains("S3CRET"),
            "{error}"
        );
        let inline = iam.replace("[kafka]\n", "kafka = { ").replace("\ntopics", ", topics").replace("\nprop", ", prop");
        let error = read(&inline.replace("[\"o\"]", "[]").replace(" }\n", " } }\n")).unwrap_err().to_string();
        assert!(error.contains("kafka.topics") && !error.contains("S3CRET"), "{error}");
        let variable = (format!("{ENV_PREFIX}MAPPING__TYPES__PAY_SUCCESS"), "order.paid".to_owned());
        let config = Config::load(None, &[variable]).unwrap();
        assert!(format!("{:?}", config.boot.mapping).contains("PAY_SUCCESS"), "the chain's own names keep their case");
    }

    fn with_password(password: &str) -> Config {
        let text =
            "[kafka]\nbootstrap = \"a:1\"\ntopics = [\"o\"]\nproperties = { \"sasl.password\" = \"PASSWORD\" }\n";
        read(&text.replace("PASSWORD", password)).unwrap()
    }

    /// The bug: a password among the properties of Kafka was printed with the configuration, and compared by what is printed.
    #[test]
    fn a_password_is_never_printed_and_its_change_is_noticed() {
        let (old, new) = (with_password("S3CRET"), with_password("N3W"));
        let differences = old.differences(&new);
        assert_eq!(differences.needs_restart, ["kafka"]);
        let kafka = old.boot.kafka.clone().unwrap();
        assert_eq!(kafka.properties.expose()["sasl.password"], "S3CRET", "Kafka gets it");
        for printed in [format!("{old:?} {new:#?}"), format!("{differences:?}"), serde_json::to_string(&kafka).unwrap()]
        {
            assert!(!printed.contains("S3CRET") && !printed.contains("N3W"), "{printed}");
        }
        assert!(format!("{kafka:?}").contains("\"sasl.password\": \"***\""), "{kafka:?}");
    }

    #[test]
    fn a_reload_applies_the_live_half_and_names_what_needs_a_restart() {
        let old = read("[sessions]\nmax_in_flight = 5\n[wall]\nname = \"A\"\n").unwrap();
        let new = read(
            "state_retention = \"48h\"\nstale_after = \"9s\"\n[sessions]\nmax_in_flight = 7\nmax_connections = 9\n\
             [wall]\nname = \"B\"\ncurrency = \"EUR\"\n[tokens]\nissuer = \"me\"\n",
        )
        .unwrap();
        let differences = old.differences(&new);
        assert_eq!(differences.applied, ["stale_after", "tokens", "sessions.max_in_flight", "wall.name"]);
        assert_eq!(differences.needs_restart, ["state_retention", "sessions.max_connections", "wall.currency"]);
        let now = old.with_live(new.clone());
        assert_eq!((&now.live, &now.boot), (&new.live, &old.boot));
        assert_eq!(now.differences(&new).applied, [""; 0]);
        assert_eq!((now.wall().name.as_str(), now.wall().currency.as_str()), ("B", "CNY"));
    }

    #[test]
    fn variables_are_laid_over_the_file_and_named_when_they_are_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orderbell.toml");
        std::fs::write(&path, "[sessions]\nmax_in_flight = 5\nmax_delivery_attempts = 6\n").unwrap();
        let variable = |name: &str, value: &str| (format!("{ENV_PREFIX}{name}"), value.to_owned());
        let load = |variables: &[(String, String)]| Config::load(Some(&path), variables);
        let config = load(&[
            variable("SESSIONS__MAX_IN_FLIGHT", "7"),
            variable("SESSIONS__ACK_TIMEOUT", "3s"),
            variable("LISTEN__PUBLIC", "127.0.0.1:9"),
            variable("KAFKA__BOOTSTRAP", "a:1"),
            variable("KAFKA__TOPICS", "['orders']"),
            ("ORDERBELL_TOKEN".into(), "not a setting".into()),
        ])
        .unwrap();
        let sessions = &config.live.sessions;
        assert_eq!(
            (sessions.max_in_flight, sessions.max_delivery_attempts, sessions.ack_timeout.as_ms()),
            (7, 6, 3_000)
        );
        assert_eq!(
            (config.boot.listen.public.port(), config.boot.kafka.unwrap().topics),
            (9, vec!["orders".to_owned()])
        );
        let error =
            load(&[variable("SESSIONS__MAX_IN_FLIGHT", "0"), variable("LISTEN__PUBLC", "x"), variable("__", "1")]);
        let error = error.unwrap_err().to_string();
        for wanted in [
            "3 mistakes",
            "ORDERBELL__SESSIONS__MAX_IN_FLIGHT: sessions.max_in_flight: at least 1",
            "ORDERBELL__LISTEN__PUBLC: unknown field",
            "did you mean `public`?",
            "ORDERBELL____: names no key",
        ] {
            assert!(error.contains(wanted), "{wanted} is not in:\n{error}");
        }
    }
}
