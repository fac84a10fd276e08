//! A Connect server: strict as the real one, which knows ids and no names, and says of what it refuses whether the token is wrong (401),
//! not for this vault (403), or nothing is there (404).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

/// The token that it takes.
pub const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.dGhlIHRva2VuIG9mIHRoZSB0ZXN0cw.c2lnbmF0dXJl";

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Act {
    /// This status with this message, and headers.
    Say(u16, &'static str, Vec<(&'static str, String)>),
    /// The answer is cut off in its midst.
    Cut,
    /// No answer.
    Hang,
    /// No JSON.
    Garbage,
    /// Somebody else edits all items.
    Meddle,
    /// What is read says 17 MiB.
    Large,
}

/// A fault of the requests with this method.
#[derive(Clone, Debug)]
pub struct Fault {
    pub method: &'static str,
    /// After it took effect.
    pub late: bool,
    pub act: Act,
    /// So many are answered as they should be.
    pub after: u64,
    /// And then so many are not.
    pub times: u64,
}

#[derive(Default)]
struct Inner {
    made: u64,
    vaults: Vec<Value>,
    /// The ids of those that the token is not for.
    closed: Vec<String>,
    items: Vec<Value>,
    faults: Vec<Fault>,
    requests: Vec<(String, String)>,
}

type Shared = Arc<Mutex<Inner>>;

/// A running server. Dropping it stops it.
pub struct FakeConnect {
    state: Shared,
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<Infallible>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeConnect {
    /// A server without vaults on a free port.
    pub fn start() -> Self {
        let state = Shared::default();
        let app = app(&state);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("take a free port");
        listener.set_nonblocking(true).expect("a socket for the runtime");
        let port = listener.local_addr().expect("a port").port();
        let (stop, stopped) = tokio::sync::oneshot::channel::<Infallible>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listen");
                tokio::select! {
                    served = axum::serve(listener, app) => served.expect("serve"),
                    _ = stopped => {}
                }
            });
        });
        Self { state, port, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that point opsctl at it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![("OP_CONNECT_HOST", self.url()), ("OP_CONNECT_TOKEN", TOKEN.to_owned())]
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.state)
    }

    /// Adds a vault; its id.
    pub fn vault(&self, name: &str) -> String {
        let mut state = self.lock();
        let id = state.next_id('v');
        state
            .vaults
            .push(json!({ "id": id, "name": name, "type": "USER_CREATED", "attributeVersion": 1, "contentVersion": 1,
            "items": 0, "createdAt": "2026-01-02T03:04:05Z", "updatedAt": "2026-01-02T03:04:05Z" }));
        id
    }

    /// Takes a vault out of what the token is for.
    pub fn close(&self, vault: &str) {
        self.lock().closed.push(vault.to_owned());
    }

    /// Adds an item of the category API Credential with these concealed fields; its id. An empty value is none.
    pub fn item(&self, vault: &str, title: &str, fields: &[(&str, &str)]) -> String {
        let mut state = self.lock();
        let id = state.next_id('i');
        let fields = fields.iter().enumerate().map(|(number, (label, value))| {
            let mut field = json!({ "id": format!("f{number:025}"), "type": "CONCEALED", "label": label });
            if !value.is_empty() {
                field["value"] = (*value).into();
            }
            field
        });
        let fields: Vec<Value> = fields.collect();
        state.items.push(json!({ "id": id, "title": title, "favorite": false, "tags": [], "version": 1,
            "vault": { "id": vault }, "category": "API_CREDENTIAL", "lastEditedBy": "EDITOR", "createdAt": "2026-01-02T03:04:05Z",
            "updatedAt": "2026-01-02T03:04:05Z", "sections": [], "fields": fields }));
        id
    }

    /// Changes an item as it lies there: its version stays.
    pub fn alter(&self, item: &str, change: impl FnOnce(&mut Value)) {
        change(self.lock().find(item));
    }

    /// Changes a value as somebody else would: a new version.
    pub fn set(&self, item: &str, label: &str, value: &str) {
        self.alter(item, |item| {
            let fields = item["fields"].as_array_mut().expect("fields");
            fields.iter_mut().find(|field| field["label"] == label).expect("a field of that label")["value"] =
                value.into();
            bump(item);
        });
    }

    /// An item as it lies there.
    pub fn stored(&self, item: &str) -> Value {
        self.lock().find(item).clone()
    }

    /// The value of a field.
    pub fn value(&self, item: &str, label: &str) -> Option<String> {
        let item = self.stored(item);
        let field = item["fields"].as_array()?.iter().find(|field| field["label"] == label)?;
        field["value"].as_str().map(str::to_owned)
    }

    /// Lets something go wrong.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Every request so far: its method, and its path with the query.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.lock().requests.clone()
    }
}

