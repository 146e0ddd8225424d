//! Replies to reads and to questions about the block status.

use super::server::{Offer, Peer, Server};
use super::{open, pattern, text};
use crate::nbd::wire::*;

use diskimg::open::{OpenMode, Protocol};
use diskimg::storage::source::{Segment, Source, SourceError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LEN: usize = 3 << 20;

/// Starts a server that answers the first request with `answer`.
fn answering(answer: impl Fn(&mut Peer, &Request) -> Option<()> + Send + Sync + 'static) -> Server {
    Server::start(move |peer, _| {
        peer.agree(&Offer::new(LEN as u64))?;
        let (request, _) = peer.request()?;
        answer(peer, &request)?;
        peer.request().map(drop)
    })
}

/// Reads from a server.
fn read(server: &Server, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
    let source = open(server).expect("opens");
    let mut buf = vec![0xee; len];
    source.read_ranges(&mut [(offset, &mut buf)]).map(|()| buf)
}

#[test]
fn the_chunks_of_a_reply_come_in_any_order() {
    let server = answering(|peer, request| {
        let disk = pattern(LEN);
        let at = request.offset as usize;
        peer.data(request, request.offset + 600, &disk[at + 600..at + 1000], false)?;
        let hole = HoleChunk { offset: request.offset + 100, len: 500 };
        peer.chunk(request, chunk::OFFSET_HOLE, &hole.encode(), false)?;
        peer.data(request, request.offset, &disk[at..at + 100], false)?;
        peer.chunk(request, chunk::NONE, &[], true)
    });
    let mut expected = pattern(LEN)[5000..6000].to_vec();
    expected[100..600].fill(0);
    assert_eq!(read(&server, 5000, 1000).expect("reads"), expected);
}

/// Keeps all requests of a connection until there are several, and answers the last one first, in
/// chunks that alternate.
fn answer_backwards(peer: &mut Peer, disk: &[u8]) -> Option<()> {
    let mut requests = Vec::new();
    loop {
        requests.push(peer.request()?.0);
        peer.0.set_read_timeout(Some(Duration::from_millis(5))).ok()?;
        let mut byte = [0];
        if requests.len() < 5 && peer.0.peek(&mut byte).is_ok_and(|n| n > 0) {
            peer.0.set_read_timeout(None).ok()?;
            continue;
        }
        peer.0.set_read_timeout(None).ok()?;
        for second in [true, false] {
            for request in requests.iter().rev() {
                let half = request.len as u64 / 2;
                let (start, len) = match second {
                    true => (request.offset + half, request.len as u64 - half),
                    false => (request.offset, half),
                };
                let data = &disk[start as usize..(start + len) as usize];
                peer.data(request, start, data, !second)?;
            }
        }
        requests.clear();
    }
}

#[test]
fn replies_to_many_threads_come_in_any_order() {
    for shared in [false, true] {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let server = Server::start(move |peer, _| {
            count.fetch_add(1, Ordering::Relaxed);
            let mut offer = Offer::new(LEN as u64);
            offer.flags.set(TransmissionFlags::CAN_MULTI_CONN, shared);
            peer.agree(&offer)?;
            answer_backwards(peer, &pattern(LEN))
        });
        let (source, disk) = (open(&server).expect("opens"), pattern(LEN));
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let (source, disk) = (&source, &disk);
                scope.spawn(move || {
                    for round in 0..20 {
                        // Some are several requests.
                        let start = (thread * 100_003 + round * 70_001) % (LEN - 700_000);
                        let len = [2, 4096, 300_000, 700_000][(thread + round) % 4];
                        let mut buf = vec![0; len];
                        source.read_ranges(&mut [(start as u64, &mut buf)]).expect("reads");
                        assert!(buf == disk[start..start + len], "{start} {len}");
                    }
                });
            }
        });
        let connections = connections.load(Ordering::Relaxed);
        assert!(if shared { (2..=4).contains(&connections) } else { connections == 1 });
    }
}

