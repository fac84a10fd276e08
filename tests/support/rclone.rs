//! `rclone serve s3` for a test: an S3 server that knows neither byte ranges nor create-only PUTs, as there are others.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;

use super::TestDir;
use super::daemon::{Daemon, random_hex, tool};
use super::objects::s3;

/// The bucket that every server starts with.
pub const BUCKET: &str = "opsctl-test";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server. Dropping it stops the process and removes its data.
#[derive(Debug)]
pub struct Rclone {
    /// Stopped before its folder is removed.
    process: Daemon,
    port: u16,
    access_key: String,
    secret_key: String,
    _dir: TestDir,
}

impl Rclone {
    pub fn start() -> Self {
        let rclone = tool("bin/rclone");
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        dir.mkdir(format!("data/{BUCKET}"));
        let (access_key, secret_key) = (random_hex(10), random_hex(20));
        // A file that is there and empty: no configuration of anybody's.
        let config = dir.write("rclone.conf", "");
        let mut command = Daemon::command(&rclone, &dir);
        command.args(["serve", "s3", "--addr", "127.0.0.1:0", "--config"]).arg(config);
        command.arg("--cache-dir").arg(dir.join("cache"));
        command.arg("--auth-key").arg(format!("{access_key},{secret_key}")).arg(data);
        let mut process = Daemon::start("rclone", command, &dir);
        let port = process.port_after("Starting s3 server on", START_LIMIT);
        Self { process, port, access_key, secret_key, _dir: dir }
    }

    /// The variables that point an S3 client at this server.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
            ("AWS_S3_URL_STYLE", "path".to_owned()),
        ]
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A store URL in this server's bucket.
    pub fn store_url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// A client of its bucket that is not opsctl's.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        Arc::new(s3(BUCKET, &self.endpoint(), &self.access_key, &self.secret_key))
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
