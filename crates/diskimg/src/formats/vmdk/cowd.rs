//! The header of a COWD extent: a redo log of an ESX server (vmfsSparse), or a
//! whole disk of VMware 2 and 3.
//!
//! ```text
//!    0 ┌──────────────┬─────────┬────────────┬────────────┐
//!      │ "COWD"       │ version │ flags      │ numSectors │  u32, sectors
//!   16 ├──────────────┼─────────┼────────────┼────────────┤
//!      │ grainSize    │ gdOffset│numGDEntries│ freeSector │
//!   32 ├──────────────┴─────────┴────────────┴────────────┤
//!      │ root: cylinders, heads, sectors                  │
//!      │ child: parentFileName, parentGeneration          │
//! 1060 ├────────────┬──────┬─────────────┬────────────────┤
//!      │ generation │ name │ description │ savedGeneration│  at 1636
//! 1640 ├────────────┴─┬────┴─────────────┴─┬──────────────┤
//!      │ reserved     │ uncleanShutdown    │  zeros       │  up to 2048
//!      └──────────────┴────────────────────┴──────────────┘
//! ```
//!
//! *Virtual Disk Format 5.0*, "ESX Server Sparse Extents" (`COWDisk_Header`).
//! Behind the header everything is as in a hosted sparse extent: a directory of
//! tables of sectors of grains. Tables have 4096 entries; the header does not
//! say so. Those of VMware 2 and 3, which the specification does not cover,
//! have 512: the number of tables tells which (Ken Kato's VDK and QEMU before
//! 2011 agree on this layout).

use super::header::{Flags, Header, MAX_GRAIN_SECTORS, require_grain};
use super::{COWD_MAGIC, SECTOR, read};
use crate::error::{Error, Result};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Sectors of the header: the directory is behind it.
const HEADER_SECTORS: u64 = 4;

/// Entries of a grain table on an ESX server.
const ESX_GTES: u32 = 4096;

/// Entries of a grain table of VMware 2 and 3.
const HOSTED_GTES: u32 = 512;

bitflags::bitflags! {
    /// `flags`. ESX sets the first two always, in a child too.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct CowdFlags: u32 {
        /// The disk has no parent.
        const ROOT = 1;
        /// The last writer closed the file.
        const CHECKED = 1 << 1;
        /// The file is one of several.
        const MULTI = 1 << 3;
        /// The virtual hardware's version was decided.
        const HARDWARE_VERSION = 1 << 4;
    }
}

/// `COWDisk_Header` as it is on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct CowDiskHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    num_sectors: U32,
    grain_size: U32,
    gd_offset: U32,
    num_gd_entries: U32,
    free_sector: U32,
    /// A root's geometry is here instead.
    parent_file_name: [u8; 1024],
    parent_generation: U32,
    generation: U32,
    name: [u8; 60],
    description: [u8; 512],
    saved_generation: U32,
    reserved: [u8; 8],
    unclean_shutdown: U32,
    padding: [u8; 396],
}

const _: () = assert!(to_u64(size_of::<CowDiskHeader>()) == HEADER_SECTORS * SECTOR);

/// What the header of a COWD extent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CowdHeader {
    /// Where tables and grains are, in the terms of a hosted sparse extent.
    pub(super) header: Header,
    /// What it is a part of.
    pub(super) maker: Maker,
}

/// Who writes COWD, and so where the word on the disk as a whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Maker {
    /// An ESX server: a descriptor lists the extent and names the parent.
    Esx,
    /// VMware 2 or 3: there is no descriptor, the file is the disk.
    Hosted {
        /// Counts the changes; children remember it.
        generation: u32,
        /// What answers for grains that are not in the file.
        parent: Option<CowdParent>,
    },
}

/// The parent as a child of VMware 2 or 3 knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CowdParent {
    /// Its file's path, as the child's host spelled it.
    pub(super) name: String,
    /// Its [`generation`](Maker::Hosted::generation) when the child was made.
    pub(super) generation: u32,
}

