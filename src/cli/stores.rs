//! `orderbell stores`: who is there, and for whom something waits. Asks the server that runs, through its admin listener.

use std::process::ExitCode;

use super::{Place, ask, failed, not_told, tell};
use crate::client::{Http, escaped};
use crate::net::{StoreSeen, wall_clock};

#[derive(clap::Args)]
pub(crate) struct StoresOptions {
    /// Only stores that cannot be reached, or for which something waits.
    #[arg(long)]
    hurt: bool,
    /// One JSON document, with every device.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(options: &StoresOptions) -> Result<(), ExitCode> {
    let config = options.place.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut stores = runtime.block_on(all(config.listen.admin)).map_err(failed)?;
    if options.hurt {
        stores.retain(|store| store.waiting > 0 || store.reach == "away");
    }
    // What hurts stands on top.
    stores.sort_by(|a, b| (b.waiting, &a.id).cmp(&(a.waiting, &b.id)));
    if options.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "stores": stores })).map_err(failed)?;
        tell(&text);
        return Ok(());
    }
    let mut rows =
        vec![["STORE", "NAME", "CITY", "REACH", "DEVICES", "WAITING", "SINCE", "LAST HOUR", "TODAY"].map(String::from)];
    rows.extend(stores.iter().map(row));
    table(&rows);
    Ok(())
}

/// All pages.
async fn all(admin: std::net::SocketAddr) -> Result<Vec<StoreSeen>, String> {
    let (http, mut stores, mut from) = (Http::new(admin), Vec::new(), String::new());
    loop {
        let answer = ask(&http, admin, &format!("/stores?from={}", escaped(&from))).await?;
        if answer.status != 200 {
            return Err(not_told(admin, answer.status));
        }
        let mut page = answer.json();
        let some: Vec<StoreSeen> = serde_json::from_value(page["stores"].take()).map_err(|error| error.to_string())?;
        stores.extend(some);
        match page["next"].as_str() {
            Some(next) => from = next.to_owned(),
            None => return Ok(stores),
        }
    }
}

fn row(store: &StoreSeen) -> [String; 9] {
    let since = store.waiting_since.map_or_else(String::new, |since| ago((wall_clock().0 - since.0) / 1000));
    [
        store.id.clone(),
        store.name.clone().unwrap_or_default(),
        store.city.clone().unwrap_or_default(),
        store.reach.clone(),
        store.devices.len().to_string(),
        store.waiting.to_string(),
        since,
        store.last_hour.to_string(),
        store.today.to_string(),
    ]
}

fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5_999 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}

/// Columns as wide as their widest cell; a Chinese character takes two places.
fn table(rows: &[[String; 9]]) {
    let wide = |text: &str| text.chars().map(|c| if c >= '\u{1100}' { 2 } else { 1 }).sum::<usize>();
    let widths: Vec<usize> =
        (0..9).map(|column| rows.iter().map(|row| wide(&row[column])).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let pad = " ".repeat(width - wide(cell));
            if column >= 4 { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        if !tell(cells.collect::<Vec<_>>().join("  ").trim_end()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_one_unit() {
        assert_eq!([-5, 0, 99, 100, 5_999, 6_000].map(ago), ["0 s", "0 s", "99 s", "1 min", "99 min", "1 h"]);
    }
}
