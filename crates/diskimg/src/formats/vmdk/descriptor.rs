//! The descriptor: a text that says what the disk is made of.
//!
//! ```text
//!   # Disk DescriptorFile                  comment
//!   version=1                              header: key = value, perhaps quoted
//!   CID=4ea3470f
//!   parentCID=ffffffff                     ffffffff: no parent
//!   createType="monolithicSparse"
//!   RW 204800 SPARSE "a.vmdk"              extents: access, sectors, type, file, offset
//!   ddb.adapterType = "ide"                the disk database
//! ```
//!
//! It is embedded in a sparse extent (zero padded), or a file of its own. A
//! line that is not understood is an error: to skip one is to lose a part of
//! the disk. The disk database and header keys without a meaning here may hold
//! anything.
//!
//! *Virtual Disk Format 5.0*, "The Descriptor File".

use crate::vocabulary::error::{Error, Result};

/// `parentCID` of a disk without parent (`CID_NOPARENT`).
pub(super) const NO_PARENT: u32 = 0xffff_ffff;

const STRUCTURE: &str = "VMDK descriptor";

/// A parsed descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Descriptor {
    /// Content ID: changes when the disk is written to.
    pub(super) cid: u32,
    /// The parent's content ID when this disk was made; [`NO_PARENT`].
    pub(super) parent_cid: u32,
    /// As written; may be empty.
    pub(super) create_type: String,
    /// Where the parent was, as written.
    pub(super) parent_hint: Option<String>,
    /// The parts of the disk, in order.
    pub(super) extents: Vec<ExtentLine>,
    /// `ddb.*`, names in lower case.
    ddb: Vec<(String, String)>,
}

/// One part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: Access,
    /// Guest sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    /// The file, as written; `None` only for [`ExtentKind::Zero`].
    pub(super) name: Option<String>,
    /// Sectors into that file.
    pub(super) offset: Option<u64>,
    /// The line as written, for errors.
    pub(super) text: String,
}

/// What the guest may do with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
    None,
}

/// How an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Flat,
    Sparse,
    Zero,
    Vmfs,
    VmfsSparse,
    VmfsRdm,
    VmfsRaw,
    SeSparse,
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

/// What of the header is looked at, in lower case.
const HEADER_KEYS: [&str; 6] =
    ["version", "cid", "parentcid", "createtype", "parentfilenamehint", "encryptionkeys"];

/// Whether the first bytes of a file are those of a descriptor: comments and
/// blank lines, then the version.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    let mut titled = false;
    for line in head.split(|&b| b == b'\n') {
        let line = line.trim_ascii();
        if let Some(comment) = line.strip_prefix(b"#") {
            titled |= comment.trim_ascii().eq_ignore_ascii_case(b"Disk DescriptorFile");
        } else if !line.is_empty() {
            let Some(equals) = line.iter().position(|&b| b == b'=') else { return false };
            let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
            let is = |name: &str| key.eq_ignore_ascii_case(name.as_bytes());
            return (is("version") && matches!(value, b"1" | b"2" | b"3"))
                || (titled && ["version", "encoding", "CID", "createType"].into_iter().any(is));
        }
    }
    false
}

