//! Writing of blobs as blocks; see [`upload`](crate::upload).
//!
//! ```text
//!   parts:         Put Block
//!   complete, put: Put Block List, Get Block List
//! ```
//!
//! Blocks belong to no upload, but to the name of the blob: its list of blocks makes those visible that
//! it names, and removes all others. Each upload gives its blocks names that no other one has. If two
//! programs write the same blob, the second list names blocks that are gone, and is refused. Blocks that
//! no list names cannot be removed; the service removes them after a week.

use super::blob::{Blob, Call};
use crate::http::answer::Unexpected;
use crate::http::body::text;
use crate::http::transport::{Attempt, Failure, wrong};
use crate::s3::object::Payload;
use crate::s3::refusal::Refusal;
use crate::upload::{Limits, NewObject, Store, Upload};
use base64::prelude::{BASE64_STANDARD, Engine};
use diskimg::storage::source::RetryPolicy;
use md5::{Digest, Md5};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use ureq::http::{HeaderName, Method, header};

/// A blob has at most 50,000 blocks of at most 4000 MiB.
const LIMITS: Limits =
    Limits { min_part: 8 << 20, max_part: 4000 << 20, equal_parts: 49_000, max_parts: 50_000 };

/// How long the service may take to confirm a block.
const CONFIRMATION: Duration = Duration::from_secs(120);

/// How long it may take to put blocks together.
const COMPLETION: Duration = Duration::from_secs(600);

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// Maximum length in bytes of a list of blocks.
const MAX_LIST: u64 = 16 << 20;

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct Blocks {
    blob: Blob,
    create_only: bool,
    /// What begins the names of the blocks.
    prefix: String,
    /// Blocks may have been sent.
    has_begun: AtomicBool,
    /// Number of attempts to send a block.
    attempts: AtomicU32,
}

/// A block that the service has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Its name, in base64.
    id: String,
    /// Its length in bytes.
    len: u64,
}

/// Creates a blob. With `create_only`, it must not exist.
///
/// # Errors
/// Returns [`io::ErrorKind::AlreadyExists`] if it does, and the underlying error if the temporary file
/// cannot be created.
pub(super) fn create(
    blob: Blob,
    retry: RetryPolicy,
    create_only: bool,
    name: String,
) -> io::Result<NewObject<Blocks>> {
    // Each `RandomState` has other keys.
    let random = || RandomState::new().build_hasher().finish();
    let prefix = format!("{:016x}{:016x}", random(), random());
    let blocks = Blocks {
        blob,
        create_only,
        prefix,
        has_begun: AtomicBool::new(false),
        attempts: AtomicU32::new(0),
    };
    let new = NewObject::create(blocks, LIMITS, retry, name)?;
    if create_only {
        let upload = new.upload();
        let exists = || match upload.store.blob.exchange(&Call::new(Method::HEAD))? {
            Ok(_) => Ok(true),
            // Those who may only write cannot look; the service does at the end.
            Err(refusal) if matches!(refusal.status.as_u16(), 403 | 404) => Ok(false),
            Err(refusal) => Err(refusal.into_failure()),
        };
        if upload.repeat_lookup(exists)? {
            return Err(already_exists());
        }
    }
    Ok(new)
}

impl Store for Blocks {
    type Receipt = Block;

