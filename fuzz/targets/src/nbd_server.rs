//! The NBD server.

use diskimg::storage::edit::MemoryStorage;
use diskimg::storage::source::MemorySource;
use diskimg::{Format, GuestWriter, OpenOptions};
use diskimg_remote::nbd::server::Server;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Length of the disk in bytes.
const SIZE: usize = 64 << 10;

/// What a client sends in order to get structured replies and `base:allocation`.
fn handshake() -> Vec<u8> {
    let option = |number: u32, data: &[u8]| {
        let header = [&b"IHAVEOPT"[..], &number.to_be_bytes()].concat();
        [&header[..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    let context = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
    let options = [option(8, &[]), option(10, &context), option(7, &[0; 6])];
    [&[0, 0, 0, 3][..], &options.concat()].concat()
}

fn disk() -> Vec<u8> {
    (0..SIZE).map(|at| if at / 8192 % 2 == 0 { 0 } else { (at / 7) as u8 | 1 }).collect()
}

/// Input: a byte that selects a server, and what a client sends to it. After the handshake, replies
/// are compared with the disk.
pub(crate) fn server(input: &[u8]) {
    let Some((&choice, sent)) = input.split_first() else { return };
    let options = OpenOptions::new().format(Format::Raw);
    let server = match choice & 1 {
        0 => {
            let source = Arc::new(MemorySource::new(disk()));
            Server::new(options.open_source(source, "disk").expect("opens"))
        }
        _ => {
            let storage = Arc::new(MemoryStorage::new(disk()));
            Server::writable(GuestWriter::open_on(storage, &options, "disk").expect("opens"))
        }
    };
    let mut replies = Vec::new();
    if choice & 2 == 0 {
        let sent = [&handshake()[..], sent].concat();
        let _ = server.serve_stream(&sent[..], &mut replies);
        let mut expected = Vec::new();
        server.serve_stream(&handshake()[..], &mut expected).expect("serves");
        assert_eq!(replies[..expected.len()], expected);
        check(&replies[expected.len()..], choice & 1 == 0);
    } else {
        let _ = server.serve_stream(sent, &mut replies);
        assert!(replies.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
    }
}

/// Verifies that replies are complete, and what they say about a disk that is only read.
fn check(mut replies: &[u8], is_read_only: bool) {
    let disk = disk();
    // The numbers of chunks that are not the last ones of their replies, by cookie.
    let mut open: BTreeMap<u64, i32> = BTreeMap::new();
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four"));
    let long = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().expect("eight"));
    while !replies.is_empty() {
        if word(replies) == 0x6744_6698 {
            assert!(matches!(word(&replies[4..]), 0 | 1 | 5 | 12 | 22 | 28 | 75 | 95));
            replies = &replies[16..];
            continue;
        }
        assert_eq!(word(replies), 0x668e_33ef);
        let (is_last, kind) = (replies[5] & 1 == 1, word(&replies[4..]) & 0xffff);
        let (cookie, len) = (long(&replies[8..]), word(&replies[16..]) as usize);
        let payload = &replies[20..20 + len];
        replies = &replies[20 + len..];
        *open.entry(cookie).or_default() += i32::from(!is_last);
        match kind {
            1 => {
                let (at, bytes) = (long(payload) as usize, &payload[8..]);
                assert!(!bytes.is_empty() && at + bytes.len() <= SIZE);
                assert!(!is_read_only || disk[at..at + bytes.len()] == *bytes);
            }
            2 => {
                let (at, len) = (long(payload) as usize, word(&payload[8..]) as usize);
                assert!(len > 0 && at + len <= SIZE);
                assert!(!is_read_only || disk[at..at + len].iter().all(|&byte| byte == 0));
            }
            5 => {
                let lens = payload[4..].chunks(8).map(|part| word(part) as usize);
                assert!(payload.len() > 4 && lens.sum::<usize>() <= SIZE);
            }
            0x8001 => assert_ne!(word(payload), 0),
            other => panic!("a chunk of the kind {other}"),
        }
    }
}

pub(crate) fn server_seeds() -> Vec<Vec<u8>> {
    let request = |flags: u16, command: u16, at: u64, len: u32, data: &[u8]| {
        let begin = [&[0x25, 0x60, 0x95, 0x13][..], &flags.to_be_bytes(), &command.to_be_bytes()];
        let end = [&[7; 8][..], &at.to_be_bytes(), &len.to_be_bytes(), data];
        [begin.concat(), end.concat()].concat()
    };
    let requests = [
        request(0, 0, 100, 20_000, &[]),
        request(4, 0, 0, 512, &[]),
        request(0, 7, 0, SIZE as u32, &[]),
        request(8, 7, 9000, 512, &[]),
        request(1, 1, 512, 16, &[9; 16]),
        request(0, 6, 8192, 8192, &[]),
        request(0, 4, 0, 4096, &[]),
        request(0, 3, 0, 0, &[]),
        request(0, 5, 0, 4096, &[]),
        request(0, 0, SIZE as u64, 1, &[]),
        request(0, 2, 0, 0, &[]),
    ];
    let requests = requests.concat();
    [0u8, 1, 2, 3]
        .map(|choice| match choice {
            0 | 1 => [&[choice][..], &requests].concat(),
            _ => [&[choice][..], &handshake(), &requests].concat(),
        })
        .into()
}