#[test]
fn replies_that_do_not_match_the_request_are_refused() {
    type Answer = fn(&mut Peer, &Request) -> Option<()>;
    let answers: [(&str, Answer); 17] = [
        ("magic", |peer, _| peer.send(&[1; 16])),
        ("unknown cookie", |peer, r| peer.simple(&Request { cookie: r.cookie + 9, ..*r }, 0)),
        ("simple reply", |peer, r| peer.simple(r, 0)),
        ("before", |peer, r| peer.data(r, r.offset - 1, &[0; 2], true)),
        ("beyond", |peer, r| peer.data(r, r.offset + 999, &[0; 2], true)),
        ("nothing", |peer, r| peer.data(r, r.offset, &[], true)),
        ("far away", |peer, r| peer.data(r, u64::MAX, &[0; 2], true)),
        ("missing", |peer, r| peer.data(r, r.offset, &[0; 999], true)),
        ("done at once", |peer, r| peer.chunk(r, chunk::NONE, &[], true)),
        ("not done", |peer, r| peer.chunk(r, chunk::NONE, &[], false)),
        ("twice", |peer, r| {
            peer.data(r, r.offset, &[0; 600], false)?;
            peer.data(r, r.offset + 500, &[0; 500], true)
        }),
        ("hole beyond", |peer, r| {
            peer.chunk(
                r,
                chunk::OFFSET_HOLE,
                &HoleChunk { offset: r.offset, len: 1001 }.encode(),
                true,
            )
        }),
        ("long hole", |peer, r| peer.chunk(r, chunk::OFFSET_HOLE, &[0; 13], true)),
        ("short", |peer, r| peer.chunk(r, chunk::OFFSET_DATA, &[0; 7], true)),
        ("status", |peer, r| peer.status(r, &[(512, 0)])),
        ("unknown type", |peer, r| peer.chunk(r, 77, &[], true)),
        ("no error", |peer, r| peer.chunk(r, chunk::ERROR, &[0; 6], true)),
    ];
    for (name, answer) in answers {
        let error = read(&answering(answer), 7000, 1000).expect_err(name);
        assert!(!error.is_transient(), "{name}: {error}");
        assert!(text(&error).contains("violates the protocol"), "{name}: {error}");
    }
}

#[test]
fn replies_are_bounded() {
    type Answer = fn(&mut Peer, &Request) -> Option<()>;
    let answers: [(&str, Answer); 3] = [
        ("many chunks", |peer, r| {
            for i in 0..500 {
                peer.data(r, r.offset + i, &[0], false)?;
            }
            peer.stall()
        }),
        ("many errors", |peer, r| {
            let error = ErrorChunk { error: error::EIO, message: String::new(), offset: None };
            for _ in 0..500 {
                peer.chunk(r, chunk::ERROR, &error.encode(), false)?;
            }
            peer.stall()
        }),
        ("long error", |peer, r| {
            let header = Chunk {
                flags: ChunkFlags::DONE,
                kind: chunk::ERROR,
                cookie: r.cookie,
                len: u32::MAX,
            };
            peer.send(&header.encode())?;
            peer.stall()
        }),
    ];
    for (name, answer) in answers {
        let error = read(&answering(answer), 7000, 1000).expect_err(name);
        assert!(text(&error).contains("violates the protocol"), "{name}: {error}");
    }
}

#[test]
fn errors_of_the_server_are_told_and_end_nothing_else() {
    let server = Server::start(|peer, _| {
        peer.agree(&Offer::new(LEN as u64))?;
        let mut disk = pattern(LEN);
        while let Some((request, data)) = peer.request() {
            match request.offset {
                0 => {
                    let error = ErrorChunk {
                        error: error::EIO,
                        message: "bad\nsector".into(),
                        offset: Some(request.offset + 9),
                    };
                    peer.data(&request, request.offset, &[0; 9], false)?;
                    peer.chunk(&request, chunk::ERROR_OFFSET, &error.encode(), true)?;
                }
                1000 => peer.simple(&request, error::EINVAL)?,
                _ => peer.serve(&mut disk, &request, &data)?,
            }
        }
        Some(())
    });
    let source = open(&server).expect("opens");
    let read = |offset| {
        let mut buf = [0; 100];
        source.read_ranges(&mut [(offset, &mut buf)])
    };
    let error = read(0).expect_err("fails");
    assert!(!error.is_transient());
    assert_eq!(error.to_string(), "the server reports: Input/output error (badsector)");
    assert_eq!(read(1000).expect_err("fails").to_string(), "the server reports: Invalid argument");
    read(2000).expect("reads");
    let error = read(LEN as u64 - 99).expect_err("too long");
    assert!(matches!(error, SourceError::OutOfRange { .. }), "{error}");
}

