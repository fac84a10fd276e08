//! opsctl's part of the schema is a part of Railway's, and opsctl uses all of it.

use std::collections::BTreeSet;

use apollo_compiler::Schema;
use apollo_compiler::ast::{FieldDefinition, InputValueDefinition};
use apollo_compiler::schema::ExtendedType;
use serde_json::{Value, json};

use crate::railway::FakeRailway;
use crate::railway::graphql::{Checked, own, whole};
use crate::{client, place, values, wait};

/// What a part says of something that the whole says otherwise.
fn differences(part: &Schema, whole: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    for (name, part) in part.types.iter().filter(|(_, part)| !part.is_built_in()) {
        let Some(whole) = whole.types.get(name) else {
            found.push(format!("type {name}"));
            continue;
        };
        match (part, whole) {
            (ExtendedType::Scalar(_), ExtendedType::Scalar(_)) => {}
            (ExtendedType::Object(part), ExtendedType::Object(whole)) => {
                for (field, part) in &part.fields {
                    let there = whole.fields.get(field).is_some_and(|whole| is_part_of(part, whole));
                    found.extend((!there).then(|| format!("{name}.{field}")));
                }
            }
            (ExtendedType::InputObject(part), ExtendedType::InputObject(whole)) => {
                for (field, part) in &part.fields {
                    let there = whole.fields.get(field).is_some_and(|whole| is_same(part, whole));
                    found.extend((!there).then(|| format!("{name}.{field}")));
                }
                let missing = whole
                    .fields
                    .iter()
                    .filter(|(field, whole)| whole.is_required() && !part.fields.contains_key(*field));
                found.extend(missing.map(|(field, _)| format!("{name}.{field} is required")));
            }
            (ExtendedType::Enum(part), ExtendedType::Enum(whole)) => {
                let same = part.values.keys().collect::<BTreeSet<_>>() == whole.values.keys().collect::<BTreeSet<_>>();
                found.extend((!same).then(|| format!("enum {name}")));
            }
            _ => found.push(format!("{name} is something else")),
        }
    }
    found
}

fn is_part_of(part: &FieldDefinition, whole: &FieldDefinition) -> bool {
    let given = |name: &str| part.arguments.iter().any(|argument| argument.name == name);
    part.ty == whole.ty
        && part
            .arguments
            .iter()
            .all(|argument| whole.argument_by_name(&argument.name).is_some_and(|there| is_same(argument, there)))
        && whole.arguments.iter().all(|argument| !argument.is_required() || given(&argument.name))
}

fn is_same(part: &InputValueDefinition, whole: &InputValueDefinition) -> bool {
    part.ty == whole.ty && part.default_value == whole.default_value
}

#[test]
fn the_own_schema_is_a_part_of_the_whole_one() {
    let Some(whole) = whole() else { return };
    assert_eq!(differences(own(), whole), Vec::<String>::new());
}

#[test]
fn a_schema_that_is_no_part_is_seen() {
    let text = crate::railway::graphql::OWN;
    let changed = [
        ("projectId: String!, serviceId: String,", "projectId: String, serviceId: String,", "Query.variables"),
        ("skipDeploys: Boolean = false", "skipDeploys: Boolean", "VariableCollectionUpsertInput.skipDeploys"),
        ("  variables: EnvironmentVariables!\n}", "}", "VariableCollectionUpsertInput.variables is required"),
        ("  isSealed: Boolean!", "  isSealed: Boolean", "Variable.isSealed"),
        ("(id: String!): Deployment!", ": Deployment!", "Query.deployment"),
        ("  WAITING\n", "", "enum DeploymentStatus"),
        ("unrendered: Boolean", "unrenderedX: Boolean", "Query.variables"),
    ];
    for (from, to, expected) in changed {
        assert!(text.contains(from), "{from}");
        let part = Schema::parse(text.replace(from, to), "changed.graphql").unwrap();
        assert_eq!(differences(&part, own()), [expected]);
    }
}

/// Every operation is sent, and each passes both schemas.
#[test]
fn every_operation_is_valid_and_the_own_schema_holds_nothing_that_is_not_used() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    let at = place(&fake, Some(&service));
    let account = [("OPSCTL_RAILWAY_URL", fake.url()), ("RAILWAY_API_TOKEN", fake.account_token().to_owned())];
    wait(crate::with(&account).check_scope(fake.project(), fake.environment())).unwrap();
    let client = client(&fake);
    wait(client.check_scope(fake.project(), fake.environment())).unwrap();
    wait(client.upsert(&at, &values([("A", "a"), ("B", "b")]))).unwrap();
    wait(client.upsert(&place(&fake, None), &values([("A", "a")]))).unwrap();
    fake.set_page(1);
    wait(client.state(fake.project(), fake.environment())).unwrap();
    wait(client.variables(&at)).unwrap();
    let id = wait(client.deploy(fake.environment(), &service)).unwrap();
    wait(client.deployment(&id)).unwrap();
    wait(client.delete(&[(at, vec!["A".to_owned()])])).unwrap();

    let mut used = BTreeSet::new();
    for seen in fake.seen() {
        let Value::Object(variables) = &seen.variables else { panic!("variables are an object") };
        for schema in [Some(own()), whole()].into_iter().flatten() {
            let checked = Checked::against(schema, &seen.document, variables);
            assert!(checked.is_ok(), "{:?}\n{}", checked.err(), seen.document);
        }
        used.insert(seen.operation);
    }
    let roots = ["Query", "Mutation"].map(|root| own().get_object(root).unwrap());
    let there: BTreeSet<String> = roots.iter().flat_map(|root| root.fields.keys()).map(ToString::to_string).collect();
    assert_eq!(used, there);
}

#[test]
fn the_stand_in_refuses_what_railway_would_refuse() {
    let fake = FakeRailway::start();
    let body = |document: &str, variables: Value| json!({ "query": document, "variables": variables }).to_string();
    let read = "query($e: String!) { environmentStagedChanges(environmentId: $e) { status } }";
    let cases = [
        ("?source=test", body("query { nothing }", json!({})), 400),
        ("?source=test", body("query { projectToken }", json!({})), 400),
        ("?source=test", body(read, json!({})), 400),
        ("?source=test", body(read, json!({ "e": 17 })), 400),
        ("?source=test", body(read, json!({ "e": null })), 400),
        ("?source=test", "{".to_owned(), 400),
        ("", body("query { projectToken { projectId } }", json!({})), 429),
        ("?source=test", body("query { projectToken { projectId } }", json!({})), 200),
    ];
    for (query, body, status) in cases {
        let client = reqwest::Client::builder().no_proxy().user_agent("opsctl/0").build().unwrap();
        let request =
            client.post(format!("{}{query}", fake.url())).header("content-type", "application/json").body(body);
        let answer = wait(request.send()).unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(fake.violations().len(), usize::from(status != 200));
    }
}
