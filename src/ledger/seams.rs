//! The ledger as dispatch sees it: where frontiers are kept, beside the state they speak of, and where dead letters go that no topic takes.

use orderbell_consumers::{DeadLetters, Frontier, FrontierError, Frontiers, Letter, NotTaken, Part, Saved};
use tokio::sync::oneshot;

use super::committer::{self, Work};
use super::disk::Space;
use super::letters::KeptLetter;
use super::{Ledger, LedgerFailed, keys, parse_frontier};

impl Frontiers for Ledger {
    fn load(&self, cluster: &str, parts: &[Part]) -> Result<Vec<Option<Frontier>>, FrontierError> {
        let view = self.disk.view();
        let row = |part| {
            view.row(Space::Meta, &keys::frontier(cluster, part)).map_err(|error| FrontierError(error.to_string()))
        };
        parts.iter().map(|part| Ok(row(part)?.as_deref().and_then(parse_frontier))).collect()
    }

    fn save(&self, cluster: &str, at: Vec<(Part, Frontier)>, durable: flume::Sender<Saved>) {
        if let Ok(work) = self.sender() {
            // The poll thread waits for room here when the committer is behind: that is backpressure, bounded by one fsync.
            let _closed = work.send(Work::Frontiers(cluster.to_owned(), at, durable));
        }
    }

    fn knows_topic(&self, cluster: &str, topic: &str) -> Result<bool, FrontierError> {
        let prefix = keys::frontiers(cluster, topic);
        let view = self.disk.view();
        let first = view.rows(Space::Meta, &prefix, &keys::after_prefix(&prefix)).next();
        Ok(first.transpose().map_err(|error| FrontierError(error.to_string()))?.is_some())
    }
}

/// The ledger's own log of dead letters: always there, takes any size.
impl DeadLetters for Ledger {
    async fn bury(&self, letter: Letter) -> Result<(), NotTaken> {
        let failed = |_| NotTaken(LedgerFailed.to_string());
        let kept = KeptLetter::of(&letter, committer::now());
        let row = serde_json::to_vec(&kept).map_err(|error| NotTaken(error.to_string()))?;
        let (tx, rx) = oneshot::channel();
        let work = Work::Letter(row, tx);
        self.sender().map_err(failed)?.send_async(work).await.map_err(|_| NotTaken(LedgerFailed.to_string()))?;
        rx.await.map_err(|_| NotTaken(LedgerFailed.to_string()))
    }
}
