//! The descriptor: a text that lists the extents of a disk and describes it.
//!
//! ```text
//!   # Disk DescriptorFile                  comment
//!   version=1                              header: key = value, optionally quoted
//!   CID=4ea3470f
//!   parentCID=ffffffff                     ffffffff: no parent
//!   createType="monolithicSparse"
//!   RW 204800 SPARSE "a.vmdk"              extents: access, sectors, type, file, offset
//!   ddb.adapterType = "ide"                the disk database
//! ```
//!
//! It is embedded in a sparse extent (zero padded) or a separate file. A line that cannot be parsed
//! is an error, because skipping it could lose an extent. The values of the disk database and of
//! header keys that are not used here are not restricted.
//!
//! *Virtual Disk Format 5.0*, "The Descriptor File".

use super::extent_line::{ExtentLine, shortened};
use crate::error::{Error, Result};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// `parentCID` of a disk without a parent (`CID_NOPARENT`).
pub(super) const NO_PARENT: u32 = 0xffff_ffff;

const STRUCTURE: &str = "VMDK descriptor";

/// Ctrl-Z, which old editors write at the end of a text.
const DOS_END_OF_FILE: char = '\u{1a}';

/// The newest known `version`.
const MAX_VERSION: u32 = 4;

/// A parsed descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Descriptor {
    /// Content ID, which changes when the disk is written to. Some writers omit it.
    pub(super) cid: Option<u32>,
    /// The parent's content ID when this disk was created, or [`NO_PARENT`].
    pub(super) parent_cid: u32,
    /// `createType`, as written; may be empty.
    pub(super) create_type: String,
    /// `parentFileNameHint`, as written.
    pub(super) parent_hint: Option<String>,
    /// The extent lines, in guest order.
    pub(super) extents: Vec<ExtentLine>,
    /// `ddb.*`, with names in lower case.
    ddb: Vec<(String, String)>,
}

/// The header keys that are used, in lower case.
const HEADER_KEYS: [&str; 6] =
    ["version", "cid", "parentcid", "createtype", "parentfilenamehint", "encryptionkeys"];

/// True if the first bytes of a file look like a descriptor: comments and blank lines, then the
/// title comment or the version.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    for line in head.split(|&b| b == b'\n' || b == b'\r') {
        let line = line.trim_ascii();
        if let Some(comment) = line.strip_prefix(b"#") {
            if comment.trim_ascii().eq_ignore_ascii_case(b"Disk DescriptorFile") {
                return true;
            }
        } else if !line.is_empty() {
            let Some(equals) = line.iter().position(|&b| b == b'=') else { return false };
            let value = std::str::from_utf8(&line[equals + 1..]).unwrap_or_default().trim();
            return line[..equals].trim_ascii().eq_ignore_ascii_case(b"version")
                && unquote(value).is_ok_and(|value| known_version(&value));
        }
    }
    false
}

impl Descriptor {
    /// Parses the text, which ends at the first zero byte.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for an invalid line or value, naming it;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown version or an encrypted disk.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let text = decode(&bytes[..end]);
        let text = text.trim_end_matches(DOS_END_OF_FILE);
        let mut header = Pairs::default();
        let mut descriptor = Self::default();
        // A lone CR ends a line, too. CRLF yields an additional empty line, which is skipped.
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

    /// Returns a descriptor for a disk that has none: a single sparse extent of `sectors`, without
    /// a parent.
    pub(super) fn of_one_extent(create_type: &str, sectors: u64) -> Self {
        Self {
            parent_cid: NO_PARENT,
            create_type: create_type.to_owned(),
            extents: vec![ExtentLine::own_file(sectors)],
            ..Self::default()
        }
    }

