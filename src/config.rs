//! The configuration: one TOML file, or none.
//!
//! Without a file everything has a default that works on loopback with nothing installed. Mistakes are told all at once, with file, line,
//! column and what might have been meant; an unknown key is a mistake.

mod reading;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orderbell_consumers::{Offset, Part};
use orderbell_protocol::session;
use serde::Deserialize;

use crate::ingest::Mapping;
use crate::ingest::life::LifeRules;
use crate::ingest::notices::Visible;
use crate::ingest::tally::Counting;
use crate::ledger::{Emit, LedgerOptions};
use crate::net::NetLimits;
use crate::net::tokens::{Secret, Tokens};
use crate::wall::WallConfig;

pub use reading::{ENV_PREFIX, Mistake, Mistakes};

/// The whole configuration.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the ledger lives.
    pub data_dir: PathBuf,
    /// How long orders, event ids and the embedded stream are kept after their last event. Hours.
    pub state_retention_hours: u32,
    /// Notices that one mailbox keeps. Above it, those of ended orders go, oldest first; a client that stands below them hears 410. Live
    /// ones stay, and more of them than this is a red light. Bounds what three days of a very busy store cost.
    pub mailbox_rows_max: u64,
    /// How long it is kept what became of each notice on each device (sent, received, shown), for `GET /v1/orders/ID`; 0 keeps nothing. A
    /// complaint about a lost order comes on the same day. Hours.
    pub timeline_hours: u32,
    /// Free space on the ledger's file system, below which nothing new is taken in; it resumes by itself. More than the ledger's journal and
    /// memory tables together, so that what is under way can always be written. MiB.
    pub free_space_min_mb: u64,
    /// Clients are told that what they see is stale when the stream was not read to its end for this long: below the time in which
    /// somebody in a store wonders where the orders are. Seconds.
    pub stale_after_seconds: u32,
    /// Addresses.
    pub listen: Listen,
    /// Who signs tokens.
    pub tokens: TokenConfig,
    /// How clients with a socket are treated.
    pub sessions: Sessions,
    /// Where events come from; without it, from the embedded stream.
    pub kafka: Option<KafkaConfig>,
    /// What the members of an event are called.
    pub mapping: Mapping,
    /// What of an order each kind of notice may tell.
    pub visible: Visible,
    /// What the wall shows, and to whom; by which days and in which money is counted.
    pub wall: WallConfig,
    /// Longest time that a stop may take. Seconds.
    pub drain_seconds: u64,
    /// What an operator gives up at this start; from the command line only.
    #[serde(skip)]
    pub skips: Vec<(Part, Offset)>,
    /// Pages to try it with, and tokens for whoever asks; from the command line only, and on loopback only.
    #[serde(skip)]
    pub trial: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("orderbell-data"),
            state_retention_hours: 72,
            mailbox_rows_max: 20_000,
            timeline_hours: 24,
            free_space_min_mb: 512,
            stale_after_seconds: 30,
            listen: Listen::default(),
            tokens: TokenConfig::default(),
            sessions: Sessions::default(),
            kafka: None,
            mapping: Mapping::default(),
            visible: Visible::default(),
            wall: WallConfig::default(),
            drain_seconds: 20,
            skips: Vec::new(),
            trial: false,
        }
    }
}

/// Addresses to listen on.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Tills, customers and producers.
    pub public: SocketAddr,
    /// Live, ready, metrics. Keep it inside.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { public: SocketAddr::from(([127, 0, 0, 1], 8377)), admin: SocketAddr::from(([127, 0, 0, 1], 8378)) }
    }
}

