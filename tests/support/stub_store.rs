//! A small S3 on loopback: LIST, GET with ranges and create-only PUT over a store in a folder, and whatever a test wants to go wrong
//! on the way, down to killing the client at a certain request.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

#[path = "server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::opsctl::files_below;
use crate::support::wait_for;

pub use server::*;

/// An answer of a store that does not do what it is asked.
pub fn error(status: &str, code: &str) -> Reply {
    let body = format!("<Error><Code>{code}</Code><Message>stub</Message></Error>");
    Reply::Send(format!("{status}\r\nContent-Type: application/xml"), body.into_bytes())
}

/// What becomes of one request.
pub enum Turn {
    /// It is served as it should be.
    Serve,
    /// It has no effect and gets this answer.
    Instead(Reply),
    /// The same, once it was sent completely.
    InsteadBy(Box<dyn Fn() -> Reply>),
    /// It has its effect and gets this answer.
    Then(Reply),
    /// It is served, and the answer is changed on its way.
    Change(Box<dyn Fn(Reply) -> Reply>),
    /// The client is killed when so many bytes of the body have arrived, and the request has no effect.
    KillAt(u64),
    /// The client is killed when it has sent everything; whether it has its effect.
    Kill(bool),
}

/// What becomes of a PUT of a pack.
#[derive(Clone, Copy, Debug)]
pub enum Puts {
    /// 403, once [`StubStore::refuse`] was called.
    Refused,
    /// The request is read to its end and never answered.
    Unanswered,
}

/// The store.
pub struct StubStore {
    server: Server,
    /// PUTs that were sent completely.
    pub sent: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<String>>>,
    /// The process to kill; 0 until it is known.
    victim: Arc<AtomicI32>,
}

impl StubStore {
    /// Serves the store in `folder`, and takes no pack.
    pub fn serve(folder: &Path, puts: Puts) -> Self {
        let told = Arc::new(AtomicBool::new(false));
        let answers = told.clone();
        let refuse = move |request: &Request, _| match puts {
            _ if request.method != "PUT" => Turn::Serve,
            Puts::Unanswered => Turn::Instead(Reply::Never),
            Puts::Refused => {
                assert!(request.target.starts_with("/stub/p/packs/"), "{} before any pack is stored", request.target);
                let told = answers.clone();
                Turn::InsteadBy(Box::new(move || {
                    wait_for("the word to refuse", PATIENCE, || told.load(Ordering::SeqCst).then_some(()));
                    error("403 Forbidden", "AccessDenied")
                }))
            }
        };
        let mut store = Self::with(folder, refuse);
        store.told = told;
        store
    }

    /// Serves the store in `folder`. `turn` says what becomes of each request, given its number from 1.
    pub fn with(folder: &Path, turn: impl Fn(&Request, usize) -> Turn + Send + Sync + 'static) -> Self {
        let (sent, seen, victim) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicI32::new(0)));
        let store = Folder { folder: folder.to_owned(), writes: Mutex::new(()) };
        let (count, names, pid) = (sent.clone(), seen.clone(), victim.clone());
        let server = Server::start(move |request, body| {
            let number = {
                let mut names = names.lock().unwrap();
                names.push(request.name());
                names.len()
            };
            let turn = turn(request, number);
            let part = if let Turn::KillAt(bytes) = turn { bytes.min(request.length()) } else { request.length() };
            let mut bytes = vec![0; usize::try_from(part).expect("fits")];
            if body.read_exact(&mut bytes).is_err() {
                return Reply::HangUp;
            }
            if part == request.length() && request.method == "PUT" {
                count.fetch_add(1, Ordering::SeqCst);
            }
            match turn {
                Turn::Serve => store.answer(request, &bytes),
                Turn::Instead(reply) => reply,
                Turn::InsteadBy(reply) => reply(),
                Turn::Then(reply) => {
                    store.answer(request, &bytes);
                    reply
                }
                Turn::Change(change) => change(store.answer(request, &bytes)),
                Turn::KillAt(_) => kill(&pid),
                Turn::Kill(with_effect) => {
                    if with_effect {
                        store.answer(request, &bytes);
                    }
                    kill(&pid)
                }
            }
        });
        Self { server, sent, told: Arc::default(), seen, victim }
    }

    /// Answers what was sent and what will be.
    pub fn refuse(&self) {
        self.told.store(true, Ordering::SeqCst);
    }

    /// Names the process that [`Turn::Kill`] kills.
    pub fn aim(&self, child: &Child) {
        self.victim.store(i32::try_from(child.id()).expect("a pid"), Ordering::SeqCst);
    }

    /// The requests so far, as [`Request::name`] has them.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests began with this.
    pub fn count(&self, start: &str) -> usize {
        self.seen().iter().filter(|name| name.starts_with(start)).count()
    }

    /// The variables that point the program here.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OPSCTL_STORE", "s3://stub/p".to_owned()),
            ("AWS_ACCESS_KEY_ID", "stub".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "stub".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.server.port)),
            ("AWS_S3_URL_STYLE", "path".to_owned()),
        ]
    }
}

