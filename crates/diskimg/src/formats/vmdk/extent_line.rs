//! An extent line of the descriptor.
//!
//! ```text
//!   RW      204800   FLAT  "disk-flat.vmdk"  128
//!   access  sectors  type  file              offset in the file, in sectors
//! ```
//!
//! *Virtual Disk Format 5.0*, "The Extent Description".

use super::SECTOR;

/// A parsed extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: Access,
    /// Number of guest sectors; may be 0. In bytes, it fits in 63 bits.
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    /// File name, as written. `None` only for [`ExtentKind::Zero`].
    pub(super) name: Option<String>,
    /// Offset in the file, in sectors.
    pub(super) offset: Option<u64>,
    /// The line as written, shortened for messages.
    pub(super) text: String,
}

impl ExtentKind {
    /// True if the file contains guest bytes only, without any metadata.
    pub(super) fn is_verbatim(self) -> bool {
        matches!(self, Self::Flat | Self::Vmfs | Self::VmfsRdm | Self::VmfsRaw)
    }

    /// True if the guest's bytes are on a device that is mapped.
    pub(super) fn is_raw_device(self) -> bool {
        matches!(self, Self::VmfsRdm | Self::VmfsRaw)
    }

    /// Returns the keyword in the descriptor.
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl ExtentLine {
    /// Number of guest bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }
}

/// The guest's access to an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// `RW`.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`: neither reading nor writing.
    None,
}

/// How an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// Verbatim, in a file or a device.
    Flat,
    /// Hosted sparse; COWD in the oldest disks.
    Sparse,
    /// All zeros, without a file.
    Zero,
    /// Verbatim, in a file on VMFS.
    Vmfs,
    /// COWD.
    VmfsSparse,
    /// Raw device mapping (virtual compatibility).
    VmfsRdm,
    /// Raw device mapping (physical compatibility).
    VmfsRaw,
    /// Space-efficient sparse.
    SeSparse,
    /// A vSAN object.
    VsanSparse,
}

const KINDS: [(&str, ExtentKind); 9] = [
    ("FLAT", ExtentKind::Flat),
    ("SPARSE", ExtentKind::Sparse),
    ("ZERO", ExtentKind::Zero),
    ("VMFS", ExtentKind::Vmfs),
    ("VMFSSPARSE", ExtentKind::VmfsSparse),
    ("VMFSRDM", ExtentKind::VmfsRdm),
    ("VMFSRAW", ExtentKind::VmfsRaw),
    ("SESPARSE", ExtentKind::SeSparse),
    ("VSANSPARSE", ExtentKind::VsanSparse),
];

const ACCESSES: [(&str, Access); 3] =
    [("RW", Access::ReadWrite), ("RDONLY", Access::ReadOnly), ("NOACCESS", Access::None)];

impl ExtentLine {
    /// Returns the line for a sparse extent of `sectors` that is the opened file itself.
    pub(super) fn own_file(sectors: u64) -> Self {
        let (access, kind) = (Access::ReadWrite, ExtentKind::Sparse);
        let text = format!("RW {sectors} SPARSE");
        Self { access, sectors, kind, name: Some(String::new()), offset: None, text }
    }

    /// Parses a line; `None` if it is not an extent line.
    ///
    /// # Errors
    /// Describes the error in a line that starts like an extent line.
    pub(super) fn parse(line: &str) -> Result<Option<Self>, String> {
        let (word, rest) = next_word(line);
        let Some(access) = named(&ACCESSES, word) else { return Ok(None) };
        if rest.starts_with('=') {
            return Ok(None);
        }
        let (sectors, rest) = next_word(rest);
        let sectors: u64 = number("size", sectors)?;
        if super::sectors_to_bytes(sectors).is_none() {
            return Err(format!("an extent of {sectors} sectors, which exceeds 8 EiB"));
        }
        let (kind, rest) = next_word(rest);
        let Some(kind) = named(&KINDS, kind) else {
            return Err(format!("unknown extent type '{}'", shortened(kind)));
        };
        let (name, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (name, rest) = split_name(quoted).ok_or("missing closing quote")?;
                (Some(name.to_owned()), rest.trim_start())
            }
            None => match next_word(rest) {
                // An offset, or the end of the line.
                (word, _) if word.bytes().all(|b| b.is_ascii_digit()) => (None, rest),
                _ if kind == ExtentKind::Zero => (None, rest),
                // A name without quotes: not according to the specification, but unambiguous.
                (word, rest) => (Some(word.to_owned()), rest),
            },
        };
        match &name {
            Some(name) if name.is_empty() && kind != ExtentKind::Zero => {
                return Err("empty file name".into());
            }
            None if kind != ExtentKind::Zero => return Err("missing file name".into()),
            _ => {}
        }
        // For raw partitions, a UUID and a device name follow the offset.
        let (offset, _) = next_word(rest);
        let offset = match offset {
            "" => None,
            comment if comment.starts_with('#') => None,
            offset => Some(number("offset", offset)?),
        };
        let text = shortened(line);
        Ok(Some(Self { access, sectors, kind, name, offset, text }))
    }
}

