//! Protocols that the caller adds: what they open, and that no name inside an image reaches them.

use super::external_files::{with_backing, with_data_file, with_extent};
use diskimg::open::{Location, Node, OpenMode, Protocol, Protocols};
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Result, Secrets, Source,
};
use diskimg_testkit::tool::run;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// `test://PATH`: files in memory.
#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    /// The URLs that were opened.
    opened: Mutex<Vec<String>>,
}

const BASE: &[u8] = b"the bytes of the backing file...";

impl Files {
    fn new(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Arc<Self> {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Arc::new(Self { files, opened: Mutex::default() })
    }

    fn options(self: &Arc<Self>) -> OpenOptions {
        OpenOptions::new().protocol(Arc::clone(self) as Arc<dyn Protocol>)
    }

    fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.opened.lock().unwrap())
    }
}

fn text(at: &Location) -> &str {
    let Location::Url(url) = at else { panic!("{at:?} is not a URL") };
    assert_eq!(url.scheme(), "test");
    url.as_str()
}

impl Protocol for Files {
    fn schemes(&self) -> &[&str] {
        &["test"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        let url = text(at);
        self.opened.lock().unwrap().push(url.to_owned());
        let name = url.strip_prefix("test://").ok_or_else(|| Error::invalid("no //"))?;
        if name.starts_with("locked/") && how.secrets.get("key") != Some(b"open sesame") {
            return Err(Error::refused("wrong key"));
        }
        let missing = || Error::io("cannot open it", std::io::ErrorKind::NotFound);
        let name = name.rsplit_once('@').map_or(name, |(_, name)| name);
        Ok(Arc::new(MemorySource::new(self.files.get(name).ok_or_else(missing)?.clone())))
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let base = text(base);
        let directory = &base[..base.rfind('/').unwrap() + 1];
        // A server that resolves `..` itself.
        let joined = match name.strip_prefix("../") {
            Some(name) => format!("test://{name}"),
            None => format!("{directory}{name}"),
        };
        joined.parse()
    }
}

fn read(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns the error of opening `url`.
fn error(options: &OpenOptions, url: &str) -> Error {
    options.open(url).map(|image| image.name(0).to_owned()).expect_err(url)
}

#[test]
fn an_image_is_opened_and_converted_by_its_url() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i >> 9) as u8).collect();
    std::fs::write(&raw, &bytes).unwrap();
    run("qemu-img", ["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    let files = Files::new([("a.qcow2", std::fs::read(&qcow2).unwrap())]);
    let image = files.options().open("test://a.qcow2").unwrap();
    assert_eq!((image.format(), image.name(0)), (Format::Qcow2, "test://a.qcow2"));
    assert_eq!(read(&image), bytes);
    let info = image.info(0).unwrap();
    assert_eq!((info.virtual_size, &*info.filename), (1 << 20, "test://a.qcow2"));
    let output = dir.path().join("out.raw");
    Convert::new(image).format(Format::Raw).run(&output).unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), bytes);
    // A format that is named is not probed, for URLs either.
    let image = files.options().format(Format::Raw).open("test://a.qcow2").unwrap();
    assert_eq!(read(&image)[..4], *b"QFI\xfb");
    let options = files.options().metadata_only(true);
    options.open_location(&"test://a.qcow2".parse().unwrap()).unwrap();
}

