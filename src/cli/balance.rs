//! `orderbell balance`: where the records that may be paid orders ended, from the admin listener of the running server.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;

use super::table::table;
use super::{ConfigArgs, ask, decoded, failed, forbidden_message, out_line};
use orderbell_client::HttpClient;
use orderbell_protocol::admin::BalanceAnswer;
use orderbell_protocol::balance::BinCount;

/// Columns that hold numbers.
const NUMBERS: Range<usize> = 3..5;

#[derive(clap::Args)]
pub(crate) struct BalanceOptions {
    /// One JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

pub(crate) fn run(options: &BalanceOptions) -> Result<(), ExitCode> {
    let admin = options.args.config()?.boot.listen.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let answer = runtime.block_on(ask(&HttpClient::new(admin), admin, "/balance")).map_err(failed)?;
    if answer.status != 200 {
        return Err(failed(forbidden_message(admin, answer.status)));
    }
    let balance: BalanceAnswer = decoded(&answer).map_err(failed)?;
    if options.json {
        out_line(&serde_json::to_string_pretty(&balance).map_err(failed)?);
    } else {
        table(&rows(&balance.bins), NUMBERS);
    }
    Ok(())
}

/// A line for each bin, one for each topic, and one for all of them without load-test traffic.
fn rows(bins: &[BinCount]) -> Vec<[String; 6]> {
    let mut rows = vec![["TOPIC", "BIN", "REASON", "RECORDS", "OPEN", "NEWEST"].map(String::from)];
    let mut topics: BTreeMap<(bool, &str), Vec<&BinCount>> = BTreeMap::new();
    bins.iter().for_each(|bin| topics.entry((bin.key.shadow, &bin.key.topic)).or_default().push(bin));
    // What nobody need look after is open to nobody.
    let open = |bin: &BinCount| if bin.key.bin.needs_a_person() { bin.open() } else { 0 };
    let sum_of = |name: String, bins: &[&BinCount]| {
        let (records, open): (u64, u64) = bins.iter().fold((0, 0), |sum, bin| (sum.0 + bin.records, sum.1 + open(bin)));
        [name, "(all)".into(), String::new(), records.to_string(), open.to_string(), String::new()]
    };
    for ((is_shadow, topic), bins) in topics {
        let name = if is_shadow { format!("{topic} (load test)") } else { topic.to_owned() };
        rows.extend(bins.iter().map(|bin| {
            let newest = format!("{}@{}", bin.newest.partition, bin.newest.offset);
            let (word, reason) = (bin.key.bin.word().to_owned(), bin.key.reason.clone());
            [name.clone(), word, reason, bin.records.to_string(), open(bin).to_string(), newest]
        }));
        rows.push(sum_of(name, &bins));
    }
    let real: Vec<&BinCount> = bins.iter().filter(|bin| !bin.key.shadow).collect();
    rows.push(sum_of("(all topics)".into(), &real));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_its_bins_and_their_sum() {
        let bin = |bin: &str, records: u64| {
            let json = serde_json::json!({"topic": "orders", "bin": bin, "records": records, "acknowledged": 1, "since": null,
                                          "newest": {"partition": 0, "offset": 9}});
            serde_json::from_value::<BinCount>(json).unwrap()
        };
        let rows = rows(&[bin("notified", 40), bin("too_old", 3)]);
        let lines: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(
            lines[1..],
            [
                "orders notified  40 0 0@9",
                "orders too_old  3 2 0@9",
                "orders (all)  43 2 ",
                "(all topics) (all)  43 2 "
            ]
        );
    }
}
