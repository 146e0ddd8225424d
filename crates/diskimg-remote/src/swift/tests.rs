//! A store that fails in every way, and the client's answers.

use super::*;
use crate::http::tests::server::{Received, Reply, Server};
use crate::upload::hash::hex;
use diskimg::ErrorKind;
use diskimg::storage::output::Durability;
use diskimg::storage::source::RetryPolicy;
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What a test answers instead of the store.
type Fault = dyn Fn(&Received) -> Option<Reply> + Send + Sync;

/// An object, its `ETag`, and whether it has a manifest.
type Stored = (Vec<u8>, String, bool);

/// A store in memory, with one account.
struct Store {
    server: Server,
    objects: Arc<Mutex<BTreeMap<String, Stored>>>,
}

impl Store {
    fn start(fault: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let objects = Arc::new(Mutex::new(BTreeMap::new()));
        let (own, fault): (_, Box<Fault>) = (Arc::clone(&objects), Box::new(fault));
        let tokens = AtomicUsize::new(0);
        let server = Server::start(move |received, _| {
            if received.path == "/auth/v1.0" {
                let host = received.header("host").expect("has one");
                let url = format!("http://{host}/v1/a");
                let token = format!("T{}", tokens.fetch_add(1, Ordering::Relaxed));
                let headers = [("X-Auth-Token", &*token), ("X-Storage-Url", &*url)];
                return Reply::new("200 OK", &headers, b"");
            }
            fault(received).unwrap_or_else(|| answer(received, &own))
        });
        Self { server, objects }
    }

    fn client(&self, change: impl FnOnce(&mut SwiftOptions)) -> Swift {
        let mut options = SwiftOptions::default();
        (options.http.netrc, options.http.stall_timeout) = (None, Duration::from_secs(2));
        let mut retry = RetryPolicy::default();
        (retry.attempts, retry.first_delay) = (5, Duration::from_millis(1));
        retry.max_delay = Duration::from_millis(5);
        options.http.retry = retry;
        options.credentials = Some(Credentials::v1(self.server.url("/auth/v1.0"), "u", "key"));
        change(&mut options);
        Swift::in_environment(options, Environment::empty()).expect("is valid")
    }

    fn put(&self, content: &[u8]) {
        let stored = (content.to_vec(), hex(&Md5::digest(content)), false);
        self.objects.lock().expect("no panic").insert("/v1/a/c/o".into(), stored);
    }

    fn object(&self) -> Option<Vec<u8>> {
        self.objects.lock().expect("no panic").get("/v1/a/c/o").map(|(bytes, ..)| bytes.clone())
    }

    fn segments(&self) -> usize {
        let objects = self.objects.lock().expect("no panic");
        objects.keys().filter(|path| path.starts_with("/v1/a/c_segments/")).count()
    }

    fn count(&self, what: impl Fn(&Received) -> bool) -> usize {
        self.server.received().iter().filter(|received| what(received)).count()
    }
}

/// Answers a request as a store does.
fn answer(received: &Received, objects: &Mutex<BTreeMap<String, Stored>>) -> Reply {
    let mut objects = objects.lock().expect("no panic");
    let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
    let refused = |status: &str| match &*received.method {
        "HEAD" => head(status, &[]),
        _ => Reply::new(status, &[("Content-Type", "text/html")], b"<html>no</html>"),
    };
    if path == "/info" {
        let info =
            b"{\"swift\":{\"max_file_size\":5368709122},\"slo\":{\"max_manifest_segments\":5}}";
        return Reply::new("200 OK", &[], info);
    }
    let is_object = path.matches('/').count() > 3;
    match &*received.method {
        "HEAD" if !is_object => head("204 No Content", &[]),
        "HEAD" => match objects.get(path) {
            Some((bytes, etag, is_manifest)) => {
                let len = bytes.len().to_string();
                let mut headers = vec![("Content-Length", &*len), ("Etag", etag)];
                if *is_manifest {
                    headers.push(("X-Static-Large-Object", "True"));
                }
                head("200 OK", &headers)
            }
            None => refused("404 Not Found"),
        },
        "GET" => match objects.get(path) {
            Some((bytes, etag, _)) => Reply::part(received, bytes, etag),
            None => refused("404 Not Found"),
        },
        "DELETE" => match objects.remove(path) {
            Some(_) => Reply::new("204 No Content", &[], b""),
            None => refused("404 Not Found"),
        },
        "PUT" if received.header("if-none-match").is_some() && objects.contains_key(path) => {
            refused("412 Precondition Failed")
        }
        "PUT" if query == "multipart-manifest=put" => {
            let entries: serde_json::Value = serde_json::from_slice(&received.body).expect("is");
            let (mut content, mut hashes) = (Vec::new(), String::new());
            for entry in entries.as_array().expect("is a list") {
                let path = format!("/v1/a{}", entry["path"].as_str().expect("is a text"));
                let Some((bytes, etag, _)) = objects.get(&path) else {
                    return refused("400 Bad Request");
                };
                assert_eq!(entry["etag"].as_str(), Some(&**etag), "an old segment");
                content.extend(bytes);
                hashes += etag;
            }
            let etag = format!("\"{}\"", hex(&Md5::digest(hashes.as_bytes())));
            objects.insert(path.into(), (content, etag.clone(), true));
            Reply::new("201 Created", &[("Etag", &etag)], b"")
        }
        "PUT" if is_object => {
            let etag = hex(&Md5::digest(&received.body));
            assert_eq!(received.header("etag"), Some(&*etag));
            objects.insert(path.into(), (received.body.clone(), etag.clone(), false));
            Reply::new("201 Created", &[("Etag", &etag)], b"")
        }
        "PUT" => Reply::new("201 Created", &[], b""),
        _ => refused("405 Method Not Allowed"),
    }
}

