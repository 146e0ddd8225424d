//! File names in images: every kind of name, in every field that may contain one, under every
//! policy.
//!
//! ```text
//!   names                                  fields                   policies
//!   absolute · ../ · symbolic links  ×     qcow2 backing file  ×    none      refused
//!   /proc · /sys · /dev · FIFO · socket    qcow2 data file          same-dir  refused
//!   directory · protocols · escapes        VMDK extent, parent      any       opened or an error
//! ```

use diskimg::{
    ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, Remedy, inspect,
};
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Content of a file that may be opened only under `ExternalFiles::Any`.
const SECRET: &[u8] = b"the secret of another directory.";

/// Creates an image whose header is 112 bytes long, with free space in the first cluster.
fn qcow2() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "64k"]);
    std::fs::read(path).unwrap()
}

/// Returns an image with a raw backing file.
pub fn with_backing(name: &str) -> Vec<u8> {
    let mut bytes = qcow2();
    bytes[8..16].copy_from_slice(&4096u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    bytes[4096..4096 + name.len()].copy_from_slice(name.as_bytes());
    let format = [&0xe279_2acau32.to_be_bytes()[..], &3u32.to_be_bytes(), b"raw\0\0\0\0\0"];
    bytes[112..128].copy_from_slice(&format.concat());
    bytes[128..136].fill(0);
    bytes
}

/// Returns an image with an external data file.
pub fn with_data_file(name: &str) -> Vec<u8> {
    let mut bytes = qcow2();
    bytes[79] |= 4;
    let head = [0x4441_5441u32.to_be_bytes(), (name.len() as u32).to_be_bytes()].concat();
    bytes[112..120].copy_from_slice(&head);
    bytes[120..1024].fill(0);
    bytes[120..120 + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// Returns a descriptor with one flat extent.
pub fn with_extent(name: &str) -> Vec<u8> {
    let line = format!("RW 1 FLAT \"{name}\" 0");
    diskimg_testkit::hosted::descriptor("monolithicFlat", &line, None).into_bytes()
}

/// Returns a descriptor of a disk with a parent.
fn with_parent(name: &str) -> Vec<u8> {
    let parent = Some(("12345678", name));
    diskimg_testkit::hosted::descriptor("monolithicFlat", "RW 1 ZERO", parent).into_bytes()
}

/// Creates an image that refers to a file by this name.
type CreateWithName = fn(&str) -> Vec<u8>;

/// The fields that may contain a file name.
const FIELDS: [(&str, Format, CreateWithName); 4] = [
    ("backing file", Format::Qcow2, with_backing),
    ("data file", Format::Qcow2, with_data_file),
    ("extent", Format::Vmdk, with_extent),
    ("parent", Format::Vmdk, with_parent),
];

/// Runs `work` and panics if it does not return within a minute.
fn with_timeout<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{what}: timeout"))
}

/// A directory with a secret file and a subdirectory `images` that contains files of all types.
#[cfg(target_os = "linux")]
struct TestDir {
    dir: tempfile::TempDir,
    _socket: std::os::unix::net::UnixListener,
}

#[cfg(target_os = "linux")]
impl TestDir {
    fn new() -> Self {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir_all(images.join("folder")).unwrap();
        std::fs::write(dir.path().join("secret"), SECRET.repeat(16)).unwrap();
        std::fs::write(images.join("fine"), SECRET.repeat(16)).unwrap();
        symlink("../secret", images.join("link")).unwrap();
        symlink("link", images.join("chain")).unwrap();
        symlink("..", images.join("up")).unwrap();
        symlink("/proc/self/environ", images.join("environ")).unwrap();
        symlink("/dev/zero", images.join("zero")).unwrap();
        run("mkfifo", [images.join("fifo")]);
        let socket = std::os::unix::net::UnixListener::bind(images.join("socket")).unwrap();
        Self { dir, _socket: socket }
    }

    fn images(&self) -> std::path::PathBuf {
        self.dir.path().join("images")
    }

    /// Names that lead out of the directory `images` or to something other than a regular file.
    fn names(&self) -> Vec<String> {
        let absolute = self.dir.path().join("secret").display().to_string();
        let mut names = vec![format!("file:{absolute}"), absolute];
        names.extend(
            [
                "../secret",
                "folder/../../secret",
                "link",
                "chain",
                "up/secret",
                "environ",
                "/proc/self/environ",
                "/proc/self/exe",
                "/proc/self/fd/0",
                "/proc/self/cwd/Cargo.toml",
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "/dev/zero",
                "/dev/null",
                "zero",
                "fifo",
                "socket",
                "folder",
                ".",
                "..",
                "/",
                "json:{'file.filename':'fine'}",
                "nbd://localhost/x",
                "http://localhost/x",
                "fat:rw:folder",
                "file://host/none",
            ]
            .map(str::to_owned),
        );
        names
    }
}

/// Returns all guest bytes, or kind and text of the error.
#[cfg(target_os = "linux")]
fn read(
    path: &Path,
    format: Format,
    policy: ExternalFiles,
) -> Result<Vec<u8>, (ErrorKind, String)> {
    let read = || {
        let image = OpenOptions::new().format(format).external_files(policy).open(path)?;
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0).map(|()| bytes)
    };
    read().map_err(|e: diskimg::Error| (e.kind(), e.to_string()))
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_that_leads_out_of_the_directory_or_to_no_file_is_refused() {
    let test = TestDir::new();
    for (role, format, create) in FIELDS {
        for name in test.names() {
            let path = test.images().join("image");
            std::fs::write(&path, create(&name)).unwrap();
            for policy in [ExternalFiles::None, ExternalFiles::SameDir] {
                let what = format!("{role} {name}, {policy:?}");
                let path = path.clone();
                let outcome = with_timeout(&what, move || read(&path, format, policy));
                let (kind, text) = outcome.expect_err(&what);
                // In VMDK a name with a colon is a path, and no such file exists.
                let missing = format == Format::Vmdk && name.contains(':') && kind == ErrorKind::Io;
                assert!(kind == ErrorKind::Refused || missing, "{what}: {text}");
            }
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn any_allows_files_and_block_devices_only_and_never_blocks() {
    let test = TestDir::new();
    for (role, format, create) in &FIELDS[..3] {
        for name in ["fifo", "socket", "folder", "zero", "/dev/zero", "json:{}", "nbd://h/x"] {
            let path = test.images().join("image");
            std::fs::write(&path, create(name)).unwrap();
            let what = format!("{role} {name}");
            let format = *format;
            let outcome = with_timeout(&what, move || read(&path, format, ExternalFiles::Any));
            outcome.expect_err(&what);
        }
        let path = test.images().join("image");
        std::fs::write(&path, create("../secret")).unwrap();
        let bytes =
            read(&path, *format, ExternalFiles::Any).expect("refused although any file is allowed");
        // Nothing is allocated in the image with a data file, so that nothing of it is visible.
        assert!(*role == "data file" || bytes.starts_with(SECRET), "{role}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_in_the_same_directory_is_opened_if_the_policy_allows_it() {
    let test = TestDir::new();
    for (role, format, create) in &FIELDS[..3] {
        let path = test.images().join("image");
        for name in ["fine", "./fine", "folder/../fine", "file:fine"] {
            // In VMDK a name with a colon is a path.
            if *role == "extent" && name == "file:fine" {
                continue;
            }
            std::fs::write(&path, create(name)).unwrap();
            read(&path, *format, ExternalFiles::SameDir)
                .unwrap_or_else(|e| panic!("{role}: {e:?}"));
            let (kind, _) = read(&path, *format, ExternalFiles::None).expect_err("none");
            assert_eq!(kind, ErrorKind::Refused, "{role} {name}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn info_and_inspect_open_only_the_image_whatever_it_names() {
    let test = TestDir::new();
    for (role, _, create) in FIELDS {
        for name in test.names() {
            let path = test.images().join("image");
            std::fs::write(&path, create(&name)).unwrap();
            let what = format!("{role} {name}");
            let found = with_timeout(&what, move || {
                // In a directory without other files an attempt to open one would be an error.
                let empty = tempfile::tempdir().unwrap();
                let moved = empty.path().join("image");
                std::fs::rename(&path, &moved).unwrap();
                let options = OpenOptions::new().metadata_only(true);
                let info = options.open(&moved).map(|image| image.info(0).map(drop));
                (inspect(&moved, &InspectOptions::new()).unwrap(), info.map(drop))
            });
            assert!(!found.0.is_safe(), "{what}: {:?}", found.0);
            assert_eq!(found.0.references[0].name, name, "{what}");
            // Opening a VMDK fails if its extents are missing; a qcow2 without its backing file has
            // an info.
            assert!(found.1.is_ok() || role != "backing file", "{what}: {:?}", found.1);
        }
    }
}

#[test]
fn control_characters_in_names_are_escaped_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let name = "\u{1b}[2Jx\u{202e}\u{7}";
    std::fs::write(&path, with_backing(name)).unwrap();
    let error = Image::open(&path).unwrap_err().to_string();
    assert!(!error.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{error}");
    assert!(error.contains("\\u{1b}"), "{error}");
}

#[test]
fn a_json_name_that_denotes_one_local_file_is_opened_if_any_file_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("a.raw"), [5; 64 << 10]).unwrap();
    let base = path("base.qcow2");
    let raw = path("a.raw");
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), base.to_str().unwrap()],
    );
    let overlay = path("overlay.qcow2");
    let file = format!(r#"{{"driver":"file","filename":"{}"}}"#, base.display());
    let json = format!(r#"json:{{"driver":"qcow2","file":{file}}}"#);
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &json];
    run("qemu-img", [&create, &[overlay.to_str().unwrap()][..]].concat());
    for policy in [ExternalFiles::None, ExternalFiles::SameDir] {
        let error = OpenOptions::new().external_files(policy).open(&overlay).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:#}");
        assert_eq!(error.remedy(), Some(Remedy::AllowExternalFiles), "{error:#}");
    }
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    let image = any.open(&overlay).unwrap();
    let mut bytes = [0; 512];
    image.read_at(&mut bytes, 4096).unwrap();
    assert_eq!((bytes, image.name(1)), ([5; 512], base.to_str().unwrap()));
    // Anything else in JSON remains refused.
    std::fs::write(&overlay, with_backing(r#"json:{"driver":"https","url":"https://h/x"}"#))
        .unwrap();
    let error = any.open(&overlay).unwrap_err();
    assert!(error.to_string().contains("is not a file name"), "{error:#}");
}