/// Splits off a name at its closing quote. Quotes within names are not escaped: the closing quote
/// is the one that is followed by the end of the line, an offset or a comment. Each character is
/// examined a bounded number of times, however many quotes there are.
fn split_name(quoted: &str) -> Option<(&str, &str)> {
    let ends_name = |rest: &str| {
        if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
            return false;
        }
        // Up to the next quote: a word with a quote is neither an offset nor the end.
        let rest = rest.trim_start();
        let word = rest.split(char::is_whitespace).next().unwrap_or_default();
        word.starts_with('#') || word.bytes().all(|b| b.is_ascii_digit())
    };
    let quotes = quoted.match_indices('"').map(|(at, _)| (&quoted[..at], &quoted[at + 1..]));
    quotes.clone().find(|(_, rest)| ends_name(rest)).or_else(|| quotes.clone().next_back())
}

/// Returns the first 120 characters of a line.
pub(super) fn shortened(line: &str) -> String {
    line.chars().take(120).collect()
}

/// Returns the name of the descriptor that lists the extent file `name`, if it is named as VMware's
/// programs name extents: `disk.vmdk` for `disk-s001.vmdk` and `disk-flat.vmdk`.
pub(crate) fn descriptor_name(name: &str) -> Option<String> {
    const SUFFIXES: [&str; 6] = ["flat", "delta", "sesparse", "pt", "rdm", "rdmp"];
    let (stem, extension) = name.rsplit_once('.')?;
    let (base, suffix) = stem.rsplit_once('-')?;
    let is_number = |digits: &str| digits.len() >= 3 && digits.bytes().all(|b| b.is_ascii_digit());
    let is_numbered = suffix.strip_prefix(['s', 'f', 'b']).is_some_and(is_number);
    let is_extent = is_numbered || SUFFIXES.contains(&suffix);
    (extension.eq_ignore_ascii_case("vmdk") && is_extent && !base.is_empty())
        .then(|| format!("{base}.{extension}"))
}

fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(|c: char| c.is_whitespace()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn named<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|&(_, value)| value)
}

fn number(what: &str, word: &str) -> Result<u64, String> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let number = word.parse().ok().filter(|_| digits);
    number.ok_or_else(|| format!("the {what} '{}' is not a number", shortened(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_extent_leads_to_its_descriptor() {
        for (name, descriptor) in [
            ("disk-s001.vmdk", Some("disk.vmdk")),
            ("a-b-f012.VMDK", Some("a-b.VMDK")),
            ("d/disk-000001-delta.vmdk", Some("d/disk-000001.vmdk")),
            ("disk-flat.vmdk", Some("disk.vmdk")),
            ("disk-disk1.vmdk", None),
            ("disk-s1.vmdk", None),
            ("-flat.vmdk", None),
            ("disk-s001.raw", None),
            ("disk.vmdk", None),
        ] {
            assert_eq!(descriptor_name(name).as_deref(), descriptor, "{name}");
        }
    }

    #[test]
    fn extent_lines_of_every_form_are_parsed() {
        let line = |text: &str| ExtentLine::parse(text).expect("parses").expect("an extent");
        let flat = line("RDONLY 63 FLAT \"disk-pt.vmdk\" 128");
        assert_eq!((flat.access, flat.kind), (Access::ReadOnly, ExtentKind::Flat));
        assert_eq!((flat.sectors, flat.offset), (63, Some(128)));
        let zero = line("rw 100 zero");
        assert_eq!((zero.kind, zero.name), (ExtentKind::Zero, None));
        assert_eq!(line("NOACCESS 1 VMFS \"x\"").access, Access::None);
        let raw = line(r#"RW 8 FLAT "\\.\PhysicalDrive0" 0 partitionUUID deviceId"#);
        assert_eq!(raw.name.as_deref(), Some(r"\\.\PhysicalDrive0"));
        let quote = line(r#"RW 8 FLAT "my "old" disk.vmdk" 128"#);
        assert_eq!(quote.name.as_deref(), Some(r#"my "old" disk.vmdk"#));
        assert_eq!(quote.offset, Some(128));
        for rest in ["0 partitionUUID \"abc\"", "0 \"uuid\" \"dev\"", "0 # a \"comment\""] {
            let raw = line(&format!("RW 8 FLAT \"x-flat.vmdk\" {rest}"));
            assert_eq!((raw.name.as_deref(), raw.offset), (Some("x-flat.vmdk"), Some(0)));
        }
        let comment = line("RW 8 VMFS \"x-flat.vmdk\" # \"thin\"");
        assert_eq!((comment.name.as_deref(), comment.offset), (Some("x-flat.vmdk"), None));
        assert_eq!(line("RW 0 ZERO").sectors, 0);
        assert_eq!(ExtentLine::parse("rw=on"), Ok(None));
    }
}
