//! Writing.

use super::server::{Offer, Peer, Server};
use super::{open_to_write, pattern, text};
use crate::nbd::wire::*;
use diskimg::ErrorKind;
use std::io;
use std::sync::{Arc, Mutex};

/// A disk, and the requests so far.
type Received = (Vec<u8>, Vec<Request>);

/// Starts a server that keeps a disk of `size` bytes and the requests, until `hangs_up` says that a
/// connection ends instead of an answer.
fn keeping(
    offer: Offer,
    hangs_up: impl Fn(&Request, usize) -> bool + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Received>>) {
    let state = Arc::new(Mutex::new((vec![0xaa; offer.size as usize], Vec::new())));
    let kept = Arc::clone(&state);
    let server = Server::start(move |peer: &mut Peer, connection| {
        peer.agree(&offer)?;
        while let Some((request, data)) = peer.request() {
            if hangs_up(&request, connection) {
                return None;
            }
            let mut state = kept.lock().expect("no panic");
            state.1.push(request);
            match (request.command, offer.structured) {
                (command::BLOCK_STATUS, _) => peer.status(&request, &[(request.len, 0)])?,
                _ => peer.serve(&mut state.0, &request, &data)?,
            }
        }
        Some(())
    });
    (server, state)
}

fn count(requests: &[Request], command: u16) -> usize {
    requests.iter().filter(|request| request.command == command).count()
}

#[test]
fn parts_of_blocks_are_replaced() {
    let mut offer = Offer::new(64 << 10);
    offer.sizes = Some(BlockSizes { min: 512, preferred: 4096, max: 4096 });
    offer.flags |= TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_TRIM;
    let (server, state) = keeping(offer, |request, _| {
        assert_eq!((request.offset % 512, request.len % 512), (0, 0), "{request:?}");
        assert!(request.len <= 4096 || request.command != command::WRITE, "{request:?}");
        false
    });
    let storage = open_to_write(&server).expect("opens");
    let mut expected = vec![0xaa; 64 << 10];
    let data = pattern(20_000);
    // Within a block, to and from a boundary, over one, and long.
    for (offset, len) in [(5, 10), (1000, 24), (1024, 1), (2000, 100), (3000, 20_000), (0, 512)] {
        storage.write_all_at(&data[..len], offset).expect("writes");
        expected[offset as usize..offset as usize + len].copy_from_slice(&data[..len]);
    }
    for (offset, len) in [(30_001, 5), (30_100, 5000), (40_960, 512)] {
        storage.write_zeros_at(offset, len).expect("writes");
        expected[offset as usize..][..len as usize].fill(0);
    }
    storage.discard_at(50_000, 100).expect("discards nothing");
    storage.discard_at(50_000, 2000).expect("discards");
    let mut found = vec![0; 64 << 10];
    storage.read_exact_at(&mut found, 0).expect("reads");
    assert!(found == expected);
    let state = state.lock().expect("no panic");
    let trims: Vec<_> = state.1.iter().filter(|r| r.command == command::TRIM).collect();
    assert!(matches!(trims[..], [trim] if (trim.offset, trim.len) == (50_176, 1536)), "{trims:?}");
    drop(state);
    let error = storage.write_all_at(&[0; 2], (64 << 10) - 1).expect_err("too long");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    storage.set_len(64 << 10).expect("is long enough");
    storage.set_len((64 << 10) + 1).expect_err("is not");
}

#[test]
fn threads_write_parts_of_the_same_block() {
    let mut offer = Offer::new(4096);
    offer.sizes = Some(BlockSizes { min: 4096, preferred: 4096, max: MAX_PAYLOAD });
    let (server, state) = keeping(offer, |_, _| false);
    let storage = open_to_write(&server).expect("opens");
    let data = pattern(4096);
    std::thread::scope(|scope| {
        for part in 0..16 {
            let (storage, data) = (&storage, &data);
            scope.spawn(move || {
                let range = part * 256..(part + 1) * 256;
                storage.write_all_at(&data[range.clone()], range.start as u64).expect("writes");
            });
        }
    });
    assert!(state.lock().expect("no panic").0 == data);
}

#[test]
fn zeros_are_sent_to_a_server_that_cannot_write_them() {
    let (server, state) = keeping(Offer::new(3 << 20), |_, _| false);
    let storage = open_to_write(&server).expect("opens");
    storage.write_zeros_at(100, (2 << 20) + 5).expect("writes");
    storage.discard_at(0, 1 << 20).expect("is not an error");
    let state = state.lock().expect("no panic");
    assert!(state.0[100..(2 << 20) + 105].iter().all(|&byte| byte == 0));
    assert!(state.0[..100].iter().chain(&state.0[(2 << 20) + 105..]).all(|&byte| byte == 0xaa));
    assert_eq!(count(&state.1, command::WRITE_ZEROES) + count(&state.1, command::TRIM), 0);
}

