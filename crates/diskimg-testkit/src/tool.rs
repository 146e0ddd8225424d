//! Runs the reference tools.

use proptest::test_runner::Config;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// Runs a tool and returns its output, whatever its exit code.
pub fn try_run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| {
        panic!("cannot run {program}: {e}; ./test.sh lists the tools that these tests need")
    })
}

/// Runs a tool that must succeed and returns its standard output.
pub fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>> + Clone) -> String {
    let shown: Vec<_> =
        args.clone().into_iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    let output = try_run(program, args);
    assert!(
        output.status.success(),
        "{program} {} failed: {}{}",
        shown.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A loop device backed by a file; requires root. Detached on drop.
pub struct LoopDevice(String);

impl LoopDevice {
    pub fn attach(file: &Path) -> Self {
        let name = run("losetup", ["-f", "--show", file.to_str().unwrap()]);
        Self(name.trim().to_owned())
    }

    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A file system with reflinks in a loop-mounted file; requires root. Unmounted on drop.
pub struct MountedFs {
    dir: tempfile::TempDir,
}

impl MountedFs {
    fn new(mkfs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, at) = (dir.path().join("fs"), dir.path().join("mnt"));
        std::fs::File::create(&file).unwrap().set_len(600 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let args: Vec<_> = mkfs[1..].iter().copied().chain(file.to_str()).collect();
        run(mkfs[0], args);
        run("mount", ["-o", "loop", file.to_str().unwrap(), at.to_str().unwrap()]);
        Self { dir }
    }

    pub fn xfs() -> Self {
        Self::new(&["mkfs.xfs", "-q", "-m", "reflink=1"])
    }

    /// Returns one file system of every kind that supports reflinks.
    pub fn all() -> [Self; 2] {
        [Self::xfs(), Self::new(&["mkfs.btrfs", "-q"])]
    }

    /// Returns the path of a file in the file system.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }
}

impl Drop for MountedFs {
    fn drop(&mut self) {
        run("umount", [self.dir.path().join("mnt")]);
    }
}

/// Returns all guest bytes, read with qemu-img.
pub fn qemu_bytes(image: &Path, format: &str) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    run(
        "qemu-img",
        ["convert", "-f", format, "-O", "raw", image.to_str().unwrap(), raw.to_str().unwrap()],
    );
    std::fs::read(&raw).unwrap()
}

/// Asserts that `qemu-img check` finds no errors.
pub fn assert_qemu_check(image: &Path, format: &str) {
    run("qemu-img", ["check", "-f", format, image.to_str().unwrap()]);
}

/// Asserts that `qemu-img compare` finds both images identical.
pub fn assert_qemu_same(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    run(
        "qemu-img",
        ["compare", "-f", a_format, "-F", b_format, a.to_str().unwrap(), b.to_str().unwrap()],
    );
}

/// Returns true if qemu-img prints what version 10 prints: `info` lists the files of an image since
/// version 8.0, and `map` has `compressed` since 8.2. Otherwise prints what is skipped.
#[allow(clippy::print_stderr, reason = "a skipped comparison must be visible")]
pub fn qemu_img_is_recent() -> bool {
    static RECENT: LazyLock<bool> = LazyLock::new(|| {
        let text = run("qemu-img", ["--version"]);
        let version = text.split_whitespace().nth(2).unwrap();
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap());
        let recent = (numbers.next(), numbers.next()) >= (Some(8), Some(2));
        if !recent {
            eprintln!("qemu-img {version} is older than 8.2: info and map are not compared");
        }
        recent
    });
    *RECENT
}

/// Returns true if the tests run in full (`./test.sh --full`), which takes about an hour. Otherwise
/// long tests take a sample of their cases.
pub fn full() -> bool {
    std::env::var_os("DISKIMG_FULL").is_some()
}

/// Returns all cases if the tests run in full, otherwise every `step`-th, beginning with the first.
pub fn sample<T>(cases: impl IntoIterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    cases.into_iter().step_by(if full() { 1 } else { step })
}

/// Returns a proptest configuration with `default` cases if the tests run in full, otherwise with a
/// third of them; `DISKIMG_CASES` sets another number.
pub fn cases(default: u32) -> Config {
    let default = if full() { default } else { default.div_ceil(3) };
    let cases = std::env::var("DISKIMG_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() }
}
