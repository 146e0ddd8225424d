//! Rock Ridge (RRIP 1.12; also 1.09 and 1.10): POSIX file names and attributes as system use
//! entries.

use crate::error::Result;
use crate::iso::finding::{FindingCode, Findings};
use crate::iso::node::{Attributes, FileType, ZisofsParameters};
use crate::iso::read::susp::{SystemUse, number};
use crate::iso::time::Timestamp;
use crate::open::limits::Limits;
use crate::storage::number::to_u64;

/// Maximum length of a name in bytes, as in POSIX systems and in Linux's isofs.
const NAME_MAX: usize = 255;

/// The Rock Ridge entries of one directory record.
#[derive(Debug, Default)]
pub(crate) struct RockRidge {
    /// NM.
    pub(crate) name: Option<Vec<u8>>,
    /// PX, PN, TF.
    pub(crate) attributes: Attributes,
    /// File type from PX.
    pub(crate) file_type: Option<FileType>,
    /// SL.
    pub(crate) link_target: Option<Vec<u8>>,
    /// CL: sector of the relocated directory that this record stands for.
    pub(crate) child: Option<u32>,
    /// RE: the record is that of a relocated directory, which is shown at its original position.
    pub(crate) relocated: bool,
    /// ZF.
    pub(crate) zisofs: Option<ZisofsParameters>,
    /// True if the record has any Rock Ridge entry.
    pub(crate) present: bool,
    /// The last NM entry says that the name continues in the next one.
    name_continues: bool,
    /// Programs read another name than this, or none.
    name_is_ambiguous: bool,
    /// True for the records of the directory itself and its parent.
    is_dot: bool,
    /// The last component of the last SL entry continues in the next one (4.1.3.1).
    component_continues: bool,
    /// An SL entry was invalid: further ones are not appended.
    link_broken: bool,
    /// The link target is longer than the limit.
    link_too_long: bool,
}

impl RockRidge {
    /// Creates an empty set of entries. `is_dot` is true for the records of the directory itself
    /// and its parent.
    pub(crate) fn new(is_dot: bool) -> Self {
        Self { is_dot, ..Self::default() }
    }

    /// Adds one entry of the record at byte offset `offset` of the image.
    ///
    /// # Errors
    /// Returns the errors of `findings`.
    pub(crate) fn add(
        &mut self,
        entry: SystemUse<'_>,
        offset: u64,
        limits: &Limits,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let data = entry.data;
        let parsed = match &entry.signature {
            b"PX" => self.posix(data),
            b"PN" => self.device(data),
            b"NM" => self.name(data),
            b"SL" => {
                let link = self.link(data, limits.link_bytes);
                if self.link_too_long {
                    let found = "a symbolic link with a longer target";
                    return findings.over_limit(offset, "link_bytes", found, limits.link_bytes);
                }
                link
            }
            b"TF" => self.times(data),
            b"CL" => number(data, 0).map(|sector| self.child = Some(sector)),
            b"RE" => {
                self.relocated = true;
                Some(())
            }
            b"ZF" => self.zisofs(data),
            // PL is not needed, RR is redundant, SF is not supported, SP and ER concern only the
            // root, AA and AL belong to other extensions.
            _ => return Ok(()),
        };
        self.present = true;
        match parsed {
            Some(()) => Ok(()),
            None => findings.warn(FindingCode::RockRidge, offset, || {
                let signature = String::from_utf8_lossy(&entry.signature).into_owned();
                format!("invalid {signature} entry of {} bytes", data.len() + 4)
            }),
        }
    }

    /// Parses PX (4.1.1): mode, links, user ID, group ID, and since 1.12 the serial number; all are
    /// both-endian.
    fn posix(&mut self, data: &[u8]) -> Option<()> {
        let mode = number(data, 0)?;
        let (links, uid, gid) = (number(data, 8)?, number(data, 16)?, number(data, 24)?);
        self.file_type = match mode & 0o170_000 {
            0o100_000 => Some(FileType::Regular),
            0o040_000 => Some(FileType::Directory),
            0o120_000 => Some(FileType::Symlink),
            0o060_000 => Some(FileType::BlockDevice),
            0o020_000 => Some(FileType::CharacterDevice),
            0o010_000 => Some(FileType::Fifo),
            0o140_000 => Some(FileType::Socket),
            _ => None,
        };
        self.attributes.mode = Some(mode & 0o7777);
        self.attributes.links = Some(links);
        self.attributes.uid = Some(uid);
        self.attributes.gid = Some(gid);
        self.attributes.serial = number(data, 32);
        self.file_type.map(|_| ())
    }

