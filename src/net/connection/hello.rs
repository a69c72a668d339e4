//! The answer to a `hello`: who this is, and where reading starts.

use std::time::Duration;

use orderbell_protocol::session::{Cursor, SessionInput};
use orderbell_protocol::{Close, DeviceId, Position, ReadError, ResyncReason};

use super::backend::{Mailboxes, Server};
use super::socket::Socket;
use super::{Authenticated, Connection, log_unavailable, span};
use crate::clock::wall_clock;
use crate::net::tokens::Principal;

impl<V: Server, S: Socket> Connection<V, S> {
    pub(super) fn authenticate(&mut self, token: &str, device: Option<DeviceId>, position: Option<Position>) {
        match self.try_authenticate(token, device, position) {
            Ok((cursor, head)) => {
                let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
                let (recipient, device) = (who.to_string(), device.clone());
                self.input(SessionInput::Authenticated { recipient, device, cursor, head });
            }
            Err(close) => self.input(SessionInput::Rejected(close)),
        }
    }

    /// Checks the token, registers at the hub and finds the cursor to read from: the client's position, else the server's cursor of the device.
    fn try_authenticate(
        &mut self,
        token: &str,
        device: Option<DeviceId>,
        position: Option<Position>,
    ) -> Result<(Cursor, Position), Close> {
        let Ok(Principal::Reader { who, device: bound, expires }) = self.server.check_token(token) else {
            return Err(Close::Unauthorized);
        };
        let device = bound.or(device).ok_or(Close::BadMessage("hello names no device"))?;
        let log = |error: ReadError| {
            span::of_connection(self.number, Some((&who, &device))).in_scope(|| log_unavailable(error));
        };
        let subscriber = self.server.hub().connect(&who, &device).map_err(|_| Close::TooManyConnections)?;
        let (mut cursor, mut head) = self.server.mailboxes().cursor_and_head(&who, &device).map_err(|error| {
            log(error);
            Close::Internal
        })?;
        if let Some(position) = position {
            // The read function decides whether the client's position belongs to this mailbox's history.
            cursor.acked = position;
            match self.server.mailboxes().page(&who, position, position, 0) {
                Err(ReadError::EpochChanged) => {
                    return Err(Close::Resync(ResyncReason::EpochChanged));
                }
                Err(ReadError::PositionExpired) => {
                    return Err(Close::Resync(ResyncReason::PositionExpired));
                }
                Err(error @ ReadError::Unavailable) => {
                    log(error);
                    return Err(Close::Internal);
                }
                Ok(page) => head = page.head,
            }
        }
        if let Some(poison) = self.server.hub().skip_poison(&who, &device, cursor.acked) {
            cursor.acked = poison;
        }
        let (connected, durable) = self.server.mailboxes().connect(&who, &device);
        self.not_durable = Some(durable);
        let left = u64::try_from(expires.0 - wall_clock().0).unwrap_or(0);
        self.expires_at = Some(self.server.uptime() + Duration::from_millis(left));
        self.authenticated = Some(Authenticated { who, device, subscriber, _connected: connected });
        Ok((cursor, head))
    }
}
