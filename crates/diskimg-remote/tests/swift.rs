//! Real stores. What is written here is read by python-swiftclient, and the reverse.

#![cfg(all(unix, feature = "swift"))]
#![allow(clippy::unwrap_used, reason = "for tests")]

use diskimg::Error;
use diskimg::open::{Location, OpenMode, Protocol};
use diskimg::storage::output::{Durability, Publish};
use diskimg_remote::swift::{Credentials, Swift, SwiftOptions};
use diskimg_testkit::radosgw::Radosgw;
use diskimg_testkit::swift::{SwiftServer, Variables, swiftclient};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// An account of a store.
struct Account {
    variables: Variables,
    credentials: Credentials,
    folder: tempfile::TempDir,
}

impl Account {
    fn new(variables: Variables, credentials: Credentials) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { variables, credentials, folder }
    }

    fn v1(variables: Variables) -> Self {
        let value = |at: usize| variables[at].1.clone();
        let credentials = Credentials::v1(value(0), value(1), value(2));
        Self::new(variables, credentials)
    }

    fn options(&self) -> SwiftOptions {
        let mut options = SwiftOptions::default();
        options.credentials = Some(self.credentials.clone());
        options.region =
            self.variables.iter().find(|v| v.0 == "OS_REGION_NAME").map(|v| v.1.clone());
        options
    }

    fn protocol(&self) -> Swift {
        Swift::with_options(self.options()).expect("is valid")
    }

    fn client(&self, args: &[&str]) -> String {
        swiftclient(&self.variables, args)
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Uploads bytes with swiftclient.
    fn upload(&self, content: &[u8], name: &str, args: &[&str]) {
        std::fs::write(self.file("theirs"), content).unwrap();
        let file = self.file("theirs");
        let own = ["upload", "disks", &*file, "--object-name", name];
        self.client(&[&own[..], args].concat());
    }

    /// Downloads an object with swiftclient.
    fn download(&self, name: &str) -> Vec<u8> {
        let file = self.file("got");
        self.client(&["download", "disks", name, "-o", &file]);
        std::fs::read(&file).unwrap()
    }

    /// Returns the segments of objects.
    fn segments(&self) -> String {
        let containers = self.client(&["list"]);
        match containers.lines().any(|line| line == "disks_segments") {
            true => self.client(&["list", "disks_segments"]),
            false => String::new(),
        }
    }
}

/// Bytes that do not repeat.
fn bytes(len: u64) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn at(name: &str) -> Location {
    name.parse().expect("is a URL")
}

/// Returns a message with its causes.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn read(swift: &Swift, name: &str) -> Result<Vec<u8>, Error> {
    let source = swift.open(&at(name), &OpenMode::default())?;
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).expect("reads");
    Ok(bytes)
}

fn begin(swift: &Swift, name: &str, content: &[u8]) -> Box<dyn Publish> {
    let mut new = swift.create(&at(name)).unwrap_or_else(|e| panic!("{}", text(&e)));
    new.expect_len(content.len() as u64).expect("is allowed");
    let sink = new.sink();
    for (number, block) in (0_u64..).zip(content.chunks(1 << 20)) {
        sink.write_all_at(block, number * MIB).expect("writes");
    }
    sink.set_len(content.len() as u64).expect("sets");
    new
}

fn publish(new: Box<dyn Publish>) {
    new.flush(Durability::Flushed).expect("flushes");
    new.publish(Durability::Flushed).expect("publishes");
}

#[test]
#[ignore = "needs ceph-mon, ceph-osd, radosgw and python-swiftclient"]
fn the_gateway_of_ceph_is_a_store() {
    let store = Radosgw::with_swift();
    let account = Account::v1(store.swift());
    exchange(&account);
    endings(&account);
    refusals(&account);
}

#[test]
#[ignore = "needs Swift, memcached and python-swiftclient"]
fn swift_is_a_store() {
    let server = SwiftServer::start();
    let account = Account::v1(server.v1());
    exchange(&account);
    endings(&account);
    refusals(&account);
    tokens(&account, || server.forget_tokens());
}

