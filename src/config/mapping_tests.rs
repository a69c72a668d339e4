//! Mistakes in the section `mapping`: a mapping that cannot work is no good configuration.

use super::Config;

fn said(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), &[]).map_or_else(|error| error.to_string(), |_| "good".into())
}

fn assert_says(text: &str, all: &[&str]) {
    let said = said(text);
    all.iter().for_each(|wanted| assert!(said.contains(wanted), "{wanted} is not in:\n{said}"));
}

#[test]
fn a_pointer_that_leads_nowhere_is_a_mistake_with_its_place_and_what_was_meant() {
    assert_says(
        "[mapping]\nstore = \"shop\"\namount = \"/a~b\"\norder = [\"/shop/id\", \"number\"]\nextra_fields = [\"note\", \"/a~2\"]\n",
        &[
            "4 mistakes",
            "`shop` is no pointer",
            "chain.toml:2:9",
            "did you mean `/shop`?",
            "chain.toml:3:10",
            "did you mean `/a~0b`?",
            "chain.toml:4:9",
            "did you mean `/number`?",
            "chain.toml:5:16",
            "did you mean `/a~02`?",
        ],
    );
    assert_says(
        "[mapping.topics.payments]\ntype = \"$.data.status\"\n",
        &["chain.toml:2:8", "expected `/data/status`"],
    );
    for key in
        ["type", "id", "source", "order", "store", "customer", "device", "amount", "currency", "pickup_code", "reason"]
            .into_iter()
            .chain(["version", "time", "shadow"])
    {
        assert_says(&format!("[mapping]\n{key} = \"member\"\n"), &["`/member`?"]);
        assert_eq!(said(&format!("[mapping]\n{key} = \"\"\n")), "good", "{key}: the whole value");
    }
}

#[test]
fn a_type_of_ours_that_is_misspelt_is_a_mistake_with_its_place_and_what_was_meant() {
    assert_says(
        "[mapping]\ntypes = { PAY_SUCCESS = \"order.payed\", X = \"ignored\" }\n",
        &[
            "2 mistakes",
            "`order.payed` is no type of event",
            "chain.toml:2:25",
            "did you mean `order.paid`?",
            "`ignored` is no type of event",
            "did you mean `ignore`?",
        ],
    );
    assert_says(
        "[mapping.topics.payments.types]\nOK = \"order.canceled\"\n",
        &["chain.toml:2:6", "`order.cancelled`?"],
    );
    assert_says("[mapping.types]\n\"*\" = \"order.paid\"\n", &["can only be `ignore`, not order.paid"]);
    let good = "[mapping.types]\n\"*\" = \"ignore\"\n\"payment.settled\" = \"ignore\"\nPAID = \"order.paid\"\n";
    assert_eq!(said(good), "good");
}

#[test]
fn a_misspelt_type_in_the_environment_is_named_by_its_variable() {
    let variable = |value: &str| ("ORDERBELL__MAPPING__TYPES__PAY_SUCCESS".to_owned(), value.to_owned());
    let said = Config::load(None, &[variable("order.payed")]).unwrap_err().to_string();
    assert!(said.contains("ORDERBELL__MAPPING__TYPES__PAY_SUCCESS: `order.payed`"), "{said}");
    Config::load(None, &[variable("order.paid")]).unwrap();
}
