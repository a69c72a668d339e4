//! wss:// and https:// to a server of this test, whose certificate only those trust who are configured to.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails where it stands")]

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use orderbell_client::protocol::ServerFrame;
use orderbell_client::protocol::client::{Connectivity, Output, PersistedState, Timings};
use orderbell_client::{App, ClientError, ConnectError, Endpoint, HttpClient, MailboxClient, Received, Socket};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{CertificateError, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority by its name: two of one name would be told apart by their signatures only.
fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// TLS with a certificate of `authority` for `name`.
fn acceptor(authority: &Authority, name: &str) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A server on a port of its own, with or without TLS. Ends with the `JoinSet`.
async fn serve(tls: Option<TlsAcceptor>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            connections.spawn(async move {
                match tls {
                    None => answer(tcp).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp).await {
                            answer(stream).await;
                        }
                    }
                }
            });
        }
    });
    (address, server)
}

/// A server of the protocol that knows three requests. A WebSocket gets a `goaway` for its `hello`.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let head = read_head(&mut stream).await;
    if head.as_bytes().first() == Some(&TLS_HANDSHAKE) {
        return;
    }
    let first_line = head.lines().next().unwrap_or_default();
    if !first_line.starts_with("GET /v1/ws ") {
        let body = format!("\"{first_line}\"");
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        return stream.shutdown().await.unwrap();
    }
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
         Sec-WebSocket-Protocol: orderbell.v1\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.to_text().is_ok_and(|text| text.contains("\"hello\"")) {
            socket.send(Message::text(r#"{"type":"goaway","retry_ms":1}"#)).await.unwrap();
        }
    }
}

/// The first byte of a client that speaks TLS.
const TLS_HANDSHAKE: u8 = 22;

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
        if head[0] == TLS_HANDSHAKE {
            break;
        }
    }
    String::from_utf8(head).unwrap()
}

fn endpoint(scheme: &str, host: &str, server: SocketAddr) -> Endpoint {
    format!("{scheme}://{host}:{}", server.port()).parse().unwrap()
}

async fn exchanges(server: &Endpoint) {
    let answer = HttpClient::new(server.clone()).get("/v1/orders", "token").await.unwrap();
    assert_eq!(answer.json().unwrap(), "GET /v1/orders HTTP/1.1");
    let mut socket = Socket::open_with_hello(server.clone(), "token", "device", None).await.unwrap();
    assert!(matches!(socket.next().await.unwrap(), Received::Frame(ServerFrame::Goaway { .. })));
}

#[tokio::test]
async fn https_and_wss_to_a_private_authority() {
    let authority = authority("known");
    let (address, _server) = serve(Some(acceptor(&authority, "localhost"))).await;
    let root = authority.der().clone();
    for scheme in ["https", "wss"] {
        exchanges(&endpoint(scheme, "localhost", address).trusting(root.clone())).await;
    }
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&root));
    exchanges(&endpoint("https", "localhost", address).trusting_pem(pem.as_bytes()).unwrap()).await;
}

/// The certificate may name an address instead of a name.
#[tokio::test]
async fn https_to_an_address() {
    let authority = authority("known");
    let (address, _server) = serve(Some(acceptor(&authority, "127.0.0.1"))).await;
    exchanges(&endpoint("https", "127.0.0.1", address).trusting(authority.der().clone())).await;
}

/// A name that is resolved, and an address, without TLS.
#[tokio::test]
async fn plain_http_to_a_name_and_to_an_address() {
    let (address, _server) = serve(None).await;
    exchanges(&endpoint("http", "localhost", address)).await;
    exchanges(&address.to_string().parse().unwrap()).await;
    exchanges(&Endpoint::from(address)).await;
}

/// Both ways to connect, and what they were refused for.
async fn refusals(server: &Endpoint) -> [ConnectError; 2] {
    let request = HttpClient::new(server.clone()).get("/v1/orders", "token").await;
    let socket = Socket::open(server.clone()).await;
    let reason = |error| match error {
        ClientError::Connect(error) => error,
        other => panic!("{}", other.with_sources()),
    };
    [reason(request.err().unwrap()), reason(socket.err().unwrap())]
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_trusted_is_refused() {
    let (known, unknown) = (authority("known"), authority("unknown"));
    let (strange, _a) = serve(Some(acceptor(&unknown, "localhost"))).await;
    for error in refusals(&endpoint("https", "localhost", strange).trusting(known.der().clone())).await {
        let expected = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(matches!(&error, ConnectError::Tls(found) if *found == expected), "{error:?}");
    }
    let (misnamed, _b) = serve(Some(acceptor(&known, "another.example"))).await;
    for error in refusals(&endpoint("wss", "localhost", misnamed).trusting(known.der().clone())).await {
        let is_name = |error: &rustls::Error| {
            matches!(error, rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }))
        };
        assert!(matches!(&error, ConnectError::Tls(found) if is_name(found)), "{error:?}");
    }
}

#[tokio::test]
async fn failures_say_what_failed() {
    let (plain, _server) = serve(None).await;
    // A port without TLS, and a port without a server.
    let root = authority("known").der().clone();
    for error in refusals(&endpoint("https", "localhost", plain).trusting(root)).await {
        assert!(matches!(error, ConnectError::Tls(_) | ConnectError::TlsInterrupted(_)), "{error:?}");
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    for error in refusals(&Endpoint::from(free)).await {
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
        let text = ClientError::from(error).with_sources();
        assert!(text.starts_with("the server is unreachable: ") && text.contains("refused"), "{text}");
    }
}

struct Till {
    failures: mpsc::Sender<String>,
}

impl App for Till {
    fn on_output(&mut self, output: Output) -> ControlFlow<()> {
        assert!(!matches!(output, Output::Connectivity(Connectivity::Push)), "it connected");
        ControlFlow::Continue(())
    }

    fn persist(&mut self, _state: &PersistedState) -> std::io::Result<()> {
        Ok(())
    }

    fn on_failure(&mut self, error: &ClientError) {
        let _full = self.failures.try_send(error.with_sources());
    }
}

/// A till that is installed with a server that it cannot trust hears why: otherwise it would try in silence.
#[tokio::test]
async fn failures_reach_the_application() {
    let (address, _server) = serve(Some(acceptor(&authority("unknown"), "localhost"))).await;
    let server = endpoint("https", "localhost", address).trusting(authority("known").der().clone());
    let (failures, mut failed) = mpsc::channel(1);
    let mut till = Till { failures };
    let (_inputs, receiver) = mpsc::channel(1);
    let client = MailboxClient::new(server, "token", "till", PersistedState::default(), Timings::default(), 1);
    tokio::select! {
        ended = client.run(&mut till, receiver) => panic!("it ended: {ended:?}"),
        failure = failed.recv() => {
            let failure = failure.unwrap();
            assert!(failure.starts_with("the TLS handshake failed: invalid peer certificate"), "{failure}");
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let symbol = SYMBOLS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}