fn head(status: &str, headers: &[(&str, &str)]) -> Reply {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let bytes = format!("HTTP/1.1 {status}\r\n{lines}\r\n").into_bytes();
    Reply { bytes, ..Reply::default() }
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

fn open(swift: &Swift) -> Result<Arc<dyn Source>> {
    swift.open(&at("swift://c/o"), &OpenMode::default())
}

fn read(source: &dyn Source) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Bytes of which any two neighbouring blocks differ.
fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i) as u8).collect()
}

fn write(swift: &Swift, content: &[u8]) -> std::result::Result<(), String> {
    let new = swift.create(&at("swift://c/o")).map_err(|e| text(&e))?;
    let sink = new.sink();
    for (number, block) in (0_u64..).zip(content.chunks(1 << 20)) {
        sink.write_all_at(block, number * MIB).map_err(|e| e.to_string())?;
    }
    new.flush(Durability::Flushed).map_err(|e| e.to_string())?;
    new.publish(Durability::Flushed).map_err(|e| e.to_string())
}

fn is_manifest(received: &Received) -> bool {
    received.method == "PUT" && received.path.ends_with("?multipart-manifest=put")
}

fn is_segment(received: &Received) -> bool {
    received.method == "PUT" && received.path.starts_with("/v1/a/c_segments/")
}

fn unavailable() -> Reply {
    Reply::new("503 Service Unavailable", &[], b"")
}

#[test]
fn a_store_that_is_busy_is_asked_again() {
    let count = AtomicUsize::new(0);
    let store = Store::start(move |received| {
        let is_failure = count.fetch_add(1, Ordering::Relaxed) % 3 != 2;
        let reply = if received.method == "HEAD" { head("503 Busy", &[]) } else { unavailable() };
        (is_failure && received.path != "/info").then_some(reply)
    });
    let swift = store.client(|o| o.http.retry.attempts = 30);
    for len in [5, 33 * MIB] {
        let content = bytes(len);
        write(&swift, &content).expect("writes");
        assert!(store.object().expect("is there") == content);
        assert!(read(&*open(&swift).expect("opens")).expect("reads") == content);
    }
    assert_eq!(store.segments(), 2);
    let store = Store::start(|_| Some(unavailable()));
    let failed = open(&store.client(|_| {})).expect_err("is busy");
    assert_eq!(failed.kind(), ErrorKind::Transient);
}

#[test]
fn a_token_that_is_refused_is_renewed_once() {
    let unauthorized = |received: &Received| match &*received.method {
        "HEAD" => head("401 Unauthorized", &[]),
        _ => Reply::new("401 Unauthorized", &[], b""),
    };
    let store = Store::start(move |received| {
        (received.header("x-auth-token") == Some("T0")).then(|| unauthorized(received))
    });
    let content = bytes(33 * MIB);
    write(&store.client(|_| {}), &content).expect("writes");
    assert!(store.object().expect("is there") == content);
    let store = Store::start(move |received| Some(unauthorized(received)));
    let error = text(&open(&store.client(|_| {})).expect_err("is refused"));
    assert!(error.contains("token was refused") && !error.contains("T1"), "{error}");
    assert_eq!(store.count(|received| received.path == "/auth/v1.0"), 2);
    // One that was given cannot be renewed.
    let own = Credentials::token(store.server.url("/v1/a"), "given-token");
    let error = text(&open(&store.client(|o| o.credentials = Some(own))).expect_err("is refused"));
    assert!(error.contains("token was refused") && !error.contains("given"), "{error}");
}

#[test]
fn a_lost_reply_to_the_manifest_is_made_up_for_by_a_look_at_the_object() {
    let content = bytes(40 * MIB);
    for create_only in [false, true] {
        // The store has done it, and the reply is lost.
        let objects = Arc::new(Mutex::new(None::<Arc<Mutex<BTreeMap<String, Stored>>>>));
        let shared = Arc::clone(&objects);
        let is_first = AtomicUsize::new(0);
        let store = Store::start(move |received| {
            let objects = shared.lock().expect("no panic").clone()?;
            if !is_manifest(received) || is_first.fetch_add(1, Ordering::Relaxed) > 0 {
                return None;
            }
            Some(answer(received, &objects).cut(1000))
        });
        *objects.lock().expect("no panic") = Some(Arc::clone(&store.objects));
        write(&store.client(|o| o.create_only = create_only), &content).expect("writes");
        assert!(store.object().expect("is there") == content);
        assert_eq!(store.segments(), 2);
    }
    // It has not, as far as can be known: a late request must find the segments.
    let store = Store::start(|received| is_manifest(received).then(unavailable));
    store.put(b"old");
    let error = write(&store.client(|_| {}), &content).expect_err("is not clear");
    assert!(error.contains("were kept") && error.contains("c_segments/o/"), "{error}");
    assert_eq!((store.object(), store.segments()), (Some(b"old".to_vec()), 2));
}

