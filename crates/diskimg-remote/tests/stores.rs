//! Real stores. What is written here is read by boto3, and the reverse.

#![cfg(all(unix, feature = "s3"))]
#![allow(clippy::unwrap_used, reason = "for tests")]

use diskimg::open::{Location, OpenMode, Protocol};
use diskimg::storage::output::{Durability, Publish};
use diskimg::storage::sink::Sink;
use diskimg::{Convert, Error, ErrorKind, Format, OpenOptions, Output};
use diskimg_remote::s3::{Keys, S3, S3Options};
use diskimg_testkit::radosgw::Radosgw;
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn options(store: &Radosgw) -> S3Options {
    let mut options = S3Options::default();
    options.endpoint = Some(store.endpoint());
    options.keys = Some(Keys::new(Radosgw::ACCESS_KEY, Radosgw::SECRET_KEY, None));
    options.http.netrc = None;
    options
}

fn s3(options: S3Options) -> S3 {
    S3::with_options(options).expect("is valid")
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

/// Bytes that do not repeat.
fn bytes(len: u64) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn read(s3: &S3, name: &str) -> Result<Vec<u8>, Error> {
    let source = s3.open(&at(name), &OpenMode::default())?;
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).expect("reads");
    Ok(bytes)
}

fn publish(new: Box<dyn Publish>) {
    new.flush(Durability::Flushed).expect("flushes");
    new.publish(Durability::Flushed).expect("publishes");
}

#[test]
#[ignore = "needs ceph-mon, ceph-osd, radosgw and boto3"]
fn objects_are_exchanged_with_boto3() {
    let store = Radosgw::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    store.boto3(&["create-bucket", "bucket"]);
    let s3 = s3(options(&store));

    // Theirs, read here.
    let content = bytes(23 * MIB + 17);
    std::fs::write(file("theirs"), &content).unwrap();
    for (command, key, url) in [
        ("put", "a b/ü#1", "s3://bucket/a%20b/ü#1"),
        ("upload", "100%/+?&=~", "s3://bucket/100%25/+%3F&=~"),
    ] {
        store.boto3(&[command, "bucket", key, &file("theirs")]);
        assert!(read(&s3, url).expect("opens") == content, "{key}");
    }
    std::fs::write(file("empty"), b"").unwrap();
    store.boto3(&["put", "bucket", "empty", &file("empty")]);
    assert_eq!(read(&s3, "s3://bucket/empty").expect("opens"), b"");

    // Ours, read there: sizes around those of parts, written in several orders.
    for (number, len) in
        [0, 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 41 * MIB + 3].into_iter().enumerate()
    {
        let key = format!("ours/{len} +%");
        let url = format!("s3://bucket/ours/{len}%20+%25");
        let content = bytes(len);
        let new = s3.create(&at(&url)).expect("creates");
        write(&*new.sink(), &content, number);
        assert!(!store.boto3(&["list", "bucket"]).contains(&key), "{key} is visible too early");
        publish(new);
        store.boto3(&["get", "bucket", &key, &file("got")]);
        assert!(std::fs::read(file("got")).unwrap() == content, "{key}");
        assert!(read(&s3, &url).expect("opens") == content, "{key}");
    }
    assert_eq!(store.boto3(&["uploads", "bucket"]), "");

    // One that is given up leaves nothing.
    let new = s3.create(&at("s3://bucket/dropped")).expect("creates");
    write(&*new.sink(), &bytes(40 * MIB), 0);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(store.boto3(&["uploads", "bucket"]).starts_with("dropped "));
    drop(new);
    assert_eq!(store.boto3(&["uploads", "bucket"]), "");
    assert!(!store.boto3(&["list", "bucket"]).contains("dropped"));

    images(&store, &s3, folder.path());
    refusals(&store);
}

/// Writes `content` with a sink, in several orders.
fn write(sink: &dyn Sink, content: &[u8], order: usize) {
    let blocks = content.chunks(1 << 20).enumerate();
    let write = |(number, block): (usize, &[u8])| {
        sink.write_all_at(block, (number as u64) << 20).expect("writes");
    };
    match order % 3 {
        0 => blocks.for_each(write),
        1 => blocks.rev().for_each(write),
        _ => {
            // Everything is overwritten, and the end is cut off.
            sink.write_all_at(&bytes(content.len() as u64 + MIB)[500..], 0).expect("writes");
            std::thread::sleep(std::time::Duration::from_millis(200));
            blocks.for_each(write);
        }
    }
    sink.set_len(content.len() as u64).expect("sets");
}

