//! Azure Blob Storage for a test: Azurite as a process of its own, on loopback, with its data in memory.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::ObjectStore;
use object_store::azure::MicrosoftAzureBuilder;
use sha2::{Digest as _, Sha256};

use super::TestDir;
use super::daemon::{Daemon, http, random, tool};

/// The container that every server starts with.
pub const CONTAINER: &str = "opsctl-test";
/// The account of [`Azurite::start`].
const ACCOUNT: &str = "opsctltest";
/// The protocol version of what is signed here by hand.
const VERSION: &str = "2021-08-06";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server. Dropping it stops the process.
#[derive(Debug)]
pub struct Azurite {
    process: Daemon,
    port: u16,
    key: Vec<u8>,
    _dir: TestDir,
}

impl Azurite {
    /// A server with one account and a new key.
    pub fn start() -> Self {
        let script = tool("npm/node_modules/azurite/dist/src/blob/main.js");
        let dir = TestDir::new();
        let key = random(32);
        let mut command = Daemon::command("node".as_ref(), &dir);
        command.arg(script).args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]);
        // Usage statistics go to the makers unless this is off: tests contact nothing but loopback.
        command.args(["--disableTelemetry", "--silent"]);
        // It knows every operation that is used here, but not the newest version of the protocol.
        command.arg("--skipApiVersionCheck");
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", STANDARD.encode(&key)));
        let mut process = Daemon::start("Azurite", command, &dir);
        let port = process.port_after("successfully listens on", START_LIMIT);
        let server = Self { process, port, key, _dir: dir };
        server.create_container(CONTAINER);
        server
    }

    /// The variables that point an Azure client at this server.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", self.account_key()),
            ("AZURE_STORAGE_ENDPOINT", self.endpoint()),
        ]
    }

    pub fn account(&self) -> &str {
        ACCOUNT
    }

    /// A key that no server knows.
    pub fn new_key() -> String {
        STANDARD.encode(random(32))
    }

    /// A shared access signature for the container that every server starts with, good for an hour. `permissions` are Azure's
    /// letters in Azure's order: `r` read, `c` create, `w` write, `d` delete, `l` list.
    pub fn sas(&self, permissions: &str) -> String {
        let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).strftime("%Y-%m-%dT%H:%M:%SZ");
        // One line for each field; the empty ones are conditions and headers that are not set.
        let resource = format!("/blob/{ACCOUNT}/{CONTAINER}");
        let signed = format!("{permissions}\n\n{until}\n{resource}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
        let signature = STANDARD.encode(hmac_sha256(&self.key, signed.as_bytes()));
        url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("sv", VERSION), ("sp", permissions), ("se", &until.to_string()), ("sr", "c")])
            .append_pair("sig", &signature)
            .finish()
    }

    /// A client of its container that is not opsctl's.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        let builder = MicrosoftAzureBuilder::new().with_container_name(CONTAINER).with_account(ACCOUNT);
        let builder = builder.with_access_key(self.account_key()).with_endpoint(self.endpoint()).with_allow_http(true);
        Arc::new(builder.build().expect("the settings are complete"))
    }

    /// The key, as a person gets it from Azure.
    pub fn account_key(&self) -> String {
        STANDARD.encode(&self.key)
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A store URL in this server's container.
    pub fn store_url(&self, prefix: &str) -> String {
        format!("az://{CONTAINER}/{prefix}")
    }

    /// Creates one more container. Signed by hand: the client library makes none.
    pub fn create_container(&self, name: &str) {
        let headers = [
            ("x-ms-date", jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            ("x-ms-version", VERSION.to_owned()),
        ];
        let listed: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let path = format!("/{ACCOUNT}/{name}");
        // The empty lines are headers that are not sent.
        let signed = format!("PUT{}{listed}/{ACCOUNT}{path}\nrestype:container", "\n".repeat(12));
        let signature = STANDARD.encode(hmac_sha256(&self.key, signed.as_bytes()));
        let mut headers = headers.to_vec();
        headers.push(("Authorization", format!("SharedKey {ACCOUNT}:{signature}")));
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("Azurite listens");
        let status = http(stream, "localhost", "PUT", &format!("{path}?restype=container"), &headers, b"");
        assert!(matches!(status, Ok(201)), "create the container {name}: {status:?}\n{}", self.process.log_tail());
    }
}

/// RFC 2104, for keys of at most 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let padded = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).unwrap_or(&0) ^ with).collect() };
    let inner = Sha256::digest([&padded(0x36), message].concat());
    Sha256::digest([&padded(0x5c)[..], &inner[..]].concat()).to_vec()
}