/// How clients with a socket are treated. Milliseconds where a unit is due.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Sockets at once: below the process's file limit, with room for the ledger's files.
    pub sockets_max: usize,
    /// Un-acknowledged notices of one client at once.
    pub window: u16,
    /// A sign of life at least this often: below the idle time after which proxies and phones cut a silent socket.
    pub heartbeat_ms: u64,
    /// A client that was silent for this long is gone.
    pub silence_ms: u64,
    /// Un-acknowledged notices are sent again after this long.
    pub redeliver_after_ms: u64,
    /// A client that acknowledged nothing after so many tries is deaf.
    pub attempts_max: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            sockets_max: 15_000,
            window: 64,
            heartbeat_ms: 25_000,
            silence_ms: 70_000,
            redeliver_after_ms: 10_000,
            attempts_max: 4,
        }
    }
}

/// Who signs tokens.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// `iss` of every token.
    pub issuer: String,
    /// `aud` of every token.
    pub audience: String,
    /// Keys by `kid`, the first signs. Without any, one is made and kept in the data directory.
    pub keys: Vec<KeyConfig>,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self { issuer: "orderbell".into(), audience: "orderbell".into(), keys: Vec::new() }
    }
}

/// One HS256 key.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The token header's `kid`.
    pub id: String,
    /// A file that holds the secret: never on a command line, never in this file.
    pub secret_file: PathBuf,
}

/// A Kafka cluster to read from.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    pub bootstrap: String,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Consumer group.
    #[serde(default = "default_group")]
    pub group: String,
    /// Topic of the events that Orderbell makes: what tills say, what was posted, what it decides itself. It is read, too. By default the
    /// group's name with `.events`: Orderbell needs no right to write to the order system's topics.
    pub output: Option<String>,
    /// Further properties of librdkafka (TLS, SASL); those that Orderbell's promises rest on are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// As whom tools ask this cluster: no member of the group, and without the output topic.
    #[cfg(feature = "kafka")]
    #[must_use]
    pub fn options(&self) -> orderbell_consumers::kafka::KafkaOptions {
        orderbell_consumers::kafka::KafkaOptions {
            bootstrap: self.bootstrap.clone(),
            group: self.group.clone(),
            instance: None,
            topics: self.topics.clone(),
            properties: self.properties.clone(),
        }
    }

    /// Name of the output topic.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.clone().unwrap_or_else(|| format!("{}.events", self.group))
    }
}

fn default_group() -> String {
    "orderbell".into()
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// What the file and the environment say cannot be right: all of it, with places.
    #[error("{0}")]
    Mistakes(Box<Mistakes>),
    /// A value cannot be right.
    #[error("{0}")]
    Value(String),
}

/// What became of a configuration that was read while a server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Holds from now on.
    pub taken: Vec<&'static str>,
    /// Differs, and waits for a restart.
    pub waits: Vec<&'static str>,
}

/// Above the 12 hours for which the longest-lived notice rings.
const RETENTION_HOURS_MIN: u32 = 24;
/// Shortest secret that is taken: as long as the hash that it keys.
const SECRET_BYTES_MIN: usize = 32;