    /// Parses PN (4.1.2), in the two encodings that writers use:
    ///
    /// ```text
    ///   mkisofs, genisoimage              high: major number     low: minor number
    ///   libisofs, libarchive, makefs      high, low: halves of a 64-bit dev_t
    /// ```
    ///
    /// The dev_t of a device on Linux and NetBSD has at most 32 bits: 12 of the major number, 20
    /// of the minor number. A high half that is not zero is therefore a major number. The device 0
    /// with a minor number above 255 in the former encoding looks like another device in the
    /// latter; it does not exist on these systems. For numbers of up to 8 bits, Linux's driver
    /// follows the same rule.
    fn device(&mut self, data: &[u8]) -> Option<()> {
        let (high, low) = (number(data, 0)?, number(data, 8)?);
        self.attributes.device = Some(match high {
            0 => (low >> 8 & 0xFFF, low & 0xFF | low >> 12 & 0xF_FF00),
            major => (major, low),
        });
        Some(())
    }

    /// Parses NM (4.1.4). The flags CURRENT and PARENT are redundant in the records of the
    /// directory itself and its parent. Together with a text they are an error of the writer, and
    /// the text is the name.
    fn name(&mut self, data: &[u8]) -> Option<()> {
        const CONTINUES: u8 = 0x01;
        const DOTS: u8 = 0x06;
        let (&flags, text) = data.split_first()?;
        let is_unexpected = self.name.is_some() && !self.name_continues;
        let is_plain = !text.is_empty() && !text.iter().any(|byte| matches!(byte, 0 | b'/'));
        self.name_is_ambiguous |= is_unexpected || !is_plain || flags & !CONTINUES != 0;
        self.name_continues = flags & CONTINUES != 0;
        if flags & DOTS != 0 && text.is_empty() {
            return self.is_dot.then_some(());
        }
        let name = self.name.get_or_insert_default();
        let fits = name.len() + text.len() <= NAME_MAX;
        let room = NAME_MAX.saturating_sub(name.len());
        name.extend_from_slice(&text[..text.len().min(room)]);
        (fits && flags & DOTS == 0).then_some(())
    }

    /// Returns true if programs read different names: several without a flag that they continue,
    /// one that continues nowhere, with unknown flags, or with bytes that end names.
    #[cfg(feature = "inspect")]
    pub(crate) fn has_ambiguous_name(&self) -> bool {
        !self.is_dot && (self.name_is_ambiguous || self.name_continues)
    }

    /// Parses SL (4.1.3): components, the last of which may continue in the next entry.
    fn link(&mut self, data: &[u8], limit: u64) -> Option<()> {
        let (_flags, mut components) = data.split_first()?;
        let target = self.link_target.get_or_insert_default();
        if self.link_broken {
            return None;
        }
        // Set until this entry is parsed: after an invalid entry, nothing more is appended.
        self.link_broken = true;
        while let &[flags, len, ..] = components {
            let text = components.get(2..2 + usize::from(len))?;
            let text: &[u8] = match flags & 0x0E {
                0x02 => b".",
                0x04 => b"..",
                0x08 => b"/",
                _ => text,
            };
            let is_first = target.is_empty();
            if !self.component_continues && !is_first && target.last() != Some(&b'/') {
                target.push(b'/');
            }
            if to_u64(target.len() + text.len()) > limit {
                self.link_too_long = true;
                return None;
            }
            target.extend_from_slice(text);
            self.component_continues = flags & 0x01 != 0;
            components = &components[2 + usize::from(len)..];
        }
        self.link_broken = false;
        Some(())
    }

