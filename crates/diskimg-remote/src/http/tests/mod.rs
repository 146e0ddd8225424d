//! The client against a server that misbehaves in every way.

pub(crate) mod server;

use super::{Http, HttpOptions};
use diskimg::open::Url;
use diskimg::storage::source::{RetryPolicy, Source};
use diskimg::{Convert, Error, ErrorKind, Format, OpenOptions, Output};
use server::{Received, Reply, Server};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of which any two neighbouring blocks differ.
fn file(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i) as u8).collect()
}

fn options() -> HttpOptions {
    let mut retry = RetryPolicy::default();
    retry.attempts = 4;
    retry.first_delay = Duration::from_millis(1);
    retry.max_delay = Duration::from_millis(5);
    HttpOptions {
        stall_timeout: Duration::from_millis(500),
        netrc: None,
        retry,
        ..HttpOptions::default()
    }
}

fn open_with(options: HttpOptions, url: &str) -> Result<Arc<dyn Source>, Error> {
    let url = Url::new(url).expect("is a URL");
    Http::with_options(options)?.open_url(&url, &diskimg::open::OpenMode::default())
}

fn open(url: &str) -> Result<Arc<dyn Source>, Error> {
    open_with(options(), url)
}

/// Returns the message of an error and of its causes.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn read(source: &dyn Source, offset: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; len];
    match source.read_exact_at(&mut buf, offset) {
        Ok(()) => Ok(buf),
        Err(e) => Err(format!("{}{e}", if e.is_transient() { "transient: " } else { "" })),
    }
}

/// A server that answers correctly, except where `fault` returns a reply.
fn faulty(
    file: Vec<u8>,
    fault: impl Fn(&Received, usize) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    Server::start(move |received, number| {
        fault(received, number).unwrap_or_else(|| Reply::part(received, &file, "\"1\""))
    })
}