/// Reads the header of the COWD extent in `source`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported)
/// and [`Limit`](crate::ErrorKind::Limit), each naming the field.
pub(super) fn read_header(source: &dyn Source) -> Result<CowdHeader> {
    let mut raw = CowDiskHeader::new_zeroed();
    read(source, raw.as_mut_bytes(), 0, "COWD header")?;
    raw.validate().map_err(|e| e.in_structure("COWD header").at(0))
}

impl CowDiskHeader {
    fn validate(&self) -> Result<CowdHeader> {
        if self.magic != COWD_MAGIC {
            return Err(corrupt(format!("magic {:02x?}, \"COWD\" wanted", self.magic)));
        }
        let version = self.version.get();
        if ![1, 3].contains(&version) {
            return Err(Error::unsupported(format!("version {version}; 1 and 3 are known")));
        }
        let flags = CowdFlags::from_bits(self.flags.get())
            .ok_or_else(|| Error::unsupported(format!("unknown flags {:#x}", self.flags)))?;
        let (capacity, grain_sectors) = (u64::from(self.num_sectors.get()), self.grain()?);
        let gtes = self.gtes(capacity, grain_sectors)?;
        let mut header = Header {
            version: 1,
            flags: Flags::empty(),
            capacity,
            grain_sectors,
            descriptor_offset: 0,
            descriptor_sectors: 0,
            gtes,
            rgd_offset: 0,
            gd_offset: self.gd_offset.get().into(),
            over_head: 0,
            // Where version 1 has uncleanShutdown, version 3 counts files.
            unclean: !flags.contains(CowdFlags::CHECKED)
                || (version == 1 && self.unclean_shutdown.get() != 0),
            compressed: false,
        };
        if header.gd_offset < HEADER_SECTORS {
            return Err(corrupt(format!(
                "gdOffset {}: within the header, which takes {HEADER_SECTORS} sectors",
                header.gd_offset
            )));
        }
        header.over_head = header.gd_offset + header.directory_sectors();
        let maker = match gtes {
            ESX_GTES => Maker::Esx,
            _ => self.hosted(flags)?,
        };
        Ok(CowdHeader { header, maker })
    }

    fn grain(&self) -> Result<u64> {
        require_grain(self.grain_size.get().into(), MAX_GRAIN_SECTORS)
    }

    /// Entries of a grain table, by the number of tables.
    fn gtes(&self, capacity: u64, grain_sectors: u64) -> Result<u32> {
        let tables = |gtes: u32| capacity.div_ceil(grain_sectors * u64::from(gtes));
        let found = u64::from(self.num_gd_entries.get());
        // Small grains are ESX's own: where both would fit they decide.
        let likely =
            if grain_sectors == 1 { [ESX_GTES, HOSTED_GTES] } else { [HOSTED_GTES, ESX_GTES] };
        likely.into_iter().find(|&gtes| tables(gtes) == found).ok_or_else(|| {
            corrupt(format!(
                "numGDEntries {found}: {capacity} sectors in grains of {grain_sectors} take {} \
                 tables",
                tables(ESX_GTES)
            ))
        })
    }

    fn hosted(&self, flags: CowdFlags) -> Result<Maker> {
        if flags.contains(CowdFlags::MULTI) {
            return Err(Error::unsupported("one of several files of a disk of VMware 3"));
        }
        let parent = (!flags.contains(CowdFlags::ROOT)).then(|| self.parent()).transpose()?;
        Ok(Maker::Hosted { generation: self.generation.get(), parent })
    }

    fn parent(&self) -> Result<CowdParent> {
        let name = self.parent_file_name.split(|&b| b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        if name.is_empty() {
            return Err(corrupt("the disk is a child, but parentFileName is empty".into()));
        }
        Ok(CowdParent { name, generation: self.parent_generation.get() })
    }
}

fn corrupt(message: String) -> Error {
    Error::corrupt("COWD header", message)
}

#[cfg(test)]
mod tests {
    use super::super::sparse::SparseExtent;
    use super::super::tables::MemoryBudget;
    use super::*;
    use crate::model::extent::Kind;
    use crate::open::limits::Limits;
    use crate::storage::source::MemorySource;
    use crate::{ErrorKind, Result};
    use diskimg_testkit::esx::{Cowd, Grain, Grains, guest, put};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Two tables of single sectors and a part of a third.
    const SECTORS: u32 = 2 * 4096 + 1000;

