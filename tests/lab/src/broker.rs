//! A real Apache Kafka from its jars: one broker, its own controller, on free ports of loopback.
//!
//! `tests/run.sh` fetches the jars. The broker runs under a shell that reads its standard input and ends it when the test's process is
//! gone, however that ended.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::patience;

/// A broker. Ends when dropped.
pub struct Broker {
    dir: PathBuf,
    port: u16,
    more_port: Option<u16>,
    shell: Option<Child>,
}

/// A port that the system gives to nobody who asks for any: another could take such a port before the broker has it, or while the broker is
/// stopped.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at once begin at different ports.
    let begin = std::process::id().wrapping_mul(97);
    let port = |_| {
        let nth = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        10_000 + u16::try_from(nth).expect("below 9,000")
    };
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..1_000).map(port).find(is_free).expect("loopback has a free port")
}

fn jars() -> String {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/kafka/libs");
    let jars = std::env::var_os("ORDERBELL_KAFKA_LIBS").map_or(cached, PathBuf::from);
    assert!(jars.is_dir(), "Kafka's jars are not in {}: run tests/run.sh", jars.display());
    format!("{}/*", jars.display())
}

impl Broker {
    /// Formats a directory and starts a broker on it.
    ///
    /// # Panics
    /// When the jars are missing or the broker does not come up.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, None, "", &[])
    }

    /// The same with a second listener, named `MORE` in `security.protocol` and the like, with further properties, and with further arguments of the
    /// command that formats its directory.
    ///
    /// # Panics
    /// When the jars are missing or the broker does not come up.
    #[must_use]
    pub fn start_with(dir: &Path, protocol: Option<&str>, further: &str, format: &[&str]) -> Self {
        let (port, controller) = (free_port(), free_port());
        let more = protocol.map(|protocol| (free_port(), format!(",MORE:{protocol}")));
        let (more_port, more_protocol) = more.map_or((None, String::new()), |(port, name)| (Some(port), name));
        let more_listener = more_port.map_or_else(String::new, |port| format!(",MORE://127.0.0.1:{port}"));
        let logs = dir.join("logs");
        std::fs::create_dir_all(dir).expect("the directory can be made");
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more_listener}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more_listener}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{more_protocol}\nlog.dirs={}\n\
             group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\noffsets.topic.num.partitions=4\n\
             offsets.topic.replication.factor=1\ntransaction.state.log.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n{further}",
            logs.display()
        );
        std::fs::write(dir.join("server.properties"), properties).expect("the directory can be written");
        let log4j = "Configuration:\n  Appenders:\n    Console:\n      name: out\n  Loggers:\n    Root:\n      level: warn\n      AppenderRef:\n        ref: out\n";
        std::fs::write(dir.join("log4j2.yaml"), log4j).expect("the directory can be written");
        let formatted = Command::new("java")
            .args([
                "-cp",
                &jars(),
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "b3JkZXJiZWxsLXRlc3QtMQ",
                "--standalone",
                "-c",
            ])
            .arg(dir.join("server.properties"))
            .args(format)
            .output()
            .expect("java is installed");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let mut broker = Self { dir: dir.to_owned(), port, more_port, shell: None };
        broker.resume();
        broker
    }

    /// Starts the broker again on the same directory and ports.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn resume(&mut self) {
        let script = "java -Xmx512m -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile=\"$1/log4j2.yaml\" -cp \"$2\" kafka.Kafka \
                      \"$1/server.properties\" >> \"$1/broker.log\" 2>&1 & pid=$!; read line; kill -\"${line:-KILL}\" $pid; wait $pid";
        let shell =
            Command::new("sh").args(["-c", script, "broker"]).arg(&self.dir).arg(jars()).stdin(Stdio::piped()).spawn();
        self.shell = Some(shell.expect("a shell can be started"));
        let until = Instant::now() + patience();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let log = || std::fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
            assert!(Instant::now() < until, "the broker does not come up:\n{}", log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Ends the broker with a signal, `TERM` or `KILL`, and waits until it is gone.
    pub fn end(&mut self, signal: &str) {
        let Some(mut shell) = self.shell.take() else { return };
        if let Some(mut input) = shell.stdin.take() {
            let _gone_already = writeln!(input, "{signal}");
        }
        let _reaped = shell.wait();
    }

    /// Where clients find it.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where clients find its second listener.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn more_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.more_port.expect("it was started with a second listener"))
    }

    /// The directory of a partition's files.
    #[must_use]
    pub fn partition_dir(&self, topic: &str, partition: u32) -> PathBuf {
        self.dir.join("logs").join(format!("{topic}-{partition}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end("KILL");
    }
}