impl Config {
    /// Reads a file, or takes the defaults.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load(path, &[])
    }

    /// Reads a file, or takes the defaults, and lays over them what `variables` of the environment say: `ORDERBELL__SESSIONS__WINDOW=32`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: Option<&Path>, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let (name, text) = match path {
            None => ("environment".into(), String::new()),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| ConfigError::Io { path: path.to_owned(), error })?;
                (path.display().to_string(), text)
            }
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
        // Longer than any notice rings, or a sweep would take what still has to be heard.
        let hours = format!("at least {RETENTION_HOURS_MIN}: longer than any notice rings");
        must(self.state_retention_hours >= RETENTION_HOURS_MIN, &["state_retention_hours"], &hours);
        must(self.mailbox_rows_max > 0, &["mailbox_rows_max"], "at least 1");
        must(self.stale_after_seconds > 0, &["stale_after_seconds"], "at least 1");
        let sessions = &self.sessions;
        must(sessions.window > 0, &["sessions", "window"], "at least 1");
        must(sessions.attempts_max > 0, &["sessions", "attempts_max"], "at least 1");
        must(sessions.sockets_max > 0, &["sessions", "sockets_max"], "at least 1");
        must(sessions.heartbeat_ms > 0, &["sessions", "heartbeat_ms"], "at least 1");
        must(sessions.redeliver_after_ms > 0, &["sessions", "redeliver_after_ms"], "at least 1");
        let longer = "more than heartbeat_ms, or every client is taken for gone";
        must(sessions.silence_ms > sessions.heartbeat_ms, &["sessions", "silence_ms"], longer);
        let same = self.listen.public == self.listen.admin && self.listen.public.port() != 0;
        must(!same, &["listen", "admin"], "another address than listen.public");
        for (key, what) in self.wall.mistakes() {
            must(false, &["wall", key], &what);
        }
        if let Some(kafka) = &self.kafka {
            must(!kafka.topics.is_empty(), &["kafka", "topics"], "at least one topic");
            must(!kafka.bootstrap.trim().is_empty(), &["kafka", "bootstrap"], "host:port of at least one broker");
            let stranger = self.mapping.topics.keys().find(|topic| !kafka.topics.contains(topic));
            let names = stranger.map(|topic| format!("{topic} is none of kafka.topics"));
            must(stranger.is_none(), &["mapping", "topics"], names.as_deref().unwrap_or_default());
        }
        found
    }

    /// What differs in `new`: what may change while a server runs, and what waits for a restart.
    #[must_use]
    pub fn changed(&self, new: &Self) -> Reloaded {
        fn told(part: &impl std::fmt::Debug) -> String {
            format!("{part:?}")
        }
        // Sockets are counted by a semaphore that was made with their number.
        let sockets = |config: &Self| config.sessions.sockets_max;
        let sessions = |config: &Self| told(&Sessions { sockets_max: 0, ..config.sessions.clone() });
        let at_once = [
            ("sessions", sessions(self), sessions(new)),
            ("tokens", told(&self.tokens), told(&new.tokens)),
            ("visible", told(&self.visible), told(&new.visible)),
            ("wall", told(&self.wall), told(&new.wall.counting_as(&self.wall))),
            ("mailbox_rows_max", told(&self.mailbox_rows_max), told(&new.mailbox_rows_max)),
            ("free_space_min_mb", told(&self.free_space_min_mb), told(&new.free_space_min_mb)),
            ("stale_after_seconds", told(&self.stale_after_seconds), told(&new.stale_after_seconds)),
            ("drain_seconds", told(&self.drain_seconds), told(&new.drain_seconds)),
        ];
        let at_a_restart = [
            ("data_dir", told(&self.data_dir), told(&new.data_dir)),
            ("state_retention_hours", told(&self.state_retention_hours), told(&new.state_retention_hours)),
            ("timeline_hours", told(&self.timeline_hours), told(&new.timeline_hours)),
            ("listen", told(&self.listen), told(&new.listen)),
            ("sessions.sockets_max", told(&sockets(self)), told(&sockets(new))),
            ("kafka", told(&self.kafka), told(&new.kafka)),
            ("mapping", told(&self.mapping), told(&new.mapping)),
            (
                "wall.time_zone, wall.currency, wall.viewers_max",
                told(&self.wall),
                told(&self.wall.counting_as(&new.wall)),
            ),
        ];
        let differs = |(name, old, new): &(&'static str, String, String)| (old != new).then_some(*name);
        Reloaded {
            taken: at_once.iter().filter_map(differs).collect(),
            waits: at_a_restart.iter().filter_map(differs).collect(),
        }
    }

    /// This configuration with what `new` says of the things that may change while a server runs; the rest stays as it is.
    #[must_use]
    pub fn with_what_may_change(&self, new: Self) -> Self {
        Self {
            sessions: Sessions { sockets_max: self.sessions.sockets_max, ..new.sessions },
            tokens: new.tokens,
            visible: new.visible,
            wall: new.wall.counting_as(&self.wall),
            mailbox_rows_max: new.mailbox_rows_max,
            free_space_min_mb: new.free_space_min_mb,
            stale_after_seconds: new.stale_after_seconds,
            drain_seconds: new.drain_seconds,
            ..self.clone()
        }
    }

    /// The bounds of the public listener.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        let base = NetLimits::default();
        let ms = Duration::from_millis;
        let session = session::Limits {
            window: self.sessions.window,
            page: base.session.page.min(self.sessions.window),
            heartbeat: ms(self.sessions.heartbeat_ms),
            silence_timeout: ms(self.sessions.silence_ms),
            redeliver_after: ms(self.sessions.redeliver_after_ms),
            attempts_max: self.sessions.attempts_max,
            ..base.session
        };
        let stale_after = Duration::from_secs(u64::from(self.stale_after_seconds));
        NetLimits {
            session,
            sockets_max: self.sessions.sockets_max,
            viewers_max: self.wall.viewers_max,
            stale_after,
            ..base
        }
    }

    /// How long orders are held after their last event. Milliseconds.
    #[must_use]
    pub fn retention_ms(&self) -> i64 {
        i64::from(self.state_retention_hours) * 3_600_000
    }

    /// What the life of an order goes by.
    #[must_use]
    pub fn life(&self) -> LifeRules {
        LifeRules { retention_ms: self.retention_ms(), visible: self.visible.clone(), counting: self.counting() }
    }

    /// By which days and in which money is counted.
    #[must_use]
    pub fn counting(&self) -> Counting {
        let zone = self.wall.time_zone.as_ref().unwrap_or(&self.mapping.time_zone);
        Counting { zone: zone.time_zone().clone(), currency: self.wall.currency.clone() }
    }

    /// What the ledger keeps, and where it lets events go.
    #[must_use]
    pub fn ledger(&self) -> LedgerOptions {
        let emit = if self.kafka.is_some() { Emit::Outbox } else { Emit::Stream };
        LedgerOptions {
            state_retention_ms: self.retention_ms(),
            mailbox_rows_max: self.mailbox_rows_max,
            trail_ms: i64::from(self.timeline_hours) * 3_600_000,
            free_space_min: self.free_space_min_mb << 20,
            emit,
            went_back: false,
        }
    }

    /// The keys that tokens are checked with; made on first use when none is configured.
    ///
    /// # Errors
    /// [`ConfigError`] when a secret cannot be read, made, or is too short.
    pub fn tokens(&self) -> Result<Tokens, ConfigError> {
        let mut keys = Vec::new();
        for key in &self.tokens.keys {
            keys.push((key.id.clone(), Secret::new(read_secret(&key.secret_file)?)));
        }
        if keys.is_empty() {
            let path = self.data_dir.join("token-key");
            if !path.exists() {
                make_secret(&path).map_err(|error| ConfigError::Io { path: path.clone(), error })?;
            }
            keys.push(("local".into(), Secret::new(read_secret(&path)?)));
        }
        Ok(Tokens::new(&self.tokens.issuer, &self.tokens.audience, keys))
    }
}

