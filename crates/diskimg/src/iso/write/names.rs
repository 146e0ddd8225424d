//! Identifiers of the primary tree (ECMA-119, 7.5 and 7.6), compatible with mkisofs.

use super::charset::Charset;
use super::identifier::Naming;
use super::options::{CreateOptions, Level, NameRules};
use std::cmp::Ordering;

/// Naming according to [`NameRules`].
#[derive(Debug)]
pub(super) struct PrimaryNames {
    rules: NameRules,
    /// Maximum length of an identifier at level 4, in bytes.
    longest: usize,
    /// Character set of the names.
    charset: Charset,
}

/// Maximum length of an identifier in ISO 9660:1999, in bytes.
const LONGEST: usize = 207;

/// Maximum length that leaves space in the record for the first entries of Rock Ridge.
const LONGEST_WITH_ROCK_RIDGE: usize = 193;

/// Maximum lengths of an identifier in bytes.
struct NameLengths {
    /// Name, dot and extension in total.
    total: usize,
    base: usize,
    extension: usize,
}

impl PrimaryNames {
    pub(super) fn new(options: &CreateOptions) -> Self {
        let longest = if options.rock_ridge.is_some() { LONGEST_WITH_ROCK_RIDGE } else { LONGEST };
        let mut rules = options.names.clone();
        if rules.level == Level::Four {
            rules.untranslated = true;
            rules.omit_version = true;
        }
        Self { rules, longest, charset: options.charsets.host }
    }

    fn max_lengths(&self) -> NameLengths {
        let rules = &self.rules;
        let longest = self.longest;
        if rules.level == Level::Four {
            return NameLengths { total: longest, base: longest, extension: longest - 1 };
        }
        let full = rules.full_length || rules.level > Level::One;
        match (rules.untranslated || rules.maximum_length, full) {
            (true, _) => NameLengths { total: 37, base: 37, extension: 36 },
            (false, true) => NameLengths { total: 31, base: 31, extension: 30 },
            (false, false) => NameLengths { total: 12, base: 8, extension: 3 },
        }
    }

    /// Appends the name to `out`, with characters that are not allowed replaced. Returns the offset
    /// of the dot that separates the extension, if there is one.
    fn translate(&self, name: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        let rules = &self.rules;
        if rules.untranslated {
            out.extend_from_slice(name);
        } else {
            self.translate_characters(name, out);
            if out[start] == b'.' && !rules.leading_dots {
                out[start] = b'_';
            }
        }
        let dot = out[start..].iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0);
        if !rules.multiple_dots && !rules.untranslated {
            let before = dot.unwrap_or(0);
            for byte in out[start..start + before].iter_mut().skip(1).filter(|b| **b == b'.') {
                *byte = b'_';
            }
        }
        dot
    }

    fn translate_characters(&self, name: &[u8], out: &mut Vec<u8>) {
        if self.charset != Charset::UTF_8 {
            out.extend(self.charset.decode(name).chars().map(|c| self.character(c)));
            return;
        }
        for chunk in name.utf8_chunks() {
            out.extend(chunk.valid().chars().map(|c| self.character(c)));
            out.extend(chunk.invalid().iter().map(|_| b'_'));
        }
    }

    fn character(&self, c: char) -> u8 {
        let rules = &self.rules;
        match u8::try_from(c) {
            Ok(byte) if !byte.is_ascii() => b'_',
            Ok(byte @ b'a'..=b'z') if !rules.lowercase => byte.to_ascii_uppercase(),
            Ok(byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.')) => byte,
            Ok(byte) if rules.relaxed && !matches!(byte, 0 | b'/' | b';') => byte,
            _ => b'_',
        }
    }
}

impl Naming for PrimaryNames {
    fn make(&self, name: &[u8], is_dir: bool, number: Option<u32>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let dot = self.translate(name, out);
        let mut max = self.max_lengths();
        let text = out.split_off(start);
        let (base, extension) = text.split_at(dot.unwrap_or(text.len()));
        let mut extension = extension.strip_prefix(b".").unwrap_or_default();
        let digits = number.map(|n| format!("{n:03}")).unwrap_or_default();
        if extension.is_empty() {
            // `finish` appends a dot.
            let dot = !is_dir && !self.rules.omit_period && !self.rules.untranslated;
            max.base = max.base.min(max.total - usize::from(dot));
        } else {
            // If both are long, each gets half of the total.
            let share = (max.total - 1).saturating_sub(base.len()).max((max.total - 1) / 2);
            extension = &extension[..extension.len().min(max.extension).min(share)];
            max.base = max.base.min(max.total - 1 - extension.len());
        }
        let kept = base.len().min(max.base.saturating_sub(digits.len()));
        out.extend_from_slice(&base[..kept]);
        out.extend_from_slice(digits.as_bytes());
        if !extension.is_empty() {
            out.push(b'.');
            out.extend_from_slice(extension);
        }
        // Changed identifiers are normal in the primary tree, so none is reported.
        true
    }

    fn finish(&self, is_dir: bool, out: &mut Vec<u8>, start: usize) {
        let rules = &self.rules;
        if is_dir || rules.untranslated {
            return;
        }
        if !rules.omit_period && !out[start..].contains(&b'.') {
            out.push(b'.');
        }
        if !rules.omit_version {
            out.extend_from_slice(b";1");
        }
    }

