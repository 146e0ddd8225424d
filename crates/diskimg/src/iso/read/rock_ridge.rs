//! Rock Ridge (RRIP 1.12; 1.09 and 1.10 as well): what POSIX knows of a file, as system use
//! entries.

use crate::error::Result;
use crate::iso::finding::{FindingCode, Findings};
use crate::iso::node::{Attributes, FileType, ZisofsForm};
use crate::iso::read::susp::{SystemUse, number};
use crate::iso::time::Timestamp;
use crate::open::limits::Limits;
use crate::storage::number::to_u64;

/// Bytes of a name: what POSIX systems allow, and so does Linux's reader.
const NAME_MAX: usize = 255;

/// What the entries of one record say.
#[derive(Debug, Default)]
pub(crate) struct RockRidge {
    /// NM.
    pub(crate) name: Option<Vec<u8>>,
    /// PX, PN, TF.
    pub(crate) attributes: Attributes,
    /// PX's file type.
    pub(crate) file_type: Option<FileType>,
    /// SL.
    pub(crate) link_target: Option<Vec<u8>>,
    /// CL: the sector where the directory really is.
    pub(crate) child: Option<u32>,
    /// RE: a directory that was moved here, and is shown elsewhere.
    pub(crate) relocated: bool,
    /// ZF.
    pub(crate) zisofs: Option<ZisofsForm>,
    /// Any of these was there.
    pub(crate) present: bool,
    /// The record is the directory's own or its parent's.
    is_dot: bool,
    /// The last SL entry's last component goes on in the next (4.1.3.1).
    component_goes_on: bool,
    /// A bad SL or NM entry: what follows is not appended.
    link_broken: bool,
    /// … because it is longer than the limit.
    link_too_long: bool,
}

impl RockRidge {
    /// Of a record that says nothing yet. `is_dot`: the directory's own or its parent's.
    pub(crate) fn of(is_dot: bool) -> Self {
        Self { is_dot, ..Self::default() }
    }

