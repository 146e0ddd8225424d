//! A store that fails in every way, and the client's answers.

mod store;
mod uploads;

use super::*;
use crate::http::tests::server::{Received, Reply, Server};
use diskimg::ErrorKind;
use diskimg::storage::output::Durability;
use diskimg::storage::source::RetryPolicy;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store::{Store, error, url_of};

const MIB: u64 = 1 << 20;

pub(super) fn http_options() -> HttpOptions {
    let mut http = HttpOptions::default();
    (http.netrc, http.stall_timeout) = (None, Duration::from_secs(2));
    let mut retry = RetryPolicy::default();
    (retry.attempts, retry.first_delay) = (5, Duration::from_millis(1));
    retry.max_delay = Duration::from_millis(5);
    http.retry = retry;
    http
}

fn options() -> S3Options {
    S3Options {
        http: http_options(),
        keys: Some(Keys::new("AK", "SK", None)),
        ..S3Options::default()
    }
}

fn client(store: &Store, change: impl FnOnce(&mut S3Options)) -> S3 {
    let mut options = options();
    options.endpoint = Some(store.endpoint());
    change(&mut options);
    S3::in_environment(options, Environment::empty()).expect("is valid")
}

fn at(name: &str) -> Location {
    name.parse().expect("is a URL")
}

fn open(s3: &S3) -> Result<Arc<dyn Source>> {
    s3.open(&at("s3://bucket/key"), &OpenMode::default())
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

fn read(source: &dyn Source) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Bytes of which any two neighbouring blocks differ.
fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i) as u8).collect()
}

fn write(s3: &S3, content: &[u8]) -> std::result::Result<(), String> {
    let new = s3.create(&at("s3://bucket/key")).map_err(|e| text(&e))?;
    let sink = new.sink();
    for (number, block) in (0_u64..).zip(content.chunks(1 << 20)) {
        sink.write_all_at(block, number * MIB).map_err(|e| e.to_string())?;
    }
    new.flush(Durability::Flushed).map_err(|e| e.to_string())?;
    new.publish(Durability::Flushed).map_err(|e| e.to_string())
}

/// Fails each request twice.
fn storm(code: &'static str, status: &'static str) -> impl Fn(&Received, usize) -> Option<Reply> {
    let count = AtomicUsize::new(0);
    move |received, _| {
        // The answer to HEAD has no code.
        if received.method == "HEAD" && status.starts_with('4') {
            return None;
        }
        let is_failure = count.fetch_add(1, Ordering::Relaxed) % 3 != 2;
        is_failure.then(|| error(status, code))
    }
}

#[test]
fn a_store_that_is_busy_is_asked_again() {
    for (code, status) in [
        ("SlowDown", "503 Slow Down"),
        ("InternalError", "500 Internal Server Error"),
        ("RequestTimeout", "400 Bad Request"),
    ] {
        let store = Store::start(storm(code, status));
        let s3 = client(&store, |o| o.http.retry.attempts = 30);
        let content = bytes(20 * MIB + 5);
        write(&s3, &content).expect(code);
        assert!(store.object().expect("is there") == content, "{code}");
        assert!(read(&*open(&s3).expect(code)).expect("reads") == content, "{code}");
        assert_eq!(store.uploads(), 0);
    }
}

#[test]
fn a_store_that_stays_busy_is_given_up() {
    let store = Store::start(|_, _| Some(error("503 Slow Down", "SlowDown")));
    let failed = open(&client(&store, |_| {})).expect_err("is busy");
    assert_eq!(failed.kind(), ErrorKind::Transient);
    assert!(text(&failed).contains("SlowDown"), "{}", text(&failed));
    let message = write(&client(&store, |_| {}), &bytes(20 * MIB)).expect_err("is busy");
    assert!(message.contains("SlowDown"), "{message}");
}

#[test]
fn an_error_after_the_status_of_success_is_an_error() {
    let count = AtomicUsize::new(0);
    let store = Store::start(move |received, _| {
        let completes = received.method == "POST" && received.path.contains("?uploadId=");
        (completes && count.fetch_add(1, Ordering::Relaxed) < 2)
            .then(|| error("200 OK", "InternalError"))
    });
    let content = bytes(9 * MIB);
    write(&client(&store, |_| {}), &content).expect("is repeated");
    assert!(store.object().expect("is there") == content);
    let store = Store::start(|received, _| {
        let completes = received.method == "POST" && received.path.contains("?uploadId=");
        completes.then(|| error("200 OK", "InvalidPart"))
    });
    let message = write(&client(&store, |_| {}), &content).expect_err("is refused");
    assert!(message.contains("InvalidPart"), "{message}");
    assert_eq!((store.object(), store.uploads()), (None, 0));
}

