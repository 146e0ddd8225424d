//! What QEMU reads in a descriptor: it searches the text for words, wherever they are, where others
//! parse lines.
//!
//! ```text
//!   # parentFileNameHint="base.vmdk"       a comment for others, the parent for QEMU
//!   ddb.x = "parentCID=4ea3470f"           a value for others, the parent's CID for QEMU
//! ```
//!
//! A sparse extent's descriptor is searched in the 20 sectors after the header, whatever its header
//! states. A descriptor file is recognized by its first sector.

/// Length in bytes of the part of a sparse extent that is searched.
#[cfg(feature = "inspect")]
pub(super) const WINDOW: usize = 20 * 512;

/// Length in bytes of the part of a file that QEMU probes.
const PROBED: usize = 512;

/// Returns true if QEMU takes a file that begins with `head` for a descriptor: comments and lines
/// of blanks, which only a line feed ends, and then a line with a known version.
pub(super) fn is_probed(head: &[u8]) -> bool {
    let mut rest = &head[..head.len().min(PROBED)];
    while let Some(first) = rest.first() {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = end.map_or(rest, |end| &rest[..end]);
        match first {
            b'#' => {}
            b' ' => {
                let text = &line[line.iter().take_while(|&&byte| byte == b' ').count()..];
                if !matches!(text, b"" | b"\r") {
                    return false;
                }
            }
            _ => {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let version = line.strip_prefix(b"version=");
                return end.is_some() && matches!(version, Some(b"1" | b"2" | b"3"));
            }
        }
        let Some(end) = end else { return false };
        rest = &rest[end + 1..];
    }
    false
}

/// What QEMU searches: the text up to the first zero byte. It skips the byte behind a word even if
/// it is that zero byte, and then reads on.
#[cfg(feature = "inspect")]
pub(super) struct Searched<'a> {
    window: &'a [u8],
    /// Length in bytes of the text.
    len: usize,
}

#[cfg(feature = "inspect")]
impl<'a> Searched<'a> {
    /// Returns the text in `window`, the bytes after the header, at most [`WINDOW`].
    pub(super) fn new(window: &'a [u8]) -> Self {
        let window = &window[..window.len().min(WINDOW)];
        let len = window.iter().position(|&byte| byte == 0).unwrap_or(window.len());
        Self { window, len }
    }

    /// Returns the name of a parent that any mention of `parentFileNameHint` states; QEMU uses the
    /// first one. A mention without a closing quote counts with an empty name: `None` is returned
    /// only if there is no mention, or if all of them state that there is no parent.
    pub(super) fn parent(&self) -> Option<String> {
        const QUOTE: usize = "=\"".len();
        self.after("parentFileNameHint").find_map(|after| {
            let value = text_of(after.get(QUOTE..).unwrap_or_default());
            match value.iter().position(|&byte| byte == b'"') {
                Some(0) => None,
                Some(end) => Some(String::from_utf8_lossy(&value[..end]).into_owned()),
                None => Some(String::new()),
            }
        })
    }

    /// Returns the content IDs of a parent that the mentions of `parentCID` state; QEMU uses the
    /// first one.
    pub(super) fn parent_cids(&self) -> impl Iterator<Item = u32> {
        self.after("parentCID").filter_map(|after| scan_hex(after.get(1..)?))
    }

    /// Returns the content ID of the image: the number that follows the first `CID`, which may be
    /// part of another word.
    pub(super) fn cid(&self) -> Option<u32> {
        const WORD: &[u8] = b"CID";
        let at = self.window[..self.len].windows(WORD.len()).position(|word| word == WORD)?;
        scan_hex(self.window.get(at + WORD.len() + 1..)?)
    }

    /// Returns the bytes after each mention of a word, in any case.
    fn after(&self, word: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let window = self.window;
        let found = window[..self.len].windows(word.len()).enumerate();
        let found = found.filter(move |(_, found)| found.eq_ignore_ascii_case(word.as_bytes()));
        found.map(move |(at, _)| &window[at + word.len()..])
    }
}

