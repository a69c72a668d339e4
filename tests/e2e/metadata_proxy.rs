//! A proxy in front of one broker whose metadata tells no cluster id, as that of some gateways does, or names no broker for a while.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
/// From this version of a metadata answer on, lengths are variable.
const FLEXIBLE: i16 = 9;

#[derive(Clone)]
pub(crate) struct MetadataProxy {
    broker: String,
    port: u16,
    tells_id: bool,
    is_empty: Arc<AtomicBool>,
    /// Ends every connection that there is.
    cut: Arc<Notify>,
}

impl MetadataProxy {
    /// Its metadata is the broker's own, with the proxy's address.
    pub(crate) async fn start(broker: &str) -> Self {
        Self::serving(broker, true).await
    }

    /// Its metadata tells no cluster id.
    pub(crate) async fn nameless(broker: &str) -> Self {
        Self::serving(broker, false).await
    }

    /// From now on its metadata names no broker, and whoever was connected has to ask for it.
    pub(crate) fn names_no_broker(&self) {
        self.is_empty.store(true, Ordering::Release);
        self.cut.notify_waiters();
    }

    /// All is as before.
    pub(crate) fn names_its_broker(&self) {
        self.is_empty.store(false, Ordering::Release);
    }

    async fn serving(broker: &str, tells_id: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_empty, cut) = Default::default();
        let proxy = Self { broker: broker.to_owned(), port, tells_id, is_empty, cut };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(client));
            }
        });
        proxy
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn serve(self, client: TcpStream) -> io::Result<()> {
        let (client_in, client_out) = client.into_split();
        let (broker_in, broker_out) = TcpStream::connect(&self.broker).await?.into_split();
        let asked = Arc::<Mutex<HashMap<i32, (i16, i16)>>>::default();
        let requests = Self::requests(client_in, broker_out, asked.clone());
        tokio::select! {
            done = requests => done,
            done = self.answers(broker_in, client_out, asked) => done,
            () = self.cut.notified() => Ok(()),
        }
    }

    /// Passes requests on, and notes the kind and version of each by its number.
    async fn requests(
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: Arc<Mutex<HashMap<i32, (i16, i16)>>>,
    ) -> io::Result<()> {
        loop {
            let frame = frame(&mut from).await?;
            let mut at = Bytes { bytes: frame, at: 0, flexible: false };
            let (kind, version) = (at.i16(), at.i16());
            asked.lock().unwrap().insert(at.i32(), (kind, version));
            send(&mut to, &at.bytes).await?;
        }
    }

    async fn answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: Arc<Mutex<HashMap<i32, (i16, i16)>>>,
    ) -> io::Result<()> {
        loop {
            let frame = frame(&mut from).await?;
            let number = i32::from_be_bytes(frame[..4].try_into().unwrap());
            let what = asked.lock().unwrap().remove(&number);
            let answer = match what {
                Some((METADATA, version)) => self.metadata(frame, version),
                Some((FIND_COORDINATOR, _)) => self.coordinator(frame),
                _ => frame,
            };
            send(&mut to, &answer).await?;
        }
    }

    /// The broker's address becomes that of the proxy, or is left out, and the cluster's id null where it is hidden.
    fn metadata(&self, bytes: Vec<u8>, version: i16) -> Vec<u8> {
        let mut at = Bytes { bytes, at: 4, flexible: version >= FLEXIBLE };
        at.tags();
        at.at += 4;
        let brokers = at.at;
        for _ in 0..at.count() {
            at.at += 4;
            at.text();
            let port = at.at;
            at.bytes[port..port + 4].copy_from_slice(&u32::from(self.port).to_be_bytes());
            at.at += 4;
            at.text();
            at.tags();
        }
        if self.is_empty.load(Ordering::Acquire) {
            at.replace(brokers, if at.flexible { &[1] } else { &[0; 4] });
        }
        if !self.tells_id {
            let id = at.at;
            at.text();
            at.replace(id, if at.flexible { &[0] } else { &[0xff; 2] });
        }
        at.bytes
    }

    fn coordinator(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let broker: u32 = self.broker.rsplit_once(':').unwrap().1.parse().unwrap();
        let at = bytes.windows(4).position(|four| four == broker.to_be_bytes());
        if let Some(at) = at {
            bytes[at..at + 4].copy_from_slice(&u32::from(self.port).to_be_bytes());
        }
        bytes
    }
}

async fn frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; from.read_u32().await? as usize];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn send(to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    to.write_u32(u32::try_from(bytes.len()).unwrap()).await?;
    to.write_all(bytes).await
}

/// A place in a message.
struct Bytes {
    bytes: Vec<u8>,
    at: usize,
    flexible: bool,
}

impl Bytes {
    fn i16(&mut self) -> i16 {
        self.at += 2;
        i16::from_be_bytes(self.bytes[self.at - 2..self.at].try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        self.at += 4;
        i32::from_be_bytes(self.bytes[self.at - 4..self.at].try_into().unwrap())
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.bytes[self.at];
            self.at += 1;
            value |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }

    fn count(&mut self) -> usize {
        if self.flexible { self.varint() - 1 } else { usize::try_from(self.i32()).unwrap() }
    }

    /// Skips a text, which may be null.
    fn text(&mut self) {
        self.at +=
            if self.flexible { self.varint().saturating_sub(1) } else { usize::try_from(self.i16()).unwrap_or(0) };
    }

    /// Skips tagged fields.
    fn tags(&mut self) {
        let count = if self.flexible { self.varint() } else { 0 };
        for _ in 0..count {
            self.varint();
            self.at += self.varint();
        }
    }

    /// Puts `with` in place of what begins at `from` and ends here.
    fn replace(&mut self, from: usize, with: &[u8]) {
        self.bytes.splice(from..self.at, with.iter().copied());
        self.at = from + with.len();
    }
}