#[test]
fn unknown_schemes_and_files_are_errors() {
    let files = Files::new([]);
    for (options, name, message) in [
        (OpenOptions::new(), "test://a", "test://a: Unknown protocol 'test'"),
        (OpenOptions::new().format(Format::Raw), "test:a", "test:a: Unknown protocol 'test'"),
        (files.options(), "tests://a", "tests://a: Unknown protocol 'tests'"),
        (OpenOptions::new(), "ftp://me:hunter2@h/x", "ftp://***@h/x: Unknown protocol 'ftp'"),
        (files.options(), "json:{}", "json:{}: Unknown protocol 'json'"),
        (files.options(), "test:a", "test:a: no //"),
    ] {
        let error = error(&options, name).to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let error = error(&files.options(), "test://user:hunter2@missing");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().starts_with("test://***@missing: cannot open it"), "{error}");
    assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    // A path is not a URL, whatever it looks like.
    let path = Location::Path("test://a".into());
    assert_eq!(files.options().open_location(&path).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(files.opened().len(), 2);
}

#[test]
fn the_first_protocol_with_a_scheme_is_used_and_file_is_not_replaced() {
    #[derive(Debug)]
    struct Wrong;
    impl Protocol for Wrong {
        fn schemes(&self) -> &[&str] {
            &["file", "test"]
        }
        fn open(&self, at: &Location, _: &OpenMode) -> Result<Arc<dyn Source>> {
            panic!("{at}");
        }
        fn join(&self, base: &Location, _: &str) -> Result<Location> {
            panic!("{base}");
        }
    }
    let files = Files::new([("a", BASE.repeat(16))]);
    let mut protocols = Protocols::new();
    protocols.insert(files.clone()).insert(Arc::new(Wrong));
    let options = OpenOptions::new().format(Format::Raw).protocols(protocols);
    assert_eq!(options.open("test://a").unwrap().size(), 512);
    let file = tempfile::NamedTempFile::new().unwrap();
    options.open(file.path()).unwrap();
    options.open(format!("file:{}", file.path().display())).unwrap();
}

#[test]
fn a_protocol_gets_the_secrets() {
    let files = Files::new([("locked/a", BASE.repeat(16))]);
    let options = files.options().format(Format::Raw);
    assert_eq!(error(&options, "test://locked/a").kind(), ErrorKind::Refused);
    let mut secrets = Secrets::new();
    secrets.insert("key", *b"open sesame");
    options.secrets(secrets).open("test://locked/a").unwrap();
}

/// Names in an image that was opened by a URL, and the URL that they stand for under the policies
/// `SameDir` and `Any`.
const NAMES: &[(&str, Option<&str>, Option<&str>)] = &[
    ("base", Some("test://dir/base"), Some("test://dir/base")),
    ("./base", Some("test://dir/./base"), Some("test://dir/./base")),
    ("sub/base", Some("test://dir/sub/base"), Some("test://dir/sub/base")),
    ("../other", None, Some("test://other")),
    ("sub/../../other", None, Some("test://dir/sub/../../other")),
    ("..\\other", None, Some("test://dir/..\\other")),
    ("%2E%2e/other", None, Some("test://dir/%2E%2e/other")),
    ("x/.%2e%2fother", None, Some("test://dir/x/.%2e%2fother")),
    ("..%5cother", None, Some("test://dir/..%5cother")),
    ("..base", Some("test://dir/..base"), Some("test://dir/..base")),
    ("/etc/passwd", None, None),
    ("\\etc\\passwd", None, None),
    ("//host/x", None, None),
    ("file:base", None, None),
    ("file:///etc/passwd", None, None),
    ("test://dir/base", None, None),
    ("nbd:unix:/run/x", None, None),
    ("json:{}", None, None),
];

#[test]
fn a_name_in_an_image_is_relative_to_its_url_if_the_policy_allows_it() {
    for (name, same_dir, any) in NAMES {
        // An empty image has no clusters in its data file.
        for (is_read, image) in
            [(true, with_backing(name)), (false, with_data_file(name)), (true, with_extent(name))]
        {
            let files = Files::new([
                ("dir/top", image),
                ("dir/base", BASE.repeat(16)),
                ("dir/./base", BASE.repeat(16)),
                ("dir/sub/base", BASE.repeat(16)),
                ("other", BASE.repeat(16)),
                ("dir/sub/../../other", BASE.repeat(16)),
                ("dir/..\\other", BASE.repeat(16)),
                ("dir/%2E%2e/other", BASE.repeat(16)),
                ("dir/x/.%2e%2fother", BASE.repeat(16)),
                ("dir/..%5cother", BASE.repeat(16)),
                ("dir/..base", BASE.repeat(16)),
            ]);
            // For URLs, nothing is allowed by default.
            let policies = [
                (None, &None),
                (Some(ExternalFiles::None), &None),
                (Some(ExternalFiles::SameDir), same_dir),
                (Some(ExternalFiles::Any), any),
            ];
            for (policy, url) in policies {
                let mut options = files.options();
                if let Some(policy) = policy {
                    options = options.external_files(policy);
                }
                let opened = options.open("test://dir/top");
                let urls = files.opened();
                assert_eq!(urls[0], "test://dir/top");
                match (opened, url) {
                    (Ok(image), Some(url)) => {
                        assert_eq!(urls.last().unwrap(), url, "{name} {policy:?}");
                        let found = read(&image)[..512] == BASE.repeat(16);
                        assert_eq!(found, is_read, "{name} {policy:?}");
                    }
                    (Err(error), None) => {
                        assert_eq!(error.kind(), ErrorKind::Refused, "{name} {policy:?}: {error}");
                        assert_eq!(urls.len(), 1, "{name} {policy:?}: {urls:?}");
                    }
                    (opened, _) => panic!("{name} {policy:?}: {opened:?}"),
                }
            }
        }
    }
}

#[test]
fn a_backing_chain_of_urls_is_followed_and_may_not_leave_its_directory() {
    let files = Files::new([
        ("dir/top", with_backing("sub/middle").replace_format("qcow2")),
        ("dir/sub/middle", with_backing("base")),
        ("dir/sub/base", BASE.repeat(16)),
        ("dir/loop", with_backing("loop").replace_format("qcow2")),
        ("dir/over", with_backing("out").replace_format("qcow2")),
        ("dir/out", with_backing("../dir/sub/base")),
    ]);
    let options = files.options().external_files(ExternalFiles::SameDir);
    let image = options.open("test://dir/top").unwrap();
    let names: Vec<_> = (0..3).map(|depth| image.name(depth)).collect();
    assert_eq!(names, ["test://dir/top", "test://dir/sub/middle", "test://dir/sub/base"]);
    assert_eq!(read(&image)[..512], BASE.repeat(16));
    assert_eq!(error(&options, "test://dir/loop").kind(), ErrorKind::Limit);
    assert_eq!(error(&options, "test://dir/over").kind(), ErrorKind::Refused);
}

trait ReplaceFormat {
    fn replace_format(self, format: &str) -> Self;
}

impl ReplaceFormat for Vec<u8> {
    /// Sets the format of the backing file of an image that [`with_backing`] created.
    fn replace_format(mut self, format: &str) -> Self {
        self[116..120].copy_from_slice(&(format.len() as u32).to_be_bytes());
        self[120..128].fill(0);
        self[120..120 + format.len()].copy_from_slice(format.as_bytes());
        self
    }
}

/// A protocol cannot be made to open what the policy does not allow, even if its `join` does not
/// resolve names as documented.
#[test]
fn a_joined_url_outside_the_directory_is_refused() {
    #[derive(Debug)]
    struct Elsewhere(Arc<Files>, &'static str);
    impl Protocol for Elsewhere {
        fn schemes(&self) -> &[&str] {
            &["test"]
        }
        fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
            self.0.open(at, how)
        }
        fn join(&self, _: &Location, _: &str) -> Result<Location> {
            self.1.parse()
        }
    }
    for joined in ["test://other", "test://dir2/x", "tests://dir/x", "/etc/passwd"] {
        let files = Files::new([("dir/top", with_backing("base")), ("other", BASE.to_vec())]);
        let protocol = Arc::new(Elsewhere(files.clone(), joined));
        let options = OpenOptions::new().protocol(protocol).external_files(ExternalFiles::SameDir);
        assert_eq!(error(&options, "test://dir/top").kind(), ErrorKind::Refused, "{joined}");
        assert_eq!(files.opened(), ["test://dir/top"]);
    }
}

#[test]
fn a_file_that_names_a_url_is_refused_under_every_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for create in [with_backing, with_data_file] {
        let files = Files::new([("base", BASE.repeat(16))]);
        std::fs::write(&path, create("test://base")).unwrap();
        for policy in [ExternalFiles::None, ExternalFiles::SameDir, ExternalFiles::Any] {
            let options = files.options().external_files(policy);
            let error = options.open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{policy:?}");
            let node = Node::from_options(&format!("file.filename={}", path.display())).unwrap();
            assert_eq!(options.open_node(&node, "x").unwrap_err().kind(), ErrorKind::Refused);
            assert!(files.opened().is_empty());
        }
    }
}

