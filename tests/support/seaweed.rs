//! A real S3 server for a test: SeaweedFS as a process of its own, on loopback, with its data in a scratch folder.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{TestDir, stop_within};

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
    child: Child,
    ports: Ports,
    access_key: String,
    secret_key: String,
    dir: TestDir,
    /// Lets the thread end that started the process; see [`spawn`].
    _spawner: mpsc::Sender<()>,
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
        let weed = binary();
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
            let (child, spawner) = spawn(command(&weed, &dir, ports));
            // The guard exists before the wait, so a server that does not come up is stopped as well.
            let mut server = Self {
                child,
                ports,
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
                dir,
                _spawner: spawner,
            };
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
        self.child.id()
    }

    /// Creates one more bucket.
    pub fn create_bucket(&self, name: &str) {
        let status = http(&self.dir.join("filer.sock"), "PUT", &format!("/buckets/{name}/"), b"");
        assert!(matches!(status, Ok(200..=299)), "create the bucket {name}: {status:?}\n{}", self.log_tail());
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.dir.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
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
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(format!("SeaweedFS ended ({status}) before {what}"));
                }
                let answer = http(socket, method, path, body);
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
        // On SIGTERM the filer waits for ever for the S3 gateway of the same process (4.48), so the grace is short: nobody wants this data.
        stop_within(&mut self.child, Duration::from_millis(100));
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

fn binary() -> PathBuf {
    let weed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/weed");
    // A missing server must not pass as a tested one, hence no skip.
    assert!(weed.is_file(), "{} is missing: run `make tools`", weed.display());
    weed
}

fn command(weed: &Path, dir: &TestDir, ports: Ports) -> Command {
    let data = dir.mkdir("data");
    let log = File::create(dir.join("log")).expect("create the server's log");
    let mut command = Command::new("setpriv");
    // The kernel ends the server with the test process, also when that is killed and no destructor runs.
    command.args(["--pdeathsig", "KILL", "--"]).arg(weed);
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
    // HOME and the working directory are searched for configuration files: both are ours.
    command.current_dir(dir.path()).env_clear().env("HOME", dir.path());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // One new volume at a time instead of seven a bucket.
    command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
    command.stdin(Stdio::null()).stderr(log.try_clone().expect("share the log")).stdout(log);
    command
}

/// Starts the process from a thread that lives as long as the guard: the death signal is tied to the thread that forks, and a guard
/// may outlive the thread that asked for it (a shared server in a `OnceLock`).
fn spawn(mut command: Command) -> (Child, mpsc::Sender<()>) {
    let (started, child) = mpsc::channel();
    let (alive, guard_gone) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = started.send(command.spawn());
        // Ends with an error when the guard drops its half.
        let _ = guard_gone.recv();
    });
    let child = child.recv().expect("the spawning thread answers").expect("start setpriv (Debian: util-linux)");
    (child, alive)
}

/// One HTTP/1.1 request over a unix socket; the answer's status. By hand, because a client library would need a runtime of its own
/// inside the test's.
fn http(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<u16> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {}", answer.escape_debug())))
}

fn random_hex(bytes: usize) -> String {
    let mut random = vec![0_u8; bytes];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).expect("read /dev/urandom");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}
