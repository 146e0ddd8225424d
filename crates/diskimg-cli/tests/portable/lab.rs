//! Runs the command in a temporary directory.

use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub(crate) struct Lab(TempDir);

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), out: output.stdout, err }
    }

    /// Asserts success, and returns standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""));
        String::from_utf8(self.out).unwrap()
    }

    /// Asserts that it failed with a message, and returns the message.
    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(!self.err.is_empty(), "nothing on standard error");
        self.err
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Returns the names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        // Under Wine, absolute paths of Unix depend on the current drive.
        let program = Path::new(env!("CARGO_BIN_EXE_diskimg")).canonicalize().unwrap();
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// Runs the command with the arguments in `line`, separated by spaces.
    #[track_caller]
    pub(crate) fn line(&self, line: &str) -> Ran {
        self.run(line.split(' '))
    }

    /// Runs the command with `input` on standard input.
    pub(crate) fn feed(&self, line: &str, input: &[u8]) -> Ran {
        let mut child = self.command(line.split(' ')).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|threads| {
            threads.spawn(move || drop(stdin.write_all(input)));
            Ran::new(child.wait_with_output().unwrap())
        })
    }

    /// Copies a file of `testdata/` into the directory.
    pub(crate) fn testdata(&self, name: &str) {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
        std::fs::copy(data, self.path(name)).unwrap();
    }

    /// Returns the number of bytes that the file takes on the disk, as `info` prints it.
    pub(crate) fn actual_size(&self, name: &str) -> Option<u64> {
        let info = self.run(["info", "--output", "json", name]).ok();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["actual-size"].as_u64()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Bytes that differ at every offset, of `len` bytes.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}
