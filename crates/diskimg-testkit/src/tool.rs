//! Running the reference tools.

use proptest::test_runner::Config;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a tool and gives what it said, whatever its exit code.
pub fn try_run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| {
        panic!("{program} cannot be run ({e}); ./test.sh names what these tests need")
    })
}

/// Runs a tool that must succeed; gives its standard output.
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

/// A block device over a file, where this process may make one.
pub struct Loop(String);

impl Loop {
    pub fn over(file: &Path) -> Self {
        let name = run("losetup", ["-f", "--show", file.to_str().unwrap()]);
        Self(name.trim().to_owned())
    }

    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A file system with reflinks, mounted for the time of a test.
pub struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
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

    pub fn all() -> [Self; 2] {
        [Self::xfs(), Self::new(&["mkfs.btrfs", "-q"])]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", [self.dir.path().join("mnt")]);
    }
}

/// The guest's bytes according to qemu-img.
pub fn qemu_bytes(image: &Path, format: &str) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    run(
        "qemu-img",
        ["convert", "-f", format, "-O", "raw", image.to_str().unwrap(), raw.to_str().unwrap()],
    );
    std::fs::read(&raw).unwrap()
}

/// qemu-img finds nothing wrong with the image.
pub fn assert_qemu_check(image: &Path, format: &str) {
    run("qemu-img", ["check", "-f", format, image.to_str().unwrap()]);
}

/// qemu-img sees the same bytes in both.
pub fn assert_qemu_same(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    run(
        "qemu-img",
        ["compare", "-f", a_format, "-F", b_format, a.to_str().unwrap(), b.to_str().unwrap()],
    );
}

/// How many cases a property runs: `usual`, or what `DISKIMG_CASES` says.
pub fn cases(usual: u32) -> Config {
    let cases = std::env::var("DISKIMG_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() }
}