/// Opens the image that `--image-opts` would describe.
fn open_node(options: &OpenOptions, text: &str) -> Result<Image> {
    options.open_node(&Node::from_options(text)?, "node")
}

#[test]
fn a_node_has_the_scheme_as_its_driver() {
    let files = Files::new([
        ("dir/top", with_backing("base")),
        ("dir/base", BASE.repeat(16)),
        ("me:hunter2@raw", vec![]),
        ("raw", BASE.repeat(32)),
    ]);
    let options = files.options();
    let image = open_node(&options, "driver=test,url=test://raw").unwrap();
    assert_eq!((image.format(), image.name(0), image.size()), (Format::Raw, "test://raw", 1024));
    let part = "driver=raw,size=512,offset=512,file.driver=test,file.url=test://me:hunter2@raw";
    let image = open_node(&options, part).unwrap();
    let file = r#"{"driver": "test", "url": "test://***@raw"}"#;
    let name = format!(r#"json:{{"driver": "raw", "offset": 512, "size": 512, "file": {file}}}"#);
    assert_eq!((image.name(0), image.size()), (&*name, 512));
    // The policy is that of an image which is opened by its URL.
    let top = "file.driver=test,file.url=test://dir/top";
    assert_eq!(open_node(&options, top).unwrap_err().kind(), ErrorKind::Refused);
    let same_dir = options.clone().external_files(ExternalFiles::SameDir);
    let image = open_node(&same_dir, top).unwrap();
    assert_eq!((image.name(0), image.name(1)), ("test://dir/top", "test://dir/base"));
    let explicit = format!("{top},backing.driver=test,backing.url=test://raw");
    let image = open_node(&options, &explicit).unwrap();
    assert_eq!((read(&image)[..512] == BASE.repeat(16), image.name(1)), (true, "test://raw"));
    for (text, message) in [
        ("driver=test", "node: The 'test' block driver requires the option 'url'"),
        ("driver=test,url=raw", "node: The URL of a 'test' node must start with 'test:'"),
        ("driver=test,url=tests://x", "node: The URL of a 'test' node must start with 'test:'"),
        ("driver=test,url=test://x", "node: 'test://x': cannot open it"),
        (
            "driver=raw,file.driver=test,file.url=test://raw,file.filename=x",
            "node: Block protocol 'test' doesn't support the option 'filename'",
        ),
        ("driver=tests,url=tests://x", "node: Unknown driver 'tests'"),
    ] {
        let error = open_node(&options, text).expect_err(text).to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let error = open_node(&OpenOptions::new(), "driver=test,url=test://raw").unwrap_err();
    assert!(error.to_string().starts_with("node: Unknown driver 'test' ("), "{error}");
}

#[test]
fn a_data_file_may_be_given_by_its_url() {
    let dir = tempfile::tempdir().unwrap();
    let (path, data) = (dir.path().join("a.qcow2"), dir.path().join("data"));
    let option = format!("data_file={}", data.display());
    let args = ["create", "-q", "-f", "qcow2", "-o", &option, path.to_str().unwrap(), "64k"];
    run("qemu-img", args);
    run("qemu-io", ["-c", "write -P 7 0 64k", path.to_str().unwrap()]);
    assert!(std::fs::read(&data).unwrap()[..4] == [7; 4]);
    let files = Files::new([("data", [8; 65536].to_vec())]);
    // The policy does not apply to what the caller describes.
    let options = files.options().external_files(ExternalFiles::None);
    let node = format!("file.filename={}", path.display());
    assert_eq!(open_node(&options, &node).unwrap_err().kind(), ErrorKind::Refused);
    let node = format!("{node},data-file.driver=test,data-file.url=test://data");
    assert_eq!(read(&open_node(&options, &node).unwrap()), [8; 65536]);
}

/// `temp:NAME`: an image that the protocol has downloaded to a file of this host.
#[derive(Debug)]
struct Downloads(std::path::PathBuf);

impl Protocol for Downloads {
    fn schemes(&self) -> &[&str] {
        &["temp"]
    }

    fn open(&self, _: &Location, _: &OpenMode) -> Result<Arc<dyn Source>> {
        let file = FileSource::open(&self.0).map_err(|e| Error::io("cannot open it", e))?;
        Ok(Arc::new(file))
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        // As RFC 3986 resolves a name, also if the base has a host and no path.
        let Location::Url(url) = base else { panic!("{base:?}") };
        let path = url.as_str().split(['?', '#']).next().unwrap();
        format!("{}{name}", &path[..path.rfind('/').unwrap() + 1]).parse()
    }
}

#[test]
fn an_image_inside_another_one_of_a_url_names_no_files_of_this_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("host"), [b'S'; 4096]).unwrap();
    for name in ["host".to_owned(), path("host").display().to_string()] {
        std::fs::write(path("download"), with_backing(&name)).unwrap();
        let protocol = Arc::new(Downloads(path("download")));
        let options = OpenOptions::new().protocol(protocol).metadata_only(true);
        let info = options.open("temp://h/a").unwrap().info(0).unwrap();
        assert_eq!(info.full_backing_filename.as_deref(), Some(&*name));
        for node in [
            "driver=qcow2,file.driver=temp,file.url=temp://h/a",
            "driver=qcow2,file.driver=raw,file.file.driver=temp,file.file.url=temp://h/a",
            "driver=qcow2,file.driver=raw,file.size=1M,file.file.driver=raw,\
             file.file.file.driver=temp,file.file.file.url=temp://h/a",
        ] {
            let node = node.replace("file.size=1M,", "");
            for policy in [None, Some(ExternalFiles::SameDir), Some(ExternalFiles::Any)] {
                let protocol = Arc::new(Downloads(path("download")));
                let mut options = OpenOptions::new().protocol(protocol);
                if let Some(policy) = policy {
                    options = options.external_files(policy);
                }
                let opened = options.open_node(&Node::from_options(&node).unwrap(), "node");
                let found = opened.map(|image| (image.name(1).to_owned(), read(&image)));
                // The protocol returns the same file for every URL, so the chain is a loop.
                let error = found.unwrap_err();
                let refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Corrupt);
                assert!(refused, "{node} {policy:?}: {error:#}");
            }
        }
    }
}

