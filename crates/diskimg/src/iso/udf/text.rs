//! Text: OSTA Compressed Unicode (UDF, section 2.1.1) and path components.

use super::raw;
use crate::error::{Error, Result};
use crate::storage::number::to_u8;
use byteorder::{BigEndian, ByteOrder};

/// Converts OSTA CS0 to UTF-8: a compression ID (8 or 16 bits per character), then the characters.
/// Returns `None` for an unknown compression ID.
///
/// 16-bit characters have been UTF-16 since the errata to UDF 2.50; most earlier writers also used
/// UTF-16. Unpaired surrogates become U+FFFD.
pub(super) fn cs0(bytes: &[u8]) -> Option<String> {
    match bytes.split_first() {
        None => Some(String::new()),
        // 254 and 255 are the same as 8 and 16, for the names of deleted files.
        Some((8 | 254, text)) => Some(text.iter().map(|&b| char::from(b)).collect()),
        Some((16 | 255, text)) => {
            let units = text.chunks_exact(2).map(BigEndian::read_u16);
            let lossy = |c: Result<char, _>| c.unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(char::decode_utf16(units).map(lossy).collect())
        }
        Some(_) => None,
    }
}

/// Converts UTF-16 units to OSTA CS0, with 8 bits per character if that is possible.
pub(in crate::iso) fn to_cs0(units: &[u16], out: &mut Vec<u8>) {
    if units.iter().all(|&unit| unit <= 0xFF) {
        out.push(8);
        out.extend(units.iter().map(|&unit| to_u8(unit)));
    } else {
        out.push(16);
        out.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
    }
}

/// Decodes a dstring: a field of fixed length whose last byte is the length of the used part
/// (ECMA-167, 1/7.2.12). Returns an empty string for an invalid one, because an invalid label must
/// not make the volume unreadable.
pub(super) fn dstring(field: &[u8]) -> String {
    let Some((&used, text)) = field.split_last() else { return String::new() };
    text.get(..usize::from(used)).and_then(cs0).unwrap_or_default()
}

/// Converts the contents of a symbolic link to a POSIX path (ECMA-167, 4/14.16.1).
pub(super) fn path(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |what: &'static str| Error::corrupt("symbolic link", what);
    let mut path = Vec::new();
    while !bytes.is_empty() {
        let (component, rest) =
            raw::read::<raw::PathComponent>(bytes).ok_or_else(|| corrupt("truncated component"))?;
        let (name, rest) = rest
            .split_at_checked(component.name_length.into())
            .ok_or_else(|| corrupt("truncated name of a component"))?;
        bytes = rest;
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        match component.kind {
            // Type 2, and type 1 with an empty identifier: the root. Type 1 with an identifier is a
            // place by agreement; it is read as the root, too.
            1 | 2 => {
                path.clear();
                path.push(b'/');
            }
            3 => path.extend(b".."),
            4 => path.extend(b"."),
            5 => {
                let name = cs0(name).filter(|name| !name.is_empty());
                path.extend(name.ok_or_else(|| corrupt("invalid name of a component"))?.bytes());
            }
            _ => return Err(corrupt("unknown component type")),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_widths_become_utf8() {
        assert_eq!(cs0(b"\x08caf\xe9").as_deref(), Some("café"));
        assert_eq!(cs0(b"\x10\x54\x0d\xd8\x3d\xde\x00").as_deref(), Some("名😀"));
        assert_eq!(cs0(b"\x10\xd8\x3d\x00a").as_deref(), Some("\u{fffd}a"));
        assert_eq!(cs0(b"").as_deref(), Some(""));
        assert_eq!(cs0(b"\x09abc"), None);
    }

    #[test]
    fn names_are_encoded_with_the_smallest_width() {
        for (name, width) in [("café", 8), ("名😀", 16), ("a\u{100}", 16), ("ÿ", 8)] {
            let mut bytes = Vec::new();
            to_cs0(&name.encode_utf16().collect::<Vec<_>>(), &mut bytes);
            assert_eq!((bytes[0], cs0(&bytes).as_deref()), (width, Some(name)));
        }
    }

    #[test]
    fn the_last_byte_of_a_dstring_is_the_used_length() {
        assert_eq!(dstring(b"\x08label\0\0\0\x06"), "label");
        assert_eq!(dstring(b"\0\0\0\0"), "");
        assert_eq!(dstring(b"\x08ab\xff"), "");
        assert_eq!(dstring(b""), "");
    }

    #[test]
    fn a_link_is_a_path_of_components() {
        let link = path(b"\x03\0\0\0\x05\x04\0\0\x08one\x04\0\0\0\x05\x04\0\0\x08two");
        assert_eq!(link.expect("a path"), b"../one/./two");
        let link = path(b"\x02\0\0\0\x05\x04\0\0\x08abs\x05\x03\0\0\x10\x54\x0d");
        assert_eq!(link.expect("a path"), "/abs/名".as_bytes());
        for bad in [&b"\x05\x09\0\0\x08abc"[..], b"\x05\0", b"\x05\0\0\0", b"\x07\0\0\0"] {
            path(bad).expect_err("not a path");
        }
    }
}