#[test]
fn a_completion_without_an_answer_is_looked_at() {
    // The connection is lost after the store has completed the upload, which is gone then.
    for is_completed in [true, false] {
        let (store, inner) = Store::deferred();
        store.set_fault(move |received, _| {
            let completes = received.method == "POST" && received.path.contains("?uploadId=");
            if !completes {
                return None;
            }
            if is_completed {
                inner.answer(received);
            }
            Some(Reply { closes: true, ..Reply::default() })
        });
        let content = bytes(9 * MIB);
        // An older object of the same length.
        let old = vec![0; content.len()];
        store.put(&old);
        let outcome = write(&client(&store, |_| {}), &content);
        assert_eq!(outcome.is_ok(), is_completed, "{outcome:?}");
        let expected = if is_completed { &content } else { &old };
        assert!(store.object().expect("is there") == *expected);
        assert_eq!(store.uploads(), 0);
    }
}

#[test]
fn an_object_that_differs_from_what_was_sent_is_an_error() {
    for (len, header, what) in [
        (9 * MIB, ("ETag", "\"00000000000000000000000000000000-2\""), "ETag"),
        (9 * MIB, ("Content-Length", "5"), "length"),
        (5, ("Content-Length", "6"), "length"),
    ] {
        let store = Store::start(move |received, _| {
            (received.method == "HEAD").then(|| {
                let len = len.to_string();
                let headers = match header.0 {
                    "ETag" => vec![("Content-Length", &*len), header],
                    _ => vec![header],
                };
                Reply::head("200 OK", &headers)
            })
        });
        let message = write(&client(&store, |_| {}), &bytes(len)).expect_err("differs");
        assert!(message.contains(&format!("the {what} of the object differs")), "{message}");
    }
}

#[test]
fn a_part_that_is_damaged_on_its_way_is_refused_and_nothing_is_left() {
    let store = Store::start(|received, _| {
        received.path.contains("partNumber=2").then(|| error("400 Bad Request", "BadDigest"))
    });
    let message = write(&client(&store, |_| {}), &bytes(30 * MIB)).expect_err("is refused");
    assert!(message.contains("BadDigest"), "{message}");
    assert_eq!((store.object(), store.uploads()), (None, 0));
}

#[test]
fn a_part_that_changes_after_it_was_sent_is_sent_again() {
    let store = Store::start(|_, _| None);
    let s3 = client(&store, |_| {});
    let new = s3.create(&at("s3://bucket/key")).expect("creates");
    let sink = new.sink();
    let mut content = bytes(30 * MIB);
    sink.write_all_at(&content, 0).expect("writes");
    let was_sent = |part: &str| store.received().iter().any(|r| r.path.contains(part));
    while !was_sent("partNumber=3") {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!was_sent("partNumber=1&"), "the header is still to come");
    content[17 * MIB as usize] ^= 1;
    sink.write_all_at(&content[17 * MIB as usize..][..1], 17 * MIB).expect("writes");
    content.truncate(26 * MIB as usize);
    sink.set_len(26 * MIB).expect("sets");
    content[0] ^= 1;
    sink.write_all_at(&content[..1], 0).expect("writes");
    new.flush(Durability::Flushed).expect("flushes");
    assert_eq!(store.object(), None, "it is visible too early");
    assert_eq!(new.read_back().expect("opens")[0].1.len(), 26 * MIB);
    new.publish(Durability::Flushed).expect("publishes");
    assert!(store.object().expect("is there") == content);
    let parts = store.received();
    let puts = parts.iter().filter(|r| r.path.contains("partNumber=")).count();
    assert!((5..=8).contains(&puts), "{puts}");
    // Each part has a checksum, and its body is signed.
    for put in parts.iter().filter(|r| r.method == "PUT") {
        assert!(put.header("content-md5").is_some());
        let hash = sigv4::sha256_hex(&put.body);
        assert_eq!(put.header("x-amz-content-sha256"), Some(&*hash));
    }
}

#[test]
fn an_upload_that_is_dropped_is_aborted() {
    let store = Store::start(|_, _| None);
    let new = client(&store, |_| {}).create(&at("s3://bucket/key")).expect("creates");
    new.sink().write_all_at(&bytes(30 * MIB), 0).expect("writes");
    while store.uploads() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(new);
    assert_eq!((store.object(), store.uploads()), (None, 0));
}

