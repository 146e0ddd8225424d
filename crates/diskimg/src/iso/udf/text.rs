//! Names: OSTA's compressed Unicode (UDF, 2.1.1) and paths made of components.

use super::raw;
use crate::error::{Error, Result};

/// A name in OSTA CS0 as UTF-8: a byte that tells 8 or 16 bits, then the characters.
/// `None` if it is in no known form.
///
/// With 16 bits, UTF-16 is meant since UDF 2.50's errata and by most writers before; half a
/// surrogate pair becomes U+FFFD.
pub(super) fn cs0(bytes: &[u8]) -> Option<String> {
    match bytes.split_first() {
        None => Some(String::new()),
        // 254 and 255: names of deleted files, which readers of a deleted one may still tell.
        Some((8 | 254, text)) => Some(text.iter().map(|&b| char::from(b)).collect()),
        Some((16 | 255, text)) => {
            let units = text.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            let lossy = |c: Result<char, _>| c.unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(char::decode_utf16(units).map(lossy).collect())
        }
        Some(_) => None,
    }
}

/// A field of fixed length whose last byte says how much of it is used (1/7.2.12).
/// What cannot be read is empty: a label is no reason to refuse a volume.
pub(super) fn dstring(field: &[u8]) -> String {
    let Some((&used, text)) = field.split_last() else { return String::new() };
    text.get(..usize::from(used)).and_then(cs0).unwrap_or_default()
}

/// What a symbolic link's content says, as a POSIX path (4/14.16.1).
pub(super) fn path(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |what: &'static str| Error::corrupt("symbolic link", what);
    let mut path = Vec::new();
    while !bytes.is_empty() {
        let (component, rest) =
            raw::read::<raw::PathComponent>(bytes).ok_or_else(|| corrupt("ends in a component"))?;
        let (name, rest) = rest
            .split_at_checked(component.name_length.into())
            .ok_or_else(|| corrupt("a component's name leaves it"))?;
        bytes = rest;
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        match component.kind {
            // The root: of the volume, or of what the system agrees on.
            1 | 2 => {
                path.clear();
                path.push(b'/');
            }
            3 => path.extend(b".."),
            4 => path.extend(b"."),
            5 => {
                let name = cs0(name).filter(|name| !name.is_empty());
                path.extend(name.ok_or_else(|| corrupt("a component has no name"))?.bytes());
            }
            _ => return Err(corrupt("a component is of no known kind")),
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
    fn a_fixed_field_says_how_much_of_it_is_used() {
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
            path(bad).expect_err("no path");
        }
    }
}