impl Drop for FakeConnect {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the Connect server has panicked");
        }
    }
}

impl Inner {
    fn next_id(&mut self, kind: char) -> String {
        self.made += 1;
        format!("{kind}{:025}", self.made)
    }

    fn find(&mut self, item: &str) -> &mut Value {
        self.items.iter_mut().find(|known| known["id"] == item).expect("an item that was added")
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, Inner> {
    state.lock().expect("nobody panics with the lock")
}

fn bump(item: &mut Value) {
    item["version"] = (item["version"].as_u64().expect("a version") + 1).into();
    item["updatedAt"] = "2026-11-22T10:20:30Z".into();
}

fn app(state: &Shared) -> Router {
    use axum::routing::get;
    Router::new()
        .route("/v1/vaults", get(vaults))
        .route("/v1/vaults/{vault}/items", get(items))
        .route("/v1/vaults/{vault}/items/{item}", get(item).put(put))
        .fallback(|| async { refuse(404, "Not found") })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(state), guard))
        .with_state(Arc::clone(state))
}

fn answer(status: u16, body: &Value) -> Response {
    let headers = [("content-type", "application/json")];
    (StatusCode::from_u16(status).expect("a status"), headers, body.to_string()).into_response()
}

fn refuse(status: u16, message: impl AsRef<str>) -> Response {
    answer(status, &json!({ "status": status, "message": message.as_ref() }))
}

/// Notes the request, strikes with a fault, and looks at the token.
async fn guard(State(state): State<Shared>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let fault = {
        let mut state = lock(&state);
        let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        state.requests.push((request.method().to_string(), target));
        take_fault(&mut state, request.method())
    };
    match fault {
        Some(fault) if !fault.late => {
            let changes = matches!(fault.act, Act::Meddle);
            let answer = strike(&state, fault.act).await;
            if !changes {
                return answer;
            }
            next_if_signed_in(&headers, request, next).await
        }
        Some(fault) => {
            next_if_signed_in(&headers, request, next).await;
            strike(&state, fault.act).await
        }
        None => next_if_signed_in(&headers, request, next).await,
    }
}

fn take_fault(state: &mut Inner, method: &Method) -> Option<Fault> {
    let place = state.faults.iter().position(|fault| method == fault.method)?;
    let fault = &mut state.faults[place];
    if fault.after > 0 {
        fault.after -= 1;
        return None;
    }
    fault.times -= 1;
    let struck = fault.clone();
    if fault.times == 0 {
        state.faults.remove(place);
    }
    Some(struck)
}

async fn next_if_signed_in(headers: &HeaderMap, request: Request, next: Next) -> Response {
    let bearer = headers.get("authorization").and_then(|bearer| bearer.to_str().ok());
    if bearer.and_then(|bearer| bearer.strip_prefix("Bearer ")) != Some(TOKEN) {
        return refuse(401, "Invalid token signature");
    }
    next.run(request).await
}

