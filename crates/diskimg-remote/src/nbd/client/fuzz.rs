//! What the fuzzer runs: the client against bytes that a server may send.

use super::Timeouts;
use super::call::{Call, Kind};
use super::connection::Connection;
use super::handshake::{Wanted, shake_hands};
use super::stream::Socket;
use crate::nbd::wire::{
    BASE_ALLOCATION, BlockSizes, Chunk, ChunkFlags, ContextReply, ExportInfo, HandshakeFlags,
    HoleChunk, InfoReply, MAX_PAYLOAD, OptionReply, TransmissionFlags, chunk, greeting, option,
    option_reply,
};
use diskimg::storage::source::SourceError;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Length of the export and of what is read of it.
const LEN: usize = 4096;

/// Cookies of a connection begin with this one.
const FIRST_COOKIE: u64 = 1;

/// Connects to a server that sends the bytes after the first one and then closes the connection. The
/// first one selects what they are: everything (0), replies after a handshake (1), or how a right
/// reply is split into chunks (any other).
///
/// # Panics
/// If the right reply is not read as it is.
pub(in crate::nbd) fn run(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind {
        0 => drop(receive(rest)),
        1 => drop(receive(&[&handshake()[..], rest].concat())),
        _ => {
            let (reply, expected) = reply(rest);
            let received = receive(&[handshake(), reply].concat()).expect("is right");
            assert!(received == expected, "other bytes");
        }
    }
}

/// Does a handshake, reads, and asks for the block status.
fn receive(bytes: &[u8]) -> Result<Vec<u8>, SourceError> {
    /// What a socket surely takes.
    const MAX: usize = 64 << 10;
    let patience = Duration::from_secs(5);
    let timeouts = Timeouts { connect: patience, stall: patience, flush: patience };
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(&bytes[..bytes.len().min(MAX)])?;
    theirs.shutdown(Shutdown::Write)?;
    let mut socket = Socket::unix(ours, patience)?;
    socket.set_deadline(Some(Instant::now() + patience));
    let contexts = vec![BASE_ALLOCATION.to_owned()];
    let wanted = Wanted { export: String::new(), contexts, tls: None };
    let (reader, writer, export) = shake_hands(socket, &wanted)?;
    let context = export.contexts.first().map(|context| context.id);
    let connection = Connection::new(reader, writer, export, timeouts)?;
    let mut buf = vec![0xee; LEN];
    let mut calls = [Call::read(0, &mut buf)];
    connection.run(&mut calls)?;
    let [call] = calls;
    call.error.map_or(Ok(()), Err)?;
    if let Some(context) = context {
        let kind = Kind::Status { offset: 0, len: LEN as u32, context, found: Vec::new() };
        // What was read is right even if nothing follows.
        let _ = connection.run(&mut [Call::new(kind)]);
    }
    Ok(buf)
}

/// Returns what a server sends before replies.
fn handshake() -> Vec<u8> {
    let mut sent = greeting(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES).to_vec();
    let mut answer = |option, reply, data: &[u8]| {
        sent.extend(OptionReply { option, reply, len: data.len() as u32 }.encode());
        sent.extend(data);
    };
    answer(option::STRUCTURED_REPLY, option_reply::ACK, &[]);
    let context = ContextReply { id: 0, name: BASE_ALLOCATION.into() };
    answer(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &context.encode());
    answer(option::SET_META_CONTEXT, option_reply::ACK, &[]);
    let export = ExportInfo { size: LEN as u64, flags: TransmissionFlags::HAS_FLAGS };
    let sizes = BlockSizes { min: 1, preferred: LEN as u32, max: MAX_PAYLOAD };
    for info in [InfoReply::Export(export), InfoReply::BlockSizes(sizes)] {
        answer(option::GO, option_reply::INFO, &info.encode());
    }
    answer(option::GO, option_reply::ACK, &[]);
    sent
}

/// Returns a reply to the read, and the bytes that it contains. Each byte of `plan` is a chunk: its
/// length, whether it is a hole, and whether it is sent before or after the others.
fn reply(plan: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut expected: Vec<u8> = (0..LEN).map(|i| (i * 7 + i / 251) as u8).collect();
    let (mut at, mut chunks) = (0, std::collections::VecDeque::new());
    for &byte in plan.iter().take(40).chain(std::iter::repeat(&0xff)) {
        let len = (1 + usize::from(byte >> 2) * 16).min(LEN - at);
        let payload = match byte & 1 {
            0 => {
                expected[at..at + len].fill(0);
                (
                    chunk::OFFSET_HOLE,
                    HoleChunk { offset: at as u64, len: len as u32 }.encode().to_vec(),
                )
            }
            _ => {
                (chunk::OFFSET_DATA, [&(at as u64).to_be_bytes(), &expected[at..at + len]].concat())
            }
        };
        match byte & 2 {
            0 => chunks.push_front(payload),
            _ => chunks.push_back(payload),
        }
        at += len;
        if at == LEN {
            break;
        }
    }
    let last = chunks.len() - 1;
    let mut sent = Vec::new();
    for (number, (kind, payload)) in chunks.into_iter().enumerate() {
        let flags = if number == last { ChunkFlags::DONE } else { ChunkFlags::empty() };
        let header = Chunk { flags, kind, cookie: FIRST_COOKIE, len: payload.len() as u32 };
        sent.extend(header.encode());
        sent.extend(payload);
    }
    (sent, expected)
}

/// Returns inputs of all kinds.
pub(in crate::nbd) fn seeds() -> Vec<Vec<u8>> {
    let (reply, _) = reply(&[0x13, 0x20, 0x31, 0xfc]);
    vec![
        [&[0], &handshake()[..], &reply].concat(),
        [&[1], &reply[..]].concat(),
        vec![2, 0x13, 0x20, 0x31, 0xfc, 0, 0xff],
    ]
}
