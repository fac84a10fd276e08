use super::*;
use crate::ExitCode;

const TARGET: &str = "name = \"production\"\nproject = \"p-1\"\nenvironment = \"e-1\"\n";

/// One target with one service with these variables.
fn with(head: &str, target: &str, variables: &str) -> Result<Secrets> {
    let text = format!(
        "{head}\n[[targets]]\n{target}[[targets.services]]\nname = \"web\"\nservice = \"s-1\"\n\
         [targets.services.variables]\n{variables}\n"
    );
    let table: SecretsTable = toml::from_str(&text).map_err(|error| Error::usage(error.message().to_owned()))?;
    Secrets::new(&table)
}

#[track_caller]
fn refused(head: &str, target: &str, variables: &str) -> String {
    let error = with(head, target, variables).unwrap_err();
    assert_eq!(error.code(), ExitCode::Usage);
    error.full_message()
}

#[test]
fn a_mapping_is_a_reference_a_value_or_a_table() {
    let secrets = with(
        "",
        &format!("{TARGET}vault = \"Team\"\nproduction = true\n"),
        "A = \"op://Team/item/field\"\nB = { value = \"/data\" }\n\
         C = { ref = \"op://team/item/section/field\", multiline = true, allow = [\"cr\"] }\n\
         D = { ref = \"op://Team/item/d\", generate = { length = 48 } }\n",
    )
    .unwrap();
    let target = &secrets.targets[0];
    assert_eq!((secrets.provider, target.production, target.vault.as_deref()), (Provider::Op, true, Some("Team")));
    let variables = &target.services[0].variables;
    let shown: Vec<String> = variables.values().map(|mapping| mapping.source.to_string()).collect();
    let expected =
        ["op://Team/item/field", "the configuration file", "op://team/item/section/field", "op://Team/item/d"];
    assert_eq!(shown, expected);
    assert_eq!(variables["C"].allow, [Allow::Multiline, Allow::Cr].into());
    assert_eq!(variables["D"].generate, Some(Generate { length: 48, alphabet: Alphabet::Base62 }));
    assert_eq!(variables["B"].source, Source::Literal("/data".to_owned()));
    assert!(variables["A"].source.is_secret() && !variables["B"].source.is_secret());
}

#[test]
fn values_of_another_vault_cannot_reach_a_target_that_names_one() {
    let bound = format!("{TARGET}vault = \"Team\"\n");
    for (variables, says) in [
        ("A = \"op://Staging/item/field\"", "another vault than `Team`"),
        ("A = \"env://A\"", "does not come from the vault"),
        ("A = \"stdin://\"", "does not come from the vault"),
    ] {
        assert!(refused("", &bound, variables).contains(says), "{variables}");
        assert!(with("", TARGET, variables).is_ok(), "{variables}");
    }
    // Whether a name and an id are the same vault is only known when the vault was listed.
    assert!(with("", &bound, "A = \"op://6r65pjq33banznomn7q22sj44e/item/field\"").is_ok());
    let by_id = format!("{TARGET}vault = \"6r65pjq33banznomn7q22sj44e\"\n");
    assert!(with("", &by_id, "A = \"op://Team/item/field\"").is_ok());
    assert!(with("", &by_id, "A = \"op://7r65pjq33banznomn7q22sj44e/item/field\"").is_err());
    // The key of fingerprints reaches no environment.
    assert!(with("fingerprint_key = \"op://Other/opsctl/key\"", &bound, "").is_ok());
}

#[test]
fn what_cannot_be_meant_is_refused_at_its_place_and_without_its_value() {
    for (head, target, variables, says) in [
        ("", TARGET, "RAILWAY_TOKEN = \"op://a/b/c\"", "service `web`, RAILWAY_TOKEN: Railway sets"),
        ("", TARGET, "\"A-B\" = \"op://a/b/c\"", "no name of a variable"),
        ("", TARGET, "\"1A\" = \"op://a/b/c\"", "no name of a variable"),
        ("", TARGET, "A = \"s3cret\"", "is no reference"),
        ("", TARGET, "A = \"op://a/b\"", "three or four parts"),
        ("", TARGET, "A = \"op://a/b/c?attribute=otp\"", "only the value of a field"),
        ("", TARGET, "A = \"env://s3cret-x\"", "the name of a variable"),
        ("", TARGET, "A = { }", "either `ref` or `value`"),
        ("", TARGET, "A = { ref = \"op://a/b/c\", value = \"s3cret\" }", "either `ref` or `value`"),
        ("", TARGET, "A = { value = \"x\", generate = { length = 48 } }", "`generate` needs a reference"),
        ("", TARGET, "A = { ref = \"op://a/b/c\", generate = { length = 21 } }", "at least 22"),
        ("", TARGET, "A = { ref = \"op://a/b/c\", generate = { length = 31, alphabet = \"hex\" } }", "at least 32"),
        ("", TARGET, "A = { ref = \"op://a/b/c\", generate = { length = 1025 } }", "more than 1024"),
        ("provider = \"env\"", TARGET, "A = \"op://a/b/c\"", "provider = \"env\""),
        ("fingerprint_key = \"s3cret\"", TARGET, "", "fingerprint_key"),
        ("", "name = \"a b\"\nproject = \"p\"\nenvironment = \"e\"\n", "", "its name"),
        ("", "name = \"a\"\nproject = \"<project>\"\nenvironment = \"e\"\n", "", "`project` is no id"),
        ("", "name = \"a\"\nproject = \"p\"\nenvironment = \"\"\n", "", "`environment` is no id"),
    ] {
        let message = refused(head, target, variables);
        assert!(message.contains(says), "{variables}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn names_and_ids_are_unique() {
    let service = |name: &str, id: &str| format!("[[targets.services]]\nname = \"{name}\"\n{id}");
    for (services, says) in [
        (service("a", "service = \"1\"\n") + &service("a", "service = \"2\"\n"), "two of this name"),
        (service("a", "service = \"1\"\n") + &service("b", "service = \"1\"\n"), "put them together"),
        (service("a", "") + &service("b", ""), "put them together"),
    ] {
        let table: SecretsTable = toml::from_str(&format!("[[targets]]\n{TARGET}{services}")).unwrap();
        assert!(Secrets::new(&table).unwrap_err().full_message().contains(says), "{services}");
    }
    let table: SecretsTable = toml::from_str(&format!("[[targets]]\n{TARGET}[[targets]]\n{TARGET}")).unwrap();
    assert!(Secrets::new(&table).unwrap_err().full_message().contains("two of this name"));
}

#[test]
fn an_unknown_key_is_refused_wherever_it_stands() {
    for (head, target, variables) in [
        ("key = 1", TARGET, ""),
        ("", "name = \"a\"\nproject = \"p\"\nenvironment = \"e\"\nkey = 1\n", ""),
        ("", TARGET, "A = { ref = \"op://a/b/c\", key = 1 }"),
        ("", TARGET, "A = { ref = \"op://a/b/c\", generate = { length = 48, key = 1 } }"),
    ] {
        assert!(refused(head, target, variables).contains("unknown field `key`"));
    }
}