#[test]
fn an_existing_object_is_replaced_unless_that_is_forbidden() {
    let store = Store::start(|_, _| None);
    write(&client(&store, |_| {}), b"old").expect("writes");
    let message = write(&client(&store, |o| o.create_only = true), b"new").expect_err("exists");
    assert!(message.contains("exists already"), "{message}");
    write(&client(&store, |_| {}), b"new").expect("replaces");
    assert_eq!(store.object().as_deref(), Some(&b"new"[..]));
    // A store that notices it only at the end.
    let store = Store::start(|received, _| {
        (received.method == "PUT").then(|| {
            assert_eq!(received.header("if-none-match"), Some("*"));
            error("412 Precondition Failed", "PreconditionFailed")
        })
    });
    let message = write(&client(&store, |o| o.create_only = true), b"new").expect_err("exists");
    assert!(message.contains("exists already"), "{message}");
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    for answer in [
        |_: &Received| error("412 Precondition Failed", "PreconditionFailed"),
        |received: &Received| Reply::part(received, &bytes(MIB), "\"2\""),
        |received: &Received| Reply::part(received, &bytes(MIB - 1), "\"1\""),
        |_: &Received| error("404 Not Found", "NoSuchKey"),
    ] {
        let store = Store::start(move |received, number| {
            Some(match number {
                0 => Reply::part(received, &bytes(MIB), "\"1\""),
                _ => answer(received),
            })
        });
        let source = open(&client(&store, |_| {})).expect("opens");
        let message = read(&*source).expect_err("it changed");
        assert!(message.contains("changed") || message.contains("no object"), "{message}");
        let received = store.received();
        assert_eq!((received.len(), received[1].header("if-match")), (2, Some("\"1\"")));
    }
}

#[test]
fn the_region_of_the_bucket_is_learnt_once() {
    let store = Store::start(|received, _| {
        let authorization = received.header("authorization")?;
        let region = ("x-amz-bucket-region", "eu-west-9");
        (!authorization.contains("/eu-west-9/s3/"))
            .then(|| Reply::new("301 Moved Permanently", &[region], b""))
    });
    store.put(&bytes(MIB));
    let source = open(&client(&store, |_| {})).expect("opens");
    read(&*source).expect("reads");
    assert_eq!(store.received().len(), 3, "{:?}", store.received());
    // One that sends it back and forth, or to a host of its own.
    for region in ["us-east-1", "evil.example/"] {
        let store = Store::start(move |_, _| {
            let header = ("x-amz-bucket-region", region);
            Some(Reply::new("301 Moved Permanently", &[header], b""))
        });
        open(&client(&store, |_| {})).expect_err("is refused");
        assert_eq!(store.received().len(), 1);
    }
}

#[test]
fn a_clock_that_is_wrong_is_corrected_once() {
    let there = || jiff::Timestamp::now() + SignedDuration::from_hours(20);
    let answer = move |received: &Received, accepts: bool| {
        let there = there();
        let signed = received.header("x-amz-date")?.parse::<jiff::Timestamp>().expect("a time");
        let is_right = there.duration_since(signed).abs() < SignedDuration::from_mins(15);
        (!is_right || !accepts).then(|| skewed(&there.strftime("%a, %d %b %Y %H:%M:%S GMT")))
    };
    let store = Store::start(move |received, _| answer(received, true));
    store.put(&bytes(MIB));
    read(&*open(&client(&store, |_| {})).expect("opens")).expect("reads");
    assert_eq!(store.received().len(), 3);
    let store = Store::start(move |received, _| answer(received, false));
    let failed = open(&client(&store, |_| {})).expect_err("is refused");
    assert!(text(&failed).contains("clock"), "{}", text(&failed));
    assert_eq!(store.received().len(), 2);
}

#[test]
fn a_clock_that_cannot_be_right_is_not_believed() {
    for date in ["Thu, 30 Dec 9999 21:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "yesterday"] {
        let store = Store::start(move |_, _| Some(skewed(&date)));
        let failed = open(&client(&store, |_| {})).expect_err("is refused");
        assert!(text(&failed).contains("clock"), "{}", text(&failed));
        assert_eq!(store.received().len(), 1, "{date}");
        // Nothing panics when the upload is aborted, either.
        let store = Store::start(move |received, _| {
            received.path.contains("uploadId=").then(|| skewed(&date))
        });
        write(&client(&store, |_| {}), &bytes(9 * MIB)).expect_err("is refused");
    }
}

/// Returns the refusal of a store whose clock shows another time.
fn skewed(date: &dyn std::fmt::Display) -> Reply {
    let text = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    Reply::new("403 Forbidden", &[("Date", &date.to_string())], text.as_bytes())
}