    /// Compares name, then extension, with the shorter one padded with spaces (ECMA-119, 9.3).
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        let ((a_base, a_extension), (b_base, b_extension)) = (split(a), split(b));
        padded(a_base, b_base).then_with(|| padded(a_extension, b_extension)).then_with(|| a.cmp(b))
    }
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) => (&name[..dot], &name[dot + 1..]),
        None => (name, &[]),
    }
}

fn padded(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.len().min(b.len());
    a[..common].cmp(&b[..common]).then_with(|| {
        let against_spaces = |rest: &[u8]| {
            let other = rest.iter().find(|&&byte| byte != b' ');
            other.map_or(Ordering::Equal, |byte| byte.cmp(&b' '))
        };
        against_spaces(&a[common..]).then_with(|| against_spaces(&b[common..]).reverse())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(names: NameRules) -> PrimaryNames {
        PrimaryNames::new(&CreateOptions { names, ..CreateOptions::default() })
    }

    fn named(rules: &NameRules, name: &str, is_dir: bool, number: Option<u32>) -> String {
        let names = primary(rules.clone());
        let mut out = b"before".to_vec();
        names.make(name.as_bytes(), is_dir, number, &mut out);
        names.finish(is_dir, &mut out, 6);
        String::from_utf8_lossy(&out[6..]).into_owned()
    }

    /// The expected names are those of genisoimage 1.1.11 without options, with `-l`, with `-U`
    /// (except for the length), and with the options that OpenStack Nova uses.
    #[test]
    fn names_are_the_same_as_those_of_mkisofs() {
        let strict = NameRules::strict();
        let full = NameRules { full_length: true, ..strict.clone() };
        let nova =
            NameRules { leading_dots: true, lowercase: true, multiple_dots: true, ..full.clone() };
        let untranslated = NameRules { untranslated: true, ..strict.clone() };
        let long = "averyveryverylongbasenamethatgoesonandon.txt";
        let cases = [
            (&strict, "a.txt", "A.TXT;1"),
            (&strict, long, "AVERYVER.TXT;1"),
            (&strict, "empty", "EMPTY.;1"),
            (&strict, ".profile", "_PROFILE.;1"),
            (&strict, "é;1+x~.txt", "__1_X_.TXT;1"),
            (&strict, "long_name.extension", "LONG_NAM.EXT;1"),
            (&full, long, "AVERYVERYVERYLONGBASENAMETH.TXT;1"),
            (&full, "noextensionaveryveryverylongbasename", "NOEXTENSIONAVERYVERYVERYLONGBA.;1"),
            (&full, "long_name_of_a_file_with_many.extension", "LONG_NAME_OF_A_FILE_W.EXTENSION;1"),
            (&nova, "many.dots.in.name.tar.gz", "many.dots.in.name.tar.gz;1"),
            (&nova, ".profile", ".profile.;1"),
            (&nova, "meta_data.json", "meta_data.json;1"),
            (&untranslated, "x~;é", "x~;é"),
        ];
        for (rules, name, expected) in cases {
            // genisoimage appends a dot to a name whose only dot is the first character; we do not.
            let expected = expected.replace(".profile.;1", ".profile;1");
            assert_eq!(named(rules, name, false, None), expected, "{name}");
        }
        assert_eq!(named(&strict, "conf.d", true, None), "CONF.D");
        assert_eq!(named(&strict, ".hid", true, None), "_HID");
        assert_eq!(named(&strict, "a.b.c", true, None), "A_B.C");
    }

    #[test]
    fn numbers_precede_the_extension_and_fit_in_the_maximum_length() {
        let strict = NameRules::strict();
        assert_eq!(named(&strict, "readme", false, Some(0)), "READM000.;1");
        assert_eq!(named(&strict, "long_name.extension", false, Some(12)), "LONG_012.EXT;1");
        let default = NameRules::default();
        assert_eq!(named(&default, &"x".repeat(99), false, Some(7)).len(), 31 + 2);
        let both = format!("{0}.{0}", "x".repeat(99));
        assert_eq!(named(&default, &both, false, Some(12_345)).len(), 31 + 2);
    }

    #[test]
    fn the_default_rules_keep_names_that_cloud_tools_look_up() {
        for name in ["meta-data", "user-data", "network_data.json", "a b", "x.y.z", ".dot"] {
            assert_eq!(named(&NameRules::default(), name, false, None), format!("{name};1"));
        }
        assert_eq!(named(&NameRules::default(), "a;1", false, None), "a_1;1");
    }

    #[test]
    fn identifiers_are_ordered_by_name_then_by_extension() {
        let names = primary(NameRules::default());
        for pair in [["A.TXT", "A-B.TXT"], ["A.A", "A.B"], ["A", "A.A"], ["A", "AA"], ["A!", "A\""]]
        {
            let [a, b] = pair.map(str::as_bytes);
            assert_eq!(names.compare(a, b), Ordering::Less, "{pair:?}");
            assert_eq!(names.compare(b, a), Ordering::Greater, "{pair:?}");
        }
    }
}
