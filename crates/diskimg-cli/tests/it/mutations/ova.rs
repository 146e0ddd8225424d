//! Structures of appliances: tar headers and members, or zip records.

use super::structure::Order::{Little, Octal};
use super::structure::{Part, number};
use super::vmdk;

/// Fields of a tar header (POSIX `ustar`).
const HEADER: [(&str, usize, usize); 5] = [
    ("mode", 100, 8),
    ("size", 124, 12),
    ("mtime", 136, 12),
    ("devmajor", 329, 8),
    ("devminor", 337, 8),
];

/// Returns the headers and the structures of the members.
pub(super) fn parts(image: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while image.get(at + 257..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        let size = number(image, at + 124, 12, Octal);
        let member = at + 512;
        let header =
            Part::new("tar header", at, 512).with(Octal, &HEADER).with_checksum(update_checksum);
        parts.push(header.with(Little, &[("typeflag", 156, 1)]));
        parts.push(Part::text("member's name", at, 100));
        let bytes = &image[member..(member + size).min(image.len())];
        if bytes.starts_with(b"KDMV") {
            parts.extend(vmdk::parts(bytes).into_iter().map(|part| part.moved(member)));
        } else {
            let class = if bytes.starts_with(b"<") { "envelope" } else { "manifest" };
            parts.push(Part::text(class, member, size));
        }
        at = member + size.next_multiple_of(512);
    }
    parts
}

/// Returns the records of a zip archive that have a signature (PKWARE APPNOTE.TXT, 4.3).
pub(super) fn zip_parts(image: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    for (at, signature) in image.windows(4).enumerate() {
        let (class, len, names, fields): (_, _, _, &[_]) = match signature {
            b"PK\x03\x04" => ("local header", 30, 26, &LOCAL),
            b"PK\x01\x02" => ("central header", 46, 28, &CENTRAL),
            b"PK\x05\x06" => ("end of central directory", 22, 0, &END),
            _ => continue,
        };
        parts.push(Part::new(class, at, len).with(Little, fields));
        if names != 0 {
            let name = number(image, at + names, 2, Little);
            parts.push(Part::text("member's name", at + len, name));
        }
    }
    parts
}

const LOCAL: [(&str, usize, usize); 8] = [
    ("version needed", 4, 2),
    ("flags", 6, 2),
    ("method", 8, 2),
    ("crc-32", 14, 4),
    ("compressed size", 18, 4),
    ("uncompressed size", 22, 4),
    ("file name length", 26, 2),
    ("extra field length", 28, 2),
];

const CENTRAL: [(&str, usize, usize); 10] = [
    ("flags", 8, 2),
    ("method", 10, 2),
    ("crc-32", 16, 4),
    ("compressed size", 20, 4),
    ("uncompressed size", 24, 4),
    ("file name length", 28, 2),
    ("extra field length", 30, 2),
    ("file comment length", 32, 2),
    ("disk number start", 34, 2),
    ("offset of local header", 42, 4),
];

const END: [(&str, usize, usize); 7] = [
    ("number of this disk", 4, 2),
    ("disk of the directory", 6, 2),
    ("entries on this disk", 8, 2),
    ("entries", 10, 2),
    ("size of the directory", 12, 4),
    ("offset of the directory", 16, 4),
    ("comment length", 20, 2),
];

/// Updates the checksum: the sum of all bytes, with the checksum field filled with spaces.
fn update_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
