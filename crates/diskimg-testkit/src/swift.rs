//! Swift on the loopback interface, with Keystone if that is needed; see `oracles/swift_server.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// Servers, until they are dropped.
#[derive(Debug)]
pub struct SwiftServer {
    folder: TempDir,
    child: Child,
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    /// What the program printed when the servers answered.
    facts: BTreeMap<String, String>,
}

/// An account and how its users authenticate: variables for all clients.
pub type Variables = Vec<(&'static str, String)>;

impl SwiftServer {
    /// Starts Swift with its own authentication.
    ///
    /// # Panics
    /// Panics if a program is missing, or if a server does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts Swift and Keystone.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn with_keystone() -> Self {
        Self::start_with(&["keystone"])
    }

    fn start_with(args: &[&str]) -> Self {
        let found = Command::new("memcached").arg("-V").stdout(Stdio::null()).status();
        assert!(found.is_ok(), "memcached is missing: install the package memcached");
        let folder = tempfile::tempdir().expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oracles/swift_server.py");
        let mut command = Command::new(program("python"));
        command.arg(script).arg(folder.path()).args(args);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("starts");
        let input = child.stdin.take().expect("is a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("is a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("reads");
        assert!(!line.is_empty(), "Swift does not start; ./test.sh installs what it needs");
        let facts = line.split_whitespace().filter_map(|word| word.split_once('='));
        let facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { folder, child, pipes: Mutex::new(Some((input, output))), facts }
    }

    /// Returns what the program printed: `auth`, `keystone`, `application`, `project`.
    ///
    /// # Panics
    /// Panics if it did not print that.
    pub fn fact(&self, name: &str) -> &str {
        &self.facts[name]
    }

    /// Returns the variables of the account with Swift's own authentication.
    pub fn v1(&self) -> Variables {
        let user = [("ST_USER", "test:tester"), ("ST_KEY", "testing")];
        let user = user.map(|(name, value)| (name, value.to_owned()));
        [vec![("ST_AUTH", self.fact("auth").to_owned())], user.to_vec()].concat()
    }

    /// Returns the variables of a user in Keystone.
    pub fn keystone(&self) -> Variables {
        [
            ("OS_AUTH_URL", self.fact("keystone")),
            ("OS_USERNAME", "demo"),
            ("OS_PASSWORD", "demo/pw"),
            ("OS_PROJECT_NAME", "demo"),
            ("OS_USER_DOMAIN_ID", "default"),
            ("OS_PROJECT_DOMAIN_ID", "default"),
            ("OS_REGION_NAME", "R1"),
            ("OS_IDENTITY_API_VERSION", "3"),
            ("ST_AUTH_VERSION", "3"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec()
    }

    /// Makes all tokens of Swift's own authentication invalid.
    ///
    /// # Panics
    /// Panics if memcached does not answer.
    pub fn forget_tokens(&self) {
        let port: u16 = self.fact("memcached").parse().expect("is a port");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        stream.write_all(b"flush_all\r\n").expect("writes");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("reads");
        assert_eq!(reply.trim(), "OK");
    }

    /// Makes all tokens of Keystone invalid.
    ///
    /// # Panics
    /// Panics if the program does not answer.
    pub fn replace_keys(&self) {
        let mut pipes = self.pipes.lock().expect("no panic");
        let (input, output) = pipes.as_mut().expect("runs");
        input.write_all(b"new-keys\n").expect("writes");
        let mut line = String::new();
        output.read_line(&mut line).expect("reads");
        assert_eq!(line, "done\n");
    }

    /// Returns the folder of the servers, with their logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SwiftServer {
    fn drop(&mut self) {
        // The end of its input ends the program, which stops the servers.
        drop(self.pipes.lock().map(|mut pipes| pipes.take()));
        let _ = self.child.wait();
    }
}

/// Runs python-swiftclient with these variables. Returns what it prints.
///
/// # Panics
/// Panics if it fails, or if it is missing.
pub fn swiftclient(variables: &Variables, args: &[&str]) -> String {
    let mut command = Command::new(program("swift"));
    for (name, _) in std::env::vars().filter(|(name, _)| is_of_openstack(name)) {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value))).args(args);
    let output = command.output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "swift {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Returns true for variables of OpenStack's clients.
pub fn is_of_openstack(name: &str) -> bool {
    name.starts_with("OS_") || name.starts_with("ST_")
}

fn program(name: &str) -> PathBuf {
    let python = std::env::var_os("DISKIMG_ORACLES").map(PathBuf::from);
    let python = python.expect("./test.sh installs Swift and sets DISKIMG_ORACLES");
    let program = python.join("bin").join(name);
    assert!(program.exists(), "{} is missing: ./test.sh installs it", program.display());
    program
}
