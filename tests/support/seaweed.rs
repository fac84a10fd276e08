//! A real S3 server for a test: SeaweedFS as a process of its own, on loopback, with its data in a scratch folder.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use object_store::aws::AmazonS3;
use serde_json::{Value, json};

use super::TestDir;
use super::daemon::{Daemon, http, random_hex, tool};
use super::objects::s3;

/// The bucket that every server starts with.
pub const BUCKET: &str = "opsctl-test";
/// The region that clients sign for; SeaweedFS accepts any.
pub const REGION: &str = "us-east-1";

/// Alone it is up after about two seconds; tests start several at once on small machines.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How many sets of ports are tried when another process takes one between our look and the server's.
const ATTEMPTS: usize = 5;

/// A running server. Dropping it stops the process and removes its data.
#[derive(Debug)]
pub struct SeaweedFs {
    process: Daemon,
    ports: Ports,
    access_key: String,
    secret_key: String,
    dir: TestDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    master: u16,
    master_grpc: u16,
    volume: u16,
    volume_grpc: u16,
    filer: u16,
    filer_grpc: u16,
    s3: u16,
    s3_grpc: u16,
}

impl SeaweedFs {
    /// A server with one identity that may do everything.
    pub fn start() -> Self {
        Self::start_with(json!({}))
    }

    /// A server with more identities or policies: the JSON that `weed s3 -config` takes, to which the administrator of
    /// [`env`](Self::env) is added. Example of an identity that may list and create but not read:
    /// `{"identities": [{"name": "host", "credentials": [{"accessKey": "A", "secretKey": "S"}], "actions": ["List:opsctl-test", "Write:opsctl-test"]}]}`
    pub fn start_with(mut config: Value) -> Self {
        let weed = tool("bin/weed");
        let access_key = random_hex(10);
        let secret_key = random_hex(20);
        let admin = json!({
            "name": "test-admin",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        });
        let identities = config.as_object_mut().expect("the configuration is a JSON object");
        let identities = identities.entry("identities").or_insert_with(|| json!([]));
        identities.as_array_mut().expect("identities is a list").push(admin);

        let mut failures = Vec::new();
        for _ in 0..ATTEMPTS {
            let dir = TestDir::new();
            dir.write("s3.json", config.to_string());
            let ports = Ports::free();
            // The guard exists before the wait, so a server that does not come up is stopped as well.
            let process = Daemon::start("SeaweedFS", command(&weed, &dir, ports), &dir);
            let (access_key, secret_key) = (access_key.clone(), secret_key.clone());
            let mut server = Self { process, ports, access_key, secret_key, dir };
            match server.wait_until_ready() {
                Ok(()) => return server,
                // An early end is most often a port that was taken meanwhile: again with others.
                Err(failure) => failures.push(format!("{failure}\n{}", server.log_tail())),
            }
        }
        panic!("SeaweedFS did not start in {ATTEMPTS} attempts:\n{}", failures.join("\n---\n"));
    }

    /// The variables that point an S3 client at this server as its administrator.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        self.env_for(&self.access_key, &self.secret_key)
    }

    /// The same for another identity of the configuration.
    pub fn env_for(&self, access_key: &str, secret_key: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", access_key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret_key.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
            ("AWS_S3_URL_STYLE", "path".to_owned()),
        ]
    }

    /// A client of its bucket that is not opsctl's, as its administrator.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.client_for(&self.access_key, &self.secret_key))
    }

    /// The same for another identity of the configuration.
    pub fn client_for(&self, access_key: &str, secret_key: &str) -> AmazonS3 {
        s3(BUCKET, &self.endpoint(), access_key, secret_key)
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.s3)
    }

    /// A store URL in this server's bucket.
    pub fn store_url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Creates one more bucket.
    pub fn create_bucket(&self, name: &str) {
        let status = ask(&self.dir.join("filer.sock"), "PUT", &format!("/buckets/{name}/"), b"");
        assert!(matches!(status, Ok(200..=299)), "create the bucket {name}: {status:?}\n{}", self.log_tail());
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Waits until a stored object would be accepted, and creates the bucket.
    ///
    /// It asks over the unix sockets in our own folder and not over TCP: the process opens each of them after it got the TCP port of the
    /// same service, so an answer there proves that the port is ours and not another test's.
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let filer = self.dir.join("filer.sock");
        let bucket = format!("/buckets/{BUCKET}/");
        let steps: [(&str, &Path, &str, &str, &[u8]); 4] = [
            // Accepted only once the volume server has reported to the master.
            ("a first write", &filer, "PUT", "/ready", b"ready"),
            ("its removal", &filer, "DELETE", "/ready", b""),
            ("the bucket", &filer, "PUT", &bucket, b""),
            ("the S3 port", &self.dir.join("s3.sock"), "GET", "/healthz", b""),
        ];
        let end = Instant::now() + START_LIMIT;
        for (what, socket, method, path, body) in steps {
            loop {
                if let Some(status) = self.process.ended() {
                    return Err(format!("SeaweedFS ended ({status}) before {what}"));
                }
                let answer = ask(socket, method, path, body);
                if matches!(answer, Ok(200..=299)) {
                    break;
                }
                if Instant::now() >= end {
                    return Err(format!("SeaweedFS was not ready for {what} within {START_LIMIT:?}: {answer:?}"));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.process.stop();
        // gRPC sockets have a fixed place that no option moves, and outlive a killed server.
        for (name, port) in [
            ("master", self.ports.master_grpc),
            ("volume", self.ports.volume_grpc),
            ("filer", self.ports.filer_grpc),
            ("s3", self.ports.s3_grpc),
        ] {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{port}.sock"));
        }
    }
}

impl Ports {
    /// Ports that are free now. All are held until the last is chosen, so they differ.
    fn free() -> Self {
        let held: [TcpListener; 8] =
            std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("bind a loopback port"));
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] =
            held.each_ref().map(|listener| listener.local_addr().expect("a bound port").port());
        Self { master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc }
    }
}

fn command(weed: &Path, dir: &TestDir, ports: Ports) -> Command {
    let data = dir.mkdir("data");
    let mut command = Daemon::command(weed, dir);
    command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
    command.arg(format!("-dir={}", data.display()));
    // Usage statistics are sent to the project's site unless this is off: tests contact nothing but loopback.
    command.arg("-master.telemetry=false");
    // One master that looks for no others; small volumes and no reserve, so that a nearly full disk is enough.
    command.args(["-master.peers=none", "-master.volumeSizeLimitMB=64"]);
    command.args(["-volume.max=200", "-volume.minFreeSpace=1MiB", "-volume.preStopSeconds=0"]);
    // Services with fixed default ports, which two servers would fight for.
    command.args(["-filer=true", "-s3=true", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]);
    for (name, port) in [
        ("master.port", ports.master),
        ("master.port.grpc", ports.master_grpc),
        ("volume.port", ports.volume),
        ("volume.port.grpc", ports.volume_grpc),
        ("filer.port", ports.filer),
        ("filer.port.grpc", ports.filer_grpc),
        ("s3.port", ports.s3),
        ("s3.port.grpc", ports.s3_grpc),
    ] {
        command.arg(format!("-{name}={port}"));
    }
    command.arg(format!("-filer.localSocket={}", dir.join("filer.sock").display()));
    command.arg(format!("-s3.localSocket={}", dir.join("s3.sock").display()));
    command.arg(format!("-s3.config={}", dir.join("s3.json").display()));
    // One new volume at a time instead of seven a bucket.
    command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
    command
}

/// One request over a unix socket of the server; the answer's status.
fn ask(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<u16> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    http(stream, "localhost", method, path, &[], body)
}
