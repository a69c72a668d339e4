//! The wall: live numbers of the whole chain, for screens that many people look at.
//!
//! One document, told in three ways (an answer, server-sent events, WebSocket messages): always the latest value, never a history of
//! changes, so a viewer that is slow misses nothing that still matters. A `snapshot` carries the curves of two days; a `now` carries the
//! last minutes of today's curve, which a viewer lays over what it has. Numbers only: no order, no customer.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

/// The WebSocket subprotocol of the wall.
pub const WALL_SUBPROTOCOL: &str = "orderbell.wall.v1";

/// The chain's numbers at one moment.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wall {
    /// `snapshot` or `now`.
    #[serde(rename = "type")]
    pub kind: WallKind,
    /// Grows with every change, also over restarts. Within one epoch a viewer keeps the document with the higher one.
    pub seq: u64,
    /// Changes only when history cannot be vouched for: then numbers may go back, once.
    pub epoch: u32,
    /// The server's clock when it wrote this.
    pub at: UnixMs,
    /// Up to when the stream of orders is known to be read; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<UnixMs>,
    /// Minutes before this one hold everything that the log held when they had passed; absent like `as_of`. What comes late is added all the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_through: Option<UnixMs>,
    /// What is shown lags, or cannot be brought up to date.
    pub stale: bool,
    /// The chain's name.
    pub chain: String,
    /// IANA name of the zone whose midnight begins the day.
    pub time_zone: String,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// Digits of the currency behind the point: amounts are in its smallest unit.
    pub currency_digits: u8,
    /// The day that `today` is, as YYYY-MM-DD.
    pub day: String,
    /// When it began.
    pub day_began: UnixMs,
    /// Since midnight.
    pub today: WallSums,
    /// Yesterday until the same time of day.
    pub yesterday_by_now: WallSums,
    /// Orders paid in the last sixty seconds.
    pub per_minute: i64,
    /// From created to picked up, over the last minutes.
    pub funnel: WallFunnel,
    /// Stores with most orders in the last hour, most first.
    pub stores: Vec<WallStore>,
    /// Cities with most orders in the last hour, most first. Empty without a store directory.
    pub cities: Vec<WallCity>,
    /// How stores can be reached.
    pub reach: WallReach,
    /// The newest minutes of today's curve.
    pub tail: WallCurve,
    /// Today's and yesterday's whole curves; in a `snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curves: Option<WallCurves>,
}

/// Whether the curves are in it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WallKind {
    /// With the curves.
    Snapshot,
    /// Without.
    Now,
}

/// Orders that came so far, by event time, and amounts in the currency's smallest unit.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallSums {
    /// Came to be.
    pub created: i64,
    /// Were paid.
    pub paid: i64,
    /// Were taken by their stores.
    pub accepted: i64,
    /// Were not taken.
    pub refused: i64,
    /// Can be collected.
    pub ready: i64,
    /// Were collected.
    pub picked_up: i64,
    /// Were called off.
    pub cancelled: i64,
    /// Money of them went back.
    pub refunded: i64,
    /// What was paid.
    pub paid_amount: i64,
    /// What went back.
    pub refunded_amount: i64,
}

/// How many orders came through each stage, and how long that took.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallFunnel {
    /// Over so many minutes.
    pub minutes: u32,
    /// In the order of the line.
    pub stages: Vec<WallStage>,
}

/// One stage of the line.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallStage {
    /// `created`, `paid`, `accepted`, `ready`, `picked_up`.
    pub stage: String,
    /// Orders that reached it.
    pub orders: i64,
    /// Median time since the stage before, in milliseconds, to a fifth; absent when nobody took the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_ms: Option<i64>,
}

/// One store.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallStore {
    /// Its id.
    pub id: String,
    /// Its name, from the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its city, from the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// One city.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCity {
    /// Its name.
    pub name: String,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// How many stores can be reached, and how. Known are those of the store directory and those that had orders since yesterday.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallReach {
    /// By a socket.
    pub push: u64,
    /// By polls alone.
    pub poll: u64,
    /// Not at the moment.
    pub away: u64,
}

/// Orders paid, minute by minute.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCurve {
    /// Minutes from midnight to the first one.
    pub from: u32,
    /// One number for each minute.
    pub orders: Vec<i64>,
}

/// Two days.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallCurves {
    /// Until now.
    pub today: WallCurve,
    /// The whole day before.
    pub yesterday: WallCurve,
}