#[test]
fn what_the_store_refuses_leaves_nothing() {
    let content = bytes(40 * MIB);
    let refused = |status: &'static str, text: &'static [u8]| {
        Reply::new(status, &[("Content-Type", "text/plain")], text)
    };
    let other = [("Etag", "0cc175b9c0f1b6a831c399e269772661")];
    type Answer = Box<dyn Fn(&Received) -> Option<Reply> + Send + Sync>;
    let answers: [(Answer, &str); 4] = [
        (
            Box::new(move |r| is_manifest(r).then(|| refused("400 Bad Request", b"Errors:\n/c/o"))),
            "Errors:",
        ),
        (
            Box::new(move |r| is_segment(r).then(|| Reply::new("201 Created", &other, b""))),
            "that of other bytes",
        ),
        (
            Box::new(move |r| is_segment(r).then(|| Reply::new("201 Created", &[], b""))),
            "without ETag",
        ),
        (Box::new(move |r| is_segment(r).then(|| refused("413 Too Large", b"Quota"))), "its quota"),
    ];
    for (fault, message) in answers {
        let store = Store::start(fault);
        store.put(b"old");
        let error = write(&store.client(|_| {}), &content).expect_err(message);
        assert!(error.contains(message), "{error}");
        assert_eq!((store.object(), store.segments()), (Some(b"old".to_vec()), 0), "{message}");
    }
    // More than the cluster allows: five segments, of which the last ones can be of 5 GiB.
    let store = Store::start(|_| None);
    let mut new = store.client(|_| {}).create(&at("swift://c/o")).expect("creates");
    new.expect_len(4 << 30).expect("is allowed");
    new.sink().set_len(20 << 30).expect("is sparse");
    let error = new.flush(Durability::Flushed).expect_err("is too long");
    assert!(error.to_string().contains("too many parts"), "{error}");
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    let store = Store::start(|_| None);
    store.put(&bytes(5 * MIB));
    let source = open(&store.client(|_| {})).expect("opens");
    let mut other = bytes(5 * MIB);
    other[0] = 1;
    store.put(&other);
    let error = read(&*source).expect_err("has changed");
    assert!(error.contains("changed"), "{error}");
    // The same bytes, stored anew: it may have been another object in between.
    let stamp = AtomicUsize::new(0);
    let content = bytes(5 * MIB);
    let store = Store::start(move |received| {
        let stamp = stamp.fetch_add(1, Ordering::Relaxed).to_string();
        (received.method == "GET" && received.path.ends_with("/o")).then(|| {
            let mut reply = Reply::part(received, &content, "\"e\"");
            let at = reply.bytes.windows(2).position(|two| two == b"\r\n").expect("has lines") + 2;
            reply.bytes.splice(at..at, format!("X-Timestamp: {stamp}\r\n").into_bytes());
            reply
        })
    });
    let error = read(&*open(&store.client(|_| {})).expect("opens")).expect_err("has changed");
    assert!(error.contains("changed"), "{error}");
}

#[test]
fn a_byte_too_many_is_not_the_beginning_of_the_next_response() {
    let content = bytes(20 * MIB);
    let object = content.clone();
    let store = Store::start(move |received| {
        (received.method == "GET" && received.path.ends_with("/o")).then(|| {
            let mut reply = Reply::part(received, &object, "\"e\"");
            let at = reply.bytes.windows(2).position(|two| two == b"\r\n").expect("has lines") + 2;
            reply.bytes.splice(at..at, *b"X-Object-Manifest: c/o-\r\n");
            reply.bytes.push(b'x');
            reply
        })
    });
    let source = open(&store.client(|_| {})).expect("opens");
    assert!(read(&*source).expect("reads") == content);
}

#[test]
fn urls_of_strangers_are_not_read_as_this_user() {
    let store = Store::start(|_| None);
    let strict = |o: &mut SwiftOptions| o.http.forbid_private_addresses = true;
    let swift = store.client(|o| {
        strict(o);
        o.credentials = None;
    });
    let error = open(&swift).expect_err("has no credentials");
    assert!(error.to_string().contains("strangers"), "{error}");
    // Those that the caller passes are meant, but not for this host.
    let error = text(&open(&store.client(strict)).expect_err("is private"));
    assert!(error.contains("private"), "{error}");
    assert_eq!(store.server.received().len(), 0);
}
