//! The one place where the types of this crate become JSON text.

use serde::Serialize;

use crate::frame::{
    ClientEvent, ClientFrame, EventsAnswer, NoticeFrame, OpenOrder, OrdersAnswer, PollAnswer, ServerFrame,
};
use crate::{Notice, Problem, admin, alert, cloud_event, command_output, wall};

pub(crate) mod sealed {
    /// Types of this crate only: other types may fail to serialize.
    pub trait Sealed {}
}

/// A document of the wire model: a frame, the body of a request or an answer, or a line of a command. It always becomes JSON: `serde_json` fails
/// on map keys that are not strings and on `Serialize` implementations that return an error, and these types have neither.
pub trait WireDocument: Serialize + sealed::Sealed {}

/// Says of types of this crate that they are documents.
macro_rules! wire_documents {
    ($($document:ty),+ $(,)?) => {
        $(
            impl $crate::json::sealed::Sealed for $document {}
            impl $crate::json::WireDocument for $document {}
        )+
    };
}
pub(crate) use wire_documents;

wire_documents!(
    ClientFrame,
    ServerFrame,
    NoticeFrame,
    Notice,
    Vec<ClientEvent>,
    PollAnswer,
    EventsAnswer,
    OpenOrder,
    OrdersAnswer,
    Problem,
    wall::Wall,
    alert::Alert,
    cloud_event::CloudEvent,
    admin::ReadyAnswer,
    admin::AcknowledgeAnswer,
    admin::BalanceAnswer,
    admin::TopAnswer,
    admin::StoresAnswer,
    admin::TailAnswer,
    admin::TailNotice,
    admin::TraceAnswer,
    admin::DeadLettersAnswer,
    admin::DeadLetterAnswer,
    admin::ReplayAnswer,
    admin::TopicDeadLetter,
    admin::TopicDeadLettersAnswer,
    admin::TopicReplayAnswer,
    command_output::ReadyLine,
    command_output::DoctorFinding,
    command_output::MappedEvent,
);

/// The JSON of a document.
#[must_use]
pub fn encode<T: WireDocument>(document: &T) -> String {
    serde_json::to_string(document).expect("documents have string keys only and no Serialize implementation that fails")
}