    /// Parses TF (4.1.6): one timestamp for each flag, in the order of the flags.
    fn times(&mut self, data: &[u8]) -> Option<()> {
        let (&flags, mut stamps) = data.split_first()?;
        let long = flags & 0x80 != 0;
        let fields: [(u8, &mut Option<Timestamp>); 4] = [
            (0x01, &mut self.attributes.created),
            (0x02, &mut self.attributes.modified),
            (0x04, &mut self.attributes.accessed),
            (0x08, &mut self.attributes.changed),
        ];
        // Most files have several equal timestamps, and the conversion is expensive.
        let mut last: Option<(&[u8; 7], Option<Timestamp>)> = None;
        for (flag, field) in fields {
            if flags & flag == 0 {
                continue;
            }
            let (time, rest) = if long {
                let (bytes, rest) = stamps.split_first_chunk::<17>()?;
                (Timestamp::from_digits(bytes), rest)
            } else {
                let (bytes, rest) = stamps.split_first_chunk::<7>()?;
                let known = last.filter(|(same, _)| *same == bytes);
                let time = known.map_or_else(|| Timestamp::from_record(bytes), |(_, time)| time);
                last = Some((bytes, time));
                (time, rest)
            };
            *field = time.or(*field);
            stamps = rest;
        }
        Some(())
    }

    /// Parses ZF (zisofs): algorithm, header size in 32-bit words, log2 of the block size,
    /// uncompressed size.
    fn zisofs(&mut self, data: &[u8]) -> Option<()> {
        let version = match data.get(..2)? {
            b"pz" => 1,
            b"PZ" => 2,
            _ => return None,
        };
        let low = u64::from(number(data, 4)?);
        // The size is a both-endian 32-bit number in version 1, a 64-bit number in version 2.
        let high = u64::from(number(data, 8)?);
        let size = if version == 2 { high << 32 | low } else { low };
        let (&words, &block_log2) = (data.get(2)?, data.get(3)?);
        let header_bytes = u64::from(words) * 4;
        self.zisofs = Some(ZisofsParameters { version, header_bytes, block_log2, size });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[(&[u8; 2], &[u8])]) -> RockRidge {
        let mut parsed = RockRidge::default();
        for (signature, data) in entries {
            let entry = SystemUse { signature: **signature, data };
            parsed
                .add(entry, 0, &Limits::default(), &mut Findings::Ignored)
                .expect("findings are ignored");
        }
        parsed
    }

    #[test]
    fn a_name_continues_in_the_next_entry() {
        let name = parse(&[(b"NM", b"\x01long "), (b"NM", b"\0name")]).name;
        assert_eq!(name.as_deref(), Some(&b"long name"[..]));
    }

    #[test]
    fn a_text_in_an_entry_with_the_current_flag_is_the_name() {
        assert_eq!(parse(&[(b"NM", b"\x02cert")]).name.as_deref(), Some(&b"cert"[..]));
        assert_eq!(parse(&[(b"NM", b"\x02")]).name, None);
    }

    #[test]
    fn a_link_is_made_of_components_some_of_them_in_two_entries() {
        let link = |entries: &[&[u8]]| {
            let entries: Vec<_> = entries.iter().map(|data| (b"SL", *data)).collect();
            String::from_utf8(parse(&entries).link_target.expect("a link")).expect("ASCII")
        };
        assert_eq!(link(&[b"\0\x08\0\0\x03etc\0\x02rc"]), "/etc/rc");
        assert_eq!(link(&[b"\0\x04\0\x04\0\0\x01a"]), "../../a");
        assert_eq!(link(&[b"\x01\0\x02us", b"\0\0\x01r"]), "us/r");
        assert_eq!(link(&[b"\x01\x01\x02us", b"\0\0\x01r\0\x01b"]), "usr/b");
        assert_eq!(link(&[b"\0\0\x01a\0\x09bc", b"\0\0\x01x"]), "a");
    }

    #[test]
    fn both_encodings_of_a_device_are_understood() {
        let device = |high: u32, low: u32| {
            let mut data = Vec::new();
            for n in [high, low] {
                data.extend(n.to_le_bytes());
                data.extend(n.to_be_bytes());
            }
            parse(&[(b"PN", &data)]).attributes.device
        };
        assert_eq!(device(8, 1), Some((8, 1)));
        assert_eq!(device(0, 5), Some((0, 5)));
        assert_eq!(device(0, 0x0801), Some((8, 1)));
        assert_eq!(device(259, 300), Some((259, 300)));
        assert_eq!(device(0, 0x1_2c05), Some((300, 5)));
        assert_eq!(device(0, 0x1111_0370), Some((259, 70_000)));
        assert_eq!(device(0, u32::MAX), Some((0xFFF, 0xF_FFFF)));
    }
}
