//! Helpers that run programs and create images.

use diskimg_testkit::tool::qemu_img_is_recent;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The result of running a program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Asserts success and that standard error is empty; returns standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "stdout: {}", self.out);
        self.out
    }

    /// Asserts the exit code and that standard error is not empty; returns standard error.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        assert!(!self.err.is_empty(), "nothing on standard error");
        self.err
    }
}

/// A temporary directory in which programs are run.
pub(crate) struct Lab(TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("tempdir"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("reads")
    }

    /// Returns a command that runs `program` in this directory.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        // The configuration of the user who runs the tests.
        command.env("DISKIMG_CONFIG", "");
        command
    }

    /// Runs diskimg.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        Ran::new(self.command(diskimg()).args(args).output().expect("runs"))
    }

    /// Runs diskimg with the arguments in `line`, separated by whitespace.
    pub(crate) fn line(&self, line: &str) -> Ran {
        self.run(line.split_whitespace())
    }

    /// Runs diskimg through a link named `qemu-img`.
    pub(crate) fn as_qemu_img(&self, line: &str) -> Ran {
        let links = tempfile::tempdir().expect("a directory");
        let link = links.path().join("qemu-img");
        std::os::unix::fs::symlink(diskimg(), &link).expect("links");
        Ran::new(self.command(link).args(line.split_whitespace()).output().expect("runs"))
    }

    /// Runs diskimg and asserts that it ends within `seconds`.
    #[track_caller]
    pub(crate) fn within_seconds(&self, seconds: u64, line: &str) -> Ran {
        let mut command = self.command("timeout");
        command.arg(seconds.to_string()).arg(diskimg()).args(line.split_whitespace());
        let ran = Ran::new(command.output().expect("runs"));
        assert_ne!(ran.code, Some(124), "{line}: still running after {seconds} s");
        ran
    }

    /// Runs diskimg with `input` on standard input.
    pub(crate) fn feed(&self, line: &str, input: &[u8]) -> Output {
        let mut child = self
            .command(diskimg())
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|threads| {
            threads.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().expect("ends")
        })
    }

    /// Runs qemu-img.
    pub(crate) fn qemu(&self, line: &str) -> Ran {
        match self.command("qemu-img").args(line.split_whitespace()).output() {
            Ok(output) => Ran::new(output),
            Err(e) => panic!("these tests need qemu-img (install qemu-utils): {e}"),
        }
    }

    /// Asserts that diskimg and qemu-img succeed and print the same, except for `note:` lines.
    #[track_caller]
    pub(crate) fn same(&self, line: &str) -> String {
        let ours = self.line(line).ok();
        let ours: String =
            ours.split_inclusive('\n').filter(|line| !line.starts_with("note: ")).collect();
        if qemu_prints_the_same(line) {
            assert_eq!(ours, self.qemu(line).ok(), "{line}");
        }
        ours
    }

    /// Asserts that diskimg and qemu-img succeed and print the same JSON with keys in the same
    /// order, except for notes.
    #[track_caller]
    pub(crate) fn same_json(&self, line: &str) {
        let json = |text: String| {
            let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            if let Some(object) = json.as_object_mut() {
                object.remove("notes");
            }
            (json, keys(&text))
        };
        let ours = json(self.line(line).ok());
        if qemu_prints_the_same(line) {
            assert_eq!(ours, json(self.qemu(line).ok()), "{line}");
        }
    }

    /// Creates a raw image of 1 MiB with 64 KiB of `x` at 0, 64 KiB of `y` at 256 KiB, and holes.
    pub(crate) fn raw(&self, name: &str) {
        let file = std::fs::File::create(self.path(name)).expect("creates");
        file.set_len(1 << 20).expect("extends");
        write_at(&self.path(name), 0, &[b'x'; 64 << 10]);
        write_at(&self.path(name), 256 << 10, &[b'y'; 64 << 10]);
    }
}

/// Returns the keys in JSON text with a key per line, in order, except for notes.
fn keys(json: &str) -> Vec<String> {
    let key =
        |line: &str| Some(line.trim_start().strip_prefix('"')?.split_once("\":")?.0.to_owned());
    json.lines().filter_map(key).filter(|key| key != "notes").collect()
}

/// Returns false for a command whose output is different in old versions of qemu-img, if this is
/// one.
fn qemu_prints_the_same(line: &str) -> bool {
    !(line.starts_with("info") || line.starts_with("map")) || qemu_img_is_recent()
}

/// Returns the path of the `diskimg` binary.
pub(crate) fn diskimg() -> &'static str {
    env!("CARGO_BIN_EXE_diskimg")
}

/// Overwrites bytes of a file.
pub(crate) fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    use std::io::{Seek, SeekFrom};
    let mut file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.seek(SeekFrom::Start(offset)).expect("seeks");
    file.write_all(bytes).expect("writes");
}
