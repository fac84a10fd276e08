//! The JSON Schemas in `docs/schemas` are those of the code. `UPDATE_SCHEMAS=1 cargo test --test schemas` writes them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_documented_schemas_are_those_of_the_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let mut names = BTreeSet::new();
    for (name, schema) in opsctl::commands::schemas() {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let file = folder.join(format!("{name}.json"));
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let documented = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(documented, text, "{name}.json is out of date: UPDATE_SCHEMAS=1 cargo test --test schemas");
        names.insert(format!("{name}.json"));
    }
    let there = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), names, "a schema of a command that is gone");
}