/// Images of formats that write their headers last.
fn images(store: &Radosgw, s3: &S3, folder: &Path) {
    let raw = folder.join("disk.raw");
    let mut content = bytes(30 * MIB);
    content.resize((90 * MIB) as usize, 0);
    content.extend(bytes(3 * MIB));
    std::fs::write(&raw, &content).unwrap();
    let url = "s3://bucket/images/disk.qcow2";
    let place = s3.create(&at(url)).expect("creates");
    let image = OpenOptions::new().format(Format::Raw).open(&raw).expect("opens");
    let convert = Convert::new(image).format(Format::Qcow2);
    convert.run_to(Output::to_place(place)).expect("converts");
    let got = folder.join("got.qcow2").display().to_string();
    store.boto3(&["get", "bucket", "images/disk.qcow2", &got]);
    let same = ["compare", "-f", "raw", "-F", "qcow2", &*raw.display().to_string(), &got];
    diskimg_testkit::tool::run("qemu-img", same);
    let protocol = S3::with_options(options(store)).expect("is valid");
    let opened = OpenOptions::new().protocol(Arc::new(protocol)).open(url).expect("opens");
    assert_eq!(opened.size(), content.len() as u64);
    let back = folder.join("back.raw");
    let output = Output::create(&back).expect("creates");
    Convert::new(opened).format(Format::Raw).run_to(output).expect("converts");
    assert!(std::fs::read(&back).unwrap() == content);
}

fn refusals(store: &Radosgw) {
    let refused = |options: S3Options, name: &str| {
        let error = read(&s3(options), name).expect_err("is refused");
        (error.kind(), text(&error))
    };
    let (kind, message) = refused(options(store), "s3://bucket/absent");
    assert!(kind == ErrorKind::Io && message.contains("no object"), "{message}");
    let (_, message) = refused(options(store), "s3://no-bucket/absent");
    assert!(message.contains("no bucket"), "{message}");
    let mut wrong = options(store);
    wrong.keys = Some(Keys::new(Radosgw::ACCESS_KEY, "wrong", None));
    let (_, message) = refused(wrong, "s3://bucket/empty");
    assert!(message.contains("secret access key is wrong"), "{message}");
    let mut anonymous = options(store);
    anonymous.keys = None;
    anonymous.anonymous = true;
    let (_, message) = refused(anonymous.clone(), "s3://bucket/empty");
    assert!(message.contains("AccessDenied"), "{message}");
    store.boto3(&["publish-bucket", "bucket"]);
    assert_eq!(read(&s3(anonymous), "s3://bucket/empty").expect("is public"), b"");

    // An object that exists is not replaced.
    let mut only = options(store);
    only.create_only = true;
    let error = s3(only.clone()).create(&at("s3://bucket/empty")).expect_err("exists");
    assert!(text(&error).contains("exists already"), "{}", text(&error));
    let new = s3(only.clone()).create(&at("s3://bucket/raced")).expect("creates");
    new.sink().write_all_at(b"ours", 0).expect("writes");
    let other = s3(options(store)).create(&at("s3://bucket/raced")).expect("creates");
    other.sink().write_all_at(b"theirs", 0).expect("writes");
    publish(other);
    new.flush(Durability::Flushed).expect("flushes");
    let error = new.publish(Durability::Flushed).expect_err("it exists now");
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(read(&s3(options(store)), "s3://bucket/raced").expect("opens"), b"theirs");

    // Versions.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x").display().to_string();
    store.boto3(&["keep-versions", "bucket"]);
    let put = |content: &str| {
        std::fs::write(&file, content).unwrap();
        store.boto3(&["put", "bucket", "versioned", &file]).trim().to_owned()
    };
    let (old, _) = (put("old"), put("newer"));
    let url = format!("s3://bucket/versioned?versionId={old}");
    assert_eq!(read(&s3(options(store)), &url).expect("opens"), b"old");
    assert_eq!(read(&s3(options(store)), "s3://bucket/versioned").expect("opens"), b"newer");
}