    /// Takes one entry of the record at `offset`.
    ///
    /// # Errors
    /// What `findings` said.
    pub(crate) fn take(
        &mut self,
        entry: SystemUse<'_>,
        offset: u64,
        limits: &Limits,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let data = entry.data;
        let understood = match &entry.signature {
            b"PX" => self.posix(data),
            b"PN" => self.device(data),
            b"NM" => self.name(data),
            b"SL" => {
                let link = self.link(data, limits.link_bytes);
                if self.link_too_long {
                    let found = "a symbolic link's target is longer";
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
            b"ZF" => self.packed(data),
            // PL is not needed; RR and SF say nothing; ER and SP were seen at the root; AA and
            // AL are others'.
            _ => return Ok(()),
        };
        self.present = true;
        match understood {
            Some(()) => Ok(()),
            None => findings.warn(FindingCode::RockRidge, offset, || {
                let signature = String::from_utf8_lossy(&entry.signature).into_owned();
                format!("a {signature} entry of {} bytes makes no sense", data.len() + 4)
            }),
        }
    }

    /// 4.1.1: mode, links, owner, group, each in both orders; since 1.12 a serial number.
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

    /// 4.1.2. Some writers put major and minor into the two halves, others all into the low one,
    /// as Linux told it by then; Linux tells them apart so, too.
    fn device(&mut self, data: &[u8]) -> Option<()> {
        let (high, low) = (number(data, 0)?, number(data, 8)?);
        let split = high != 0 || low <= 0xFF;
        self.attributes.device = Some(if split { (high, low) } else { (low >> 8, low & 0xFF) });
        Some(())
    }

    /// 4.1.4. The flags that mean "this directory" and "its parent" say nothing new where they
    /// belong; beside a text they are a mistake, and the text is the name.
    fn name(&mut self, data: &[u8]) -> Option<()> {
        const DOTS: u8 = 0x06;
        let (&flags, text) = data.split_first()?;
        if flags & DOTS != 0 && text.is_empty() {
            return self.is_dot.then_some(());
        }
        let name = self.name.get_or_insert_default();
        let fits = name.len() + text.len() <= NAME_MAX;
        let room = NAME_MAX.saturating_sub(name.len());
        name.extend_from_slice(&text[..text.len().min(room)]);
        (fits && flags & DOTS == 0).then_some(())
    }

    /// 4.1.3: components, of which the last may go on in the next entry.
    fn link(&mut self, data: &[u8], most: u64) -> Option<()> {
        let (_flags, mut components) = data.split_first()?;
        let target = self.link_target.get_or_insert_default();
        if self.link_broken {
            return None;
        }
        // Whatever is wrong: a target cut short leads elsewhere, so nothing follows it.
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
            if !self.component_goes_on && !is_first && target.last() != Some(&b'/') {
                target.push(b'/');
            }
            if to_u64(target.len() + text.len()) > most {
                self.link_too_long = true;
                return None;
            }
            target.extend_from_slice(text);
            self.component_goes_on = flags & 0x01 != 0;
            components = &components[2 + usize::from(len)..];
        }
        self.link_broken = false;
        Some(())
    }

    /// 4.1.6: one moment for each flag, in this order.
    fn times(&mut self, data: &[u8]) -> Option<()> {
        let (&flags, mut moments) = data.split_first()?;
        let long = flags & 0x80 != 0;
        let fields: [(u8, &mut Option<Timestamp>); 4] = [
            (0x01, &mut self.attributes.created),
            (0x02, &mut self.attributes.modified),
            (0x04, &mut self.attributes.accessed),
            (0x08, &mut self.attributes.changed),
        ];
        // Most files have the same moment several times, and calendars cost.
        let mut last: Option<(&[u8; 7], Option<Timestamp>)> = None;
        for (flag, field) in fields {
            if flags & flag == 0 {
                continue;
            }
            let (moment, rest) = if long {
                let (bytes, rest) = moments.split_first_chunk::<17>()?;
                (Timestamp::from_digits(bytes), rest)
            } else {
                let (bytes, rest) = moments.split_first_chunk::<7>()?;
                let known = last.filter(|(same, _)| *same == bytes);
                let moment = known.map_or_else(|| Timestamp::from_record(bytes), |(_, m)| m);
                last = Some((bytes, moment));
                (moment, rest)
            };
            *field = moment.or(*field);
            moments = rest;
        }
        Some(())
    }

    /// zisofs' entry: algorithm, header size in words, log2 of the block size, size.
    fn packed(&mut self, data: &[u8]) -> Option<()> {
        let version = match data.get(..2)? {
            b"pz" => 1,
            b"PZ" => 2,
            _ => return None,
        };
        let low = u64::from(number(data, 4)?);
        // Version 1 has the size in both orders, version 2 in 64 bits.
        let high = u64::from(number(data, 8)?);
        let size = if version == 2 { high << 32 | low } else { low };
        let (&words, &block_log2) = (data.get(2)?, data.get(3)?);
        let header_bytes = u64::from(words) * 4;
        self.zisofs = Some(ZisofsForm { version, header_bytes, block_log2, size });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(entries: &[(&[u8; 2], &[u8])]) -> RockRidge {
        let mut taken = RockRidge::default();
        for (signature, data) in entries {
            let entry = SystemUse { signature: **signature, data };
            taken
                .take(entry, 0, &Limits::default(), &mut Findings::Ignored)
                .expect("nobody listens");
        }
        taken
    }

    #[test]
    fn a_name_goes_on_in_the_next_entry() {
        let name = taken(&[(b"NM", b"\x01long "), (b"NM", b"\0name")]).name;
        assert_eq!(name.as_deref(), Some(&b"long name"[..]));
    }

    #[test]
    fn a_name_with_the_flag_of_a_dot_is_its_text() {
        assert_eq!(taken(&[(b"NM", b"\x02cert")]).name.as_deref(), Some(&b"cert"[..]));
        assert_eq!(taken(&[(b"NM", b"\x02")]).name, None);
    }

    #[test]
    fn a_link_is_made_of_components_some_of_them_in_two_entries() {
        let link = |entries: &[&[u8]]| {
            let entries: Vec<_> = entries.iter().map(|data| (b"SL", *data)).collect();
            String::from_utf8(taken(&entries).link_target.expect("a link")).expect("ASCII")
        };
        assert_eq!(link(&[b"\0\x08\0\0\x03etc\0\x02rc"]), "/etc/rc");
        assert_eq!(link(&[b"\0\x04\0\x04\0\0\x01a"]), "../../a");
        assert_eq!(link(&[b"\x01\0\x02us", b"\0\0\x01r"]), "us/r");
        assert_eq!(link(&[b"\x01\x01\x02us", b"\0\0\x01r\0\x01b"]), "usr/b");
        assert_eq!(link(&[b"\0\0\x01a\0\x09bc", b"\0\0\x01x"]), "a");
    }

    #[test]
    fn a_device_is_told_in_either_way() {
        let device = |high: u32, low: u32| {
            let mut data = Vec::new();
            for n in [high, low] {
                data.extend(n.to_le_bytes());
                data.extend(n.to_be_bytes());
            }
            taken(&[(b"PN", &data)]).attributes.device
        };
        assert_eq!(device(8, 1), Some((8, 1)));
        assert_eq!(device(0, 5), Some((0, 5)));
        assert_eq!(device(0, 0x0801), Some((8, 1)));
        assert_eq!(device(259, 300), Some((259, 300)));
    }
}