/// Returns the bytes up to the first zero byte.
#[cfg(feature = "inspect")]
fn text_of(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Parses a hexadecimal number like C's `scanf("%x")`: after whitespace, with an optional sign and
/// prefix, up to the first other character, and reduced to 32 bits.
#[cfg(feature = "inspect")]
fn scan_hex(text: &[u8]) -> Option<u32> {
    use crate::storage::number::to_u32;
    // C's whitespace has the vertical tab, too.
    let blanks = text.iter().take_while(|&&byte| matches!(byte, b'\t'..=b'\r' | b' ')).count();
    let text = &text[blanks..];
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        text => (false, text),
    };
    let prefix = text.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"0x"));
    let digits = if prefix { &text[2..] } else { text };
    let len = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if len == 0 {
        // "0x" alone is the number 0.
        return prefix.then_some(0);
    }
    let digits = std::str::from_utf8(&digits[..len]).ok()?;
    let number = u64::from_str_radix(digits, 16).unwrap_or(u64::MAX);
    let number = if negative { number.wrapping_neg() } else { number };
    Some(to_u32(number & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_at_line_feeds_and_the_version_must_be_a_whole_line() {
        for yes in [
            &b"version=1\n"[..],
            b"# \xff\0\nversion=2\r\n",
            b"# a\rversion=9\nversion=3\n",
            b"   \n  \r\n#\nversion=1\nx",
        ] {
            assert!(is_probed(yes), "{yes:?}");
        }
        for no in [
            &b""[..],
            b"version=1",
            b"version=1\r",
            b"version=4\n",
            b"version=10\n",
            b"\nversion=1\n",
            b" version=1\n",
            b"VERSION=1\n",
            b"# a\rversion=1\r",
            b" \r\r\nversion=1\n",
        ] {
            assert!(!is_probed(no), "{no:?}");
        }
        let late = [vec![b'#'; 505], b"\nversion=1\n".to_vec()].concat();
        assert!(!is_probed(&late), "beyond the first sector");
    }

    #[cfg(feature = "inspect")]
    #[test]
    fn words_count_wherever_they_are() {
        let searched = |text: &'static str| Searched::new(text.as_bytes());
        let parent = |text| searched(text).parent();
        assert_eq!(parent("# parentFileNameHint=\"a\"\n"), Some("a".into()));
        assert_eq!(parent("ddb.PARENTFILENAMEHINT=\"a\nb\""), Some("a\nb".into()));
        assert_eq!(parent("parentFileNameHint=\"\" parentFileNameHint: x\""), Some("x".into()));
        assert_eq!(parent("parentFileNameHint"), Some(String::new()));
        assert_eq!(parent("parentFileNameHint=\"\"\n"), None);
        assert_eq!(parent("a\0parentFileNameHint=\"a\""), None);
        assert_eq!(searched("# CID=12\nCID=3").cid(), Some(0x12));
        assert_eq!(searched("parentCID=fffffffe\nCID=3").cid(), Some(0xffff_fffe));
        let cids: Vec<_> =
            searched("#parentCID=1\nparentcid= 2\nparentCID=x").parent_cids().collect();
        assert_eq!(cids, [1, 2]);
        // The byte behind a word is skipped whatever it is, and ends no number.
        assert_eq!(searched("# CID\0 12345678").cid(), Some(0x1234_5678));
        assert_eq!(searched("CID=\x0012345678").cid(), None);
        let cids: Vec<_> = searched("x\n# parentCID\0 deadbeef").parent_cids().collect();
        assert_eq!(cids, [0xdead_beef]);
        assert_eq!(parent("parentFileNameHint\0\"a\""), Some("a".into()));
    }

    #[cfg(feature = "inspect")]
    #[test]
    fn numbers_are_scanned_like_c_does() {
        for (text, number) in [
            ("ffffffff", Some(0xffff_ffff)),
            (" \n\t0XfFx", Some(0xff)),
            ("\u{b}\u{c}\r1", Some(1)),
            ("-1", Some(0xffff_ffff)),
            ("+2;", Some(2)),
            ("100000001", Some(1)),
            ("fffffffffffffffff0", Some(0xffff_ffff)),
            ("0x", Some(0)),
            ("= 1", None),
            ("", None),
        ] {
            assert_eq!(scan_hex(text.as_bytes()), number, "{text}");
        }
    }
}