#[test]
fn keys_that_expire_are_renewed() {
    let issued = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&issued);
    let store = Store::start(move |received, _| {
        if received.path == "/keys" {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let keys = format!(
                "{{\"AccessKeyId\":\"K{number}\",\"SecretAccessKey\":\"S\",\"Token\":\"T{number}\",\
                 \"Expiration\":\"2099-01-01T00:00:00Z\"}}"
            );
            return Some(Reply::new("200 OK", &[], keys.as_bytes()));
        }
        let is_new = received.header("x-amz-security-token") == Some("T1");
        assert!(received.header("authorization")?.contains(if is_new { "=K1/" } else { "=K0/" }));
        (!is_new).then(|| error("400 Bad Request", "ExpiredToken"))
    });
    store.put(&bytes(MIB));
    let uri = format!("{}/keys", store.endpoint());
    let environment = Environment::of(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
        ("AWS_ENDPOINT_URL_S3", &store.endpoint()),
    ]);
    let options = S3Options { keys: None, ..options() };
    let s3 = S3::in_environment(options, environment).expect("is valid");
    read(&*open(&s3).expect("opens")).expect("reads");
    assert_eq!(issued.load(Ordering::Relaxed), 2);
}

#[test]
fn a_store_that_repeats_secrets_is_not_quoted() {
    let echo = |received: &Received| {
        let token = received.header("x-amz-security-token").expect("is sent");
        let text = format!(
            "<Error><Code>Odd</Code><Message>The token {token} of secret+key is odd</Message></Error>"
        );
        Some(text)
    };
    // Also after the status of a success.
    for status in ["400 Bad Request", "200 OK"] {
        let store = Store::start(move |received, _| {
            let refuses = status != "200 OK" || received.path.contains("?uploadId=");
            let text = if refuses { echo(received)? } else { return None };
            Some(Reply::new(status, &[], text.as_bytes()))
        });
        let s3 = client(&store, |o| {
            o.keys = Some(Keys::new("AK", "secret+key", Some("session/token".into())));
        });
        let message = write(&s3, &bytes(9 * MIB)).expect_err("is refused");
        assert!(message.contains("Odd: The token *** of *** is odd"), "{message}");
    }
}

#[test]
fn a_version_and_other_parameters_are_sent() {
    let store = Store::start(|received, _| Some(Reply::part(received, b"content", "\"1\"")));
    let s3 = client(&store, |o| {
        o.endpoint = Some("http://127.0.0.1:1".into());
        o.requester_pays = true;
    });
    let endpoint = url_of(&store.endpoint());
    let name = format!("s3://bucket/a%20b?versionId=x%2By&region=r-1&endpoint={endpoint}");
    let source = s3.open(&at(&name), &OpenMode::default()).expect("opens");
    assert_eq!(read(&*source).expect("reads"), b"content");
    assert_eq!(source.protocol(), Some("s3"));
    let received = &store.received()[0];
    assert_eq!(received.path, "/bucket/a%20b?versionId=x%2By");
    assert_eq!(received.header("x-amz-request-payer"), Some("requester"));
    assert!(received.header("authorization").expect("is signed").contains("/r-1/s3/"));
    s3.create(&at(&name)).expect_err("a version cannot be written");
}

#[test]
fn strangers_get_no_keys_of_this_user() {
    let store = Store::start(|received, _| Some(Reply::part(received, b"content", "\"1\"")));
    let mut options = options();
    options.keys = None;
    let environment = Environment::of(&[
        ("AWS_ACCESS_KEY_ID", "A"),
        ("AWS_SECRET_ACCESS_KEY", "S"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_ENDPOINT_URL", &store.endpoint()),
    ]);
    let s3 = S3::in_environment(options.clone(), environment).expect("is valid");
    read(&*open(&s3).expect("opens")).expect("reads");
    assert_eq!(store.received()[0].header("authorization"), None);
    options.http.forbid_private_addresses = true;
    let s3 = S3::with_options(options).expect("is valid");
    assert!(s3.credentials.is_none());
    let name = format!("s3://bucket/key?endpoint={}", url_of(&store.endpoint()));
    let failed = s3.open(&at(&name), &OpenMode::default()).expect_err("is private");
    assert!(text(&failed).contains("private"), "{}", text(&failed));
}

#[test]
fn amazon_gets_checksums_of_its_own() {
    let object = |endpoint: Option<&str>| {
        let mut options = options();
        options.endpoint = endpoint.map(str::to_owned);
        let s3 = S3::in_environment(options, Environment::empty()).expect("is valid");
        s3.object(&at("s3://bucket/key")).expect("is valid")
    };
    assert!(object(None).is_amazon() && object(None).is_encrypted());
    assert!(object(Some("https://bucket.vpce-1.s3.r.vpce.amazonaws.com")).is_amazon());
    let other = object(Some("http://amazonaws.com.example.org"));
    assert!(!other.is_amazon() && !other.is_encrypted());
}
