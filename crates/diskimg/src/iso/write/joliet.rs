//! Identifiers of the Joliet tree: UTF-16BE, without versions.

use super::charset::Charset;
use super::identifier::Naming;
use super::options::Joliet;
use super::units;
use std::cmp::Ordering;

/// Naming rules with identifiers of up to 64 or 103 UTF-16 units.
#[derive(Debug)]
pub(super) struct JolietNames {
    pub(super) length: Joliet,
    /// Character set of the names.
    pub(super) charset: Charset,
}

impl Naming for JolietNames {
    fn make(&self, name: &[u8], _is_dir: bool, number: Option<u32>, out: &mut Vec<u8>) -> bool {
        let room = match self.length {
            Joliet::Standard => 64,
            Joliet::Long => 103,
        };
        let text = self.charset.decode(name);
        let mut faithful = !text.contains(char::REPLACEMENT_CHARACTER);
        let units: Vec<u16> = text
            .chars()
            .map(|c| {
                let fine = is_allowed(c);
                faithful &= fine;
                if fine { c } else { '_' }
            })
            .flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec())
            .collect();
        let kept = units::fit(&units, room, number);
        extend(out, &kept);
        faithful && kept == units
    }

    /// Appends no version: mkisofs and xorriso omit it, too, and readers that look up exact names
    /// (pycdlib, and thus OpenStack Ironic) would not find the file.
    fn finish(&self, _is_dir: bool, _out: &mut Vec<u8>, _start: usize) {}

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        a.cmp(b)
    }
}

/// Returns true if the character is allowed in a name (Joliet Specification, "Allowed Character
/// Set").
fn is_allowed(c: char) -> bool {
    c >= ' ' && !matches!(c, '*' | '/' | ':' | ';' | '?' | '\\')
}

fn extend(out: &mut Vec<u8>, units: &[u16]) {
    out.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
}

/// Encodes text for a field of `N` bytes: truncated to whole characters, padded with spaces.
pub(super) fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for pair in bytes.chunks_exact_mut(2) {
        pair.copy_from_slice(&[0, b' ']);
    }
    let mut used = 0;
    for c in text.chars() {
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units);
        if used + 2 * units.len() > N {
            break;
        }
        for unit in units {
            bytes[used..used + 2].copy_from_slice(&unit.to_be_bytes());
            used += 2;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(joliet: Joliet, name: &[u8], number: Option<u32>) -> (String, bool) {
        let mut out = Vec::new();
        let names = JolietNames { length: joliet, charset: Charset::UTF_8 };
        let faithful = names.make(name, false, number, &mut out);
        let units: Vec<_> = out.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
        (String::from_utf16(&units).expect("whole characters"), faithful)
    }

    #[test]
    fn only_forbidden_characters_are_replaced() {
        let standard = |name: &str| named(Joliet::Standard, name.as_bytes(), None);
        assert_eq!(standard("emoji-😀.txt"), ("emoji-😀.txt".into(), true));
        assert_eq!(standard("a:b*c?d;e\\f"), ("a_b_c_d_e_f".into(), false));
        assert_eq!(named(Joliet::Long, b"a\xffb", None), ("a\u{fffd}b".into(), false));
    }

    #[test]
    fn long_names_are_truncated_before_the_extension_and_not_within_a_character() {
        let name = format!("{}.tar", "x".repeat(80));
        let (cut, faithful) = named(Joliet::Standard, name.as_bytes(), None);
        assert_eq!((cut, faithful), (format!("{}.tar", "x".repeat(60)), false));
        assert_eq!(named(Joliet::Long, name.as_bytes(), None), (name.clone(), true));
        let (cut, _) = named(Joliet::Standard, name.as_bytes(), Some(3));
        assert_eq!(cut, format!("{}003.tar", "x".repeat(57)));
        for shift in 0..2 {
            let emoji = format!("{}{}", "x".repeat(shift), "😀".repeat(50));
            let (cut, _) = named(Joliet::Standard, emoji.as_bytes(), None);
            assert_eq!(cut.encode_utf16().count(), 64 - shift);
        }
    }

    #[test]
    fn a_field_is_truncated_and_padded() {
        assert_eq!(field::<6>("ab"), *b"\0a\0b\0 ");
        assert_eq!(field::<4>("abc"), *b"\0a\0b");
        assert_eq!(field::<4>("a😀"), *b"\0a\0 ");
    }
}
