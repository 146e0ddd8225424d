//! Emulators of object stores on the loopback interface: Azurite, of Azure Blob Storage, and
//! gcp-storage-emulator, of Google Cloud Storage. Everything is in memory.

use crate::tool::run;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long an emulator may take to start.
const START: Duration = Duration::from_secs(120);

/// A process that listens on a port, until it is dropped.
#[derive(Debug)]
struct Emulator {
    process: Child,
    port: u16,
    /// Its working directory.
    _folder: TempDir,
}

impl Emulator {
    fn start(command: &mut Command, port: u16, hint: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.get_program().to_owned();
        let process =
            command.spawn().unwrap_or_else(|e| panic!("cannot run {program:?}: {e}; {hint}"));
        let mut emulator = Self { process, port, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = emulator.process.try_wait().expect("is a child");
            assert!(ended.is_none(), "{program:?} ended; {hint}");
            assert!(started.elapsed() < START, "{program:?} does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("is bound").port()
}

fn python() -> PathBuf {
    let readers = std::env::var_os("DISKIMG_ORACLES").map(PathBuf::from);
    let readers = readers.expect("./test.sh installs the Python readers and sets DISKIMG_ORACLES");
    readers.join("bin/python")
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oracles").join(name).display().to_string()
}

/// An emulator of Azure Blob Storage.
#[derive(Debug)]
pub struct Azurite(Emulator);

impl Azurite {
    /// The name of its account.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    /// The key of the account, which is public: that of all emulators.
    pub const KEY: &'static str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1S\
                                   ZFPTOtr/KBHBeksoGMGw==";

    /// Starts the emulator.
    ///
    /// # Panics
    /// Panics if it is missing, or does not start.
    pub fn start() -> Self {
        let port = free_port();
        let mut command = Command::new("azurite-blob");
        command.args(["--silent", "--inMemoryPersistence", "--blobHost", "127.0.0.1"]);
        command.args(["--blobPort", &port.to_string(), "--disableTelemetry"]);
        Self(Emulator::start(&mut command, port, "npm install --global azurite"))
    }

    /// Returns the URL of the service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{}", self.0.port, Self::ACCOUNT)
    }

    /// Returns the connection string of the account.
    pub fn connection(&self) -> String {
        format!(
            "DefaultEndpointsProtocol=http;AccountName={};AccountKey={};BlobEndpoint={};",
            Self::ACCOUNT,
            Self::KEY,
            self.endpoint()
        )
    }

    /// Accesses the store with Microsoft's client; see `oracles/azure_blob.py`. Returns what that
    /// prints.
    ///
    /// # Panics
    /// Panics if it fails, or if it is missing.
    pub fn client(&self, args: &[&str]) -> String {
        let connection = self.connection();
        let (python, script) = (python(), script("azure_blob.py"));
        run(&python.display().to_string(), [&[&*script, &*connection], args].concat())
    }
}

/// An emulator of Google Cloud Storage.
#[derive(Debug)]
pub struct GoogleEmulator(Emulator);

impl GoogleEmulator {
    /// Starts the emulator.
    ///
    /// # Panics
    /// As [`Azurite::start`].
    pub fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(python());
        command.args(["-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]);
        command.args(["--port", &port.to_string(), "--in-memory"]);
        Self(Emulator::start(&mut command, port, "./test.sh installs gcp-storage-emulator"))
    }

    /// Returns the URL of the service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port)
    }

    /// Accesses the store with Google's client; see `oracles/gcs.py`. Returns what that prints.
    ///
    /// # Panics
    /// As [`Azurite::client`].
    pub fn client(&self, args: &[&str]) -> String {
        let endpoint = self.endpoint();
        let (python, script) = (python(), script("gcs.py"));
        run(&python.display().to_string(), [&[&*script, &*endpoint], args].concat())
    }
}
