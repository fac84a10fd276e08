//! A way to a server that breaks once so many bytes were sent, and stays broken.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Passes connections on until it breaks or goes out of scope.
pub struct Relay {
    port: u16,
    line: Arc<Line>,
}

struct Line {
    /// `127.0.0.1:PORT` of the server.
    server: String,
    /// Bytes that may still be sent to the server.
    left: AtomicU64,
    broken: AtomicBool,
}

impl Relay {
    /// To the server at `http://127.0.0.1:PORT`, for `bytes` on the way there.
    pub fn start(endpoint: &str, bytes: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a loopback port");
        let port = listener.local_addr().expect("a bound port").port();
        let server = endpoint.strip_prefix("http://").expect("an endpoint").to_owned();
        let line = Arc::new(Line { server, left: AtomicU64::new(bytes), broken: AtomicBool::new(false) });
        let own = line.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, line) = (client.expect("accept"), own.clone());
                if line.broken.load(Ordering::SeqCst) {
                    // Refused from here on: the listener is closed with this thread.
                    return;
                }
                std::thread::spawn(move || line.pass(&client));
            }
        });
        Self { port, line }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn is_broken(&self) -> bool {
        self.line.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.line.broken.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Line {
    /// One connection, both ways, to its end.
    fn pass(&self, client: &TcpStream) {
        let server = TcpStream::connect(&self.server).expect("the server listens");
        let (mut from_server, mut to_client) = (server.try_clone().expect("share"), client.try_clone().expect("share"));
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let (mut from_client, mut to_server) = (client, &server);
        let mut buffer = vec![0_u8; 64 * 1024];
        while let Ok(read) = from_client.read(&mut buffer)
            && read > 0
            && self.pay(read)
            && to_server.write_all(&buffer[..read]).is_ok()
        {}
        let _ = server.shutdown(Shutdown::Both);
        let _ = back.join();
    }

    /// Whether that much may still be sent.
    fn pay(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).expect("fits");
        let paid = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes));
        if paid.is_err() {
            self.broken.store(true, Ordering::SeqCst);
        }
        paid.is_ok()
    }
}
