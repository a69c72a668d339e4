//! Two installations that use one name with different tokens: the one that is there stays.
//!
//! Where tokens name no device, two installations may have chosen one name, and each connection would replace the other's. A newcomer with another
//! token therefore asks first whether somebody is at the other end of the open connection, by a ping. A till behind its own half-open connection
//! gets no answer and goes on after a while; the second installation is closed with 4003, as its name is in use.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Subscriber;

/// Tells tokens apart without keeping them. Two processes give one token different tags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenTag(u64);

impl fmt::Debug for TokenTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenTag(***)")
    }
}

/// The seed of the tags of one process.
#[derive(Debug, Default)]
pub(super) struct TokenTags(RandomState);

impl TokenTags {
    pub(super) fn of(&self, token: &str) -> TokenTag {
        TokenTag(self.0.hash_one(token))
    }
}

/// An open session was asked whether its client is there.
#[derive(Debug)]
pub struct Challenge {
    subscriber: Arc<Subscriber>,
    /// What its client had sent before.
    frames: u64,
}

impl Challenge {
    /// Asks this session.
    pub(super) fn of(subscriber: Arc<Subscriber>) -> Self {
        let frames = subscriber.frames.load(Ordering::Acquire);
        subscriber.is_challenged.store(true, Ordering::Release);
        subscriber.wake.notify_one();
        Self { subscriber, frames }
    }

    /// True when its client has sent something since, or has come back with the same token.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.subscriber.frames.load(Ordering::Acquire) > self.frames
    }
}
