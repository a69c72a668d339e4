//! The wall: live numbers of the whole chain, for screens that many people watch.
//!
//! One document with three transports: an HTTP answer, server-sent events and WebSocket messages. A viewer always gets the latest values and
//! never a history of changes, so a slow viewer misses nothing that still matters. A `snapshot` carries the curves of two days; an `update`
//! carries the newest minutes of today's curve, which the viewer merges into the curve that it has. The document holds aggregates only: no
//! order, no customer.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

/// The WebSocket subprotocol of the wall.
pub const WALL_SUBPROTOCOL: &str = "orderbell.wall.v1";

/// The numbers of the chain at one moment.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wall {
    /// `snapshot` or `update`.
    #[serde(rename = "type")]
    pub kind: WallKind,
    /// Grows with every change, also across restarts. Within one epoch a viewer keeps the document with the higher `seq`.
    pub seq: u64,
    /// Changes only when the server cannot guarantee that the history is unchanged; then numbers may decrease, once.
    pub epoch: u32,
    /// The server's clock when it wrote the document.
    pub at: UnixMs,
    /// The server has processed every event that occurred up to this time; absent while the server does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<UnixMs>,
    /// Minutes before this time include every event that the log held when the minute ended; absent like `as_of`. Late events are added to
    /// their minute nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_through: Option<UnixMs>,
    /// True when the numbers lag behind the stream or cannot be updated.
    pub stale: bool,
    /// The name of the chain.
    pub chain: String,
    /// IANA name of the time zone whose midnight begins the day.
    pub time_zone: String,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// Decimal digits of the currency: amounts are in its smallest unit.
    pub currency_digits: u8,
    /// The date of `today`, as YYYY-MM-DD.
    pub day: String,
    /// The midnight at which `day` began.
    pub day_start: UnixMs,
    /// Sums since midnight.
    pub today: WallSums,
    /// Sums of yesterday until the same time of day.
    pub yesterday_by_now: WallSums,
    /// Orders paid in the last sixty seconds.
    pub per_minute: i64,
    /// The funnel from created to picked up, over the last minutes.
    pub funnel: WallFunnel,
    /// The stores with the most orders in the last hour, in descending order.
    pub stores: Vec<WallStore>,
    /// The cities with the most orders in the last hour, in descending order. Empty without a store directory.
    pub cities: Vec<WallCity>,
    /// How many stores are reachable, and how.
    pub reachability: WallReachability,
    /// The newest minutes of today's curve.
    pub recent: WallCurve,
    /// The whole curves of today and yesterday; only in a `snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curves: Option<WallCurves>,
}

/// Whether a document carries the curves.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WallKind {
    /// The document carries the curves.
    Snapshot,
    /// The document carries only the newest minutes.
    Update,
}

impl WallKind {
    /// The word in JSON and the name of the server-sent event.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Update => "update",
        }
    }
}

/// Numbers of orders by event time, each order counted once per field, and amounts in the currency's smallest unit.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallSums {
    /// Orders created.
    pub created: i64,
    /// Orders paid.
    pub paid: i64,
    /// Orders accepted by their stores.
    pub accepted: i64,
    /// Orders refused by their stores.
    pub refused: i64,
    /// Orders made ready.
    pub ready: i64,
    /// Orders collected.
    pub picked_up: i64,
    /// Orders cancelled.
    pub cancelled: i64,
    /// Orders refunded.
    pub refunded: i64,
    /// Sum of the payments.
    pub paid_amount: i64,
    /// Sum of the refunds.
    pub refunded_amount: i64,
}

/// How many orders reached each stage, and how long they took.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallFunnel {
    /// The length of the interval that the funnel covers.
    pub minutes: u32,
    /// The stages in the order of an order's progress.
    pub stages: Vec<WallStage>,
}

/// One stage of the funnel.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallStage {
    /// `created`, `paid`, `accepted`, `ready`, `picked_up`.
    pub stage: String,
    /// Orders that reached the stage.
    pub orders: i64,
    /// Median time since the previous stage, in milliseconds, with a resolution of one fifth; absent when no order reached the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_ms: Option<i64>,
}

/// A store in the ranking.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallStore {
    /// The id of the store.
    pub id: String,
    /// The name from the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The city from the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// A city in the ranking.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCity {
    /// The name of the city.
    pub name: String,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// How many stores are reachable, and how. Counts the stores of the store directory and those that had orders since yesterday.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallReachability {
    /// Stores with a connected device.
    pub push: u64,
    /// Stores that only poll.
    pub poll: u64,
    /// Stores that are not reachable at present.
    pub offline: u64,
}

/// Orders paid per minute.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCurve {
    /// The first minute, counted from midnight.
    pub from: u32,
    /// One number per minute.
    pub orders: Vec<i64>,
}

/// The curves of two days.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCurves {
    /// Today until now.
    pub today: WallCurve,
    /// The whole of yesterday.
    pub yesterday: WallCurve,
}
