//! A broker as a platform runs it: TLS with a certificate of each side, SASL by each mechanism, and a user that may read and write, and create
//! nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use orderbell_lab::broker::Broker;
use orderbell_protocol::NoticeKind::{NewOrder, OrderAccepted, PickupCode};
use orderbell_protocol::alert::AlertCode;

use crate::chain::{Node, now, until};
use crate::kafka::{Topic, paid};

const USER: &str = "bell";
const PASSWORD: &str = "ding";

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// A key and a certificate of its own in `NAME.key.pem` and `NAME.pem`, and both in `NAME.both.pem`.
fn certify(dir: &Path, name: &str) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (key, certificate) = (pem("PRIVATE KEY", &signing_key.serialize_der()), pem("CERTIFICATE", cert.der()));
    for (file, text) in [("key.pem", &key), ("pem", &certificate), ("both.pem", &format!("{key}{certificate}"))] {
        std::fs::write(dir.join(format!("{name}.{file}")), text).unwrap();
    }
}

/// A broker that takes none but the certificate of `bell`, and knows the user by each mechanism.
fn broker(dir: &Path) -> Broker {
    const SECURITY: &str = "org.apache.kafka.common.security";

    ["broker", "bell"].into_iter().for_each(|name| certify(dir, name));
    let login = |mechanism: &str, module: &str, options: &str| {
        format!("listener.name.more.{mechanism}.sasl.jaas.config={SECURITY}.{module} required{options};\n")
    };
    let further = [
        format!("ssl.keystore.type=PEM\nssl.keystore.location={}\n", dir.join("broker.both.pem").display()),
        format!("ssl.truststore.type=PEM\nssl.truststore.location={}\n", dir.join("bell.pem").display()),
        "listener.name.more.ssl.client.auth=required\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER\n"
            .to_owned(),
        login("plain", "plain.PlainLoginModule", &format!(" user_{USER}=\"{PASSWORD}\"")),
        login("scram-sha-512", "scram.ScramLoginModule", ""),
        login("oauthbearer", "oauthbearer.OAuthBearerLoginModule", " unsecuredLoginStringClaim_sub=\"broker\""),
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n"
            .to_owned(),
    ];
    let scram = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
    Broker::start_with(&dir.join("kafka"), Some("SASL_SSL"), &further.concat(), &["--add-scram", &scram])
}

/// A request of the protocol, version 1 of CreateAcls: rdkafka has none for it.
fn allow(bootstrap: &str, rights: &[(i8, &str, &[i8])]) {
    const CREATE_ACLS: i16 = 30;
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
        out.extend(text.as_bytes());
    }

    let mut request = Vec::new();
    request.extend(CREATE_ACLS.to_be_bytes());
    request.extend(1_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    text(&mut request, "test");
    let count: usize = rights.iter().map(|(_, _, operations)| operations.len()).sum();
    request.extend(i32::try_from(count).unwrap().to_be_bytes());
    for (kind, name, operations) in rights {
        for operation in *operations {
            request.extend(kind.to_be_bytes());
            text(&mut request, name);
            request.push(LITERAL);
            text(&mut request, &format!("User:{USER}"));
            text(&mut request, "*");
            request.extend(operation.to_be_bytes());
            request.push(ALLOW);
        }
    }
    let mut socket = TcpStream::connect(bootstrap).unwrap();
    socket.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    socket.write_all(&request).unwrap();
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut answer).unwrap();
}

/// How the user shows who it is.
#[derive(Clone, Copy)]
enum Login {
    Password(&'static str),
    TokenCommand,
    TokenFile,
}

/// A configuration file with this login.
fn config(dir: &Path, bootstrap: &str, name: &str, login: Login) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let (more, sasl) = match login {
        Login::Password(mechanism) => {
            let user = format!("\"sasl.username\" = \"{USER}\"\n\"sasl.password\" = \"{PASSWORD}\"\n");
            (String::new(), format!("\"sasl.mechanism\" = \"{mechanism}\"\n{user}"))
        }
        Login::TokenCommand => {
            let command = format!("oauth_token_command = [\"cat\", \"{}\"]\n", file("token"));
            (command, "\"sasl.mechanism\" = \"OAUTHBEARER\"\n".to_owned())
        }
        Login::TokenFile => {
            let file = format!("oauth_token_file = \"{}\"\n", file("token"));
            (file, "\"sasl.mechanism\" = \"OAUTHBEARER\"\n".to_owned())
        }
    };
    let text = format!(
        "[kafka]\nbootstrap = \"{bootstrap}\"\ntopics = [\"orders\"]\ngroup = \"bell\"\n{more}[kafka.properties]\n\
         \"security.protocol\" = \"SASL_SSL\"\n{sasl}\"ssl.ca.location\" = \"{}\"\n\
         \"ssl.certificate.location\" = \"{}\"\n\"ssl.key.location\" = \"{}\"\n\
         \"topic.metadata.refresh.interval.ms\" = \"1000\"\n",
        file("broker.pem"),
        file("bell.pem"),
        file("bell.key.pem")
    );
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A token as the broker takes it: unsigned.
fn token() -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let claims = format!("{{\"sub\":\"{USER}\",\"exp\":{}}}", now().0 / 1000 + 3600);
    format!("{}.{}.", part("{\"alg\":\"none\"}"), part(&claims))
}