    /// Returns a value of the disk database.
    pub(super) fn ddb(&self, name: &str) -> Option<&str> {
        let found = self.ddb.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the UUID of the parent of a VirtualBox differencing image.
    pub(super) fn virtualbox_parent(&self) -> Option<&str> {
        let uuid = self.ddb("ddb.uuid.parent")?;
        uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0').then_some(uuid)
    }

    fn parse_line(&mut self, line: &str, header: &mut Pairs) -> Result<(), String> {
        // The specification has '#' only; the others occur in practice.
        if ["#", ";", "//", "["].into_iter().any(|start| line.starts_with(start)) {
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
            return Err("neither a comment, nor key=value, nor an extent line".into());
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if in_ddb {
            // Values such as ddb.comment may contain quotes.
            let value = unquote(value).unwrap_or_else(|_| value.to_owned());
            self.ddb.push((key, value));
            return Ok(());
        }
        // Other keys do not affect where the guest bytes are.
        if HEADER_KEYS.contains(&key.as_str()) {
            header.add(key, unquote(value)?)?;
        }
        Ok(())
    }

    fn take_header(&mut self, header: &Pairs) -> Result<()> {
        let version = header.get("version").unwrap_or("1");
        if !known_version(version) {
            return Err(Error::unsupported(format!(
                "version {}; versions 1 to {MAX_VERSION} are supported",
                shortened(version)
            ))
            .in_structure(STRUCTURE));
        }
        if header.get("encryptionkeys").is_some()
            || self.ddb("ddb.iofilters").is_some_and(|filters| filters.contains("vmcrypt"))
        {
            return Err(Error::unsupported("the disk is encrypted").in_structure(STRUCTURE));
        }
        self.cid = header.content_id("CID")?;
        self.parent_cid = header.content_id("parentCID")?.unwrap_or(NO_PARENT);
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
            Some(first) if first != value => {
                let first = shortened(first);
                Err(format!("{key} appears twice, with different values; the first is '{first}'"))
            }
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

    fn content_id(&self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(&name.to_ascii_lowercase()) else { return Ok(None) };
        let digits = value.strip_prefix("0x").unwrap_or(value);
        let id = u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
        id.map(Some).ok_or_else(|| {
            let value = shortened(value);
            Error::corrupt(STRUCTURE, format!("{name} '{value}'; expected 32 bits in hexadecimal"))
        })
    }
}

/// Returns a value without its quotes and without a trailing comment.
fn unquote(value: &str) -> Result<String, String> {
    let Some(rest) = value.strip_prefix('"') else {
        let end = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
        return Ok(value[..end].trim_end().to_owned());
    };
    match rest.split_once('"').map(|(inside, after)| (inside, after.trim_start())) {
        Some((inside, after)) if after.is_empty() || after.starts_with('#') => {
            Ok(inside.to_owned())
        }
        Some((_, after)) => Err(format!("'{}' after the closing quote", shortened(after.trim()))),
        None => Err("missing closing quote".into()),
    }
}

fn at_line(number: usize, line: &str, what: &str) -> String {
    format!("line {number}, '{}': {what}", shortened(line))
}

/// True if `value` is a supported `version`.
fn known_version(value: &str) -> bool {
    value.parse().is_ok_and(|number| (1..=MAX_VERSION).contains(&number))
}

/// Decodes the text. A byte order mark decides the encoding, otherwise the text's `encoding` key.
/// Without either it is UTF-8 if valid, and otherwise windows-1252, which older hosts write.
fn decode(bytes: &[u8]) -> String {
    let stated = bytes.split(|&b| b == b'\n').find_map(|line| {
        let (key, value) = line.split_at(line.iter().position(|&b| b == b'=')?);
        let label = value[1..].trim_ascii();
        let label = label.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")).unwrap_or(label);
        key.trim_ascii().eq_ignore_ascii_case(b"encoding").then(|| Encoding::for_label(label))?
    });
    let likely = if std::str::from_utf8(bytes).is_ok() { UTF_8 } else { WINDOWS_1252 };
    // The key was found by reading ASCII, so a statement of UTF-16 is wrong.
    let stated = stated.filter(|&encoding| encoding != UTF_8 && encoding.is_ascii_compatible());
    let encoding = stated.unwrap_or(likely);
    encoding.decode(bytes).0.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "# Disk DescriptorFile\nversion=1\nCID=4ea3470f\nparentCID=ffffffff\n\
        createType=\"monolithicSparse\"\n\n# Extent description\nRW 204800 SPARSE \"a b.vmdk\"\n\n\
        # The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\nddb.geometry.heads=\"16\"\n";

    #[test]
    fn keys_quotes_and_line_ends_of_every_style_are_accepted() {
        let plain = Descriptor::parse(PLAIN.as_bytes()).expect("parses");
        assert_eq!((plain.cid, plain.parent_cid), (Some(0x4ea3_470f), NO_PARENT));
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
            format!("{PLAIN}\0\0garbage after the end"),
            format!("\u{feff}{PLAIN}"),
            format!("{PLAIN}\u{1a}"),
            PLAIN.replace("version=1", "version = 4 # of the format"),
        ];
        for text in variants {
            assert_eq!(Descriptor::parse(text.as_bytes()).expect("parses"), plain, "{text:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_parsed_is_an_error_that_names_it() {
        for (line, expected) in [
            ("what is this", "neither a comment"),
            ("createType=\"open", "missing closing quote"),
            ("parentCID=\"a\" b", "after the closing quote"),
            ("RW", "size ''"),
            ("RW -1 SPARSE \"a\"", "size '-1'"),
            ("RW +1 SPARSE \"a\"", "size '+1'"),
            ("RW 1 FLAT 0", "missing file name"),
            ("RW 99999999999999999 SPARSE \"a\"", "sectors"),
            ("RW 1 BLOB \"a\"", "extent type 'BLOB'"),
            ("RW 1 SPARSE", "missing file name"),
            ("RW 1 SPARSE \"a.vmdk", "missing closing quote"),
            ("RW 1 SPARSE \"\"", "empty file name"),
            ("RW 1 FLAT \"a\" x", "offset 'x'"),
            ("CID=12345678", "appears twice, with different values; the first is '4ea3470f'"),
        ] {
            let text = format!("{PLAIN}{line}\n");
            let error = Descriptor::parse(text.as_bytes()).expect_err(line).to_string();
            assert!(error.contains(expected) && error.contains("line 15"), "{line}: {error}");
        }
    }

    #[test]
    fn unused_keys_and_the_disk_database_may_have_any_value() {
        let plain = Descriptor::parse(PLAIN.as_bytes()).expect("parses");
        for line in [
            "ddb.fcd.kubernetes.io/name = \"x\"",
            "DDB.my own key = \"x\"",
            "ddb.nothing",
            "changeTrackPath=\"a-ctk.vmdk\"\nchangeTrackPath=\"b-ctk.vmdk\"",
            "changeTrackPath=\"a\"b-ctk.vmdk\"",
            "vendor:key = \"x\"",
            "a key of several words = x",
            "größe=\"1\"",
            "[section]",
            "; a comment",
            "// a comment",
            "createType=\"monolithicSparse\" # again",
            "CID=4ea3470f # the same",
            "isNativeSnapshot=\"no\"\t# x",
        ] {
            let text = format!("{PLAIN}{line}\n");
            let mut read = Descriptor::parse(text.as_bytes()).expect(line);
            read.ddb.truncate(plain.ddb.len());
            assert_eq!(read, plain, "{line}");
        }
    }

    #[test]
    fn content_ids_are_hex_and_may_be_missing() {
        let with = |line: &str| {
            Descriptor::parse(PLAIN.replace("\nCID=4ea3470f\n", &format!("\n{line}\n")).as_bytes())
        };
        let without = with("parentCID=ffffffff").expect("parses");
        assert_eq!((without.cid, without.parent_cid), (None, NO_PARENT));
        for (bad, expected) in
            [("CID=xyz", "32 bits in hex"), ("CID=+1", "32 bits"), ("CID=123456789", "32 bits")]
        {
            let error = with(bad).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_unknown_version_is_not_supported() {
        for version in ["5", "0", "x", ""] {
            let text = PLAIN.replace("version=1", &format!("version={version}"));
            let error = Descriptor::parse(text.as_bytes()).expect_err("version");
            assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn an_encrypted_disk_is_not_supported() {
        for line in ["encryptionKeys=\"vmware:key/list/x\"", "ddb.iofilters = \"vmwarevmcrypt\""] {
            let error = Descriptor::parse(format!("{PLAIN}{line}\n").as_bytes()).expect_err(line);
            assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        }
        Descriptor::parse(format!("{PLAIN}ddb.comment=\"a \"b\" c\"\n").as_bytes())
            .expect("parses");
    }

    #[test]
    fn names_are_decoded_in_the_stated_or_the_likely_encoding() {
        let name = |encoding: &str, bytes: &[u8]| {
            let (front, back) = PLAIN.split_once("a b").expect("is present");
            let front = front.replace("version=1\n", &format!("version=1\n{encoding}\n"));
            let text = [front.as_bytes(), bytes, back.as_bytes()].concat();
            Descriptor::parse(&text).expect("parses").extents[0].name.clone().expect("named")
        };
        assert_eq!(name("", "ä".as_bytes()), "ä.vmdk");
        assert_eq!(name("", &[0xe4, 0x80]), "ä€.vmdk");
        assert_eq!(name("encoding=\"UTF-8\"", "ä".as_bytes()), "ä.vmdk");
        assert_eq!(name("encoding=\"windows-1252\"", &[0xc3, 0xa4]), "Ã¤.vmdk");
        assert_eq!(name("encoding=\"windows-1251\"", &[0xc4]), "Д.vmdk");
        assert_eq!(name("ENCODING = \"GBK\"\r", &[0xc4, 0xe3]), "你.vmdk");
        assert_eq!(name("encoding=\"klingon\"", &[0xe4]), "ä.vmdk");
        assert_eq!(name("encoding=\"UTF-16\"", b"a"), "a.vmdk");
    }

    #[test]
    fn virtualbox_children_have_a_nonzero_parent_uuid() {
        let with = |uuid| {
            Descriptor::parse(format!("{PLAIN}ddb.uuid.parent=\"{uuid}\"\n").as_bytes())
                .expect("parses")
        };
        assert_eq!(with("00000000-0000-0000-0000-000000000000").virtualbox_parent(), None);
        let uuid = "0a000000-0000-0000-0000-000000000000";
        assert_eq!(with(uuid).virtualbox_parent(), Some(uuid));
    }

    #[test]
    fn descriptors_are_recognized_by_their_first_lines() {
        for yes in [
            PLAIN,
            "\u{feff}version=1\n",
            "version=2 # x\n",
            "version=1\r\n",
            "\n # x\n  \nversion = 3\n",
            "# Disk DescriptorFile\r\nCID=1",
        ] {
            assert!(looks_like_one(yes.as_bytes()), "{yes:?}");
        }
        for no in
            ["", "version=5\n", "version=x\n", "# a script\nset -e\n", "CID=1\n", "\0version=1\n"]
        {
            assert!(!looks_like_one(no.as_bytes()), "{no:?}");
        }
    }
}
