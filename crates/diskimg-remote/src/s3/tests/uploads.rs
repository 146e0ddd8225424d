//! How uploads end.

use super::*;
use diskimg::storage::sink::Sink;
use std::io;
use std::time::Instant;

/// Creates an object and writes it, without its end.
fn begun(s3: &S3, content: &[u8]) -> Box<dyn Publish> {
    let new = s3.create(&at("s3://bucket/key")).expect("creates");
    let sink: Arc<dyn Sink> = new.sink();
    sink.write_all_at(content, 0).expect("writes");
    new
}

#[test]
fn an_upload_can_be_stopped_while_it_waits_for_the_store() {
    // A store that is busy for long, and one that does not answer at all.
    let busy = |_: &Received| {
        Reply::new(
            "503 Slow Down",
            &[("Retry-After", "25")],
            b"<Error><Code>SlowDown</Code></Error>",
        )
    };
    let silent = |_: &Received| Reply { stalls: Some(Duration::from_secs(60)), ..Reply::default() };
    for (answer, limit) in [(busy as fn(&Received) -> Reply, 3), (silent, 9)] {
        let store = Store::start(move |received, _| {
            received.path.contains("partNumber=2").then(|| answer(received))
        });
        let s3 = client(&store, |o| o.http.retry.attempts = 30);
        let new = begun(&s3, &bytes(20 * MIB));
        let started = Instant::now();
        let mut polls = 0;
        let failed = new.flush_unless(Durability::Flushed, &mut || {
            polls += 1;
            polls > 5
        });
        let failed = failed.expect_err("is stopped");
        assert_eq!(failed.io_error().kind(), io::ErrorKind::Interrupted, "{failed}");
        drop(new);
        assert!(started.elapsed() < Duration::from_secs(limit), "{:?}", started.elapsed());
        assert_eq!((store.object(), store.uploads()), (None, 0));
    }
}

#[test]
fn what_is_not_sent_yet_is_not_transferred() {
    let store = Store::start(|_, _| None);
    let s3 = client(&store, |_| {});
    let new = begun(&s3, &bytes(20 * MIB));
    let transferred = new.transferred().expect("is sent later");
    // The first part, of 8 MiB, is sent at the end.
    assert!(transferred() <= 12.0 / 20.0, "{}", transferred());
    // Zeros beyond the end, and a part that is written twice.
    new.sink().write_all_at(&bytes(9 * MIB), 8 * MIB).expect("writes");
    new.sink().set_len(50 << 20).expect("grows");
    new.flush(Durability::Flushed).expect("is uploaded");
    assert!((transferred() - 1.0).abs() < 1e-9, "{}", transferred());
    let small = begun(&s3, &bytes(MIB));
    assert!((small.transferred().expect("is sent later")() - 1.0).abs() < 1e-9);
}

/// Returns true for the request that makes an object of several parts visible.
fn completes(received: &Received) -> bool {
    received.method == "POST" && received.path.contains("?uploadId=")
}

#[test]
fn only_the_answer_of_a_store_completes_an_upload() {
    let content = bytes(9 * MIB);
    let old = vec![0; content.len()];
    let result = |etag: &str| {
        let name = "CompleteMultipartUploadResult";
        Reply::new("200 OK", &[], format!("<{name}>{etag}</{name}>").as_bytes())
    };
    let html = |_: &str| Reply::new("200 OK", &[], b"<html><body>Welcome</body></html>");
    let empty = |_: &str| Reply::new("200 OK", &[], b"<R/>");
    // The `ETag` of parts that are encrypted is not a hash of their content, so that what the store
    // says at the end is all that is known.
    let answers: [&(dyn Fn(&str) -> Reply + Sync); 4] = [&html, &empty, &result, &result];
    for (number, answer) in answers.into_iter().enumerate() {
        let reply = answer(if number == 3 { "<ETag>&quot;new&quot;</ETag>" } else { "" });
        let reply = reply.bytes;
        let store = Store::start(move |received, _| match completes(received) {
            true => Some(Reply { bytes: reply.clone(), ..Reply::default() }),
            false if received.path.contains("partNumber=") => {
                Some(Reply::new("200 OK", &[("ETag", "\"opaque\"")], b""))
            }
            false => None,
        });
        store.put(&old);
        let message = write(&client(&store, |_| {}), &content).expect_err("is not completed");
        let expected = ["not that of a store", "not that of a store", "does not say", "ETag"];
        assert!(message.contains(expected[number]), "{message}");
        assert!(store.object().expect("is there") == old);
        assert_eq!(store.uploads(), 0, "{number}: its parts remain");
    }
}

#[test]
fn a_store_that_keeps_other_bytes_is_noticed() {
    const OTHER: &str = "\"0cc175b9c0f1b6a831c399e269772661\"";
    const OPAQUE: &str = "\"part-2\"";
    const KMS: (&str, &str) = ("x-amz-server-side-encryption", "aws:kms");
    // The length of the object, the request whose answer is changed, and how; then the outcome.
    for (len, changed, headers, expected) in [
        (9 * MIB, "partNumber=2", vec![("ETag", OTHER)], "not kept what was sent"),
        (9 * MIB, "partNumber=2", vec![("ETag", OPAQUE)], "but not of others"),
        (9 * MIB, "partNumber=2", vec![("ETag", OTHER), KMS], "but not of others"),
        (5, "key", vec![("ETag", OTHER)], "not kept what was sent"),
        (5, "key", vec![("ETag", OTHER), KMS], ""),
        (5, "key", vec![("ETag", OPAQUE)], ""),
    ] {
        let replies = headers.clone();
        let store = Store::start(move |received, _| match &*received.method {
            "PUT" if received.path.contains(changed) => Some(Reply::new("200 OK", &replies, b"")),
            "HEAD" if len == 5 => {
                Some(Reply::head("200 OK", &[("Content-Length", "5"), replies[0]]))
            }
            _ => None,
        });
        let outcome = write(&client(&store, |_| {}), &bytes(len));
        let message = outcome.err().unwrap_or_default();
        assert!(message.contains(expected), "{headers:?}: {message}");
        assert_eq!(message.is_empty(), expected.is_empty(), "{headers:?}: {message}");
        assert_eq!(store.uploads(), 0);
    }
}

#[test]
fn parts_in_flight_are_not_sent_twice() {
    let store = Store::start(|received, _| {
        if received.path.contains("partNumber=") {
            std::thread::sleep(Duration::from_millis(300));
        }
        None
    });
    let content = bytes(30 * MIB);
    let new = begun(&client(&store, |_| {}), &content);
    let puts = || store.received().iter().filter(|r| r.path.contains("partNumber=")).count();
    while puts() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    new.flush(Durability::Flushed).expect("flushes");
    new.publish(Durability::Flushed).expect("publishes");
    assert_eq!(puts(), 4);
    assert!(store.object().expect("is there") == content);
}