#[test]
fn a_file_is_read_by_ranges_of_one_version() {
    let bytes = file(5 << 20);
    let server = faulty(bytes.clone(), |_, _| None);
    let source = open(&server.url("/disk")).expect("opens");
    assert_eq!(source.len(), 5 << 20);
    assert_eq!(read(&*source, 0, 1000).expect("reads"), bytes[..1000]);
    assert_eq!(server.received().len(), 1, "the first bytes came with the first answer");
    for (offset, len) in [(60_000, 10_000), (1 << 20, 2 << 20), ((5 << 20) - 7, 7)] {
        let expected = &bytes[offset..offset + len];
        assert_eq!(read(&*source, offset as u64, len).expect("reads"), expected, "{offset}");
    }
    let received = server.received();
    for request in &received[1..] {
        assert_eq!(request.header("if-match"), Some("\"1\""));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
    assert!(received.len() <= 6, "{received:?}");
    assert!(read(&*source, (5 << 20) - 7, 8).expect_err("ends there").contains("exceed"));
}

#[test]
fn a_connection_that_is_lost_is_continued_where_it_stopped() {
    let bytes = file(4 << 20);
    let server = faulty(bytes.clone(), {
        let bytes = bytes.clone();
        move |received, number| match number {
            0 => None,
            // Each answer is cut in half, down to 64 KiB.
            _ => {
                let range = received.range();
                let len = (range.end - range.start) as usize;
                Some(Reply::part(received, &bytes, "\"1\"").cut(if len > 200_000 {
                    len / 2
                } else {
                    0
                }))
            }
        }
    });
    let source = open(&server.url("/disk")).expect("opens");
    assert_eq!(read(&*source, 1 << 20, 3 << 20).expect("reads"), bytes[1 << 20..]);
    let starts: Vec<_> = server.received()[1..].iter().map(|r| r.range().start).collect();
    assert!(starts.len() > 3 && starts.is_sorted(), "{starts:?}");
}

/// Answers a request with what a file has become.
type Changed = fn(&Received, &[u8]) -> Reply;

#[test]
fn a_file_that_changes_is_an_error_and_never_a_mixture() {
    let (old, new) = (file(1 << 20), vec![7; 1 << 20]);
    let answers: [(&str, Changed); 5] = [
        ("precondition failed", |_, _| Reply::new("412 Precondition Failed", &[], b"")),
        ("the condition is ignored", |received, new| Reply::part(received, new, "\"2\"")),
        ("the length differs", |received, new| Reply::part(received, &new[1..], "\"1\"")),
        ("the whole new file", |_, new| Reply::new("200 OK", &[("ETag", "\"2\"")], new)),
        ("it is gone", |_, _| Reply::new("404 Not Found", &[], b"")),
    ];
    for (name, answer) in answers {
        let new = new.clone();
        let server = faulty(old.clone(), move |received, number| {
            (number > 0).then(|| answer(received, &new))
        });
        let source = open(&server.url("/disk")).expect("opens");
        let error = read(&*source, 500_000, 1000).expect_err(name);
        assert!(!error.starts_with("transient"), "{name}: {error}");
        assert_eq!(server.received().len(), 2, "{name} is not repeated");
    }
}

#[test]
fn without_an_etag_the_date_is_the_version() {
    let bytes = file(200_000);
    let part = |received: &Received, bytes: &[u8], date: &str| {
        let reply = Reply::part(received, bytes, "W/\"weak\"");
        let text = String::from_utf8_lossy(&reply.bytes).find("\r\n").expect("has a line") + 2;
        let mut with_date = reply.bytes[..text].to_vec();
        with_date.extend(format!("Last-Modified: {date}\r\n").into_bytes());
        with_date.extend(&reply.bytes[text..]);
        Reply { bytes: with_date, ..reply }
    };
    let content = bytes.clone();
    let server = Server::start(move |received, number| {
        part(received, &content, if number < 2 { "Mon, 1 Jan" } else { "Tue, 2 Jan" })
    });
    let source = open(&server.url("/disk")).expect("opens");
    assert_eq!(read(&*source, 70_000, 10).expect("reads"), bytes[70_000..70_010]);
    assert_eq!(server.received()[1].header("if-unmodified-since"), Some("Mon, 1 Jan"));
    let error = read(&*source, 140_000, 10).expect_err("it changed");
    assert!(error.contains("changed on the server"), "{error}");
}

#[test]
fn servers_that_are_busy_are_asked_again() {
    let bytes = file(300_000);
    for status in ["503 Service Unavailable", "429 Too Many Requests", "500 Oops", "408 Slow"] {
        let server = faulty(bytes.clone(), move |_, number| {
            let is_busy = number % 3 != 2;
            is_busy.then(|| Reply::new(status, &[("Retry-After", "0")], b"busy"))
        });
        let source = open(&server.url("/disk")).expect(status);
        assert_eq!(read(&*source, 100_000, 9).expect(status), bytes[100_000..100_009]);
        assert_eq!(server.received().len(), 6, "{status}");
    }
    let server = faulty(bytes, |_, _| Some(Reply::new("503 Busy", &[], b"")));
    let error = open(&server.url("/disk")).expect_err("it stays busy");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(text(&error).contains("503") && text(&error).contains("attempts: 4"), "{error}");
    assert_eq!(server.received().len(), 4);
}

#[test]
fn a_refusal_is_an_error_at_once() {
    for (status, kind) in [
        ("401 Unauthorized", io::ErrorKind::PermissionDenied),
        ("403 Forbidden", io::ErrorKind::PermissionDenied),
        ("404 Not Found", io::ErrorKind::NotFound),
        ("405 Method Not Allowed", io::ErrorKind::Other),
    ] {
        let server = faulty(file(10), move |_, _| Some(Reply::new(status, &[], b"")));
        let error = open(&server.url("/disk")).expect_err(status);
        assert_eq!(error.io_error().map(io::Error::kind), Some(kind), "{status}: {error}");
        assert!(text(&error).contains(status), "{error}");
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn answers_to_other_ranges_are_errors() {
    let bytes = file(1 << 20);
    let part = |range: &str, len: usize| {
        let headers = [("Content-Range", range), ("ETag", "\"1\"")];
        Reply::new("206 Partial Content", &headers, &vec![0; len])
    };
    for (range, len) in [
        ("bytes 0-99999/1048576", 100_000),
        ("bytes 524288-589823/2097152", 65536),
        ("bytes 524288-589822/1048576", 65535),
        ("bytes 524288-18446744073709551615/*", 65536),
        ("bytes 524288-589823/*", 65536),
        ("524288-589823/1048576", 65536),
    ] {
        let reply = move |_: &Received, number| (number > 0).then(|| part(range, len));
        let server = faulty(bytes.clone(), reply);
        let source = open(&server.url("/disk")).expect("opens");
        let error = read(&*source, 524_288, 65536).expect_err(range);
        assert!(!error.starts_with("transient"), "{range}: {error}");
    }
    // More bytes than the range has, and compressed ones.
    let long = |received: &Received| {
        let mut reply = Reply::part(received, &file(1 << 20), "\"1\"");
        let text = String::from_utf8_lossy(&reply.bytes).replace("Content-Length", "X-Length");
        let end = text.find("\r\n\r\n").expect("has an end") + 4;
        reply.bytes = text.as_bytes()[..end].to_vec();
        reply.bytes.extend(vec![1; 70_000]);
        Reply { closes: true, ..reply }
    };
    let server =
        faulty(bytes.clone(), move |received, number| (number > 0).then(|| long(received)));
    let source = open(&server.url("/disk")).expect("opens");
    let error = read(&*source, 524_288, 65536).expect_err("is too long");
    assert!(error.contains("longer than the range"), "{error}");
    let server = faulty(bytes, |received, number| {
        (number > 0).then(|| {
            let mut reply = Reply::part(received, &file(1 << 20), "\"1\"");
            let at = String::from_utf8_lossy(&reply.bytes).find("\r\n").expect("has a line") + 2;
            reply.bytes.splice(at..at, *b"Content-Encoding: gzip\r\n");
            reply
        })
    });
    let source = open(&server.url("/disk")).expect("opens");
    let error = read(&*source, 524_288, 65536).expect_err("is compressed");
    assert!(error.contains("encodes the file (gzip)"), "{error}");
}

#[test]
fn a_server_without_ranges_is_read_in_one_pass() {
    let bytes = file(300_000);
    let whole = bytes.clone();
    let server = Server::start(move |_, _| Reply::new("200 OK", &[], &whole));
    let source = open(&server.url("/disk")).expect("opens");
    assert_eq!(read(&*source, 0, 300_000).expect("reads"), bytes);
    assert_eq!(server.received().len(), 1);
    // A pass that is cut off is no image, nor one whose end is that of the connection.
    let server = Server::start(move |_, _| Reply::new("200 OK", &[], &bytes).cut(1));
    let error = open(&server.url("/disk")).expect_err("is incomplete");
    assert!(text(&error).contains("cannot read the whole file"), "{error}");
}

#[test]
fn a_whole_file_must_be_plain_and_have_a_length() {
    let replies: [(&str, &[u8]); 3] = [
        ("encodes the file", b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"),
        ("encodes the file", b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
        ("does not state the length", b"Connection: close\r\n\r\nabc"),
    ];
    for (expected, rest) in replies {
        let server = Server::start(move |_, _| Reply {
            bytes: [&b"HTTP/1.1 200 OK\r\n"[..], rest].concat(),
            closes: true,
            ..Reply::default()
        });
        let error = open(&server.url("/disk")).expect_err(expected);
        assert!(text(&error).contains(expected), "{}", text(&error));
    }
}

#[test]
fn the_length_of_a_whole_file_can_be_limited() {
    let whole = |chunked: bool| {
        Server::start(move |_, _| {
            let reply = Reply::new("200 OK", &[], &[1; 100_000]);
            if !chunked {
                return reply;
            }
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n";
            let bytes = [&head[..], &[1; 100_000], b"\r\n0\r\n\r\n"].concat();
            Reply { bytes, closes: true, ..Reply::default() }
        })
    };
    for chunked in [false, true] {
        let server = whole(chunked);
        let open = |max| {
            let url = Url::new(server.url("/disk")).expect("is a URL");
            let mut mode = diskimg::open::OpenMode::default();
            mode.max_copied = Some(max);
            Http::with_options(options())?.open_url(&url, &mode)
        };
        assert_eq!(open(100_000).expect("is short enough").len(), 100_000);
        let error = open(99_999).expect_err("is longer");
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }
}

#[test]
fn a_slow_body_is_given_up() {
    let slow = || Reply { pace: Some(Duration::from_millis(10)), ..Reply::default() };
    let bytes = file(1 << 20);
    let started = Instant::now();
    let server = faulty(bytes, move |received, number| {
        (number > 0)
            .then(|| Reply { pace: slow().pace, ..Reply::part(received, &file(1 << 20), "\"1\"") })
    });
    let source = open(&server.url("/disk")).expect("opens");
    let error = read(&*source, 524_288, 65536).expect_err("is too slow");
    assert!(error.starts_with("transient"), "{error}");
    let server = Server::start(move |_, _| Reply {
        pace: slow().pace,
        ..Reply::new("200 OK", &[], &file(100_000))
    });
    let error = open(&server.url("/disk")).expect_err("is too slow");
    assert!(text(&error).contains("too slow"), "{}", text(&error));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_has_arrived_is_not_requested_again() {
    let bytes = file(4 << 20);
    // Less than what counts as progress arrives each time.
    let server = faulty(bytes.clone(), {
        let bytes = bytes.clone();
        move |received, number| {
            let len = (received.range().end - received.range().start) as usize;
            (number > 0 && number < 4)
                .then(|| Reply::part(received, &bytes, "\"1\"").cut(len.saturating_sub(30_000)))
        }
    });
    let source = open(&server.url("/disk")).expect("opens");
    assert_eq!(read(&*source, 1 << 20, 2 << 20).expect("reads"), bytes[1 << 20..3 << 20]);
    let starts: Vec<_> = server.received()[1..].iter().map(|r| r.range().start).collect();
    assert_eq!(starts, [1 << 20, (1 << 20) + 30_000, (1 << 20) + 60_000, (1 << 20) + 90_000]);
}

#[test]
fn an_interim_response_is_skipped() {
    let bytes = file(200_000);
    let server = Server::start(move |received, _| {
        let reply = Reply::part(received, &bytes, "\"1\"");
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
        Reply { bytes: [&hints[..], &reply.bytes].concat(), ..reply }
    });
    assert_eq!(open(&server.url("/disk")).expect("opens").len(), 200_000);
}

#[test]
fn an_empty_file_has_no_range() {
    let server = Server::start(|_, _| {
        Reply::new("416 Range Not Satisfiable", &[("Content-Range", "bytes */0")], b"")
    });
    assert_eq!(open(&server.url("/disk")).expect("opens").len(), 0);
    let server = Server::start(|_, _| {
        Reply::new("416 Range Not Satisfiable", &[("Content-Range", "bytes */5")], b"")
    });
    open(&server.url("/disk")).expect_err("bytes 0 to 4 could be sent");
}

#[test]
fn redirects_are_followed_once_and_keep_secrets_at_their_host() {
    let bytes = file(200_000);
    let target = faulty(bytes.clone(), |_, _| None);
    let url = target.url("/real?sig=x");
    let first = Server::start(move |_, _| Reply::new("302 Found", &[("Location", &url)], b""));
    let mut options = options();
    options.headers.push(("X-Token".into(), "secret".into()));
    let url = first.url("/disk").replace("//", "//user:pw@");
    let source = open_with(options.clone(), &url).expect("opens");
    assert_eq!(read(&*source, 100_000, 5).expect("reads"), bytes[100_000..100_005]);
    assert_eq!(first.received().len(), 1, "the location is kept");
    let original = &first.received()[0];
    assert_eq!(original.header("authorization"), Some("Basic dXNlcjpwdw=="));
    assert_eq!(original.header("x-token"), Some("secret"));
    for request in target.received() {
        assert_eq!(request.path, "/real?sig=x");
        assert_eq!((request.header("authorization"), request.header("x-token")), (None, None));
    }
    let elsewhere =
        Server::start(|_, _| Reply::new("301 Moved", &[("Location", "https://127.0.0.1/x")], b""));
    let error = open(&elsewhere.url("/disk")).expect_err("has another scheme");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let circle = Server::start(|_, _| Reply::new("307 Again", &[("Location", "/disk")], b""));
    let error = open(&circle.url("/disk")).expect_err("never ends");
    assert!(text(&error).contains("more than 5 times"), "{error}");
    assert_eq!(circle.received().len(), 6);
}

/// Answers with less than a response.
type Silent = fn() -> Reply;

#[test]
fn servers_that_do_not_answer_are_given_up() {
    let second = Duration::from_secs(1);
    let replies: [(&str, Silent); 4] = [
        ("nothing", || Reply { stalls: Some(Duration::from_secs(60)), ..Reply::default() }),
        ("the connection is closed", || Reply { closes: true, ..Reply::default() }),
        ("a byte now and then", || Reply {
            pace: Some(Duration::from_millis(20)),
            ..Reply::new("206 Partial Content", &[("X", &"x".repeat(9000))], b"")
        }),
        ("half a response", || Reply {
            bytes: b"HTTP/1.1 206 Par".to_vec(),
            stalls: Some(Duration::from_secs(60)),
            ..Reply::default()
        }),
    ];
    for (name, reply) in replies {
        let server = Server::start(move |_, _| reply());
        let started = Instant::now();
        let error = open(&server.url("/disk")).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Transient, "{name}: {error}");
        assert!(started.elapsed() < 20 * second, "{name}");
    }
    // The body stops in the middle, again and again.
    let server = faulty(file(1 << 20), |received, number| {
        (number > 0).then(|| Reply {
            stalls: Some(Duration::from_secs(60)),
            ..Reply::part(received, &file(1 << 20), "\"1\"").cut(60_000)
        })
    });
    let source = open(&server.url("/disk")).expect("opens");
    let error = read(&*source, 524_288, 65536).expect_err("stalls");
    assert!(error.starts_with("transient"), "{error}");
}

#[test]
fn endless_headers_are_refused() {
    let server = Server::start(|_, _| {
        let mut bytes = b"HTTP/1.1 206 Partial Content\r\n".to_vec();
        while bytes.len() < 4 << 20 {
            bytes.extend(b"X-Filler: 0123456789012345678901234567890123456789\r\n");
        }
        Reply { bytes, ..Reply::default() }
    });
    open(&server.url("/disk")).expect_err("is too long");
}

#[test]
fn headers_that_change_the_meaning_of_requests_are_refused() {
    for name in ["Range", "if-match", "HOST", "Content-Length", "Accept-Encoding"] {
        let mut options = options();
        options.headers.push((name.into(), "x".into()));
        let error = Http::with_options(options).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn private_addresses_can_be_forbidden() {
    let server = faulty(file(10), |_, _| None);
    let mut options = options();
    options.forbid_private_addresses = true;
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let url = format!("http://{host}:{port}/x");
        let error = open_with(options.clone(), &url).expect_err(host);
        assert!(text(&error).contains("is private"), "{host}: {error}");
    }
    assert_eq!(server.received().len(), 0);
}

#[test]
fn the_password_of_a_host_is_in_the_netrc_file() {
    let server = faulty(file(10), |_, _| None);
    let mut netrc = tempfile::NamedTempFile::new().expect("creates");
    writeln!(netrc, "machine 127.0.0.1 login user password pw").expect("writes");
    let options = HttpOptions { netrc: Some(netrc.path().to_owned()), ..options() };
    open_with(options.clone(), &server.url("/disk")).expect("opens");
    assert_eq!(server.received()[0].header("authorization"), Some("Basic dXNlcjpwdw=="));
    // Not if another server redirects to the host, not even with a user of its choice.
    let target = server.url("/disk").replace("//", "//chosen:x@");
    let other = Server::start(move |_, _| Reply::new("302 Found", &[("Location", &target)], b""));
    let url = other.url("/disk").replace("127.0.0.1", "localhost");
    open_with(options, &url).expect("opens");
    let last = server.received().pop().expect("was asked");
    assert_eq!(last.header("authorization"), None);
}

#[test]
fn an_image_is_converted_from_a_server() {
    let disk: Arc<dyn Source> =
        Arc::new(diskimg::storage::source::MemorySource::new(file(9 << 20)));
    let raw = OpenOptions::new().format(Format::Raw);
    let dir = tempfile::tempdir().expect("creates");
    let path = dir.path().join("disk.qcow2");
    Convert::new(raw.open_source(disk, "disk").expect("opens"))
        .format(Format::Qcow2)
        .run(&path)
        .expect("converts");
    let image = std::fs::read(&path).expect("reads");
    let server = faulty(image, |_, _| None);
    let http = Http::with_options(options()).expect("is valid");
    let options = OpenOptions::new().protocol(Arc::new(http));
    let image = options.open(server.url("/disk.qcow2")).expect("opens");
    assert_eq!((image.format(), image.size()), (Format::Qcow2, 9 << 20));
    let requests = server.received().len();
    assert!(requests <= 4, "opening takes {requests} requests");
    let copy = dir.path().join("copy.raw");
    Convert::new(image).run_to(Output::create(&copy).expect("creates")).expect("converts");
    assert!(std::fs::read(&copy).expect("reads") == file(9 << 20));
}
