//! What `{:?}` prints: no type with a derived `Debug` holds a token, a phone number or a pickup code as plain text. `BearerToken` and `PickupCode`
//! are types whose `Debug` form hides them.

/// Fields that hold what no log may show.
const FIELDS: [&str; 3] = ["token", "phone", "pickup_code"];

/// Fields of such a name that hold something else: a path, the name, and what it holds.
const ALLOWED: [(&str, &str, &str); 1] =
    [("src/orders/mapping.rs", "pickup_code", "a pointer to the member of an event, from the configuration")];

/// The names of the fields of derived `Debug` forms that are plain text and have one of these names.
fn plain_fields(text: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("#[derive(") {
        let indent = rest[..at].rsplit('\n').next().unwrap_or_default();
        let item = &rest[at..];
        rest = &item["#[derive(".len()..];
        let derived = rest.split(")]").next().unwrap_or(rest);
        if !derived.split(',').any(|name| name.trim() == "Debug") {
            continue;
        }
        let end = format!("\n{indent}}}");
        let body = item.split(&end).next().unwrap_or(item);
        // Without a block it ends with its line, and what follows is another item.
        let body = if body.find(";\n").is_some_and(|end| body[..end].find('{').is_none()) { "" } else { body };
        for line in body.lines() {
            let code = line.trim_start();
            let code =
                ["pub(super) ", "pub(crate) ", "pub "].iter().find_map(|word| code.strip_prefix(word)).unwrap_or(code);
            let Some((name, kind)) = code.split_once(": ") else { continue };
            let is_plain =
                ["String", "Option<String>", "&'a str", "Option<&'a str>"].contains(&kind.trim_end_matches(','));
            found.extend(FIELDS.into_iter().filter(|field| is_plain && *field == name));
        }
    }
    found
}

#[test]
fn no_derived_debug_form_prints_a_token_a_phone_number_or_a_pickup_code() {
    let sources = super::product_sources();
    let found: Vec<(&str, &str)> = sources
        .iter()
        .flat_map(|(path, text)| plain_fields(text).into_iter().map(move |field| (path.as_str(), field)))
        .collect();
    let is_allowed = |(path, field): &(&str, &str)| ALLOWED.iter().any(|(at, name, _)| at == path && name == field);
    let faults: Vec<_> = found.iter().filter(|found| !is_allowed(found)).collect();
    assert!(faults.is_empty(), "a type that hides it, such as BearerToken or PickupCode: {faults:?}");
    let unused: Vec<_> = ALLOWED.iter().filter(|(path, field, _)| !found.contains(&(path, field))).collect();
    assert!(unused.is_empty(), "there is no such field any more: {unused:?}");
}

#[test]
fn planted_plain_fields_are_found() {
    for (text, expected) in [
        ("#[derive(Clone, Debug)]\npub struct A {\n    pub token: String,\n}\n", vec!["token"]),
        (
            "#[derive(Debug)]\n#[serde(x)]\nenum A {\n    B {\n        token: Option<String>,\n    },\n}\n",
            vec!["token"],
        ),
        ("#[derive(\n    Clone,\n    Debug,\n)]\nstruct A<'a> {\n    a: u8,\n    phone: &'a str,\n}\n", vec!["phone"]),
        (
            "mod a {\n    #[derive(Debug)]\n    struct A {\n        pub(super) pickup_code: String,\n    }\n}\n",
            vec!["pickup_code"],
        ),
        ("#[derive(Clone)]\nstruct A {\n    token: String,\n}\n", vec![]),
        (
            "#[derive(Debug)]\nstruct A {\n    token: BearerToken,\n    tokens: String,\n}\nfn a(\n    token: String,\n) {\n}\n",
            vec![],
        ),
        ("#[derive(Debug)]\nstruct A(u8);\n\nstruct B {\n    token: String,\n}\n", vec![]),
    ] {
        assert_eq!(plain_fields(text), expected, "{text}");
    }
}
