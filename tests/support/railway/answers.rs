//! What Railway answers to a request that is valid.

use serde_json::{Map, Value, json};

use super::graphql::Checked;
use super::world::{Access, Deployment, Refusal, Variables, World, merge, refusal};

type Arguments = Map<String, Value>;

fn text<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(arguments: &Arguments, name: &str) -> bool {
    arguments.get(name) == Some(&Value::Bool(true))
}

/// All that there is to the field that was asked for.
pub fn answer(world: &mut World, access: Option<&Access>, checked: &Checked) -> Result<Value, Refusal> {
    let root = checked.root();
    let arguments = checked.arguments(root);
    let Some(access) = access else { return refusal("Not Authorized") };
    match root.name.as_str() {
        "projectToken" => {
            let Access::Project(environment) = access else { return refusal("Project Token not found") };
            Ok(json!({ "projectId": world.environments[environment].project, "environmentId": environment }))
        }
        "environment" => {
            let id = may(world, access, text(&arguments, "id"))?;
            let wanted = text(&arguments, "projectId");
            if !wanted.is_empty() && wanted != world.environments[&id].project {
                return refusal("Environment not found");
            }
            // Time goes on between two looks at a deployment, whichever way it is looked at.
            for service in world.environments[&id].services.keys().cloned().collect::<Vec<_>>() {
                let latest = world.of(&id, &service).next().map(|latest| latest.id.clone());
                latest.and_then(|latest| world.step(&latest));
            }
            let below = |name| checked.arguments_below(root, name);
            Ok(environment(world, &id, &below("variables"), &below("serviceInstances")))
        }
        "variables" => {
            let id = may(world, access, text(&arguments, "environmentId"))?;
            in_project(world, &id, text(&arguments, "projectId"))?;
            variables(world, &id, arguments.get("serviceId").and_then(Value::as_str), is_true(&arguments, "unrendered"))
        }
        "deployment" => {
            let id = text(&arguments, "id");
            let found = world.deployments.iter().find(|deployment| deployment.id == id);
            let Some(environment) = found.map(|found| found.environment.clone()) else {
                return refusal("Deployment not found");
            };
            may(world, access, &environment)?;
            world.step(id);
            let deployment = world.deployments.iter().find(|deployment| deployment.id == id).expect("found");
            Ok(json_of(deployment))
        }
        "environmentStagedChanges" => {
            let id = may(world, access, text(&arguments, "environmentId"))?;
            Ok(world.patch(&id, is_true(&checked.arguments_below(root, "patch"), "decryptVariables")))
        }
        "workflowStatus" => {
            let status = world.workflow(text(&arguments, "workflowId"))?;
            let error = (status == "Error").then_some("could not be applied");
            Ok(json!({ "status": status, "error": error }))
        }
        "variableCollectionUpsert" => upsert(world, access, &arguments),
        "variableDelete" => delete(world, access, &arguments),
        "serviceInstanceDeployV2" => {
            let id = may(world, access, text(&arguments, "environmentId"))?;
            world.deploy(&id, text(&arguments, "serviceId")).map(Value::from)
        }
        "environmentStageChanges" => {
            let id = may(world, access, text(&arguments, "environmentId"))?;
            let there = world.environments.get_mut(&id).expect("it may be seen");
            if !is_true(&arguments, "merge") {
                there.staged.clear();
            }
            there.staged_error = None;
            merge(&mut there.staged, arguments["input"].as_object().unwrap_or(&Map::new()));
            Ok(world.patch(&id, is_true(&checked.arguments_below(root, "patch"), "decryptVariables")))
        }
        "environmentPatchCommitStaged" => {
            let id = may(world, access, text(&arguments, "environmentId"))?;
            world.commit(&id, !is_true(&arguments, "skipDeploys")).map(Value::from)
        }
        other => refusal(format!("the stand-in does not know {other}")),
    }
}

/// The environment, where the token may see it.
fn may(world: &World, access: &Access, environment: &str) -> Result<String, Refusal> {
    let there = world.environments.get(environment);
    let may = match (access, there) {
        (Access::Project(own), _) => own == environment,
        (Access::Account(projects), Some(there)) => projects.contains(&there.project),
        (Access::Account(_), None) => return refusal("Environment not found"),
    };
    if may { Ok(environment.to_owned()) } else { refusal("Not Authorized") }
}

fn in_project(world: &World, environment: &str, project: &str) -> Result<(), Refusal> {
    if world.environments[environment].project == project { Ok(()) } else { refusal("Project not found") }
}

