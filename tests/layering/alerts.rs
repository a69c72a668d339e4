//! Every alert has a proof: a test that runs the real server, in which the alert is raised and ends.
//!
//! The codes come from their type, so a new alert without a row fails, and so does a row whose test is gone or does not name the alert.

use orderbell_protocol::alert::AlertCode::{self, *};

/// A code, and the test in which it is raised and ends.
const PROOFS: [(AlertCode, &str); AlertCode::ALL.len()] = [
    (PartitionDamaged, "a_damaged_batch_halts_one_partition_only"),
    (RetentionGap, "retention_that_deleted_unread_records_is_reported_until_it_is_acknowledged"),
    (LogTruncated, "a_log_that_ends_before_the_checkpoint_is_reported_until_it_is_acknowledged"),
    (TopicRecreated, "a_recreated_topic_is_read_from_its_first_record_and_reported_until_it_is_acknowledged"),
    (StateRolledBack, "a_ledger_rolled_back_behind_its_group_is_noticed_and_loses_nothing"),
    (PartitionUnassigned, "a_cluster_without_an_id_is_an_alert_that_says_what_to_set_and_is_read_under_that_name"),
    (GroupShared, "another_group_member_stops_intake_until_it_leaves"),
    (HandlerFailing, "below_the_guard_intake_stops_and_reading_goes_on"),
    (LedgerDamaged, "a_stored_order_that_does_not_decode_is_an_error_and_an_alert_and_never_a_shorter_list"),
    (LedgerRebuilding, "a_ledger_rolled_back_behind_its_group_is_noticed_and_loses_nothing"),
    (StreamStale, "what_an_open_transaction_holds_back_is_lag_and_stale"),
    (OutboxBlocked, "tills_answer_while_the_brokers_are_down_and_everybody_hears_it_when_they_are_back"),
    (DiskLow, "below_the_guard_intake_stops_and_reading_goes_on"),
    (DeadLetters, "after_the_mapping_is_corrected_the_replayed_dead_letters_of_a_topic_notify"),
    (TopicUndecodable, "a_topic_that_is_not_understood_and_a_clock_that_is_off_are_alerts_until_an_event_is_right"),
    (PaidUnannounced, "a_payment_of_an_order_that_was_picked_up_is_an_alert_until_it_is_acknowledged"),
    (SourceClockOff, "a_topic_that_is_not_understood_and_a_clock_that_is_off_are_alerts_until_an_event_is_right"),
    (NoticesUndeliverable, "a_poisoned_notice_does_not_block_the_next"),
    (DeviceShared, "who_is_turned_away_and_two_tills_with_one_id_are_seen"),
    (MailboxOverflow, "a_mailbox_above_its_limit_is_an_alert_until_the_limit_is_raised"),
    (IssuerKeysOld, "keys_that_were_fetched_hours_ago_are_an_alert_until_the_issuer_answers"),
    (WallStalled, "a_wall_whose_feed_does_not_run_is_an_alert_until_it_runs"),
];

/// What a test looks at after an alert has ended: that no alert is left, or not this one.
const ENDS: [&str; 6] =
    ["is_well()", ".await, []", ".await, None", ".await.is_none()", "stays_until_it_is_acknowledged(", ", 0).await"];

/// The body of a test with this name; none when no test has it. A scenario is a test by its name in `scenarios!`.
fn body<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (before, body) = text.split_once(&format!("async fn {name}("))?;
    let attributes = before.rsplit("\n\n").next().unwrap_or(before);
    let is_scenario = text.split("scenarios! {").skip(1).any(|list| {
        let list = list.split('}').next().unwrap_or(list);
        list.split([',', ';', '\n']).any(|listed| listed.trim() == name)
    });
    let is_test = attributes.contains("#[tokio::test") && !attributes.contains("#[ignore");
    (is_test || is_scenario).then(|| body.split("\n}\n").next().unwrap_or(body))
}

/// What is missing in the proof of a code.
fn fault(code: AlertCode, proofs: &[(AlertCode, &str)], tests: &[String]) -> Option<String> {
    let Some((_, name)) = proofs.iter().find(|(of, _)| *of == code) else {
        return Some(format!("{code}: name the test that raises and ends it"));
    };
    let Some(body) = tests.iter().find_map(|text| body(text, name)) else {
        return Some(format!("{code}: there is no test {name}"));
    };
    let is_named = body.contains(&format!("AlertCode::{code:?}"));
    let ends = ENDS.iter().any(|look| body.contains(look));
    (!is_named || !ends).then(|| format!("{code}: {name} does not raise it and see it end"))
}

#[test]
fn every_alert_is_raised_and_ended_by_a_test_on_a_real_server() {
    let is_test =
        |path: &&String| path.ends_with(".rs") && (path.starts_with("tests/e2e/") || path.starts_with("src/server/"));
    let tests: Vec<String> =
        super::tracked_files().iter().filter(is_test).filter_map(|path| super::text_of(path)).collect();
    let faults: Vec<String> = AlertCode::ALL.into_iter().filter_map(|code| fault(code, &PROOFS, &tests)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_alert_without_a_proof_is_found() {
    let fault = |proofs: &[_], text: &str| fault(DiskLow, proofs, &[text.to_owned()]).is_some();
    let proofs = [(DiskLow, "it")];
    let looks = "until(node.alert(AlertCode::DiskLow).await.is_some());\n    assert!(node.is_well().await);\n}\n";
    let test = format!("fn a() {{}}\n\n#[tokio::test]\nasync fn it() {{\n    {looks}");
    assert!(!fault(&proofs, &test));
    assert!(fault(&[], &test), "no row");
    assert!(fault(&proofs, &test.replace("fn it", "fn other")), "no test");
    assert!(fault(&proofs, &test.replace("#[tokio::test]\n", "")), "never run");
    assert!(fault(&proofs, &test.replace("]\nasync", "]\n#[ignore = \"slow\"]\nasync")), "left out");
    assert!(fault(&proofs, &test.replace("DiskLow", "DeadLetters")), "another alert");
    assert!(fault(&proofs, &test.replace("is_well", "is_up")), "does not end");
    let scenario = format!("scenarios! {{\n    with \"\";\n    it,\n}}\n\nasync fn it(node: Node) {{\n    {looks}");
    assert!(!fault(&proofs, &scenario));
    assert!(fault(&proofs, &scenario.replace("    it,\n", "")), "not in the list");
}
