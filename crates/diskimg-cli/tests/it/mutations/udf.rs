//! Structures of UDF (ECMA-167): everything with a valid descriptor tag.

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

/// Returns all descriptors at multiples of four bytes, since file identifiers need not start a
/// block.
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
            let part = Part::new(class, at, len).with(Little, &TAG).with_checksum(update_checksum);
            // Most numbers have four bytes and are aligned.
            let part = part.table(Little, 16, 4);
            let (unaligned, wide) =
                ([("byte", 18, 1), ("bits", 34, 2)], [("information length", 56, 8)]);
            parts.push(part.with(Little, &unaligned).with(Little, &wide));
        }
    }
    parts
}

/// Returns the class of a tag identifier (3/7.2.1, 4/7.2.1).
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

/// Returns the checksum of a tag: the sum of its bytes except the checksum itself.
fn checksum(tag: &[u8]) -> u8 {
    let sum = tag[..16].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    sum.wrapping_sub(tag[4])
}

/// Returns the CRC-16 with polynomial 0x1021 (1/7.2.6).
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

/// Updates the CRC, over the length in the tag, and the tag checksum.
fn update_checksum(descriptor: &mut [u8]) {
    let len = number(descriptor, 10, 2, Little);
    if let Some(bytes) = descriptor.get(16..16 + len) {
        let crc = crc(bytes).to_le_bytes();
        descriptor[8..10].copy_from_slice(&crc);
    }
    descriptor[4] = checksum(descriptor);
}
