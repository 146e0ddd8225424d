//! Structures of VMDK: sparse extents (KDMV, COWD), streams, descriptors; seSparse as plain
//! sectors.

use super::structure::Order::Little;
use super::structure::{Part, number, sectors};

const SECTOR: usize = 512;

/// Header fields of a hosted sparse extent (KDMV).
const HEADER: [(&str, usize, usize); 15] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("flags", 8, 4),
    ("capacity", 12, 8),
    ("grainSize", 20, 8),
    ("descriptorOffset", 28, 8),
    ("descriptorSize", 36, 8),
    ("numGTEsPerGT", 44, 4),
    ("rgdOffset", 48, 8),
    ("gdOffset", 56, 8),
    ("overHead", 64, 8),
    ("uncleanShutdown", 72, 1),
    ("singleEndLineChar", 73, 1),
    ("doubleEndLineChar", 75, 1),
    ("compressAlgorithm", 77, 2),
];

/// Header fields of an ESX sparse extent (COWD).
const COWD: [(&str, usize, usize); 11] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("flags", 8, 4),
    ("numSectors", 12, 4),
    ("grainSize", 16, 4),
    ("gdOffset", 20, 4),
    ("numGDEntries", 24, 4),
    ("freeSector", 28, 4),
    ("parentGeneration", 1056, 4),
    ("generation", 1060, 4),
    ("uncleanShutdown", 1648, 4),
];

/// Returns the structures of a file of a VMDK.
pub(super) fn parts(image: &[u8]) -> Vec<Part> {
    match image.get(..4) {
        Some(b"KDMV") => sparse(image),
        Some(b"COWD") => cowd(image),
        Some(b"# Di") => vec![Part::text("descriptor", 0, image.len())],
        _ => sectors(image, "sector", 8),
    }
}

fn sparse(image: &[u8]) -> Vec<Part> {
    let le = |at, width| number(image, at, width, Little);
    let header = |class, at| Part::new(class, at, SECTOR).with(Little, &HEADER);
    let mut parts = vec![header("header", 0)];
    let text = le(28, 8) * SECTOR;
    let bytes = &image[text..(text + le(36, 8) * SECTOR).min(image.len())];
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    parts.push(Part::text("descriptor", text, end));
    // In a stream, the offset of the grain directory is in the footer.
    let footer = image.len().saturating_sub(2 * SECTOR);
    let header_at = if le(56, 8) == usize::MAX { footer } else { 0 };
    if header_at != 0 {
        parts.push(header("footer", footer));
        parts.push(marker("footer marker", footer - SECTOR));
        parts.push(marker("end-of-stream marker", footer + SECTOR));
    }
    let (gtes, packed) = (le(44, 4), le(8, 4) >> 16 & 1 == 1);
    let tables = le(12, 8).div_ceil(le(20, 8) * gtes);
    for (class, at) in
        [("grain directory", header_at + 56), ("redundant directory", header_at + 48)]
    {
        if le(at, 8) == 0 {
            continue;
        }
        let directory = le(at, 8) * SECTOR;
        parts.push(Part::new(class, directory, tables * 4).table(Little, 0, 4));
        if header_at != 0 {
            parts.push(marker("directory marker", directory - SECTOR));
        }
        for table in 0..tables {
            let at = le(directory + table * 4, 4) * SECTOR;
            if at == 0 {
                continue;
            }
            parts.push(Part::new("grain table", at, gtes * 4).table(Little, 0, 4));
            if header_at != 0 {
                parts.push(marker("table marker", at - SECTOR));
            }
            let grains = (0..gtes).map(|grain| le(at + grain * 4, 4) * SECTOR);
            parts.extend(grains.filter(|&at| at > SECTOR && packed).map(|at| grain(image, at)));
        }
    }
    parts
}

/// Returns a marker, which precedes each table of a stream and has its length and type.
fn marker(class: &'static str, at: usize) -> Part {
    Part::new(class, at, SECTOR).with(Little, &[("sectors", 0, 8), ("size", 8, 4), ("type", 12, 4)])
}

/// Returns a compressed grain with its header.
fn grain(image: &[u8], at: usize) -> Part {
    let len = 12 + number(image, at + 8, 4, Little);
    Part::new("compressed grain", at, len).with(Little, &[("sector", 0, 8), ("size", 8, 4)])
}

fn cowd(image: &[u8]) -> Vec<Part> {
    let le = |at| number(image, at, 4, Little);
    let mut parts = vec![Part::new("header", 0, 4 * SECTOR).with(Little, &COWD)];
    let (directory, tables) = (le(20) * SECTOR, le(24));
    parts.push(Part::new("grain directory", directory, tables * 4).table(Little, 0, 4));
    let entries = if le(4) == 1 { 4096 } else { 512 };
    for table in 0..tables {
        let at = le(directory + table * 4) * SECTOR;
        if at != 0 {
            parts.push(Part::new("grain table", at, entries * 4).table(Little, 0, 4));
        }
    }
    parts
}
