//! Formats that are known by their signature alone. None of them is read; a file that may be one
//! is told from a raw disk, whose bytes are the guest's.
//!
//! ```text
//!   first bytes    QFI\xfb 0 0 0 1   QED\0   conectix   vhdxfile   LUKS\xba\xbe   …
//!   byte 64        VDI's signature
//!   last sector    conectix (a fixed VHD)   koly (DMG)
//! ```

use crate::formats::inspect::Subject;

/// A format that is not read.
pub(crate) struct Signature {
    /// Its name, as OpenStack has it where it has one.
    pub(crate) name: &'static str,
    /// Another name: QEMU's or another program's.
    pub(crate) alias: Option<&'static str>,
    /// Whether some program may take the bytes for it.
    pub(crate) matches: fn(&Subject<'_>) -> bool,
    /// Guest bytes, where they are told in one place.
    pub(crate) size: fn(&Subject<'_>) -> Option<u64>,
    /// Whether its nature is to be encrypted.
    pub(crate) encrypted: bool,
}

impl Signature {
    const fn new(name: &'static str, matches: fn(&Subject<'_>) -> bool) -> Self {
        Self { name, alias: None, matches, size: |_| None, encrypted: false }
    }
}

/// Every one of them.
pub(crate) static SIGNATURES: [Signature; 10] = [
    // QEMU's first own format; version 0 was never one, nor is it anything else.
    Signature::new("qcow", |s| {
        s.head.starts_with(b"QFI\xfb") && be32(s.head, 4).is_none_or(|version| version < 2)
    }),
    Signature::new("qed", |s| s.head.starts_with(b"QED\0")),
    Signature { alias: Some("vpc"), size: vhd_size, ..Signature::new("vhd", is_vhd) },
    Signature::new("vhdx", |s| s.head.starts_with(b"vhdxfile")),
    Signature {
        size: |s| s.head.get(0x170..0x178)?.try_into().ok().map(u64::from_le_bytes),
        ..Signature::new("vdi", |s| s.head.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]))
    },
    Signature {
        encrypted: true,
        ..Signature::new("luks", |s| s.head.starts_with(b"LUKS\xba\xbe"))
    },
    Signature {
        alias: Some("ploop"),
        ..Signature::new("parallels", |s| {
            [b"WithoutFreeSpace", b"WithouFreSpacExt"].iter().any(|m| s.head.starts_with(*m))
        })
    },
    Signature::new("bochs", |s| s.head.starts_with(b"Bochs Virtual HD Image")),
    Signature::new("cloop", |s| s.head.starts_with(b"#!/bin/sh\n#V2.0 Format\n")),
    Signature::new("dmg", |s| last_sector(s).is_some_and(|sector| sector.starts_with(b"koly"))),
];

/// A copy of the footer is in front of a dynamic disk. The footers of some early programs are a
/// byte shorter than a sector.
fn is_vhd(subject: &Subject<'_>) -> bool {
    vhd_footer(subject).is_some()
}

fn vhd_footer<'a>(subject: &'a Subject<'_>) -> Option<&'a [u8]> {
    const COOKIE: &[u8] = b"conectix";
    let tail = subject.tail;
    let ends = [512, 511].map(|len| tail.len().checked_sub(len).map(|start| &tail[start..]));
    [Some(subject.head)].into_iter().chain(ends).flatten().find(|bytes| bytes.starts_with(COOKIE))
}

fn vhd_size(subject: &Subject<'_>) -> Option<u64> {
    vhd_footer(subject)?.get(48..56)?.try_into().ok().map(u64::from_be_bytes)
}

fn last_sector<'a>(subject: &'a Subject<'_>) -> Option<&'a [u8]> {
    let tail = subject.tail;
    Some(&tail[tail.len().checked_sub(512)?..])
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
