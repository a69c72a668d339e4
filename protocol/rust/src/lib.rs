#![doc = include_str!("../README.md")]

mod connector;
mod endpoint;
mod error;
mod http;
mod mailbox_client;
mod socket;
mod state_file;

pub use orderbell_protocol as protocol;

pub use endpoint::Endpoint;
pub use error::{ClientError, ConnectError};
pub use http::{HttpClient, HttpResponse, percent_encoded};
pub use mailbox_client::{App, MailboxClient};
pub use socket::{Closed, Received, Socket};
pub use state_file::{DamagedState, StateFile};
