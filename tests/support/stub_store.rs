//! A loopback server that speaks as much S3 as a backup host needs: it lists and reads a store in a folder, and takes no pack.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::opsctl::files_below;
use crate::support::wait_for;

/// What becomes of a PUT of a pack.
#[derive(Clone, Copy, Debug)]
pub enum Puts {
    /// 403, once [`StubStore::refuse`] was called.
    Refused,
    /// The request is read to its end and never answered.
    Unanswered,
}

/// Answers requests with `answer(method, target)` until it goes out of scope.
pub struct Server {
    pub port: u16,
    over: Arc<AtomicBool>,
}

/// Status line and headers, and the body; `None` leaves the request without an answer.
pub type Answer = Option<(String, Vec<u8>)>;

impl Server {
    pub fn start(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a loopback port");
        let port = listener.local_addr().expect("a bound port").port();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, answer) = (over.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, answer) = (stream.expect("accept"), answer.clone());
                // Ends with its connection, which is the client's to close.
                std::thread::spawn(move || serve(&stream, &*answer));
            }
        });
        Self { port, over }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One connection, request after request; `None` at its end.
fn serve(stream: &TcpStream, answer: &dyn Fn(&str, &str) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("a length");
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        let Some((head, body)) = answer(&method, &target) else {
            // Until the client gives up.
            return std::io::copy(&mut reader, &mut std::io::sink()).ok().map(|_| ());
        };
        write!(writer, "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
        if method != "HEAD" {
            writer.write_all(&body).ok()?;
        }
    }
}

/// The store.
pub struct StubStore {
    server: Server,
    /// Packs that were sent completely.
    pub sent: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
}

impl StubStore {
    /// Serves the store in `folder`.
    pub fn serve(folder: &Path, puts: Puts) -> Self {
        let (folder, sent) = (folder.to_owned(), Arc::new(AtomicUsize::new(0)));
        let told = Arc::new(AtomicBool::new(false));
        let (count, answers) = (sent.clone(), told.clone());
        let server = Server::start(move |method, target| {
            if method == "PUT" {
                assert!(target.starts_with("/stub/p/packs/"), "{target} before any pack is stored");
                count.fetch_add(1, Ordering::SeqCst);
                return match puts {
                    Puts::Refused => {
                        wait_for("the word to refuse", Duration::from_secs(120), || {
                            answers.load(Ordering::SeqCst).then_some(())
                        });
                        Some(error("403 Forbidden", "AccessDenied"))
                    }
                    Puts::Unanswered => None,
                };
            }
            Some(read(&folder, target))
        });
        Self { server, sent, told }
    }

    /// Answers what was sent and what will be.
    pub fn refuse(&self) {
        self.told.store(true, Ordering::SeqCst);
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

fn error(status: &str, code: &str) -> (String, Vec<u8>) {
    let body = format!("<Error><Code>{code}</Code><Message>stub</Message></Error>");
    (format!("{status}\r\nContent-Type: application/xml"), body.into_bytes())
}

/// LIST and GET.
fn read(folder: &Path, target: &str) -> (String, Vec<u8>) {
    if target.contains("list-type=2") {
        return ("200 OK\r\nContent-Type: application/xml".to_owned(), list(folder).into_bytes());
    }
    let name: PathBuf = folder.join(target.strip_prefix("/stub/p/").expect("an object of the store"));
    match std::fs::read(name) {
        Ok(bytes) => ("200 OK\r\nETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT".to_owned(), bytes),
        Err(_) => error("404 Not Found", "NoSuchKey"),
    }
}

fn list(folder: &Path) -> String {
    let mut text = "<ListBucketResult><Name>stub</Name><IsTruncated>false</IsTruncated>".to_owned();
    for file in files_below(folder) {
        let name = file.strip_prefix(folder).unwrap().to_str().unwrap();
        let size = file.metadata().unwrap().len();
        let time = "2026-01-01T00:00:00.000Z";
        let _ = write!(
            text,
            "<Contents><Key>p/{name}</Key><LastModified>{time}</LastModified><ETag>\"e\"</ETag><Size>{size}</Size></Contents>"
        );
    }
    text + "</ListBucketResult>"
}