impl Descriptor {
    /// Parses the text, which ends with the first zero byte.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) naming the line,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown version.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let text = decode(&bytes[..end]);
        let mut header = Pairs::default();
        let mut descriptor = Self::default();
        // A lone CR ends a line too; of CRLF it leaves an empty one.
        for (number, line) in text.split('\n').enumerate() {
            for line in line.split('\r').map(str::trim).filter(|l| !l.is_empty()) {
                descriptor
                    .parse_line(line, &mut header)
                    .map_err(|e| Error::corrupt(STRUCTURE, at_line(number + 1, line, &e)))?;
            }
        }
        descriptor.take_header(&header)?;
        Ok(descriptor)
    }

    /// A value of the disk database.
    pub(super) fn ddb(&self, name: &str) -> Option<&str> {
        let found = self.ddb.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The UUID of a VirtualBox differencing image's parent.
    pub(super) fn virtualbox_parent(&self) -> Option<&str> {
        let uuid = self.ddb("ddb.uuid.parent")?;
        uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0').then_some(uuid)
    }

    fn parse_line(&mut self, line: &str, header: &mut Pairs) -> Result<(), String> {
        if line.starts_with('#') {
            return Ok(());
        }
        if let Some(extent) = ExtentLine::parse(line)? {
            self.extents.push(extent);
            return Ok(());
        }
        let in_ddb = line.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("ddb."));
        let Some((key, value)) = line.split_once('=') else {
            if in_ddb {
                return Ok(());
            }
            return Err("neither a comment, nor key=value, nor an extent".into());
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if in_ddb {
            // Comments are among them, with quotes inside.
            let value = unquote(value).unwrap_or_else(|_| value.to_owned());
            self.ddb.push((key, value));
            return Ok(());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if key.is_empty() || !key.chars().all(plain) {
            return Err(format!("'{key}' is no key"));
        }
        // The rest says nothing of where the guest's bytes are.
        if HEADER_KEYS.contains(&key.as_str()) {
            header.add(key, unquote(value)?)?;
        }
        Ok(())
    }

    fn take_header(&mut self, header: &Pairs) -> Result<()> {
        let version = header.get("version").unwrap_or("1");
        if !matches!(version, "1" | "2" | "3") {
            return Err(Error::unsupported(format!("version {version}; 1 to 3 are known"))
                .in_structure(STRUCTURE));
        }
        if header.get("encryptionkeys").is_some()
            || self.ddb("ddb.iofilters").is_some_and(|filters| filters.contains("vmcrypt"))
        {
            return Err(Error::unsupported("the disk is encrypted").in_structure(STRUCTURE));
        }
        self.cid = header.content_id("CID")?;
        self.parent_cid = header.content_id("parentCID")?;
        self.create_type = header.get("createtype").unwrap_or_default().to_owned();
        self.parent_hint =
            header.get("parentfilenamehint").filter(|h| !h.is_empty()).map(str::to_owned);
        Ok(())
    }
}

/// The header's keys and values.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn add(&mut self, key: String, value: String) -> Result<(), String> {
        match self.get(&key) {
            Some(known) if known != value => Err(format!("{key} was '{known}' before")),
            Some(_) => Ok(()),
            None => {
                self.0.push((key, value));
                Ok(())
            }
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn content_id(&self, name: &str) -> Result<u32> {
        let Some(value) = self.get(&name.to_ascii_lowercase()) else {
            return Err(Error::corrupt(STRUCTURE, format!("{name} is missing")));
        };
        let digits = value.strip_prefix("0x").unwrap_or(value);
        u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or_else(|| {
            Error::corrupt(STRUCTURE, format!("{name} '{value}': 32 bits in hex wanted"))
        })
    }
}

impl ExtentLine {
    /// `None`: it is another kind of line.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let (word, rest) = next_word(line);
        let Some(access) = named(&ACCESSES, word) else { return Ok(None) };
        if rest.starts_with('=') {
            return Ok(None);
        }
        let (sectors, rest) = next_word(rest);
        let sectors: u64 = number("size", sectors)?;
        if sectors == 0 || super::sectors_to_bytes(sectors).is_none() {
            return Err(format!("an extent of {sectors} sectors"));
        }
        let (kind, rest) = next_word(rest);
        let Some(kind) = named(&KINDS, kind) else {
            return Err(format!("unknown extent type '{kind}'"));
        };
        let (name, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                // Quotes in names are not escaped; behind the name there are none.
                let (name, rest) = quoted.rsplit_once('"').ok_or("the quote is never closed")?;
                (Some(name.to_owned()), rest.trim_start())
            }
            None => (None, rest),
        };
        match &name {
            Some(name) if name.is_empty() => return Err("the file has no name".into()),
            None if kind != ExtentKind::Zero => return Err("no file in quotes".into()),
            _ => {}
        }
        // Behind the offset, raw partitions have a UUID and a device name.
        let (offset, _) = next_word(rest);
        let offset = if offset.is_empty() { None } else { Some(number("offset", offset)?) };
        Ok(Some(Self { access, sectors, kind, name, offset, text: line.to_owned() }))
    }
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
    word.parse().ok().filter(|_| digits).ok_or_else(|| format!("the {what} '{word}' is no number"))
}