#[test]
#[ignore = "needs Swift, Keystone, memcached and python-swiftclient"]
fn keystone_issues_tokens() {
    let server = SwiftServer::with_keystone();
    let url = server.fact("keystone");
    let account =
        Account::new(server.keystone(), Credentials::password(url, "demo", "demo/pw", "demo"));
    account.client(&["post", "disks"]);
    tokens(&account, || server.replace_keys());

    // Which endpoint of the catalogue is used.
    let mut options = account.options();
    options.region = None;
    let message = refused(options.clone(), "swift://disks/long");
    assert!(message.contains("in several regions"), "{message}");
    options.interface = Some("internal".into());
    let protocol = Swift::with_options(options.clone()).expect("is valid");
    assert_eq!(read(&protocol, "swift://disks/long").expect("opens").len() as u64, 70 * MIB);
    options.region = Some("R3".into());
    let message = refused(options, "swift://disks/long");
    assert!(message.contains("R1 internal"), "{message}");

    // Other identities.
    let mut options = account.options();
    options.credentials =
        Some(Credentials::application(url, server.fact("application"), "app-secret"));
    let protocol = Swift::with_options(options.clone()).expect("is valid");
    assert_eq!(read(&protocol, "swift://disks/long").expect("opens").len() as u64, 70 * MIB);
    for wrong in [
        Credentials::application(url, server.fact("application"), "wrong-secret"),
        Credentials::password(url, "demo", "wrong-secret", "demo"),
    ] {
        options.credentials = Some(wrong);
        let message = refused(options.clone(), "swift://disks/long");
        assert!(message.contains("is wrong, or not allowed"), "{message}");
        assert!(!message.contains("wrong-secret"), "{message}");
    }
}

/// Objects are exchanged with swiftclient.
fn exchange(account: &Account) {
    let swift = account.protocol();
    account.client(&["post", "disks"]);
    // Theirs, read here: in one piece, in segments with a manifest, and in segments with a prefix.
    let content = bytes(23 * MIB + 17);
    for (name, url, args) in [
        ("a b/ü#1", "swift://disks/a%20b/ü#1", &[][..]),
        ("100%/+?&=~", "swift://disks/100%25/+%3F&=~", &["-S", "5242880", "--use-slo"]),
        ("dlo", "swift://disks/dlo", &["-S", "5242880", "--use-dlo"]),
    ] {
        account.upload(&content, name, args);
        assert!(read(&swift, url).expect(name) == content, "{name}");
    }
    account.upload(b"", "empty", &[]);
    assert_eq!(read(&swift, "swift://disks/empty").expect("opens"), b"");
    let segments = account.segments();

    // Ours, read there.
    for len in [0, 1, 32 * MIB, 32 * MIB + 1, 70 * MIB + 3] {
        let name = format!("ours/{len} +%");
        let url = format!("swift://disks/ours/{len}%20+%25");
        let content = bytes(len);
        let new = begin(&swift, &url, &content);
        let listed = account.client(&["list", "disks"]);
        assert!(!listed.contains(&name), "{name} is visible too early");
        publish(new);
        assert!(account.download(&name) == content, "{name}");
        assert!(read(&swift, &url).expect("opens") == content, "{name}");
    }
    let own = account.segments();
    let own = own.lines().filter(|line| !segments.contains(line));
    // Of the last two objects.
    assert_eq!(own.filter(|line| line.starts_with("ours/")).count(), 2 + 3);

    // An object that is replaced while it is read.
    for args in [&[][..], &["-S", "5242880", "--use-slo", "--leave-segments"]] {
        account.upload(&content, "replaced", args);
        let source =
            swift.open(&at("swift://disks/replaced"), &OpenMode::default()).expect("opens");
        let mut other = content.clone();
        other[9 << 20] ^= 1;
        account.upload(&other, "replaced", args);
        let mut found = vec![0; content.len()];
        let failed = source.read_exact_at(&mut found, 0).expect_err("has changed");
        assert!(failed.to_string().contains("changed"), "{failed}");
    }
}