fn doctor(config: &str, dir: &Path) -> String {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_orderbell"));
    doctor.args(["doctor", "--config", config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"]);
    let done = tokio::task::block_in_place(|| doctor.arg(dir.join("data")).output().unwrap());
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Resource types and operations of Kafka's rights.
const TOPIC: i8 = 2;
const GROUP: i8 = 3;
const READ: i8 = 3;
const WRITE: i8 = 4;
const DESCRIBE: i8 = 8;

/// One alert, which names the cause; nothing else is red.
async fn waits_with_one_alert(node: &Node, cause: &str) {
    let alerts = async || -> Vec<(AlertCode, String)> {
        node.alerts().await.into_iter().map(|alert| (alert.code, alert.detail)).collect()
    };
    until(&format!("the alert names the cause: {cause}"), async || {
        let alerts = alerts().await;
        matches!(&alerts[..], [(AlertCode::OutboxBlocked, detail)] if detail.contains(cause))
    })
    .await;
}

/// The bugs: the binary had no TLS and said so only when it ran; what a till reported was never published where this user may create no topic, although
/// all were there; a record that could not become a dead letter held its partition, and did so still where its user might not even see the topic;
/// and where the user might write nowhere, nothing was published until the process was started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_sasl_and_without_the_right_to_create_topics() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_owned();
    std::fs::write(dir.join("token"), token()).unwrap();
    let broker = broker(&dir);
    let (ours, theirs) = (broker.bootstrap(), broker.more_bootstrap());
    let orders = Topic::make_named(&ours, "orders", 1).await;
    Topic::make_named(&ours, "bell.events", 1).await;
    allow(&ours, &[(TOPIC, "orders", &[READ, DESCRIBE]), (GROUP, "bell", &[READ, DESCRIBE])]);
    let config = |name: &str, login| config(&dir, &theirs, name, login);
    let with_password = config("password.toml", Login::Password("PLAIN"));
    // The rights reach the broker a moment later.
    until("doctor finds the topic", async || doctor(&with_password, &dir).contains("orders has 1 partitions")).await;
    let said = doctor(&with_password, &dir);
    assert!(!said.contains("FAILED"), "{said}");
    for (topic, without) in
        [("bell.events", "the alert outbox_blocked"), ("orders.dlq", "are kept in the ledger instead")]
    {
        let line = said.split(&format!(" {topic}: ")).nth(1).unwrap_or_default();
        let line: String = line.lines().take(2).collect();
        let wanted = "grant this user WRITE, READ and DESCRIBE on the topic; without them ";
        assert!(line.contains(wanted) && line.contains(without), "{topic}: {said}");
    }

    // What reads and writes has tokens instead of a password.
    let with_command = config("command.toml", Login::TokenCommand);
    let mut node = Node::with(temp, dir.join("data"), vec!["--config".to_owned(), with_command]);
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("of-o1").await);
    let paid_by = |order: u32| paid(order).replace("\"store\"", &format!("\"customer\":\"of-o{order}\",\"store\""));
    orders.produces_raw(0, Some(paid_by(1).as_bytes())).await;
    till.hears(NewOrder, "o1").await;
    till.accepts("o1", "A1").await;
    waits_with_one_alert(&node, "this user may not see bell.events").await;
    allow(&ours, &[(TOPIC, "bell.events", &[READ, DESCRIBE])]);
    waits_with_one_alert(&node, "uthorization failed").await;
    allow(&ours, &[(TOPIC, "bell.events", &[WRITE])]);
    phone.hears(PickupCode, "o1").await;
    till.hears(OrderAccepted, "o1").await;
    until("nothing waits, and nothing is red", async || node.is_well().await).await;

    orders.produces_raw(0, Some(b"{")).await;
    orders.produces_raw(0, Some(paid(2).as_bytes())).await;
    till.hears(NewOrder, "o2").await;
    let dead_letters = async || {
        let admin = orderbell_client::HttpClient::new(node.admin);
        admin.get("/dead-letters", "").await.unwrap().json().unwrap()["records"].as_array().map_or(0, Vec::len)
    };
    until("the dead letter is in the ledger", async || dead_letters().await == 1).await;
    allow(&ours, &[(TOPIC, "orders.dlq", &[DESCRIBE])]);
    until("doctor knows that the topic is missing", async || {
        doctor(&with_password, &dir).contains("orders.dlq does not exist, and cannot be created")
    })
    .await;
    assert!(doctor(&with_password, &dir).contains("bell.events has 1 partitions"));

    for (order, name, login) in
        [(3, "file.toml", Login::TokenFile), (4, "scram.toml", Login::Password("SCRAM-SHA-512"))]
    {
        node.process.signal("TERM");
        assert!(node.process.ends().success(), "{}", node.process.err.text());
        node.args[1] = config(name, login);
        node.restart();
        let (order_id, code) = (format!("o{order}"), format!("A{order}"));
        let (mut till, mut phone) = (node.till("1", "a").await, node.phone(&format!("of-{order_id}")).await);
        orders.produces_raw(0, Some(paid_by(order).as_bytes())).await;
        loop {
            let notice = till.notice().await;
            till.acks(&notice).await;
            if (notice.notice.kind, &notice.notice.order) == (NewOrder, &order_id) {
                break;
            }
        }
        till.accepts(&order_id, &code).await;
        phone.hears(PickupCode, &order_id).await;
    }
}
