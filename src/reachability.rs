//! How a store can be notified at this moment. Known to the hub, shown by the wall and the admin listener.

/// The fastest way on which a recipient can be notified now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// At least one device has an open session.
    Push,
    /// No session is open, but a device polled recently.
    Poll,
    /// Neither: notices stay in the mailbox until a device connects or polls.
    Offline,
}

impl Reachability {
    /// The stable word in JSON documents.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
            Self::Offline => "offline",
        }
    }
}
