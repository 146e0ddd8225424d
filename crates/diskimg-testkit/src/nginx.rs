//! nginx on the loopback interface.

use crate::tool::run;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server with the files of a folder, until it is dropped.
#[derive(Debug)]
pub struct Nginx {
    folder: TempDir,
    ports: [u16; 4],
    server: Child,
}

/// How a server answers.
#[derive(Debug, Clone, Copy)]
pub enum Site {
    /// With the ranges that are asked for.
    Plain,
    /// Over TLS, with a certificate of [`Nginx::authority`] for `localhost`.
    Tls,
    /// Always with whole files.
    NoRanges,
    /// To the user `user` with the password `pass:word` only.
    Password,
}

impl Nginx {
    /// Starts a server.
    ///
    /// # Panics
    /// Panics if nginx or OpenSSL is missing, or if it does not start within a minute.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(path("files")).expect("creates");
        make_certificates(folder.path());
        let hash = run("openssl", ["passwd", "-apr1", "pass:word"]);
        fs::write(path("users"), format!("user:{hash}")).expect("writes");
        // All are open at once, so that they differ. Another process could take one before nginx
        // does, which fails then.
        let free = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = free.map(|listener| listener.local_addr().expect("is bound").port());
        let [plain, tls, whole, password] = ports;
        let root = folder.path().display();
        let config = format!(
            "pid {root}/pid; error_log stderr; daemon off; worker_processes 1;\n\
             events {{}}\n\
             http {{\n\
               access_log {root}/log; root {root}/files; client_body_temp_path {root}/body;\n\
               proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
               uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
               server {{ listen 127.0.0.1:{plain}; location = /moved {{ return 302 /a.qcow2; }} }}\n\
               server {{ listen 127.0.0.1:{tls} ssl; ssl_certificate {root}/server.pem;\n\
                         ssl_certificate_key {root}/server.key; }}\n\
               server {{ listen 127.0.0.1:{whole}; max_ranges 0; }}\n\
               server {{ listen 127.0.0.1:{password}; auth_basic x;\n\
                         auth_basic_user_file {root}/users; }}\n\
             }}\n"
        );
        let config = format!("{}{config}", if is_root() { "user root;\n" } else { "" });
        fs::write(path("conf"), config).expect("writes");
        let mut command = Command::new("nginx");
        command.args(["-p", &path("."), "-c", &path("conf")]);
        let log = fs::File::create(path("errors")).expect("creates");
        let server = command.stderr(log).stdin(Stdio::null()).spawn().expect("nginx is installed");
        let server = Self { folder, ports, server };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", plain)).is_err() {
            let log = fs::read_to_string(server.path("errors")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(60), "nginx does not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns where a file of the server is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path("files").join(name)
    }

    /// Returns the URL of a file.
    pub fn url(&self, site: Site, name: &str) -> String {
        let scheme = if matches!(site, Site::Tls) { "https" } else { "http" };
        format!("{scheme}://localhost:{}/{name}", self.ports[site as usize])
    }

    /// Returns the certificate of the authority that the server's was signed with.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Returns status and length of the body of each response so far.
    ///
    /// # Panics
    /// Panics if the log cannot be read.
    pub fn responses(&self) -> Vec<(u16, u64)> {
        // A line is written after the response was sent.
        std::thread::sleep(Duration::from_millis(100));
        let log = fs::read_to_string(self.path("log")).expect("reads");
        let response = |line: &str| {
            let after = line.split("\" ").nth(1)?;
            let mut words = after.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        log.lines().filter_map(response).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its workers.
        let _ = Command::new("kill").arg(self.server.id().to_string()).status();
        let _ = self.server.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes the certificate of an authority, `ca.pem`, and one of the server, `server.pem`, with its key.
pub(crate) fn make_certificates(folder: &Path) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let (key, request, server) = (path("server.key"), path("server.csr"), path("server.pem"));
    fs::write(path("ext"), "subjectAltName=DNS:localhost\n").expect("writes");
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let openssl = |args: &[&str]| drop(run("openssl", args));
    let own = ["-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&["req"], &curve[..], &own].concat());
    let new = ["-subj", "/CN=localhost", "-keyout", &key, "-out", &request];
    openssl(&[&["req"], &curve[..], &new].concat());
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2"];
    let files = ["-in", &request, "-out", &server, "-extfile", &path("ext")];
    openssl(&[&["x509", "-req"], &signed[..], &files].concat());
}