fn read_secret(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Io { path: path.to_owned(), error })?;
    let secret = text.trim().as_bytes().to_vec();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(ConfigError::Value(format!("{}: a secret has at least {SECRET_BYTES_MIN} bytes", path.display())));
    }
    Ok(secret)
}

/// Readable by its owner alone from the first byte on.
fn make_secret(path: &Path) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orderbell.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(Some(&path))
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places_and_what_was_meant() {
        let text = "state_retention_hours = 3\n\
                    [listen]\npublik = \"127.0.0.1:1\"\nadmin = \"here\"\n\
                    [sessions]\nwindow = \"many\"\nheartbeat_ms = 90000\n\
                    [mapping]\ntime_zone = \"Asia/Atlantis\"\namount_unit = \"majr\"\n\
                    [visible]\nready = [\"code\", \"phone\"]\n";
        let told = read(text).unwrap_err().to_string();
        for wanted in [
            "8 things to mend",
            "sessions.silence_ms: more than heartbeat_ms",
            "orderbell.toml:1:25",
            "state_retention_hours: at least 24",
            "orderbell.toml:3:1",
            "unknown field `publik`",
            "did you mean `public`?",
            "orderbell.toml:4:9",
            "orderbell.toml:6:10",
            "orderbell.toml:9:13",
            "Asia/Atlantis",
            "did you mean `major`?",
            "no member is called phone",
        ] {
            assert!(told.contains(wanted), "{wanted} is not in:\n{told}");
        }
        let told = read(
            "[sessions]\nwindow = 0\nattempts_max = 0\nsilence_ms = 5\n[kafka]\nbootstrap = \"a:1\"\ntopics = []\n",
        );
        let told = told.unwrap_err().to_string();
        assert!(told.contains("4 things") && told.contains("kafka.topics: at least one"), "{told}");
        let told = read("a = = 1\n[b\n").unwrap_err().to_string();
        assert!(told.contains("orderbell.toml:1:5"), "{told}");
    }

    /// The bug: what was wrong beside a password was shown with the password.
    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let text = "[kafka]\nbootstrap = \"a:1\"\ntopics = [\"o\"]\nproperties = { \"sasl.password\" = \"S3CRET\", \"retries\" = 5 }\n";
        let told = read(text).unwrap_err().to_string();
        assert!(told.contains("kafka.properties") && told.contains("(4:") && !told.contains("S3CRET"), "{told}");
        let variable = (format!("{ENV_PREFIX}KAFKA__PROPERTIES"), "sasl.password=S3CRET".to_owned());
        let told = Config::load(None, &[variable]).unwrap_err().to_string();
        assert!(told.contains("KAFKA__PROPERTIES") && !told.contains("S3CRET"), "{told}");
        let variable = (format!("{ENV_PREFIX}MAPPING__TYPES__PAY_SUCCESS"), "order.paid".to_owned());
        let config = Config::load(None, &[variable]).unwrap();
        assert!(format!("{:?}", config.mapping).contains("PAY_SUCCESS"), "the chain's own names keep their case");
    }

    #[test]
    fn variables_are_laid_over_the_file_and_named_when_they_are_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orderbell.toml");
        std::fs::write(&path, "[sessions]\nwindow = 5\nattempts_max = 6\n").unwrap();
        let variable = |name: &str, value: &str| (format!("{ENV_PREFIX}{name}"), value.to_owned());
        let load = |variables: &[(String, String)]| Config::load(Some(&path), variables);
        let config = load(&[
            variable("SESSIONS__WINDOW", "7"),
            variable("LISTEN__PUBLIC", "127.0.0.1:9"),
            variable("KAFKA__BOOTSTRAP", "a:1"),
            variable("KAFKA__TOPICS", "['orders']"),
            ("ORDERBELL_TOKEN".into(), "not a setting".into()),
        ])
        .unwrap();
        assert_eq!((config.sessions.window, config.sessions.attempts_max), (7, 6));
        assert_eq!((config.listen.public.port(), config.kafka.unwrap().topics), (9, vec!["orders".to_owned()]));
        let told = load(&[variable("SESSIONS__WINDOW", "0"), variable("LISTEN__PUBLC", "x"), variable("__", "1")]);
        let told = told.unwrap_err().to_string();
        for wanted in [
            "3 things",
            "ORDERBELL__SESSIONS__WINDOW: sessions.window: at least 1",
            "ORDERBELL__LISTEN__PUBLC: unknown field",
            "did you mean `public`?",
            "ORDERBELL____: names no key",
        ] {
            assert!(told.contains(wanted), "{wanted} is not in:\n{told}");
        }
    }

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        config.tokens().unwrap();
        let path = dir.path().join("token-key");
        let first = std::fs::read(&path).unwrap();
        config.tokens().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
