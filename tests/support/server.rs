//! A small HTTP server on loopback that answers each request as a test says, down to answers that end too early or never.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Where the objects of a store are said to be.
pub const BUCKET: &str = "/stub/p/";
/// Longer than any test takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The first lines of a request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn is_list(&self) -> bool {
        self.target.contains("list-type=2")
    }

    /// `LIST FOLDER`, `GET KEY` or `PUT KEY`.
    pub fn name(&self) -> String {
        if self.is_list() {
            return format!("LIST {}", self.query("prefix").strip_prefix("p/").unwrap_or_default());
        }
        format!("{} {}", self.method, self.target.strip_prefix(BUCKET).unwrap_or(&self.target))
    }

    /// The value of a parameter.
    pub fn query(&self, name: &str) -> String {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let value = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().replace("%2F", "/")
    }

    /// Bytes of its body.
    pub fn length(&self) -> u64 {
        self.headers.get("content-length").map_or(0, |value| value.parse().expect("a length"))
    }
}

/// An answer as it goes over the wire.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status line with headers, and the body. The length is announced.
    Send(String, Vec<u8>),
    /// The same, but the connection is closed after so many bytes of the body.
    Cut(String, Vec<u8>, usize),
    /// The same, but the body comes in pieces of this size, each when the gate lets one through.
    Drip(String, Vec<u8>, usize, Gate),
    /// These bytes over and over, until the client gives up.
    Endless(String, Vec<u8>),
    /// Nothing, until the client gives up.
    Never,
    /// Nothing; the connection is closed.
    HangUp,
}

/// Lets so many pieces through, and waits with the next.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    pub fn open(&self, pieces: usize) {
        *self.0.0.lock().unwrap() += pieces;
        self.0.1.notify_all();
    }

    /// Waits for a permit; false if none came in a time that no test takes.
    fn pass(&self) -> bool {
        let wait = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, |left| *left == 0);
        let (mut left, timeout) = wait.unwrap();
        *left = left.saturating_sub(1);
        !timeout.timed_out()
    }
}

/// Answers requests with `answer` until it goes out of scope. The answer may read the body before it decides; what it leaves is read
/// after it.
pub struct Server {
    pub port: u16,
    over: Arc<AtomicBool>,
}

/// A request's body, as far as it has not been read yet.
pub type Body<'r> = dyn std::io::Read + 'r;

impl Server {
    pub fn start(answer: impl Fn(&Request, &mut Body<'_>) -> Reply + Send + Sync + 'static) -> Self {
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
fn serve(stream: &TcpStream, answer: &dyn Fn(&Request, &mut Body<'_>) -> Reply) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = Request { method, target, headers };
        let mut body = reader.by_ref().take(request.length());
        let reply = answer(&request, &mut body);
        std::io::copy(&mut body, &mut std::io::sink()).ok()?;
        let head = |head: &str, length: usize| format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n");
        match reply {
            Reply::Send(first, bytes) => {
                writer.write_all(head(&first, bytes.len()).as_bytes()).ok()?;
                writer.write_all(&bytes).ok()?;
            }
            Reply::Cut(first, bytes, at) => {
                writer.write_all(head(&first, bytes.len()).as_bytes()).ok()?;
                writer.write_all(&bytes[..at.min(bytes.len())]).ok()?;
                return stream.shutdown(Shutdown::Both).ok();
            }
            Reply::Drip(first, bytes, size, gate) => {
                writer.write_all(head(&first, bytes.len()).as_bytes()).ok()?;
                for piece in bytes.chunks(size) {
                    gate.pass().then(|| writer.write_all(piece).ok())??;
                }
            }
            Reply::Endless(first, bytes) => {
                writer.write_all(format!("HTTP/1.1 {first}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
                loop {
                    writer.write_all(&bytes).ok()?;
                }
            }
            Reply::Never => return std::io::copy(&mut reader, &mut std::io::sink()).ok().map(|_| ()),
            Reply::HangUp => return stream.shutdown(Shutdown::Both).ok(),
        }
    }
}