#[test]
fn errors_of_writes_are_returned() {
    let server = Server::start(|peer, _| {
        peer.agree(&Offer::new(4096))?;
        while let Some((request, _)) = peer.request() {
            peer.simple(&request, error::ENOSPC)?;
        }
        Some(())
    });
    let storage = open_to_write(&server).expect("opens");
    let error = storage.write_all_at(&[1; 4096], 0).expect_err("fails");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let mut read_only = Offer::new(4096);
    read_only.flags |= TransmissionFlags::READ_ONLY;
    let (server, _) = keeping(read_only, |_, _| false);
    let error = open_to_write(&server).expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(text(&error).contains("the server allows only reading"), "{error}");
}

#[test]
fn a_write_is_repeated_if_nothing_else_can_be_lost() {
    let (server, state) = keeping(Offer::new(1 << 20), |request, connection| {
        connection < 2 && request.command == command::WRITE && request.offset >= 256 << 10
    });
    let storage = open_to_write(&server).expect("opens");
    storage.flush().expect("has nothing to do");
    let data = pattern(1 << 20);
    storage.write_all_at(&data[300 << 10..], 300 << 10).expect("is repeated");
    storage.flush().expect("flushes");
    storage.flush().expect("has nothing to do");
    let state = state.lock().expect("no panic");
    assert!(state.0[300 << 10..] == data[300 << 10..]);
    assert_eq!(count(&state.1, command::FLUSH), 1);
}

#[test]
fn writes_that_were_not_flushed_are_never_lost_silently() {
    // The connection is lost when something is read, written or flushed.
    for lost in [command::READ, command::WRITE, command::FLUSH] {
        let (server, _) = keeping(Offer::new(1 << 20), move |request, connection| {
            connection == 1 && request.command == lost && request.offset == 0
                || connection == 0 && request.offset == 9000
        });
        let storage = open_to_write(&server).expect("opens");
        storage.write_all_at(&[1; 100], 4096).expect("writes");
        storage.flush().expect("flushes");
        // Everything is durable, so a connection may be lost.
        storage.read_exact_at(&mut [0; 100], 9000).expect("is repeated");
        storage.write_all_at(&[2; 100], 4096).expect("writes");
        let outcome = match lost {
            command::READ => storage.read_exact_at(&mut [0; 100], 0).map_err(io::Error::from),
            command::WRITE => storage.write_all_at(&[2; 100], 0),
            _ => storage.flush(),
        };
        let error = outcome.expect_err("may be lost");
        assert!(text(&error).contains("writes that were not flushed"), "{error}");
        for outcome in [storage.flush(), storage.write_all_at(&[3; 100], 4096)] {
            outcome.expect_err("is still lost");
        }
    }
}

#[test]
fn each_connection_is_flushed() {
    let mut offer = Offer::new(16 << 20);
    offer.flags |= TransmissionFlags::CAN_MULTI_CONN;
    let seen = Arc::new(Mutex::new(std::collections::BTreeMap::<usize, (usize, usize)>::new()));
    let kept = Arc::clone(&seen);
    let server = Server::start(move |peer, connection| {
        peer.agree(&offer)?;
        while let Some((request, _)) = peer.request() {
            // Long enough that another thread finds the connection in use.
            std::thread::sleep(std::time::Duration::from_millis(2));
            let mut seen = kept.lock().expect("no panic");
            let seen = seen.entry(connection).or_default();
            match request.command {
                command::FLUSH => seen.1 += 1,
                _ => seen.0 += 1,
            }
            peer.simple(&request, 0)?;
        }
        Some(())
    });
    let storage = open_to_write(&server).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let storage = &storage;
            scope.spawn(move || {
                for round in 0..20 {
                    let offset = (thread * 20 + round) * 4096;
                    storage.write_all_at(&[1; 4096], offset).expect("writes");
                }
            });
        }
    });
    storage.flush().expect("flushes");
    let seen = seen.lock().expect("no panic");
    assert!(seen.len() > 1, "{seen:?}");
    assert!(seen.values().all(|&(writes, flushes)| writes > 0 && flushes == 1), "{seen:?}");
}

/// The server does not read while its replies are not read, so a client that only sends would wait
/// forever.
#[test]
fn reading_and_writing_threads_do_not_wait_for_each_other() {
    let mut offer = Offer::new(16 << 20);
    offer.flags |= TransmissionFlags::SEND_WRITE_ZEROES;
    let (server, _) = keeping(offer, |_, _| false);
    let storage = open_to_write(&server).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let storage = &storage;
            scope.spawn(move || {
                let own = thread * (2 << 20);
                for round in 0..6_u8 {
                    let mut buf = vec![round; 2 << 20];
                    storage.write_all_at(&buf, own).expect("writes");
                    buf.fill(0xff);
                    storage.read_exact_at(&mut buf, own).expect("reads");
                    assert!(buf.iter().all(|&byte| byte == round), "{thread} {round}");
                }
            });
        }
    });
    storage.flush().expect("flushes");
}
