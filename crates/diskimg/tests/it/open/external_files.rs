//! Names of other files in images, of every kind, where every format has a place for one: who may
//! follow them, and that nothing else happens.
//!
//! ```text
//!   kinds of names                         places                   policies
//!   absolute · ../ · symbolic links  ×     qcow2 backing file  ×    none      refused
//!   /proc · /sys · /dev · FIFO · socket    qcow2 data file          same-dir  refused
//!   directory · protocols · escapes        VMDK extent, parent      any       an error, or opened
//! ```

use diskimg::{ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, inspect};
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// What nobody but `ExternalFiles::Any` may show.
const SECRET: &[u8] = b"the secret of another directory.";

/// An image with room in its first cluster, whose header is 112 bytes long.
fn qcow2() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "64k"]);
    std::fs::read(path).unwrap()
}

/// Over this backing file, in raw.
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

/// With its guest's bytes in this file.
pub fn with_data_file(name: &str) -> Vec<u8> {
    let mut bytes = qcow2();
    bytes[79] |= 4;
    let head = [0x4441_5441u32.to_be_bytes(), (name.len() as u32).to_be_bytes()].concat();
    bytes[112..120].copy_from_slice(&head);
    bytes[120..1024].fill(0);
    bytes[120..120 + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// A descriptor with this extent.
pub fn with_extent(name: &str) -> Vec<u8> {
    let line = format!("RW 1 FLAT \"{name}\" 0");
    diskimg_testkit::hosted::descriptor("monolithicFlat", &line, None).into_bytes()
}

/// A disk that is a child of this one.
fn with_parent(name: &str) -> Vec<u8> {
    let parent = Some(("12345678", name));
    diskimg_testkit::hosted::descriptor("monolithicFlat", "RW 1 ZERO", parent).into_bytes()
}

type Craft = fn(&str) -> Vec<u8>;

/// Where a name may stand, and in which format.
const PLACES: [(&str, Format, Craft); 4] = [
    ("backing file", Format::Qcow2, with_backing),
    ("data file", Format::Qcow2, with_data_file),
    ("extent", Format::Vmdk, with_extent),
    ("parent", Format::Vmdk, with_parent),
];

/// The answer, unless there is none: a hang is a failure and not a test that never ends.
fn within_seconds<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{what}: no answer"))
}

/// A directory with what should not be found, and one beside it with an image.
#[cfg(target_os = "linux")]
struct Place {
    dir: tempfile::TempDir,
    _socket: std::os::unix::net::UnixListener,
}

#[cfg(target_os = "linux")]
impl Place {
    fn new() -> Self {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir_all(home.join("folder")).unwrap();
        std::fs::write(dir.path().join("secret"), SECRET.repeat(16)).unwrap();
        std::fs::write(home.join("fine"), SECRET.repeat(16)).unwrap();
        symlink("../secret", home.join("link")).unwrap();
        symlink("link", home.join("chain")).unwrap();
        symlink("..", home.join("up")).unwrap();
        symlink("/proc/self/environ", home.join("environ")).unwrap();
        symlink("/dev/zero", home.join("zero")).unwrap();
        run("mkfifo", [home.join("fifo")]);
        let socket = std::os::unix::net::UnixListener::bind(home.join("socket")).unwrap();
        Self { dir, _socket: socket }
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("home")
    }

    /// Every kind of name that leads out of the directory, or to what is no file in it.
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

/// Reads all of an image; what it holds, or what kind of error there was.
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
    let place = Place::new();
    for (role, format, craft) in PLACES {
        for name in place.names() {
            let path = place.home().join("image");
            std::fs::write(&path, craft(&name)).unwrap();
            for policy in [ExternalFiles::None, ExternalFiles::SameDir] {
                let what = format!("{role} {name}, {policy:?}");
                let path = path.clone();
                let outcome = within_seconds(&what, move || read(&path, format, policy));
                let (kind, text) = outcome.expect_err(&what);
                // VMDK's names are paths, whatever is in them: that file is not there.
                let missing = format == Format::Vmdk && name.contains(':') && kind == ErrorKind::Io;
                assert!(kind == ErrorKind::Refused || missing, "{what}: {text}");
            }
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn any_means_files_and_block_devices_and_waits_for_nothing() {
    let place = Place::new();
    for (role, format, craft) in &PLACES[..3] {
        for name in ["fifo", "socket", "folder", "zero", "/dev/zero", "json:{}", "nbd://h/x"] {
            let path = place.home().join("image");
            std::fs::write(&path, craft(name)).unwrap();
            let what = format!("{role} {name}");
            let format = *format;
            let outcome = within_seconds(&what, move || read(&path, format, ExternalFiles::Any));
            outcome.expect_err(&what);
        }
        let path = place.home().join("image");
        std::fs::write(&path, craft("../secret")).unwrap();
        let bytes = read(&path, *format, ExternalFiles::Any).expect("is allowed");
        // A data file without clusters shows nothing.
        assert!(*role == "data file" || bytes.starts_with(SECRET), "{role}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_of_the_directory_is_opened_where_that_is_allowed() {
    let place = Place::new();
    for (role, format, craft) in &PLACES[..3] {
        let path = place.home().join("image");
        for name in ["fine", "./fine", "folder/../fine", "file:fine"] {
            // VMDK's names are paths, whatever is in them.
            if *role == "extent" && name == "file:fine" {
                continue;
            }
            std::fs::write(&path, craft(name)).unwrap();
            read(&path, *format, ExternalFiles::SameDir)
                .unwrap_or_else(|e| panic!("{role}: {e:?}"));
            let (kind, _) = read(&path, *format, ExternalFiles::None).expect_err("none");
            assert_eq!(kind, ErrorKind::Refused, "{role} {name}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn facts_and_verdicts_open_one_file_whatever_it_names() {
    let place = Place::new();
    for (role, _, craft) in PLACES {
        for name in place.names() {
            let path = place.home().join("image");
            std::fs::write(&path, craft(&name)).unwrap();
            let what = format!("{role} {name}");
            let found = within_seconds(&what, move || {
                // Nothing is there any more but the image: whoever looked for a file would say so.
                let alone = tempfile::tempdir().unwrap();
                let moved = alone.path().join("image");
                std::fs::rename(&path, &moved).unwrap();
                let options = OpenOptions::new().metadata_only(true);
                let facts = options.open(&moved).map(|image| image.info(0).map(drop));
                (inspect(&moved, &InspectOptions::new()).unwrap(), facts.map(drop))
            });
            assert!(!found.0.is_safe(), "{what}: {:?}", found.0);
            assert_eq!(found.0.references[0].name, name, "{what}");
            // A VMDK whose parts are not there has no facts; what is there of a qcow2 has.
            assert!(found.1.is_ok() || role != "backing file", "{what}: {:?}", found.1);
        }
    }
}

#[test]
fn a_name_that_commands_a_terminal_is_escaped_wherever_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let name = "\u{1b}[2Jx\u{202e}\u{7}";
    std::fs::write(&path, with_backing(name)).unwrap();
    let error = Image::open(&path).unwrap_err().to_string();
    assert!(!error.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{error}");
    assert!(error.contains("\\u{1b}"), "{error}");
}