/// Kills the client, which the test has started and does not reap before it is dead.
fn kill(pid: &AtomicI32) -> Reply {
    let pid = wait_for("the process to be known", PATIENCE, || Pid::from_raw(pid.load(Ordering::SeqCst)));
    let _ = kill_process(pid, Signal::KILL);
    Reply::Never
}

/// A store in a folder.
struct Folder {
    folder: PathBuf,
    /// A PUT looks whether its name is free, then takes it.
    writes: Mutex<()>,
}

impl Folder {
    fn answer(&self, request: &Request, body: &[u8]) -> Reply {
        if request.is_list() {
            let text = self.list(&request.query("prefix"), &request.query("start-after"));
            return Reply::Send("200 OK\r\nContent-Type: application/xml".to_owned(), text.into_bytes());
        }
        let name = request.target.strip_prefix(BUCKET).expect("an object of the store");
        let path = self.folder.join(name);
        match request.method.as_str() {
            "PUT" => self.put(&path, request.headers.contains_key("if-none-match"), body),
            _ => get(&path, request.headers.get("range").map(String::as_str)),
        }
    }

    fn put(&self, path: &Path, create_only: bool, body: &[u8]) -> Reply {
        let _alone = self.writes.lock().unwrap();
        if create_only && path.exists() {
            return error("412 Precondition Failed", "PreconditionFailed");
        }
        std::fs::create_dir_all(path.parent().expect("a key has a folder")).expect("make a folder");
        // A name of this kind is half written and is not listed.
        let next = path.with_extension("part#1");
        std::fs::write(&next, body).and_then(|()| std::fs::rename(&next, path)).expect("store an object");
        Reply::Send("200 OK\r\nETag: \"e\"".to_owned(), Vec::new())
    }

    fn list(&self, prefix: &str, after: &str) -> String {
        let mut found = BTreeMap::new();
        for file in files_below(&self.folder) {
            let name = format!("p/{}", file.strip_prefix(&self.folder).unwrap().to_str().unwrap());
            if name.starts_with(prefix) && name.as_str() > after && !name.contains('#') {
                found.insert(name, file);
            }
        }
        let mut text = "<ListBucketResult><Name>stub</Name><IsTruncated>false</IsTruncated>".to_owned();
        for (name, file) in found {
            let Ok(metadata) = file.metadata() else { continue };
            let time = jiff::Timestamp::try_from(metadata.modified().unwrap()).unwrap();
            let size = metadata.len();
            let _ = write!(
                text,
                "<Contents><Key>{name}</Key><LastModified>{time:.3}</LastModified><ETag>\"e\"</ETag><Size>{size}</Size></Contents>"
            );
        }
        text + "</ListBucketResult>"
    }
}

fn get(path: &Path, range: Option<&str>) -> Reply {
    let Ok(bytes) = std::fs::read(path) else { return error("404 Not Found", "NoSuchKey") };
    let facts = "ETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
    let Some(range) = range else { return Reply::Send(format!("200 OK\r\n{facts}"), bytes) };
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
    if from >= bytes.len() {
        return error("416 Range Not Satisfiable", "InvalidRange");
    }
    let to = to.min(bytes.len() - 1);
    let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}\r\n{facts}", bytes.len());
    Reply::Send(head, bytes[from..=to].to_vec())
}

/// A service that answers `/health` with what stands in a file, and lets nobody in; its URL.
pub fn service(health: &Path) -> (Server, String) {
    serving(health, "401 Unauthorized")
}

/// The same with this answer at its protected end points.
pub fn serving(health: &Path, protected: &'static str) -> (Server, String) {
    let health = health.to_owned();
    let server = Server::start(move |request, _| {
        assert_eq!(request.method, "GET");
        match request.target.as_str() {
            "/health" => {
                let body = std::fs::read(&health).unwrap_or_default();
                Reply::Send("200 OK\r\nContent-Type: application/json".to_owned(), body)
            }
            "/ui" => Reply::Send("200 OK\r\nContent-Type: text/html".to_owned(), b"<html>".to_vec()),
            _ => Reply::Send(protected.to_owned(), Vec::new()),
        }
    });
    let url = format!("http://127.0.0.1:{}", server.port);
    (server, url)
}