    fn begin(&self, _: &Upload<Self>) -> io::Result<()> {
        self.has_begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    fn put_part(&self, upload: &Upload<Self>, index: usize, range: &Range<u64>) -> Attempt<Block> {
        // All names have the same length. That of each attempt is its own: an older one that arrives late
        // replaces nothing.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let id = BASE64_STANDARD.encode(format!("{}{attempt:08x}{index:05}", self.prefix));
        let hash = md5(upload.reader(range)).map_err(Failure::Final)?;
        let hash = BASE64_STANDARD.encode(hash);
        let len = range.end - range.start;
        let response = self.blob.attempt(&Call {
            query: &[("comp", "block"), ("blockid", &id)],
            headers: &[(HeaderName::from_static("content-md5"), &hash)],
            body: Payload::Stream { len, open: &|| upload.reader(range), sha256: None },
            time: Some(CONFIRMATION),
            ..Call::new(Method::PUT)
        })?;
        drop(text(response, self.blob.transport.stall_timeout));
        Ok(Block { id, len })
    }

    fn complete(&self, upload: &Upload<Self>, parts: &[Block]) -> io::Result<()> {
        let list = block_list(parts);
        let kind = HeaderName::from_static("x-ms-blob-content-type");
        let mut headers = vec![(kind, "application/octet-stream")];
        if self.create_only {
            headers.push((header::IF_NONE_MATCH, "*"));
        }
        let mut is_repeated = false;
        let outcome = upload.repeat(|| {
            let was_repeated = std::mem::replace(&mut is_repeated, true);
            let response = self.blob.exchange(&Call {
                query: &[("comp", "blocklist")],
                headers: &headers,
                body: Payload::Bytes(list.as_bytes()),
                time: Some(COMPLETION),
                ..Call::new(Method::PUT)
            })?;
            match response {
                Ok(response) => text(response, COMPLETION).map(drop),
                // An earlier attempt may have succeeded.
                // That of an empty blob says nothing: any blob may have no blocks.
                Err(_) if was_repeated && !parts.is_empty() && self.is_complete(parts)? => Ok(()),
                Err(refusal) if is_existing(&refusal) => Err(Failure::Final(already_exists())),
                Err(refusal) => Err(refusal.into_failure()),
            }
        });
        let is_complete = upload.repeat_lookup(|| self.is_complete(parts));
        match (outcome, is_complete) {
            // Those who may only write cannot look.
            (Ok(()), Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            (Ok(()), Ok(true)) => Ok(()),
            (Err(_), Ok(true)) if !parts.is_empty() => Ok(()),
            (Ok(()), Ok(false)) => Err(io::Error::other(
                "the blob is not the one that was written: someone else has replaced or removed it",
            )),
            (Err(e), _) | (Ok(()), Err(e)) => Err(e),
        }
    }

    fn put(&self, upload: &Upload<Self>) -> io::Result<()> {
        let range = 0..upload.len()?;
        // No block is empty.
        let block = |range| upload.repeat(|| self.put_part(upload, 0, range));
        let blocks = (range.end > 0).then(|| block(&range)).transpose()?;
        self.complete(upload, blocks.as_slice())
    }

    /// Blocks cannot be removed.
    fn abort(&self, _: &Upload<Self>) {}
}

impl Blocks {
    /// Returns true if the blob consists of these blocks.
    fn is_complete(&self, parts: &[Block]) -> Attempt<bool> {
        let response = self.blob.exchange(&Call {
            query: &[("comp", "blocklist"), ("blocklisttype", "committed")],
            ..Call::new(Method::GET)
        })?;
        let response = match response {
            Ok(response) => response,
            Err(refusal) if refusal.status == 404 => return Ok(false),
            Err(refusal) => return Err(refusal.into_failure()),
        };
        let reader = response.into_body().into_with_config().limit(MAX_LIST).reader();
        let mut bytes = Vec::new();
        crate::http::body::Paced::new(reader, self.blob.transport.stall_timeout)
            .take(MAX_LIST)
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::Temporary(e, None))?;
        let malformed = || wrong(Unexpected("the server's list of blocks is malformed".into()));
        Ok(blocks_of(&String::from_utf8_lossy(&bytes)).ok_or_else(malformed)? == parts)
    }
}

/// Returns true if a blob was not replaced.
fn is_existing(refusal: &Refusal) -> bool {
    refusal.code == "BlobAlreadyExists" || refusal.status == 412
}

fn already_exists() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "the blob exists already")
}

fn md5(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let (mut hash, mut buffer) = (Md5::new(), vec![0; BUFFER]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Returns the body of Put Block List.
fn block_list(blocks: &[Block]) -> String {
    let items = blocks.iter().map(|block| format!("<Uncommitted>{}</Uncommitted>", block.id));
    let items: String = items.collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{items}</BlockList>")
}

/// Returns the blocks in a reply to Get Block List.
fn blocks_of(text: &str) -> Option<Vec<Block>> {
    let options = roxmltree::ParsingOptions {
        // Three elements and their texts for each block.
        nodes_limit: 10 * LIMITS.max_parts as u32,
        ..roxmltree::ParsingOptions::default()
    };
    let text = text.trim_start_matches('\u{feff}');
    let document = roxmltree::Document::parse_with_options(text, options).ok()?;
    let block = |node: roxmltree::Node<'_, '_>| {
        let child = |name| node.children().find(|child| child.has_tag_name(name))?.text();
        Some(Block { id: child("Name")?.to_owned(), len: child("Size")?.parse().ok()? })
    };
    let blocks = document.descendants().filter(|node| node.has_tag_name("Block"));
    blocks.map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_blocks() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks>\
                    <Block><Name>QQ==</Name><Size>3</Size></Block>\
                    <Block><Name>Qg==</Name><Size>4000</Size></Block></CommittedBlocks></BlockList>";
        let blocks = blocks_of(text).expect("is one");
        let block = |id: &str, len| Block { id: id.to_owned(), len };
        assert_eq!(blocks, [block("QQ==", 3), block("Qg==", 4000)]);
        assert!(block_list(&blocks).contains("<Uncommitted>QQ==</Uncommitted><Uncommitted>Qg=="));
        for wrong in ["", "<BlockList><Block><Name>a</Name></Block></BlockList>"] {
            assert_eq!(blocks_of(wrong), None, "{wrong}");
        }
    }
}
