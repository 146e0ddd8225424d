//! Servers of NBD: nbdkit and qemu-nbd.

use crate::nginx::make_certificates;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server, until it is dropped.
#[derive(Debug)]
pub struct NbdServer {
    folder: TempDir,
    /// None with a Unix socket.
    port: Option<u16>,
    server: Option<Child>,
    command: Vec<String>,
}

impl NbdServer {
    /// Starts nbdkit with these arguments, listening on a Unix socket.
    ///
    /// # Panics
    /// Panics if it is missing, or does not start within a minute.
    pub fn nbdkit(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = socket(&folder);
        let command = [&["nbdkit", "-f", "-U", &socket], args].concat();
        Self::start(folder, None, &command)
    }

    /// Starts nbdkit with TLS and the certificates of a folder, which [`certificates`] has made. It
    /// listens on a port.
    ///
    /// # Panics
    /// As [`nbdkit`](Self::nbdkit).
    pub fn nbdkit_tls(certificates: &Path, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("is bound").port();
        drop(free);
        let directory = format!("--tls-certificates={}", certificates.display());
        let tls = ["--tls=require", &directory, "-i", "127.0.0.1", "-p", &port.to_string()]
            .map(str::to_owned);
        let command: Vec<_> =
            ["nbdkit", "-f"].into_iter().chain(tls.iter().map(|s| &**s)).collect();
        Self::start(folder, Some(port), &[&command, args].concat())
    }

    /// Starts qemu-nbd with these arguments, the last of which is the image. The export is called
    /// `disk`.
    ///
    /// # Panics
    /// As [`nbdkit`](Self::nbdkit).
    pub fn qemu(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = socket(&folder);
        let own = ["qemu-nbd", "-t", "-e", "8", "-x", "disk", "--socket", &socket];
        Self::start(folder, None, &[&own, args].concat())
    }

    fn start(folder: TempDir, port: Option<u16>, command: &[&str]) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let mut server = Self { folder, port, server: None, command };
        server.restart();
        server
    }

    /// Kills the server.
    ///
    /// # Panics
    /// Panics if it has ended already.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("runs");
        server.kill().expect("is a child");
        server.wait().expect("is a child");
    }

    /// Starts the server again, if it does not run.
    ///
    /// # Panics
    /// As [`nbdkit`](Self::nbdkit).
    pub fn restart(&mut self) {
        let _ = fs::remove_file(self.socket());
        let [program, args @ ..] = &self.command[..] else { panic!("no program") };
        let errors = self.folder.path().join("errors");
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        command.stderr(fs::File::create(&errors).expect("creates"));
        let server = command.spawn().unwrap_or_else(|e| {
            panic!("cannot run {program}: {e}; ./test.sh lists the tools that these tests need")
        });
        self.server = Some(server);
        let started = Instant::now();
        while !self.listens() {
            let ended = self.server.as_mut().and_then(|server| server.try_wait().ok().flatten());
            let log = || fs::read_to_string(&errors).unwrap_or_default();
            assert!(ended.is_none(), "{program} ended: {}", log());
            assert!(started.elapsed() < Duration::from_secs(60), "{program} hangs: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn listens(&self) -> bool {
        match self.port {
            Some(port) => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            None => UnixStream::connect(self.socket()).is_ok(),
        }
    }

    /// Returns where the server listens, unless it is a port.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Returns the URI of an export.
    pub fn url(&self, export: &str) -> String {
        match self.port {
            Some(port) => format!("nbds://localhost:{port}/{export}"),
            None => format!("nbd+unix:///{export}?socket={}", self.socket().display()),
        }
    }
}

fn socket(folder: &TempDir) -> String {
    folder.path().join("socket").display().to_string()
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // SIGTERM, so that it saves what it has.
            let _ = Command::new("kill").arg(server.id().to_string()).status();
            let _ = server.wait();
        }
    }
}

/// Makes certificates in a folder, with the names that servers and clients of NBD look for. The
/// server's is for `localhost`.
///
/// # Panics
/// Panics if OpenSSL is missing.
pub fn certificates(folder: &Path) {
    make_certificates(folder);
    for (made, name) in [("ca.pem", "ca-cert.pem"), ("server.pem", "server-cert.pem")] {
        fs::copy(folder.join(made), folder.join(name)).expect("copies");
    }
    fs::copy(folder.join("server.key"), folder.join("server-key.pem")).expect("copies");
    // The server's certificate serves as the client's.
    fs::copy(folder.join("server.pem"), folder.join("client-cert.pem")).expect("copies");
    fs::copy(folder.join("server.key"), folder.join("client-key.pem")).expect("copies");
}