/// What is given up leaves nothing.
fn endings(account: &Account) {
    let swift = account.protocol();
    let before = (account.client(&["list", "disks"]), account.segments());
    let new = begin(&swift, "swift://disks/dropped", &bytes(100 * MIB));
    while account.segments() == before.1 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(account.segments().contains("dropped/"));
    drop(new);
    assert_eq!((account.client(&["list", "disks"]), account.segments()), before);

    // An object that became shorter has no other segments.
    let new = begin(&swift, "swift://disks/shorter", &bytes(130 * MIB));
    while account.segments().lines().filter(|line| line.starts_with("shorter/")).count() < 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    new.sink().set_len(34 * MIB).expect("sets");
    publish(new);
    assert!(account.download("shorter") == bytes(34 * MIB));
    let segments = account.segments();
    assert_eq!(segments.lines().filter(|line| line.starts_with("shorter/")).count(), 2);
}

/// Opens an object, which fails.
fn refused(options: SwiftOptions, name: &str) -> String {
    let swift = Swift::with_options(options).expect("is valid");
    text(&read(&swift, name).expect_err("is refused"))
}

fn refusals(account: &Account) {
    let message = refused(account.options(), "swift://disks/absent");
    assert!(message.contains("no container or object"), "{message}");
    let error = account.protocol().create(&at("swift://absent/x")).expect_err("is refused");
    assert!(text(&error).contains("no container 'absent'"), "{}", text(&error));
    let [url, user] = [0, 1].map(|at| account.variables[at].1.clone());
    let mut options = account.options();
    options.credentials = Some(Credentials::v1(&url, &user, "wrong-key"));
    let message = refused(options, "swift://disks/empty");
    assert!(message.contains("is wrong") && !message.contains("wrong-key"), "{message}");

    // As Glance records the location of an image.
    let login = [&user, &account.variables[2].1].map(|text| text.replace('/', "%2F"));
    let location = url.replace("http://", &format!("swift+http://{}:{}@", login[0], login[1]));
    let swift = Swift::new().expect("is valid");
    assert_eq!(read(&swift, &format!("{location}/disks/empty")).expect("opens"), b"");
    let error = swift.create(&at(&format!("{location}/disks/new"))).expect_err("is only read");
    assert!(text(&error).contains("only read"), "{}", text(&error));

    // An object that exists is not replaced, whether it is small or large.
    let mut only = account.options();
    only.create_only = true;
    let only = Swift::with_options(only).expect("is valid");
    let error = only.create(&at("swift://disks/empty")).expect_err("exists");
    assert!(text(&error).contains("exists already"), "{}", text(&error));
    for len in [4, 34 * MIB] {
        let url = format!("swift://disks/raced-{len}");
        let (ours, theirs) = (begin(&only, &url, &bytes(len)), bytes(5));
        publish(begin(&account.protocol(), &url, &theirs));
        ours.flush(Durability::Flushed).expect("flushes");
        let error = ours.publish(Durability::Flushed).expect_err("it exists now");
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(read(&account.protocol(), &url).expect("opens"), theirs);
    }
    assert!(!account.segments().contains("raced"), "{}", account.segments());
}

/// Tokens that become invalid are renewed.
fn tokens(account: &Account, invalidate: impl Fn()) {
    let swift = account.protocol();
    let content = bytes(70 * MIB);
    let new = begin(&swift, "swift://disks/long", &content);
    invalidate();
    publish(new);
    assert!(account.download("long") == content);
    let source = swift.open(&at("swift://disks/long"), &OpenMode::default()).expect("opens");
    invalidate();
    let mut found = vec![0; content.len()];
    source.read_exact_at(&mut found, 0).expect("reads");
    assert!(found == content);
}
