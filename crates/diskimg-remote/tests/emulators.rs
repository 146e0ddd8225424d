//! Emulators of stores. What is written here is read by the clients of their vendors, and the reverse.

#![cfg(all(unix, feature = "azure", feature = "gcs"))]
#![allow(clippy::unwrap_used, reason = "for tests")]

use diskimg::open::{Location, OpenMode, Protocol};
use diskimg::storage::output::{Durability, Publish};
use diskimg::{Convert, Error, ErrorKind, ExternalFiles, Format, OpenOptions, Output};
use diskimg_remote::azure::{Azure, AzureOptions};
use diskimg_remote::gcs::{Gcs, GcsOptions};
use diskimg_remote::http::Http;
use diskimg_testkit::stores::{Azurite, GoogleEmulator};
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

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

fn read(protocol: &dyn Protocol, name: &str) -> Result<Vec<u8>, Error> {
    let source = protocol.open(&at(name), &OpenMode::default())?;
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).expect("reads");
    Ok(bytes)
}

fn write(protocol: &dyn Protocol, name: &str, content: &[u8]) -> Box<dyn Publish> {
    let new = protocol.create(&at(name)).expect("creates");
    new.sink().write_all_at(content, 0).expect("writes");
    new
}

fn publish(new: Box<dyn Publish>) -> Result<(), String> {
    let flushed = new.flush(Durability::Flushed);
    flushed.and_then(|()| new.publish(Durability::Flushed)).map_err(|e| e.to_string())
}

fn options(store: &Azurite) -> AzureOptions {
    let mut options = AzureOptions::default();
    options.endpoint = Some(store.endpoint());
    options.account = Some(Azurite::ACCOUNT.to_owned());
    options.key = Some(Azurite::KEY.to_owned());
    options.http.netrc = None;
    options
}

fn azure(options: AzureOptions) -> Azure {
    Azure::with_options(options).expect("is valid")
}

#[test]
#[ignore = "needs azurite and azure-storage-blob"]
fn blobs_are_exchanged_with_microsofts_client() {
    let store = Azurite::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    store.client(&["create-container", "disks"]);
    store.client(&["create-container", "public", "public"]);
    let own = azure(options(&store));

    // Theirs, read here: in one piece, and as blocks of 1 MiB.
    for (len, name, url) in [
        (700_001, "a b/\u{fc}#1", "az://disks/a%20b/\u{fc}#1"),
        (23 * MIB + 17, "100%/+?&=~", "az://disks/100%25/+%3F&=~"),
        (0, "empty", "az://disks/empty"),
    ] {
        let content = bytes(len);
        std::fs::write(file("theirs"), &content).unwrap();
        store.client(&["put", "disks", name, &file("theirs")]);
        assert!(read(&own, url).expect(url) == content, "{url}");
    }

    // Ours, read there.
    for (len, name) in
        [(0, "ours/0"), (5, "ours/5"), (8 * MIB, "ours/8"), (40 * MIB + 3, "ours/40")]
    {
        let content = bytes(len);
        publish(write(&own, &format!("az://disks/{name}"), &content)).expect("publishes");
        store.client(&["get", "disks", name, &file("got")]);
        assert!(std::fs::read(file("got")).unwrap() == content, "{name}");
        let blocks = len.div_ceil(8 * MIB);
        assert_eq!(store.client(&["blocks", "disks", name]).trim(), format!("{blocks} 0"));
    }
    images(&store, folder.path());
    changes(&store, &file("x"));
    refusals(&store, &file("x"));
}

/// Writes headers last, and reads an image by its chain.
fn images(store: &Azurite, folder: &Path) {
    let raw = folder.join("disk.raw");
    let mut content = bytes(30 * MIB);
    content.resize((90 * MIB) as usize, 0);
    content.extend(bytes(3 * MIB));
    std::fs::write(&raw, &content).unwrap();
    let url = "az://disks/images/disk.qcow2";
    let place = azure(options(store)).create(&at(url)).expect("creates");
    let image = OpenOptions::new().format(Format::Raw).open(&raw).expect("opens");
    Convert::new(image).format(Format::Qcow2).run_to(Output::to_place(place)).expect("converts");
    let got = folder.join("got.qcow2").display().to_string();
    store.client(&["get", "disks", "images/disk.qcow2", &got]);
    let same = ["compare", "-f", "raw", "-F", "qcow2", &*raw.display().to_string(), &got];
    diskimg_testkit::tool::run("qemu-img", same);
    let over = folder.join("over.qcow2").display().to_string();
    let create = ["create", "-q", "-f", "qcow2", "-u", "-b", "disk.qcow2", "-F", "qcow2", &over];
    let size = content.len().to_string();
    diskimg_testkit::tool::run("qemu-img", [&create[..], &[&*size]].concat());
    store.client(&["put", "disks", "images/over.qcow2", &over]);
    let protocol = OpenOptions::new().external_files(ExternalFiles::SameDir);
    let protocol = protocol.protocol(Arc::new(azure(options(store))));
    let opened = protocol.open("az://disks/images/over.qcow2").expect("opens");
    assert_eq!(opened.layers().len(), 2);
    let back = folder.join("back.raw");
    let output = Output::create(&back).expect("creates");
    Convert::new(opened).format(Format::Raw).run_to(output).expect("converts");
    assert!(std::fs::read(&back).unwrap() == content);
}

