//! Reading replies: what a server sends is checked against the request before it is used.

use super::call::{Call, Kind, server_error};
use super::stream::read_full;
use crate::nbd::wire::{
    BlockStatus, Chunk, ChunkFlags, ErrorChunk, HoleChunk, MAX_DESCRIPTORS, Reply, SimpleReply,
    chunk, malformed,
};
use std::io::{self, Read};
use std::time::Duration;

/// Bytes for which a reply to READ may have one more chunk.
const MIN_CHUNK: usize = 512;

/// Chunks that any reply may have.
const MAX_CHUNKS: usize = 64;

/// Reads what follows the header of a reply to `call`. Returns true if it is the end of the reply.
///
/// # Errors
/// Returns `InvalidData` if the reply does not match the request, and the error of the connection.
pub(super) fn absorb(
    call: &mut Call<'_>,
    reply: Reply,
    structured: bool,
    reader: &mut impl Read,
    stall: Duration,
) -> io::Result<bool> {
    match reply {
        Reply::Simple(reply) => {
            absorb_simple(call, reply, structured, reader, stall).map(|()| true)
        }
        Reply::Chunk(_) if !structured => Err(malformed("a structured reply was not agreed on")),
        Reply::Chunk(header) => {
            call.chunks += 1;
            let more = match &call.kind {
                Kind::Read { buf, .. } => buf.len() / MIN_CHUNK,
                _ => 0,
            };
            if call.chunks > MAX_CHUNKS + more {
                return Err(malformed("a reply has too many chunks"));
            }
            absorb_chunk(call, header, reader, stall)?;
            let is_last = header.flags.contains(ChunkFlags::DONE);
            if is_last && call.error.is_none() {
                check_complete(call)?;
            }
            Ok(is_last)
        }
    }
}

fn absorb_simple(
    call: &mut Call<'_>,
    reply: SimpleReply,
    structured: bool,
    reader: &mut impl Read,
    stall: Duration,
) -> io::Result<()> {
    if call.chunks > 0 {
        return Err(malformed("a simple reply after chunks"));
    }
    if reply.error != 0 {
        call.error = Some(server_error(reply.error, ""));
        return Ok(());
    }
    match &mut call.kind {
        Kind::Read { buf, .. } if !structured => read_full(reader, buf, stall),
        Kind::Read { .. } | Kind::Status { .. } => {
            Err(malformed("a simple reply where a structured one must be"))
        }
        Kind::Write { .. } | Kind::Plain { .. } => Ok(()),
    }
}

fn absorb_chunk(
    call: &mut Call<'_>,
    header: Chunk,
    reader: &mut impl Read,
    stall: Duration,
) -> io::Result<()> {
    let len = header.len as usize;
    match header.kind {
        chunk::NONE if len == 0 && header.flags.contains(ChunkFlags::DONE) => Ok(()),
        chunk::OFFSET_DATA => absorb_data(call, len, reader, stall),
        chunk::OFFSET_HOLE if len == HoleChunk::LEN => {
            let mut bytes = [0; HoleChunk::LEN];
            read_full(reader, &mut bytes, stall)?;
            let hole = HoleChunk::decode(&bytes)?;
            place(call, hole.offset, hole.len as usize)?.fill(0);
            Ok(())
        }
        chunk::BLOCK_STATUS => absorb_status(call, len, reader, stall),
        kind if header.is_error() => {
            if len > ErrorChunk::MAX_LEN {
                return Err(malformed("the message of an error is too long"));
            }
            let mut payload = vec![0; len];
            read_full(reader, &mut payload, stall)?;
            let error = ErrorChunk::decode(kind, &payload)?;
            // The first one is the cause.
            call.error.get_or_insert_with(|| server_error(error.error, &error.message));
            Ok(())
        }
        kind => Err(malformed(format!("a chunk of the type {kind} with {len} bytes"))),
    }
}

fn absorb_data(
    call: &mut Call<'_>,
    len: usize,
    reader: &mut impl Read,
    stall: Duration,
) -> io::Result<()> {
    let mut offset = [0; 8];
    let Some(len) = len.checked_sub(offset.len()) else {
        return Err(malformed("a chunk with data has no offset"));
    };
    read_full(reader, &mut offset, stall)?;
    let buf = place(call, u64::from_be_bytes(offset), len)?;
    read_full(reader, buf, stall)
}

/// Returns the part of the buffer of a READ that a chunk is for.
fn place<'b>(call: &'b mut Call<'_>, offset: u64, len: usize) -> io::Result<&'b mut [u8]> {
    let Kind::Read { offset: first, buf } = &mut call.kind else {
        return Err(malformed("data that were not asked for"));
    };
    let start = offset.checked_sub(*first).and_then(|start| usize::try_from(start).ok());
    let part = start.and_then(|start| Some(start..start.checked_add(len)?));
    let part = part.filter(|part| part.end <= buf.len() && !part.is_empty());
    let part = part.ok_or_else(|| malformed("data outside of what was asked for"))?;
    // Usually in order.
    match call.filled.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => call.filled.push(part.clone()),
    }
    Ok(&mut buf[part])
}

fn absorb_status(
    call: &mut Call<'_>,
    len: usize,
    reader: &mut impl Read,
    stall: Duration,
) -> io::Result<()> {
    let Kind::Status { len: asked, context, found, .. } = &mut call.kind else {
        return Err(malformed("a block status that was not asked for"));
    };
    if len > BlockStatus::len(MAX_DESCRIPTORS) {
        return Err(malformed(format!("a block status has {len} bytes")));
    }
    let mut payload = vec![0; len];
    read_full(reader, &mut payload, stall)?;
    let status = BlockStatus::decode(&payload)?;
    // All contexts that were agreed on are told; another one of them may be asked for.
    if status.context != *context {
        return Ok(());
    }
    if !found.is_empty() {
        return Err(malformed("the block status of a context is told twice"));
    }
    // The last one may go beyond what was asked for, and no other.
    let (_, first) = status.descriptors.split_last().unwrap_or((&status.descriptors[0], &[]));
    if first.iter().map(|part| u64::from(part.len)).sum::<u64>() >= u64::from(*asked) {
        return Err(malformed("the block status goes beyond what was asked for"));
    }
    *found = status.descriptors;
    Ok(())
}

/// Checks that all that was asked for is there, and nothing twice.
fn check_complete(call: &mut Call<'_>) -> io::Result<()> {
    match &call.kind {
        Kind::Read { buf, .. } => {
            call.filled.sort_unstable_by_key(|part| part.start);
            let mut end = 0;
            for part in &call.filled {
                if part.start != end {
                    return Err(malformed("data are missing or sent twice"));
                }
                end = part.end;
            }
            match end == buf.len() {
                true => Ok(()),
                false => Err(malformed("data are missing")),
            }
        }
        Kind::Status { found, .. } if found.is_empty() => {
            Err(malformed("the block status is missing"))
        }
        Kind::Status { .. } | Kind::Write { .. } | Kind::Plain { .. } => Ok(()),
    }
}
