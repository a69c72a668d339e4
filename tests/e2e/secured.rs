//! A broker as a platform runs it: TLS, SASL, and a user that may read and write, and create nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use orderbell_lab::broker::Broker;
use orderbell_protocol::NoticeKind::{NewOrder, PickupCode};

use crate::chain::{Node, until};
use crate::kafka::{Topic, paid};

const USER: &str = "bell";
const KEY_PASSWORD: &str = "key-password";

fn keytool(dir: &Path, args: &[&str]) {
    let done = Command::new("keytool").args(args).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// A broker with a key of its own, whose certificate is in `broker.pem`.
fn broker(dir: &Path) -> Broker {
    let store = ["-keystore", "broker.p12", "-storetype", "PKCS12", "-storepass", KEY_PASSWORD, "-alias", "broker"];
    let name = ["-keyalg", "EC", "-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-validity", "3650"];
    keytool(dir, &[&["-genkeypair"][..], &store, &name].concat());
    keytool(dir, &[&["-exportcert", "-rfc", "-file", "broker.pem"][..], &store].concat());
    let further = format!(
        "ssl.keystore.type=PKCS12\nssl.keystore.location={}\nssl.keystore.password={KEY_PASSWORD}\nsasl.enabled.mechanisms=PLAIN,OAUTHBEARER\n\
         listener.name.more.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"ding\";\n\
         listener.name.more.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"broker\";\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n",
        dir.join("broker.p12").display()
    );
    Broker::start_with(&dir.join("kafka"), Some("SASL_SSL"), &further)
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

fn config(dir: &Path, bootstrap: &str, password: &str) -> String {
    let path = dir.join(format!("{password}.toml"));
    let pem = dir.join("broker.pem");
    let text = format!(
        "[kafka]\nbootstrap = \"{bootstrap}\"\ntopics = [\"orders\"]\ngroup = \"bell\"\n[kafka.properties]\n\
         \"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"PLAIN\"\n\"sasl.username\" = \"{USER}\"\n\
         \"sasl.password\" = \"{password}\"\n\"ssl.ca.location\" = \"{}\"\n",
        pem.display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The same with tokens, which a command makes: the broker takes unsigned ones.
fn config_with_tokens(dir: &Path, with_password: &str) -> String {
    let script = dir.join("token.sh");
    let part = "| base64 -w0 | tr '+/' '-_' | tr -d =";
    let claims = format!("'{{\"sub\":\"{USER}\",\"exp\":%d}}' $(($(date +%s) + 600))");
    let text = format!("printf '{{\"alg\":\"none\"}}' {part}\nprintf .\nprintf {claims} {part}\nprintf .\n");
    std::fs::write(&script, text).unwrap();
    let text = std::fs::read_to_string(with_password).unwrap();
    let kept = text.lines().filter(|line| !line.contains("sasl."));
    let command = format!("oauth_token_command = [\"sh\", \"{}\"]\n[kafka.properties]", script.display());
    let text = kept.collect::<Vec<_>>().join("\n").replace("[kafka.properties]", &command);
    let path = dir.join("tokens.toml");
    std::fs::write(&path, format!("{text}\n\"sasl.mechanism\" = \"OAUTHBEARER\"\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn doctor(config: &str, dir: &Path) -> String {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_orderbell"));
    doctor.args(["doctor", "--config", config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"]);
    String::from_utf8_lossy(&doctor.arg(dir.join("data")).output().unwrap().stdout).into_owned()
}

/// The bugs: the binary had no TLS and said so only when it ran; what a till said was never told where this user may create no topic, although
/// all were there; and a record that could not become a dead letter held its partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_sasl_and_without_the_right_to_create_topics() {
    const TOPIC: i8 = 2;
    const GROUP: i8 = 3;
    const READ: i8 = 3;
    const WRITE: i8 = 4;
    const DESCRIBE: i8 = 8;

    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_owned();
    let broker = broker(&dir);
    let orders = Topic::make_named(&broker.bootstrap(), "orders", 1).await;
    Topic::make_named(&broker.bootstrap(), "bell.events", 1).await;
    let rights: [(i8, &str, &[i8]); 4] = [
        (TOPIC, "orders", &[READ, DESCRIBE]),
        (TOPIC, "bell.events", &[READ, WRITE, DESCRIBE]),
        (TOPIC, "orders.dlq", &[DESCRIBE]),
        (GROUP, "bell", &[READ, DESCRIBE]),
    ];
    allow(&broker.bootstrap(), &rights);
    let config = config(&dir, &broker.more_bootstrap(), "ding");
    // The rights reach the broker a moment later.
    until("doctor finds the topic", async || doctor(&config, &dir).contains("orders has 1 partitions")).await;
    let said = doctor(&config, &dir);
    assert!(said.contains("bell.events has 1 partitions") && !said.contains("FAILED"), "{said}");
    assert!(said.contains("orders.dlq does not exist, and cannot be created"), "{said}");
    assert!(said.contains("dead letters are kept in the ledger instead"), "{said}");

    // What reads and writes has tokens instead of a password.
    let with_tokens = config_with_tokens(&dir, &config);
    let node = Node::with(temp, dir.join("data"), vec!["--config".to_owned(), with_tokens]);
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("of-o1").await);
    let paid_by = paid(1).replace("\"store\"", "\"customer\":\"of-o1\",\"store\"");
    orders.produces_raw(0, Some(paid_by.as_bytes())).await;
    till.hears(NewOrder, "o1").await;
    till.accepts("o1", "A1").await;
    phone.hears(PickupCode, "o1").await;
    orders.produces_raw(0, Some(b"{")).await;
    orders.produces_raw(0, Some(paid(2).as_bytes())).await;
    let mut other = node.till("1", "b").await;
    other.hears(NewOrder, "o1").await;
    until("the letter is in the ledger", async || {
        let admin = orderbell_client::HttpClient::new(node.admin);
        admin.get("/dead-letters", "").await.unwrap().json()["records"].as_array().is_some_and(|all| all.len() == 1)
    })
    .await;
    until("what is behind it was read", async || node.metric("orderbell_events_total").await >= 3).await;
    until("nothing waits", async || node.metric("orderbell_outbox_pending").await == 0).await;
}
