//! Identifiers of the UDF tree: OSTA CS0, case-sensitive, without versions.

use crate::iso::udf::to_cs0;
use crate::iso::write::charset::Charset;
use crate::iso::write::identifier::Naming;
use crate::iso::write::units;
use std::cmp::Ordering;

/// Naming rules of UDF: all characters are allowed, and identifiers have up to 254 bytes after the
/// compression ID, which are 254 characters up to U+00FF, or 127 UTF-16 units.
#[derive(Debug, Clone, Copy)]
pub(super) struct UdfNames {
    /// Character set of the names.
    pub(super) charset: Charset,
}

/// Maximum length of an identifier in bytes, without the compression ID.
const ROOM: usize = 254;

impl Naming for UdfNames {
    fn make(&self, name: &[u8], _is_dir: bool, number: Option<u32>, out: &mut Vec<u8>) -> bool {
        let text = self.charset.decode(name);
        let units: Vec<u16> = text.encode_utf16().collect();
        let wide = units.iter().any(|&unit| unit > 0xFF);
        let kept = units::fit(&units, if wide { ROOM / 2 } else { ROOM }, number);
        to_cs0(&kept, out);
        !text.contains(char::REPLACEMENT_CHARACTER) && kept == units
    }

    fn finish(&self, _is_dir: bool, _out: &mut Vec<u8>, _start: usize) {}

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        a.cmp(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, number: Option<u32>) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let naming = UdfNames { charset: Charset::UTF_8 };
        let faithful = naming.make(name.as_bytes(), false, number, &mut out);
        (out, faithful)
    }

    #[test]
    fn names_are_truncated_before_the_extension() {
        let fits = "x".repeat(254);
        assert_eq!(named(&fits, None), ([b"\x08", fits.as_bytes()].concat(), true));
        let (cut, faithful) = named(&format!("{}.txt", "x".repeat(251)), None);
        assert_eq!((&*cut, faithful), (format!("\x08{}.txt", "x".repeat(250)).as_bytes(), false));
        let (cut, _) = named(&format!("名{}.txt", "x".repeat(200)), None);
        assert_eq!((cut[0], cut.len()), (16, 255));
        assert!(cut.ends_with(b"\0x\0.\0t\0x\0t"));
        assert_eq!(named("a:b*?\\.txt", None), (b"\x08a:b*?\\.txt".to_vec(), true));
    }

    #[test]
    fn truncated_names_of_the_same_text_have_the_same_identifier() {
        let short = "x".repeat(127);
        assert_eq!(named(&format!("{short}名"), None).0, named(&short, None).0);
        assert_eq!(named("a\u{fffd}", None).0, named("a\u{fffd}", None).0);
    }
}
