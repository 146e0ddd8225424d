//! A store that is compatible with S3, with Amazon's services that issue keys: moto, in memory, on the
//! loopback interface.
//!
//! It differs from Ceph's gateway: `CompleteMultipartUpload` obeys `If-None-Match`, and there are roles,
//! the Security Token Service and the metadata service of an EC2 instance.

use crate::boto3::{boto3, python};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the server may take to start.
const START: Duration = Duration::from_secs(120);

/// A store, until it is dropped.
#[derive(Debug)]
pub struct Moto {
    folder: TempDir,
    endpoint: String,
    server: Child,
}

impl Moto {
    /// Starts a store, which accepts any key until [`require_signatures`](Self::require_signatures).
    ///
    /// # Panics
    /// Panics if moto is missing, or if it does not start within two minutes.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = File::create(folder.path().join("log")).expect("creates");
        let mut command = Command::new(python("moto_server"));
        // It names the port that the system has chosen. The real service has this minimum, too.
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("S3_UPLOAD_PART_MIN_SIZE", "5242880");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let server = command.spawn().expect("./test.sh installs moto");
        let mut store = Self { folder, endpoint: String::new(), server };
        let started = Instant::now();
        loop {
            let log = store.log();
            let mut words = log.split_ascii_whitespace();
            if let Some(url) = words.find(|word| word.starts_with("http://127.0.0.1:")) {
                store.endpoint = url.to_owned();
                return store;
            }
            let has_ended = store.server.try_wait().expect("is a child").is_some();
            assert!(!has_ended && started.elapsed() < START, "moto does not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Returns what the server has logged: a line for each request, after it was answered.
    ///
    /// # Panics
    /// Panics if the log cannot be read.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).expect("reads")
    }

    /// Returns method, path and status of each request that was answered.
    pub fn requests(&self) -> Vec<String> {
        let request = |line: &str| {
            // Refusals are in colours.
            let mut parts = line.split('\x1b');
            let first = parts.next().map(str::to_owned);
            let plain = parts.fold(first?, |line, part| {
                line + part.split_once('m').map_or("", |(_, text)| text)
            });
            let (request, status) = plain.split_once('"')?.1.split_once(" HTTP/1.1\" ")?;
            Some(format!("{request} {}", status.split(' ').next()?))
        };
        // A line is written after the response was sent.
        std::thread::sleep(Duration::from_millis(100));
        self.log().lines().filter_map(request).collect()
    }

    /// Returns the URL of the store, and of the other services.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Accesses the store with boto3; see `oracles/boto3_s3.py`. Returns what that prints.
    ///
    /// # Panics
    /// Panics if it fails, or if boto3 is missing.
    pub fn boto3(&self, args: &[&str]) -> String {
        boto3(&self.endpoint, ("any", "any"), args)
    }

    /// Makes a user who may only write objects, and a role that may read them and that this user may
    /// have. Returns the user's keys and the name (ARN) of the role.
    ///
    /// # Panics
    /// As [`boto3`](Self::boto3).
    pub fn make_role(&self) -> [String; 3] {
        let text = self.boto3(&["make-role"]);
        let words: Vec<_> = text.split_ascii_whitespace().map(str::to_owned).collect();
        words.try_into().expect("prints three words")
    }

    /// Lets the server verify signatures, session tokens and rights, except those of the next
    /// `requests`.
    ///
    /// # Panics
    /// As [`boto3`](Self::boto3).
    pub fn require_signatures(&self, requests: u32) {
        self.boto3(&["require-signatures", &requests.to_string()]);
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
