//! What `inspect` calls safe, compared with short restatements of how other programs read it.

use crate::exercise;
use crate::{ova, vmdk};
use diskimg::storage::source::MemorySource;
use diskimg::{InspectOptions, Inspection, inspect_source};
use std::sync::Arc;

const SECTOR: usize = 512;

fn inspect(bytes: Vec<u8>) -> Inspection {
    let source = Arc::new(MemorySource::new(bytes));
    let found = inspect_source(source, "fuzzed.img", &InspectOptions::new());
    let found = found.unwrap_or_else(|error| panic!("inspect failed: {error}"));
    for finding in &found.findings {
        exercise::assert_line(&finding.message);
    }
    found
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|found| found == word)
}

/// Input: the bytes after the header of a sparse extent, beginning with the descriptor. In a safe
/// image, QEMU's search finds no parent.
pub(crate) fn descriptor(input: &[u8]) {
    let mut bytes = vmdk::plain_extent();
    let len = input.len().min(bytes.len() - SECTOR).min(20 * SECTOR);
    bytes[SECTOR..SECTOR + len].copy_from_slice(&input[..len]);
    let text = bytes[SECTOR..21 * SECTOR].split(|&byte| byte == 0).next().unwrap_or_default();
    let text = text.to_vec();
    if !inspect(bytes).is_safe() {
        return;
    }
    if let Some(at) = find(&text, b"parentFileNameHint") {
        let value = text.get(at + 20..).unwrap_or_default();
        assert_eq!(value.first(), Some(&b'"'), "QEMU finds a parent");
    }
    if let Some(at) = find(&text, b"parentCID") {
        let value = text.get(at + 10..).unwrap_or_default().trim_ascii_start();
        let digits = value.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let other = digits > 0 && value[..digits].iter().any(|digit| !b"fF".contains(digit));
        assert!(!other || value.starts_with(b"0x"), "QEMU finds the CID of a parent");
    }
}

pub(crate) fn descriptor_seeds() -> Vec<Vec<u8>> {
    let bytes = vmdk::plain_extent();
    let text = bytes[SECTOR..].split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let lines = [
        "# parentFileNameHint=\"x\"\n",
        "ddb.parentCID=12345678\n",
        "parentCID=ffffffff\n",
        "parentFileNameHint=\"\"\n",
        "\r# CID=1\n",
    ];
    let with = lines.map(|line| [&text, line.as_bytes()].concat());
    with.into_iter().chain([text.clone()]).collect()
}

/// Input: a tar archive, whose checksums are corrected. The members of a safe appliance have the
/// names and sizes that the crate `tar` lists, each once.
pub(crate) fn archive(input: &[u8]) {
    let bytes = ova::with_checksums(input);
    let found = inspect(bytes.clone());
    if !found.is_safe() || found.format != "ova" {
        return;
    }
    let mut archive = tar::Archive::new(&*bytes);
    let entries = archive.entries().unwrap_or_else(|error| panic!("tar fails: {error}"));
    let mut names = std::collections::BTreeSet::new();
    let mut end = 0;
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("tar fails: {error}"));
        let kind = entry.header().entry_type();
        end = entry.raw_file_position() + entry.size();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).to_lowercase();
        let known = kind.is_file() || kind.is_dir() || kind.is_gnu_sparse() || kind.is_contiguous();
        assert!(known, "{name}: {kind:?}");
        assert!(names.insert(name.clone()), "two members are called {name}");
    }
    let end = usize::try_from(end).unwrap_or(usize::MAX).next_multiple_of(SECTOR);
    let mut blocks = bytes.get(end..).unwrap_or_default().chunks_exact(SECTOR);
    assert!(!blocks.any(|block| &block[257..262] == b"ustar"), "more members after the end");
}

/// Input: any bytes. What is safe as a raw disk has none of the signatures that QEMU probes.
pub(crate) fn probes(input: &[u8]) {
    let head = {
        let mut head = input[..input.len().min(SECTOR)].to_vec();
        head.resize(SECTOR, 0);
        head
    };
    let found = inspect(input.to_vec());
    let starts = |magic: &[u8]| head.starts_with(magic);
    let version = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let probed = match () {
        () if starts(b"QFI\xfb") && version >= 2 => "qcow2",
        () if starts(b"KDMV") || starts(b"COWD") || is_text_descriptor(&head) => "vmdk",
        () if starts(b"vhdxfile") => "vhdx",
        () if starts(b"QFI\xfb\0\0\0\x01")
            || starts(b"QED\0")
            || starts(b"conectix")
            || starts(b"LUKS\xba\xbe\0\x01")
            || head[64..68] == [0x7f, 0x10, 0xda, 0xbe]
            || starts(
                b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 ",
            )
            || (starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt"))
                && head[16..20] == [2, 0, 0, 0]
            || starts(b"Bochs Virtual HD Image\0") && &head[32..39] == b"Redolog" =>
        {
            "another"
        }
        () => "raw",
    };
    if found.is_safe() && !input.is_empty() {
        let ours = match found.format {
            format @ ("qcow2" | "vmdk" | "vhdx") => format,
            _ => "raw",
        };
        assert_eq!(probed, ours, "QEMU probes another format");
    }
}

/// QEMU's rule for descriptors: comments and lines of blanks, then the version.
fn is_text_descriptor(head: &[u8]) -> bool {
    let mut text = head;
    while let [b'#' | b' ', ..] = text {
        let Some(end) = find(text, b"\n") else { return false };
        let line = text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]);
        if text[0] == b' ' && line.iter().any(|&byte| byte != b' ') {
            return false;
        }
        text = &text[end + 1..];
    }
    [&b"version=1"[..], b"version=2", b"version=3"].iter().any(|version| {
        text.strip_prefix(*version)
            .is_some_and(|rest| rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
    })
}

pub(crate) fn probes_seeds() -> Vec<Vec<u8>> {
    let mut seeds = crate::detect::detect_seeds();
    for text in [
        &b"# a\rversion=7\nversion=1\n"[..],
        b"#\n   \r\nversion=3\r\n",
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
        b"WithoutFreeSpace\x02\0\0\0",
        b"vhdxfile",
        b"koly\0\0\0\x04",
        b"#mtree\n",
    ] {
        seeds.push([text, &[0; 1024]].concat());
    }
    seeds
}
