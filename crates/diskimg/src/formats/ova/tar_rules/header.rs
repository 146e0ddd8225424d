//! Header blocks and the numbers in them.

/// A header block.
pub(super) struct Header<'a>(pub(super) &'a [u8; 512]);

impl Header<'_> {
    const PREFIX: usize = 345;

    /// Offset of what GNU's header has behind two times: the place in a volume, the map of a sparse
    /// member, and its length.
    const GNU_FIELDS: usize = 369;

    /// Names, offsets and lengths of the numbers that do not place a member.
    pub(super) const NUMBERS: [(&'static str, usize, usize); 6] = [
        ("mode", 100, 8),
        ("owner", 108, 8),
        ("group", 116, 8),
        ("time", 136, 12),
        ("device", 329, 8),
        ("device", 337, 8),
    ];

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn is_file(&self) -> bool {
        !matches!(self.kind(), b'1'..=b'6' | b'L' | b'K' | b'x' | b'g')
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    fn is_ustar(&self) -> bool {
        self.0[257..265] == *b"ustar\x0000"
    }

    /// Returns the name, with the prefix if the format has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let text =
            |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[Self::PREFIX..500]);
        match self.is_ustar() && !prefix.is_empty() {
            true => [&prefix[..], b"/", &name].concat(),
            false => name,
        }
    }

    /// Describes what programs interpret differently.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if number(&self.0[148..156]).is_none() {
            problems.push("its checksum is not a canonical number".to_owned());
        }
        // Python's list ends, without an error, at a header with a number that it cannot parse.
        for (name, at, len) in Self::NUMBERS {
            let field = &self.0[at..at + len];
            let is_empty = field.iter().all(|byte| matches!(byte, 0 | b' '));
            if !is_empty && number(field).is_none() {
                problems.push(format!("its {name} is not a canonical number"));
            }
        }
        match self.size() {
            None => problems.push("its size is not a canonical number".into()),
            Some(0) => {}
            Some(size) if !self.is_file() && matches!(self.kind(), b'1'..=b'6') => {
                problems.push(format!("a directory or link of {size} bytes"));
            }
            Some(_) => {}
        }
        match self.kind() {
            b'0' | 0 | b'7' | b'5' | b'L' | b'K' | b'x' | b'g' | b'S' => {}
            b'1' | b'2' => problems.push("a link".into()),
            b'3' | b'4' | b'6' => problems.push("a device or FIFO".into()),
            other => problems.push(format!("an unknown type {other:#04x}")),
        }
        // Programs examine the first bytes of an archive for other formats, whatever the name ends
        // with, and those of an extension's name are used for nothing else.
        if !is_plain(&self.0[..100]) {
            problems.push("a name with control characters, or with bytes behind its end".into());
        }
        // Python uses the prefix in every format but GNU's extensions, star's is shorter.
        let has_prefix = self.0[Self::PREFIX] != 0 && !matches!(self.kind(), b'L' | b'K' | b'S');
        if has_prefix && !self.is_ustar() {
            problems.push("a prefix of its name, which this kind of archive does not have".into());
        }
        if has_prefix && self.0[508..] == *b"tar\0" {
            problems.push("a header of star".into());
        }
        // bsdtar applies GNU's map of a sparse member, and its length, to members of any type.
        if self.kind() != b'S' && !self.is_ustar() && self.0[Self::GNU_FIELDS..500] != [0; 131] {
            problems.push("fields of a sparse member in one that is not sparse".into());
        }
        problems
    }
}

/// Returns true for a name without control characters, with nothing but zeros behind its end.
fn is_plain(field: &[u8]) -> bool {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (name, rest) = field.split_at(end);
    !name.iter().any(u8::is_ascii_control) && rest.iter().all(|&byte| byte == 0)
}

/// Parses a number that all programs read alike: octal digits after blanks and before blanks or
/// zero bytes, or a positive number in base 256.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        let value = bytes.iter().try_fold(0u64, |value, &byte| {
            (value < 1 << 56).then_some(value << 8 | u64::from(byte))
        });
        return value.filter(|&value| value < 1 << 63);
    }
    let start = field.iter().take_while(|&&byte| byte == b' ').count();
    let digits = field[start..].iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field[start..].split_at(digits);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_canonical() {
        for (field, value) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"        17 \0", Some(15)),
            (b"17\0\0\0\0\0\0\0\0\0\0", Some(15)),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x11", Some(17)),
            (b"17 17\0\0\0\0\0\0\0", None),
            (b"17\0x\0\0\0\0\0\0\0\0", None),
            (b"0x17\0\0\0\0\0\0\0\0", None),
            (b"+17\0\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x11", Some(17)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\x11", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