/// A value, in quotes or not.
fn unquote(value: &str) -> Result<String, String> {
    match value.strip_prefix('"') {
        None => Ok(value.to_owned()),
        Some(rest) => match rest.split_once('"') {
            Some((inside, "")) => Ok(inside.to_owned()),
            Some((_, after)) => Err(format!("'{}' behind the closing quote", after.trim())),
            None => Err("the quote is never closed".into()),
        },
    }
}

fn at_line(number: usize, line: &str, what: &str) -> String {
    let shown: String = line.chars().take(120).collect();
    format!("line {number}, '{shown}': {what}")
}

/// UTF-8 where it is; otherwise windows-1252, which older hosts write. What
/// other encodings hold beyond ASCII is in names only.
fn decode(bytes: &[u8]) -> String {
    // 0x80 to 0x9f differ from Unicode.
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .map(|&b| match b {
                0x80..=0x9f => HIGH[usize::from(b - 0x80)],
                _ => char::from(b),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "# Disk DescriptorFile\nversion=1\nCID=4ea3470f\nparentCID=ffffffff\n\
        createType=\"monolithicSparse\"\n\n# Extent description\nRW 204800 SPARSE \"a b.vmdk\"\n\n\
        # The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\nddb.geometry.heads=\"16\"\n";

    #[test]
    fn keys_quotes_and_line_ends_come_in_every_style() {
        let plain = Descriptor::parse(PLAIN.as_bytes()).expect("parses");
        assert_eq!((plain.cid, plain.parent_cid), (0x4ea3_470f, NO_PARENT));
        assert_eq!(plain.create_type, "monolithicSparse");
        assert_eq!(plain.ddb("ddb.adaptertype"), Some("ide"));
        assert_eq!(plain.extents.len(), 1);
        assert_eq!(plain.extents[0].name.as_deref(), Some("a b.vmdk"));
        assert_eq!(plain.extents[0].sectors, 204_800);
        let variants = [
            PLAIN.replace('\n', "\r\n"),
            PLAIN.replace('\n', " \n"),
            PLAIN.replace("CID=", "cid = "),
            PLAIN.replace("createType", "CREATETYPE"),
            PLAIN.replace("\"monolithicSparse\"", "monolithicSparse"),
            format!("{PLAIN}\0\0garbage behind the end"),
        ];
        for text in variants {
            assert_eq!(Descriptor::parse(text.as_bytes()).expect("parses"), plain, "{text:?}");
        }
    }

    #[test]
    fn extent_lines_say_all_that_the_specification_knows() {
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
        assert_eq!(ExtentLine::parse("rw=on"), Ok(None));
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_that_names_it() {
        for (line, said) in [
            ("what is this", "neither a comment"),
            ("=x", "is no key"),
            ("a key=x", "is no key"),
            ("createType=\"open", "never closed"),
            ("parentCID=\"a\" b", "behind the closing quote"),
            ("RW", "size ''"),
            ("RW -1 SPARSE \"a\"", "size '-1'"),
            ("RW +1 SPARSE \"a\"", "size '+1'"),
            ("RW 0 SPARSE \"a\"", "0 sectors"),
            ("RW 99999999999999999 SPARSE \"a\"", "sectors"),
            ("RW 1 BLOB \"a\"", "extent type 'BLOB'"),
            ("RW 1 SPARSE a.vmdk", "no file in quotes"),
            ("RW 1 SPARSE \"a.vmdk", "never closed"),
            ("RW 1 SPARSE \"\"", "no name"),
            ("RW 1 FLAT \"a\" x", "offset 'x'"),
            ("CID=12345678", "was '4ea3470f' before"),
        ] {
            let text = format!("{PLAIN}{line}\n");
            let error = Descriptor::parse(text.as_bytes()).expect_err(line).to_string();
            assert!(error.contains(said) && error.contains("line 15"), "{line}: {error}");
        }
    }

    #[test]
    fn what_says_nothing_of_the_data_may_say_anything() {
        let plain = Descriptor::parse(PLAIN.as_bytes()).expect("parses");
        for line in [
            "ddb.fcd.kubernetes.io/name = \"x\"",
            "DDB.my own key = \"x\"",
            "ddb.nothing",
            "changeTrackPath=\"a-ctk.vmdk\"\nchangeTrackPath=\"b-ctk.vmdk\"",
            "changeTrackPath=\"a\"b-ctk.vmdk\"",
            "vendor:key = \"x\"",
        ] {
            let text = format!("{PLAIN}{line}\n");
            let mut read = Descriptor::parse(text.as_bytes()).expect(line);
            read.ddb.truncate(plain.ddb.len());
            assert_eq!(read, plain, "{line}");
        }
    }

    #[test]
    fn what_must_be_there_is_asked_for() {
        for (gone, said) in
            [("\nCID=4ea3470f", "CID is missing"), ("parentCID=ffffffff\n", "parentCID is missing")]
        {
            let text = PLAIN.replace(gone, "");
            let error = Descriptor::parse(text.as_bytes()).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
        for (bad, said) in [
            ("CID=xyz\n", "32 bits in hex"),
            ("CID=+1\n", "32 bits"),
            ("CID=123456789\n", "32 bits"),
        ] {
            let text = PLAIN.replace("\nCID=4ea3470f\n", &format!("\n{bad}"));
            let error = Descriptor::parse(text.as_bytes()).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
        let text = PLAIN.replace("version=1", "version=4");
        let error = Descriptor::parse(text.as_bytes()).expect_err("version");
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    }

    #[test]
    fn an_encrypted_disk_is_never_read_as_if_it_were_not() {
        for line in ["encryptionKeys=\"vmware:key/list/x\"", "ddb.iofilters = \"vmwarevmcrypt\""] {
            let error = Descriptor::parse(format!("{PLAIN}{line}\n").as_bytes()).expect_err(line);
            assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        }
        Descriptor::parse(format!("{PLAIN}ddb.comment=\"a \"b\" c\"\n").as_bytes())
            .expect("parses");
    }

    #[test]
    fn names_in_windows_1252_are_read() {
        let text = PLAIN.replace("a b", "\u{1}");
        let bytes: Vec<u8> =
            text.bytes().flat_map(|b| if b == 1 { vec![0xe4, 0x80] } else { vec![b] }).collect();
        let descriptor = Descriptor::parse(&bytes).expect("parses");
        assert_eq!(descriptor.extents[0].name.as_deref(), Some("ä€.vmdk"));
    }

    #[test]
    fn virtualbox_children_are_known_by_their_parents_uuid() {
        let with = |uuid| {
            Descriptor::parse(format!("{PLAIN}ddb.uuid.parent=\"{uuid}\"\n").as_bytes())
                .expect("parses")
        };
        assert_eq!(with("00000000-0000-0000-0000-000000000000").virtualbox_parent(), None);
        let uuid = "0a000000-0000-0000-0000-000000000000";
        assert_eq!(with(uuid).virtualbox_parent(), Some(uuid));
    }

    #[test]
    fn descriptors_are_recognised_by_their_first_lines() {
        for yes in
            [PLAIN, "version=1\r\n", "\n # x\n  \nversion = 3\n", "# Disk DescriptorFile\r\nCID=1"]
        {
            assert!(looks_like_one(yes.as_bytes()), "{yes:?}");
        }
        for no in ["", "version=4\n", "# a script\nset -e\n", "CID=1\n", "\0version=1\n"] {
            assert!(!looks_like_one(no.as_bytes()), "{no:?}");
        }
    }
}