#[test]
fn a_lost_connection_is_made_again() {
    let size = |connection| if connection < 5 { LEN as u64 } else { 512 };
    let server = Server::start(move |peer, connection| {
        peer.agree(&Offer::new(size(connection)))?;
        let disk = pattern(LEN);
        let (request, _) = peer.request()?;
        let (start, len) = (request.offset as usize, request.len as usize);
        match connection {
            // In the middle of a chunk, between chunks, before a reply, and when it shuts down.
            0 => peer.send(
                &Chunk {
                    flags: ChunkFlags::DONE,
                    kind: chunk::OFFSET_DATA,
                    cookie: request.cookie,
                    len: request.len + 8,
                }
                .encode(),
            ),
            1 => peer.data(&request, request.offset, &disk[start..start + 5], false),
            2 => peer.data(&request, request.offset, &disk[start..start + len], true),
            3 => {
                let error =
                    ErrorChunk { error: error::ESHUTDOWN, message: String::new(), offset: None };
                peer.chunk(&request, chunk::ERROR, &error.encode(), true)?;
                peer.stall()
            }
            _ => peer.data(&request, request.offset, &disk[start..start + len], true),
        }
    });
    let source = open(&server).expect("opens");
    let read = || {
        let mut buf = vec![0; 1000];
        source.read_ranges(&mut [(77, &mut buf)]).map(|()| buf)
    };
    assert_eq!(read().expect("is repeated"), pattern(LEN)[77..1077]);
    assert_eq!(read().expect("is repeated"), pattern(LEN)[77..1077]);
    // Another export by now.
    let error = read().expect_err("changed");
    assert!(text(&error).contains("the export changed while it was used"), "{error}");
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let silent = answering(|peer, _| peer.stall());
    let in_a_chunk = answering(|peer, request| {
        let len = request.len + 8;
        let (kind, cookie) = (chunk::OFFSET_DATA, request.cookie);
        peer.send(&Chunk { flags: ChunkFlags::DONE, kind, cookie, len }.encode())?;
        peer.stall()
    });
    // A byte now and then would take forever.
    let slow = answering(|peer, request| {
        for i in 0.. {
            peer.data(request, request.offset + i, &[0], false)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    for server in [silent, in_a_chunk, slow] {
        let started = Instant::now();
        let nbd = crate::nbd::Nbd::with_options(super::quick());
        let at = super::location(&server);
        let source = Protocol::open(&nbd, &at, &OpenMode::default()).expect("opens");
        let mut buf = vec![0; 100_000];
        let error = source.read_ranges(&mut [(0, &mut buf)]).expect_err("stalls");
        assert!(error.is_transient(), "{error}");
        assert!(text(&error).contains("the server does not answer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

/// Returns all segments of a source.
fn segments(source: &dyn Source) -> Result<Vec<(u64, bool)>, SourceError> {
    let (mut at, mut found) = (0, Vec::new());
    while at < source.len() {
        let Segment { end, hole } = source.segment_at(at)?;
        assert!(end > at && end <= source.len());
        match found.last_mut() {
            Some((last, same)) if *same == hole => *last = end,
            _ => found.push((end, hole)),
        }
        at = end;
    }
    Ok(found)
}

#[test]
fn only_what_reads_as_zeros_is_a_hole() {
    let questions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&questions);
    let server = Server::start(move |peer, _| {
        let mut offer = Offer::new(10_000);
        offer.contexts = vec![BASE_ALLOCATION, "other:thing"];
        peer.agree(&offer)?;
        while let Some((request, _)) = peer.request() {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(u64::from(request.len), 10_000 - request.offset);
            match request.offset {
                // Less than was asked for, and a flag that is not known.
                0 => peer.status(&request, &[(1000, 0), (1000, ALLOCATION_HOLE), (500, 8)])?,
                // More than that.
                2500 => peer.status(&request, &[(500, ALLOCATION_ZERO), (20_000, 3)])?,
                offset => panic!("{offset} is known"),
            }
        }
        Some(())
    });
    let source = open(&server).expect("opens");
    assert_eq!(segments(&*source).expect("is told"), [(2500, false), (10_000, true)]);
    assert_eq!(source.segment_at(9999).expect("is known"), Segment { end: 10_000, hole: true });
    assert_eq!(source.segment_at(700).expect("is known"), Segment { end: 2500, hole: false });
    assert_eq!(questions.load(Ordering::Relaxed), 2);
}

#[test]
fn a_block_status_that_cannot_be_is_refused() {
    type Answer = fn(&mut Peer, &Request) -> Option<()>;
    let answers: [(&str, Answer); 7] = [
        ("no range", |peer, r| peer.status(r, &[])),
        ("no progress", |peer, r| peer.status(r, &[(0, 0)])),
        ("beyond", |peer, r| peer.status(r, &[(LEN as u32, 0), (512, 0)])),
        ("data", |peer, r| peer.data(r, r.offset, &[0; 512], true)),
        ("simple", |peer, r| peer.simple(r, 0)),
        ("missing", |peer, r| peer.chunk(r, chunk::NONE, &[], true)),
        ("another context", |peer, r| {
            let descriptors = vec![Descriptor { len: 512, flags: 0 }];
            let status = BlockStatus { context: 5, descriptors };
            peer.chunk(r, chunk::BLOCK_STATUS, &status.encode(), true)
        }),
    ];
    for (name, answer) in answers {
        let source = open(&answering(answer)).expect("opens");
        let error = source.segment_at(0).expect_err(name);
        assert!(text(&error).contains("violates the protocol"), "{name}: {error}");
    }
    let refuses = answering(|peer, r| peer.simple(r, error::ENOTSUP));
    let error = open(&refuses).expect("opens").segment_at(0).expect_err("is refused");
    assert!(matches!(error, SourceError::Storage(e) if e.kind() == io::ErrorKind::Unsupported));
}

#[test]
fn a_read_error_is_one_of_the_storage() {
    let server = answering(|peer, request| peer.simple(request, error::EIO));
    let nbd = Arc::new(crate::nbd::Nbd::with_options(super::quick()));
    let options = diskimg::OpenOptions::new().format(diskimg::Format::Raw).protocol(nbd);
    let image = options.open(server.url()).expect("opens");
    let mut buf = [0; 512];
    let error = image.read_exact_at(&mut buf, 0).expect_err("fails");
    assert!(text(&error).contains("Input/output error"), "{error}");
}