#[test]
fn another_host_is_not_in_the_directory_of_a_url_without_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let download = dir.path().join("download");
    std::fs::write(&download, with_backing("evil.com/steal")).unwrap();
    let options = OpenOptions::new().protocol(Arc::new(Downloads(download)));
    let error = error(&options.external_files(ExternalFiles::SameDir), "temp://bucket.host?id=1");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:#}");
    assert!(error.to_string().contains("is not in the image's directory"), "{error:#}");
}

#[test]
fn an_ovf_of_a_url_is_not_a_raw_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, ova) = (dir.path().join("a.raw"), dir.path().join("a.ova"));
    std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    Convert::new(image).format(Format::Ova).run(&ova).unwrap();
    run("tar", ["-xf", ova.to_str().unwrap(), "-C", dir.path().to_str().unwrap()]);
    let files = Files::new([("a.ovf", std::fs::read(dir.path().join("a.ovf")).unwrap())]);
    for policy in [ExternalFiles::None, ExternalFiles::SameDir, ExternalFiles::Any] {
        let error = error(&files.options().external_files(policy), "test://a.ovf");
        assert!(error.to_string().contains("use an .ova"), "{error:#}");
    }
}

#[test]
fn descriptions_print_no_passwords() {
    let node = Node::from_options("driver=ftp,url=ftp://me:hunter2@h/x").unwrap();
    let printed = format!("{node:?}");
    assert!(printed.contains("url") && !printed.contains("hunter2"), "{printed}");
    let json = r#"{"driver":"ftp","url":"ftp://me:hunter2@h/x"}"#;
    let printed = format!("{:?}", Node::from_json(json).unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
}