fn upsert(world: &mut World, access: &Access, arguments: &Arguments) -> Result<Value, Refusal> {
    let input = arguments["input"].as_object().expect("an input");
    let id = may(world, access, text(input, "environmentId"))?;
    in_project(world, &id, text(input, "projectId"))?;
    let service = input.get("serviceId").and_then(Value::as_str);
    let Some(values) = input["variables"].as_object() else {
        return Err(("variables are an object".to_owned(), "BAD_USER_INPUT"));
    };
    if is_true(input, "replace") {
        world.place(&id, service)?.retain(|name, _| values.contains_key(name));
    }
    world.write(&id, service, values)?;
    if !is_true(input, "skipDeploys") {
        world.deploy_affected(&id, service)?;
    }
    Ok(true.into())
}

fn delete(world: &mut World, access: &Access, arguments: &Arguments) -> Result<Value, Refusal> {
    let input = arguments["input"].as_object().expect("an input");
    let id = may(world, access, text(input, "environmentId"))?;
    let service = input.get("serviceId").and_then(Value::as_str);
    if world.place(&id, service)?.remove(text(input, "name")).is_none() {
        return refusal("Variable not found");
    }
    world.deploy_affected(&id, service)?;
    Ok(true.into())
}

fn variables(world: &World, environment: &str, service: Option<&str>, is_unrendered: bool) -> Result<Value, Refusal> {
    let there = &world.environments[environment];
    let (own, provided) = match service {
        None => (&there.shared, Default::default()),
        Some(id) => match there.services.get(id) {
            None => return refusal("ServiceInstance not found"),
            Some(service) => (&service.variables, world.provided(environment, id)),
        },
    };
    let rendered = if is_unrendered { Default::default() } else { world.rendered(environment, service) };
    let value = |(name, variable): (&String, &super::world::Variable)| {
        let value = if is_unrendered { Some(&variable.value) } else { rendered.get(name) };
        (name.clone(), json!(value.filter(|_| !variable.is_sealed)))
    };
    let provided = provided.into_iter().map(|(name, value)| (name, value.into()));
    Ok(Value::Object(provided.chain(own.iter().map(value)).collect()))
}

fn environment(world: &World, id: &str, of_variables: &Arguments, of_services: &Arguments) -> Value {
    let there = &world.environments[id];
    let rows = |variables: &Variables, service: Option<&str>| -> Vec<Value> {
        let row = |(name, variable): (&String, &super::world::Variable)| {
            json!({ "name": name, "serviceId": service, "isSealed": variable.is_sealed,
                    "updatedAt": variable.updated.to_string() })
        };
        variables.iter().map(row).collect()
    };
    let of = there.services.iter().flat_map(|(id, service)| rows(&service.variables, Some(id)));
    let variables: Vec<Value> = of.chain(rows(&there.shared, None)).collect();
    let instance = |(service, instance): (&String, &super::world::Service)| {
        let latest = world.of(id, service).next().map(json_of);
        let active: Vec<Value> =
            world.of(id, service).filter(|one| super::world::runs(&one.status)).map(json_of).collect();
        json!({ "serviceId": service, "serviceName": instance.name, "latestDeployment": latest, "activeDeployments": active })
    };
    let services: Vec<Value> = there.services.iter().map(instance).collect();
    json!({
        "id": id,
        "name": there.name,
        "projectId": there.project,
        "variables": page(&variables, of_variables, world.page),
        "serviceInstances": page(&services, of_services, world.page),
    })
}

fn json_of(deployment: &Deployment) -> Value {
    let Deployment { id, status, created, .. } = deployment;
    json!({ "id": id, "status": status, "createdAt": created.to_string() })
}

/// A page of a list. A cursor says how many items are before it.
fn page(all: &[Value], arguments: &Arguments, size: usize) -> Value {
    let first = arguments.get("first").and_then(Value::as_u64).and_then(|first| usize::try_from(first).ok());
    let size = size.min(first.unwrap_or(size));
    let start = text(arguments, "after").strip_prefix("after-").and_then(|at| at.parse().ok()).unwrap_or(0);
    let end = all.len().min(start + size);
    let edges: Vec<Value> =
        (start..end).map(|at| json!({ "cursor": format!("after-{}", at + 1), "node": all[at] })).collect();
    let last = edges.last().map(|edge| edge["cursor"].clone());
    json!({ "edges": edges, "pageInfo": { "hasNextPage": end < all.len(), "endCursor": last } })
}