fn changes(store: &Azurite, file: &str) {
    let own = azure(options(store));
    // Read while it is replaced, by as many bytes.
    let put = |fill: u8| {
        std::fs::write(file, vec![fill; (9 * MIB) as usize]).unwrap();
        store.client(&["put", "disks", "changing", file]);
    };
    put(1);
    let source = own.open(&at("az://disks/changing"), &OpenMode::default()).expect("opens");
    let snapshot = store.client(&["snapshot", "disks", "changing"]).trim().replace(':', "%3A");
    put(2);
    let error = source.read_exact_at(&mut [0; 512], 8 * MIB).expect_err("it changed");
    assert!(error.to_string().contains("the blob changed while it was read"), "{error}");
    let old = read(&own, &format!("az://disks/changing?snapshot={snapshot}")).expect("reads");
    assert!(old == vec![1; (9 * MIB) as usize]);

    // An upload that is given up changes nothing.
    let new = write(&own, "az://disks/changing", &vec![3; (20 * MIB) as usize]);
    new.flush(Durability::Flushed).expect("flushes");
    drop(new);
    assert!(read(&own, "az://disks/changing").expect("reads")[0] == 2);
    let new = write(&own, "az://disks/changing", &vec![4; (20 * MIB) as usize]);
    publish(new).expect("publishes");
    assert!(read(&own, "az://disks/changing").expect("reads") == vec![4; (20 * MIB) as usize]);
    assert_eq!(store.client(&["blocks", "disks", "changing"]).trim(), "3 0");

    // The blocks of the first one of two are gone when the second is complete.
    let slow = write(&own, "az://disks/two", &vec![5; (20 * MIB) as usize]);
    slow.flush(Durability::Flushed).expect("flushes");
    publish(write(&own, "az://disks/two", &vec![6; (20 * MIB) as usize])).expect("publishes");
    let error = publish(slow).expect_err("its blocks are gone");
    assert!(error.contains("InvalidBlockList"), "{error}");
    assert!(read(&own, "az://disks/two").expect("reads") == vec![6; (20 * MIB) as usize]);

    // A blob that exists is not replaced.
    let mut only = options(store);
    only.create_only = true;
    let error = azure(only.clone()).create(&at("az://disks/two")).expect_err("exists");
    assert!(text(&error).contains("the blob exists already"), "{}", text(&error));
    let raced = write(&azure(only), "az://disks/raced", b"ours");
    publish(write(&own, "az://disks/raced", b"theirs")).expect("publishes");
    let error = publish(raced).expect_err("it exists now");
    assert!(error.contains("the blob exists already"), "{error}");
    assert_eq!(read(&own, "az://disks/raced").expect("reads"), b"theirs");
}

fn refusals(store: &Azurite, file: &str) {
    let refused = |options: AzureOptions, name: &str| {
        let error = read(&azure(options), name).expect_err("is refused");
        (error.kind(), text(&error))
    };
    let (kind, message) = refused(options(store), "az://disks/absent");
    assert!(kind == ErrorKind::Io && message.contains("BlobNotFound"), "{message}");
    let (_, message) = refused(options(store), "az://missing/absent");
    assert!(message.contains("ContainerNotFound"), "{message}");
    let mut wrong = options(store);
    wrong.key = Some("d3Jvbmc=".to_owned());
    let (_, message) = refused(wrong, "az://disks/two");
    assert!(message.contains("403") && !message.contains("d3Jvbmc"), "{message}");

    // Without a key, and with a signature that allows to read or to write.
    let mut anonymous = options(store);
    (anonymous.key, anonymous.anonymous) = (None, true);
    refused(anonymous.clone(), "az://disks/two");
    std::fs::write(file, b"for all").unwrap();
    store.client(&["put", "public", "a", file]);
    assert_eq!(read(&azure(anonymous), "az://public/a").expect("is public"), b"for all");
    let signed = |permissions: &str| {
        let token = store.client(&["sas", "disks", "signed", permissions]).trim().to_owned();
        let mut signed = options(store);
        (signed.key, signed.sas_token) = (None, Some(token.clone()));
        (azure(signed), token)
    };
    // A user with write permission only cannot read the blob.
    let (writer, token) = signed("cw");
    publish(write(&writer, "az://disks/signed", b"signed")).expect("publishes");
    let error = text(&read(&writer, "az://disks/signed").expect_err("may not be read"));
    assert!(!error.contains(token.split("sig=").nth(1).expect("is signed")), "{error}");
    let (reader, token) = signed("r");
    assert_eq!(read(&reader, "az://disks/signed").expect("reads"), b"signed");
    // Any client of HTTP can use such a signature.
    let url = format!("{}/disks/signed?{token}", store.endpoint());
    assert_eq!(read(&Http::new().expect("is valid"), &url).expect("reads"), b"signed");
    let new = write(&reader, "az://disks/signed", b"other");
    let error = publish(new).expect_err("may not be written");
    assert!(error.contains("403"), "{error}");
}

#[test]
#[ignore = "needs gcp-storage-emulator and google-cloud-storage"]
fn objects_of_googles_client_are_read() {
    let store = GoogleEmulator::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("theirs").display().to_string();
    store.client(&["create-bucket", "bucket"]);
    let mut options = GcsOptions::default();
    options.endpoint = Some(store.endpoint());
    options.http.netrc = None;
    let gcs = Gcs::with_options(options).expect("is valid");
    for (len, name) in [(700_001, "a/b"), (9 * MIB + 3, "c.raw")] {
        let content = bytes(len);
        std::fs::write(&file, &content).unwrap();
        store.client(&["put", "bucket", name, &file]);
        assert!(read(&gcs, &format!("gs://bucket/{name}")).expect("opens") == content, "{name}");
    }
    let error = text(&read(&gcs, "gs://bucket/absent").expect_err("is absent"));
    assert!(error.contains("404"), "{error}");
}
