//! The end point: who asks, what goes wrong, and the answer.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::answers::answer;
use super::graphql::Checked;
use super::world::Access;
use super::{Fault, Inside, Seen, Shared, When};

/// What a browser would be shown.
const HTML: &str = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>502</body></html>";

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }
}

pub async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::POST || uri.path() != super::PATH {
        shared.violation(format!("{method} {}", uri.path()));
        return (StatusCode::NOT_FOUND, "Not Found").into_response();
    }
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else {
        shared.violation("a request without a query in its URL".to_owned());
        return cloudflare();
    };
    let request = match read(&headers, &body) {
        Ok(request) => request,
        Err(why) => {
            shared.violation(why.clone());
            return invalid(&why);
        }
    };
    let (document, variables) = request;
    let checked = Checked::new(&document, &variables);
    let operation = checked.as_ref().map_or_else(|_| "?".to_owned(), |checked| checked.root().name.to_string());
    let (number, fault, latency) = {
        let mut inside = shared.lock();
        let headers =
            headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        inside.seen.push(Seen {
            operation: operation.clone(),
            document,
            variables: Value::Object(variables),
            query: query.to_owned(),
            headers: headers.collect::<BTreeMap<_, _>>(),
        });
        let number = inside.seen.len();
        let fault = inside.fault(&operation, number);
        (number, fault, inside.latency)
    };
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    run_hooks(&shared, number, When::Before);
    let answered = match &checked {
        Err(why) => {
            shared.violation(why.clone());
            invalid(why)
        }
        Ok(_) if fault.as_ref().is_some_and(Fault::comes_first) => Response::default(),
        Ok(checked) => {
            let answered = answered(&shared, &headers, checked);
            run_hooks(&shared, number, When::After);
            answered
        }
    };
    match fault {
        None => answered,
        Some(fault) => faulty(fault, answered, &body).await,
    }
}

/// The document and its variables.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<(String, Map<String, Value>), String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("content-type") != "application/json" {
        return Err("a body that does not say that it is JSON".to_owned());
    }
    if !header("user-agent").starts_with("opsctl/") {
        return Err("a request that does not say who asks".to_owned());
    }
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("a body that is no JSON: {e}"))?;
    let document = body["query"].as_str().ok_or("a body without a document")?.to_owned();
    let variables = match &body["variables"] {
        Value::Null => Map::new(),
        Value::Object(variables) => variables.clone(),
        _ => return Err("variables that are no object".to_owned()),
    };
    match variables.iter().find(|(_, value)| value.is_null()) {
        Some((name, _)) => Err(format!("the variable {name} is null, which unsets: leave it out")),
        None => Ok((document, variables)),
    }
}

fn answered(shared: &Shared, headers: &HeaderMap, checked: &Checked) -> Response {
    let mut inside = shared.lock();
    let inside = &mut *inside;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let project = text("project-access-token");
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let access = project.or(bearer).and_then(|token| inside.world.tokens.get(token)).cloned();
    let access = access.filter(|access| matches!(access, Access::Project(_)) == project.is_some());
    if project.is_some() && access.is_none() {
        return errors(checked, "Project Token not found", "INTERNAL_SERVER_ERROR");
    }
    match answer(&mut inside.world, access.as_ref(), checked) {
        Err((message, code)) => errors(checked, &message, code),
        Ok(all) => match checked.select(checked.root(), &all) {
            Ok(chosen) => {
                json_response(StatusCode::OK, &json!({ "data": { checked.root().response_key().as_str(): chosen } }))
            }
            Err(why) => {
                inside.violations.push(why.clone());
                errors(checked, &why, "INTERNAL_SERVER_ERROR")
            }
        },
    }
}

fn run_hooks(shared: &Shared, number: usize, when: When) {
    let mut due = Vec::new();
    {
        let mut inside = shared.lock();
        let (now, later) =
            std::mem::take(&mut inside.hooks).into_iter().partition(|hook| (hook.0, hook.1) == (number, when));
        inside.hooks = later;
        due.extend::<Vec<super::Hook>>(now);
    }
    // Not under the lock: a hook may ask the stand-in.
    for (_, _, hook) in due {
        hook();
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json; charset=utf-8")], body.to_string()).into_response()
}

fn telling(message: &str, code: &str, path: &[&str]) -> Value {
    json!({ "message": message, "path": path, "extensions": { "code": code }, "traceId": super::TRACE,
            "locations": [{ "line": 2, "column": 3 }] })
}

fn errors(checked: &Checked, message: &str, code: &str) -> Response {
    let error = telling(message, code, &[checked.root().name.as_str()]);
    json_response(StatusCode::OK, &json!({ "errors": [error], "data": null }))
}

fn invalid(why: &str) -> Response {
    json_response(StatusCode::BAD_REQUEST, &json!({ "errors": [telling(why, "GRAPHQL_VALIDATION_FAILED", &[])] }))
}

fn cloudflare() -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [("content-type", "text/plain; charset=UTF-8")], "error code: 1015").into_response()
}

async fn faulty(fault: Fault, answered: Response, request: &[u8]) -> Response {
    let told = |status, message: &str, code| {
        json_response(status, &json!({ "errors": [telling(message, code, &[])], "data": null }))
    };
    match fault {
        Fault::Limited(after) => {
            let mut response = told(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded", "RATE_LIMITED");
            let headers = response.headers_mut();
            if let Some(after) = after {
                headers.insert("retry-after", after.to_string().parse().expect("a header"));
            }
            headers.insert("x-ratelimit-limit", "1000".parse().expect("a header"));
            headers.insert("x-ratelimit-remaining", "0".parse().expect("a header"));
            response
        }
        Fault::Cloudflare => cloudflare(),
        Fault::Down => told(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", "INTERNAL_SERVER_ERROR"),
        Fault::BadGateway => (StatusCode::BAD_GATEWAY, [("content-type", "text/html")], HTML).into_response(),
        Fault::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Fault::Html => ([("content-type", "text/html")], HTML).into_response(),
        Fault::Hang | Fault::DoneAndHang => std::future::pending().await,
        // The task of the connection ends, and the connection with it; nothing is printed.
        Fault::HangUp | Fault::DoneAndHangUp => std::panic::resume_unwind(Box::new(())),
        Fault::Cut => {
            let length = 1 << 20;
            let pieces = [Ok("{\"data\":{"), Err(std::io::Error::other("cut"))];
            let body = Body::from_stream(futures::stream::iter(pieces));
            ([("content-length", length.to_string())], body).into_response()
        }
        Fault::Error(message) => told(StatusCode::OK, &message, "INTERNAL_SERVER_ERROR"),
        Fault::Refuse(status, message) => {
            told(StatusCode::from_u16(status).expect("a status"), &message, "BAD_USER_INPUT")
        }
        Fault::Echo(status) => {
            let request: Value = serde_json::from_slice(request).expect("a request");
            let message = format!("Variable \"$variables\" got invalid value {}", request["variables"]["variables"]);
            told(StatusCode::from_u16(status).expect("a status"), &message, "BAD_USER_INPUT")
        }
        Fault::Redirect(target) => (StatusCode::TEMPORARY_REDIRECT, [("location", target)]).into_response(),
        Fault::Answer(body) => json_response(StatusCode::OK, &body),
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            answered
        }
    }
}