    fn grains() -> Grains {
        [0, 1, 4095, 8192, 9191]
            .map(|number| (number, Grain::Data((number % 250 + 1) as u8)))
            .into()
    }

    fn open(file: Vec<u8>) -> Result<SparseExtent> {
        let source = Arc::new(MemorySource::new(file));
        let header = read_header(&*source)?.header;
        SparseExtent::open(source, header, &Limits::default(), MemoryBudget::default())
    }

    fn maker(file: Vec<u8>) -> Result<Maker> {
        read_header(&MemorySource::new(file)).map(|cowd| cowd.maker)
    }

    /// What the guest sees without a parent.
    fn read_all(extent: &SparseExtent) -> Result<Vec<u8>> {
        let mut extents = Vec::new();
        extent.map(0..extent.size(), 0, 0, &mut extents)?;
        let mut disk = Vec::new();
        for piece in extents {
            assert_eq!(piece.guest.start, disk.len() as u64);
            disk.resize(piece.guest.end as usize, 0);
            match piece.kind {
                Kind::Data(place) => {
                    let buf = &mut disk[piece.guest.start as usize..];
                    extent.source().read_exact_at(buf, place.offset).expect("in the file");
                }
                Kind::Unallocated => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(disk.len() as u64, extent.size());
        Ok(disk)
    }

    #[test]
    fn extents_of_esx_and_of_vmware_3_are_read() {
        let esx = Cowd::esx(SECTORS);
        let hosted = Cowd::hosted(600 * 128 + 5);
        let few: Grains =
            [(0, Grain::Data(1)), (511, Grain::Data(2)), (600, Grain::Data(3))].into();
        for (shape, grains) in [
            (esx.clone(), grains()),
            (esx.clone(), Grains::new()),
            (Cowd { grain_sectors: 8, ..Cowd::esx(5 * 8 * 4096 + 1) }, grains()),
            (hosted.clone(), few.clone()),
            (Cowd { version: 1, grain_sectors: 32, ..hosted }, few),
        ] {
            let extent = open(shape.build(&grains)).expect("opens");
            let empty = vec![0; shape.sectors as usize * 512];
            let wanted = guest(empty, shape.grain_sectors.into(), &grains);
            assert!(read_all(&extent).expect("maps") == wanted, "{shape:?}");
            assert_eq!(extent.header().gtes, shape.gtes);
        }
    }

    #[test]
    fn who_made_it_tells_where_the_parent_is_named() {
        let none = Grains::new();
        assert_eq!(maker(Cowd::esx(SECTORS).build(&none)).expect("reads"), Maker::Esx);
        let hosted = Cowd { generation: 9, ..Cowd::hosted(1 << 20) };
        let root = Maker::Hosted { generation: 9, parent: None };
        assert_eq!(maker(hosted.build(&none)).expect("reads"), root);
        // One table would do in either case.
        assert_eq!(maker(Cowd::esx(100).build(&none)).expect("reads"), Maker::Esx);
        let small = Cowd { sectors: 100, ..hosted.clone() };
        assert_eq!(maker(small.build(&none)).expect("reads"), root);
        let child = Cowd { flags: 0x12, parent: Some(("C:\\vm\\base.vmdk", 5)), ..hosted.clone() };
        let parent = CowdParent { name: "C:\\vm\\base.vmdk".into(), generation: 5 };
        let wanted = Maker::Hosted { generation: 9, parent: Some(parent) };
        assert_eq!(maker(child.build(&none)).expect("reads"), wanted);
        let nameless = Cowd { parent: Some(("", 5)), ..child };
        let error = maker(nameless.build(&none)).expect_err("no name");
        assert!(error.to_string().contains("parentFileName"), "{error}");
        let part = Cowd { flags: 0x1b, ..hosted };
        let error = maker(part.build(&none)).expect_err("a part");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_was_not_closed_is_known() {
        let unclean = |shape: Cowd| {
            read_header(&MemorySource::new(shape.build(&Grains::new())))
                .expect("reads")
                .header
                .unclean
        };
        assert!(!unclean(Cowd::esx(SECTORS)));
        assert!(unclean(Cowd { unclean: 1, ..Cowd::esx(SECTORS) }));
        assert!(unclean(Cowd { flags: 1, ..Cowd::esx(SECTORS) }));
        assert!(unclean(Cowd { flags: 1, ..Cowd::hosted(1 << 20) }));
        // The number of the file among its likes is at that place.
        assert!(!unclean(Cowd { unclean: 1, ..Cowd::hosted(1 << 20) }));
    }

    #[test]
    fn every_field_is_looked_at() {
        let whole = Cowd::esx(SECTORS).build(&grains());
        for (at, value, kind, said) in [
            (0, 0x564d_444b_u32, ErrorKind::Corrupt, "magic"),
            (4, 0, ErrorKind::Unsupported, "version 0"),
            (4, 2, ErrorKind::Unsupported, "version 2"),
            (8, 7, ErrorKind::Unsupported, "unknown flags 0x7"),
            (12, 0, ErrorKind::Corrupt, "numGDEntries 3"),
            (12, u32::MAX, ErrorKind::Corrupt, "take 1048576 tables"),
            (16, 0, ErrorKind::Corrupt, "grainSize 0"),
            (16, 3, ErrorKind::Corrupt, "grainSize 3"),
            (16, 1 << 31, ErrorKind::Limit, "grainSize"),
            (20, 0, ErrorKind::Corrupt, "gdOffset 0"),
            (20, 3, ErrorKind::Corrupt, "gdOffset 3"),
            (20, u32::MAX, ErrorKind::Corrupt, "truncated"),
            (24, 0, ErrorKind::Corrupt, "numGDEntries 0"),
            (24, 4, ErrorKind::Corrupt, "numGDEntries 4"),
            (24, u32::MAX, ErrorKind::Corrupt, "numGDEntries"),
        ] {
            let mut file = whole.clone();
            put(&mut file, at, &value.to_le_bytes());
            let error = open(file).expect_err(said);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(said), "{at}: {error}");
        }
        for cut in [0, 4, 511, 2047, 2048, 2559] {
            assert!(open(whole[..cut].to_vec()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn tables_and_grains_out_of_the_file_are_errors() {
        let whole = Cowd::esx(SECTORS).build(&grains());
        let (directory, table) = (4 * 512, 5 * 512);
        for (at, value) in [(directory, u32::MAX), (table, u32::MAX), (table, 1 << 20)] {
            let mut file = whole.clone();
            put(&mut file, at, &value.to_le_bytes());
            let error = read_all(&open(file).expect("opens")).expect_err("leaves the file");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let cut = open(whole[..whole.len() - 1].to_vec()).expect("opens");
        assert!(read_all(&cut).expect_err("cut").to_string().contains("truncated"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damage_anywhere_is_an_error_or_another_disk(
            patches in prop::collection::vec(
                (
                    prop_oneof![0..36usize, 2048..2064usize, 0..40_000usize],
                    prop_oneof![any::<u32>(), 0..100u32, (0..32u32).prop_map(|n| 1 << n)],
                ),
                1..4,
            )
        ) {
            let mut file = Cowd::esx(SECTORS).build(&grains());
            for (at, value) in patches {
                let at = if value & 1 == 0 { at / 4 * 4 } else { at };
                put(&mut file, at, &value.to_le_bytes());
            }
            let Ok(extent) = open(file) else { return Ok(()) };
            let mut extents = Vec::new();
            let end = extent.size().min(64 << 20);
            if extent.map(0..end, 0, 0, &mut extents).is_ok() {
                let mut at = 0;
                for extent in extents {
                    prop_assert_eq!(extent.guest.start, at);
                    at = extent.guest.end;
                }
                prop_assert_eq!(at, end);
            }
        }
    }
}
