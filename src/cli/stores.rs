//! `orderbell stores`: reachability and backlog of every store, from the admin listener of the running server.

use std::process::ExitCode;

use super::table::table;
use super::{ConfigArgs, ask, decoded, failed, forbidden_message, out_line};
use crate::clock::wall_clock;
use orderbell_client::{HttpClient, percent_encoded};
use orderbell_protocol::admin::{DeviceStatus, Reachability, RejectedClients, StoreStatus, StoresAnswer};

/// Columns of the table.
const COLUMNS: usize = 10;
/// Those that hold numbers: they end at the right.
const NUMBERS: std::ops::Range<usize> = 4..9;

#[derive(clap::Args)]
pub(crate) struct StoresOptions {
    /// Only stores that cannot be reached, have a backlog, or have a device with a problem.
    #[arg(long)]
    unhealthy: bool,
    /// One JSON document, with every device.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

pub(crate) fn run(options: &StoresOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut stores, rejected) = runtime.block_on(all(config.boot.listen.admin)).map_err(failed)?;
    if options.unhealthy {
        let is_healthy = |store: &StoreStatus| {
            store.backlog == 0
                && store.reachability != Reachability::Offline
                && store.devices.iter().all(|device| device.problem.is_none())
        };
        stores.retain(|store| !is_healthy(store));
    }
    // The largest backlog first.
    stores.sort_by(|a, b| (b.backlog, &a.id).cmp(&(a.backlog, &b.id)));
    if options.json {
        let text = serde_json::to_string_pretty(&StoresAnswer { stores, next: None, rejected }).map_err(failed)?;
        out_line(&text);
        return Ok(());
    }
    let mut rows = vec![
        ["STORE", "NAME", "CITY", "REACHABILITY", "DEVICES", "BACKLOG", "SINCE", "LAST HOUR", "TODAY", "PROBLEMS"]
            .map(String::from),
    ];
    rows.extend(stores.iter().map(row));
    table(&rows, NUMBERS);
    print_rejected(&rejected);
    Ok(())
}

/// Below the table: who was not served at all.
fn print_rejected(rejected: &[RejectedClients]) {
    if rejected.is_empty() || !out_line("") || !out_line("turned away since the server started:") {
        return;
    }
    for RejectedClients { reason, count, last_at, store } in rejected {
        let ago = age((wall_clock().0 - last_at.0) / 1000);
        let store = store.as_ref().map_or_else(String::new, |store| format!(", last by store {store}"));
        if !out_line(&format!("  {reason}  {count} times, last {ago} ago{store}")) {
            return;
        }
    }
}

/// Reads all pages of the list.
async fn all(admin: std::net::SocketAddr) -> Result<(Vec<StoreStatus>, Vec<RejectedClients>), String> {
    let (http, mut stores, mut rejected, mut from) = (HttpClient::new(admin), Vec::new(), Vec::new(), String::new());
    loop {
        let answer = ask(&http, admin, &format!("/stores?from={}", percent_encoded(&from))).await?;
        if answer.status != 200 {
            return Err(forbidden_message(admin, answer.status));
        }
        let page: StoresAnswer = decoded(&answer)?;
        stores.extend(page.stores);
        rejected.extend(page.rejected);
        match page.next {
            Some(next) => from = next,
            None => return Ok((stores, rejected)),
        }
    }
}

fn row(store: &StoreStatus) -> [String; COLUMNS] {
    let since = store.backlog_since.map_or_else(String::new, |since| age((wall_clock().0 - since.0) / 1000));
    [
        store.id.clone(),
        store.name.clone().unwrap_or_default(),
        store.city.clone().unwrap_or_default(),
        store.reachability.word().to_owned(),
        store.devices.len().to_string(),
        store.backlog.to_string(),
        since,
        store.last_hour.to_string(),
        store.today.to_string(),
        problems(store),
    ]
}

/// What is wrong with its devices: `till-1 shared, till-2 slow`.
fn problems(store: &StoreStatus) -> String {
    let problem = |device: &DeviceStatus| Some(format!("{} {}", device.device, device.problem?.word()));
    let all: Vec<_> = store.devices.iter().filter_map(problem).collect();
    all.join(", ")
}

/// An age in its largest fitting unit.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5_999 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_with_one_name_differ_by_their_city() {
        let store = |id: &str, city: &str| {
            let json = serde_json::json!({"id": id, "name": "Old Town", "city": city, "reachability": "push", "backlog": 0,
                                          "last_hour": 1, "today": 2, "devices": []});
            row(&serde_json::from_value(json).unwrap())
        };
        let (one, other) = (store("1", "Suzhou"), store("2", "Nanjing"));
        assert_eq!((&one[1], &one[2]), (&"Old Town".into(), &"Suzhou".into()));
        assert_eq!((&other[1], &other[2]), (&"Old Town".into(), &"Nanjing".into()));
    }

    #[test]
    fn a_device_with_a_problem_is_named() {
        let json = serde_json::json!({"id": "1", "reachability": "push", "backlog": 0, "last_hour": 1, "today": 2, "devices": [
            {"device": "till-1", "problem": "shared", "backlog": 0}, {"device": "till-2", "backlog": 0},
            {"device": "till-3", "problem": "slow", "backlog": 1}]});
        assert_eq!(row(&serde_json::from_value(json).unwrap())[9], "till-1 shared, till-3 slow");
    }

    #[test]
    fn an_age_has_one_unit() {
        assert_eq!([-5, 0, 99, 100, 5_999, 6_000].map(age), ["0 s", "0 s", "99 s", "1 min", "99 min", "1 h"]);
    }
}
