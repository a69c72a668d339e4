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
