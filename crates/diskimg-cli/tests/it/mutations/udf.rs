//! UDF's structures (ECMA-167): whatever has a descriptor tag that is right.

use super::structure::Order::Little;
use super::structure::{Part, number};

const TAG: [(&str, usize, usize); 7] = [
    ("tag identifier", 0, 2),
    ("descriptor version", 2, 2),
    ("tag checksum", 4, 1),
    ("tag serial number", 6, 2),
    ("descriptor CRC", 8, 2),
    ("descriptor CRC length", 10, 2),
    ("tag location", 12, 4),
];

/// Every descriptor, wherever it is: file identifiers are not in blocks of their own.
pub(super) fn parts(image: &[u8]) -> Vec<Part> {
    let le = |at, width| number(image, at, width, Little);
    let mut parts = Vec::new();
    for at in (0..image.len().saturating_sub(16)).step_by(4) {
        let class = class(le(at, 2));
        let len = 16 + le(at + 10, 2);
        let Some(class) = class.filter(|_| matches!(le(at + 2, 2), 2 | 3) && len > 16) else {
            continue;
        };
        let Some(bytes) = image.get(at..at + len) else { continue };
        if checksum(bytes) == bytes[4] && crc(&bytes[16..]) as usize == le(at + 8, 2) {
            let part = Part::new(class, at, len).with(Little, &TAG).sealed(seal);
            // Nearly all numbers are of four bytes, and at a multiple of them.
            let part = part.table(Little, 16, 4);
            let (odd, wide) = ([("byte", 18, 1), ("bits", 34, 2)], [("information length", 56, 8)]);
            parts.push(part.with(Little, &odd).with(Little, &wide));
        }
    }
    parts
}

/// What a tag identifier says (3/7.2.1, 4/7.2.1).
fn class(id: usize) -> Option<&'static str> {
    Some(match id {
        1 => "UDF primary volume descriptor",
        2 => "UDF anchor",
        4 => "UDF implementation use",
        5 => "UDF partition descriptor",
        6 => "UDF logical volume descriptor",
        8 => "UDF terminating descriptor",
        9 => "UDF integrity descriptor",
        256 => "UDF file set descriptor",
        257 => "UDF file identifier",
        258 => "UDF allocation extent",
        259 => "UDF indirect entry",
        261 => "UDF file entry",
        262 => "UDF attribute header",
        264 => "UDF space bitmap",
        266 => "UDF extended file entry",
        _ => return None,
    })
}

/// The sum of a tag's bytes but its own.
fn checksum(tag: &[u8]) -> u8 {
    let sum = tag[..16].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    sum.wrapping_sub(tag[4])
}

/// CRC-16 of CCITT, polynomial 0x1021 (1/7.2.6).
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

/// CRC and checksum are right again, over as much as is said, if there is as much.
fn seal(descriptor: &mut [u8]) {
    let len = number(descriptor, 10, 2, Little);
    if let Some(bytes) = descriptor.get(16..16 + len) {
        let crc = crc(bytes).to_le_bytes();
        descriptor[8..10].copy_from_slice(&crc);
    }
    descriptor[4] = checksum(descriptor);
}