async fn strike(state: &Shared, act: Act) -> Response {
    match act {
        Act::Say(status, message, headers) => {
            let mut said = refuse(status, message);
            for (name, value) in headers {
                said.headers_mut().insert(name, value.parse().expect("a header"));
            }
            said
        }
        Act::Cut => {
            let pieces = [Ok(Bytes::from_static(b"{\"id\":")), Err(std::io::Error::other("cut"))];
            Body::from_stream(futures::stream::iter(pieces)).into_response()
        }
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            refuse(500, "late")
        }
        Act::Garbage => "<html>hello</html>".into_response(),
        Act::Large => "x".repeat(17 << 20).into_response(),
        Act::Meddle => {
            lock(state).items.iter_mut().for_each(bump);
            refuse(500, "meddled")
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Why this vault is not for the token, or nothing.
fn no_vault(state: &Inner, vault: &str) -> Option<Response> {
    if !is_id(vault) {
        return Some(refuse(400, "Invalid Vault UUID"));
    }
    if state.closed.iter().any(|closed| closed == vault) {
        return Some(refuse(403, format!("vault {vault} is not in scope")));
    }
    let is_known = state.vaults.iter().any(|known| known["id"] == vault);
    (!is_known).then(|| refuse(404, format!("vault {vault} not found")))
}

async fn vaults(State(state): State<Shared>, RawQuery(query): RawQuery) -> Response {
    // Which names its filter takes for the same is nowhere written down, so nothing here relies on it.
    assert_eq!(query, None, "a filter is not understood here");
    let state = lock(&state);
    let is_open = |vault: &&Value| !state.closed.iter().any(|closed| vault["id"] == *closed);
    answer(200, &state.vaults.iter().filter(is_open).cloned().collect())
}

async fn items(State(state): State<Shared>, Path(vault): Path<String>) -> Response {
    let state = lock(&state);
    if let Some(refusal) = no_vault(&state, &vault) {
        return refusal;
    }
    let inside = state.items.iter().filter(|item| item["vault"]["id"] == vault);
    let listed = inside.map(|item| {
        let mut item = item.clone();
        item.as_object_mut()
            .expect("an item")
            .retain(|key, _| !matches!(key.as_str(), "fields" | "sections" | "files"));
        item
    });
    answer(200, &listed.collect())
}

async fn item(State(state): State<Shared>, Path((vault, item)): Path<(String, String)>) -> Response {
    let state = lock(&state);
    if let Some(refusal) = no_vault(&state, &vault) {
        return refusal;
    }
    if !is_id(&item) {
        return refuse(400, "Invalid Item UUID");
    }
    let found = state.items.iter().find(|known| known["id"] == item && known["vault"]["id"] == vault);
    found.map_or_else(|| refuse(404, format!("item {item} not found")), |item| answer(200, item))
}

async fn put(
    State(state): State<Shared>,
    Path((vault, item)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut state = lock(&state);
    if let Some(refusal) = no_vault(&state, &vault) {
        return refusal;
    }
    let Some(stored) = state.items.iter_mut().find(|known| known["id"] == item && known["vault"]["id"] == vault) else {
        return refuse(404, format!("item {item} not found"));
    };
    let is_json = headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let Some(mut new) = serde_json::from_slice::<Value>(&body).ok().filter(|new| is_json && new.is_object()) else {
        return refuse(400, "Invalid Item JSON");
    };
    if new["category"] != stored["category"] {
        return refuse(400, "Invalid item category");
    }
    if new["id"] != stored["id"] || new["vault"]["id"] != vault {
        return refuse(400, "The item is another one");
    }
    for field in new["fields"].as_array_mut().into_iter().flatten() {
        if !field["id"].is_string() || !field["type"].is_string() {
            return refuse(400, "The item doesn't have a id field.");
        }
        if field["value"] == "" {
            field.as_object_mut().expect("a field").remove("value");
        }
    }
    for kept in ["version", "createdAt", "lastEditedBy"] {
        new[kept] = stored[kept].clone();
    }
    *stored = new;
    bump(stored);
    answer(200, stored)
}
