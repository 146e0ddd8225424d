//! The header of a COWD extent: a redo log of an ESX server (vmfsSparse), or a whole disk of VMware
//! 2 or 3.
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
//! *Virtual Disk Format 5.0*, "ESX Server Sparse Extents" (`COWDisk_Header`). Directory, tables and
//! grains are as in a hosted sparse extent. A grain table has 4096 entries; this number is not in
//! the header. In disks of VMware 2 and 3, which the specification does not cover, it has 512. The
//! number of tables distinguishes the two (Ken Kato's VDK and QEMU before 2011 agree on this
//! layout).

use super::header::{Flags, Header, MAX_GRAIN_SECTORS, require_grain};
use super::{COWD_MAGIC, SECTOR, read};
use crate::error::{Error, Result};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Number of sectors of the header. The directory is after it.
const HEADER_SECTORS: u64 = 4;

/// Number of entries per grain table on an ESX server.
const ESX_GTES: u32 = 4096;

/// Number of entries per grain table in VMware 2 and 3.
const HOSTED_GTES: u32 = 512;

bitflags::bitflags! {
    /// `flags`. ESX always sets the first two, even in a child.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct CowdFlags: u32 {
        /// The disk has no parent.
        const ROOT = 1;
        /// The last writer closed the file.
        const CHECKED = 1 << 1;
        /// The disk is stored in several files, of which this is one.
        const MULTI = 1 << 3;
        /// The virtual hardware version is set.
        const HARDWARE_VERSION = 1 << 4;
    }
}

/// The on-disk `COWDisk_Header`.
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
    /// In a disk without a parent, the geometry is here.
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

/// The parsed header of a COWD extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CowdHeader {
    /// The location of tables and grains, as the header of a hosted sparse extent.
    pub(super) header: Header,
    pub(super) variant: CowdVariant,
}

/// The two variants of COWD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CowdVariant {
    /// ESX server: a descriptor lists the extent and names the parent.
    Esx,
    /// VMware 2 or 3: the file is a whole disk and has no descriptor.
    Hosted {
        /// Number of changes to the disk. A child records that of its parent.
        generation: u32,
        /// The disk from which unallocated grains are read.
        parent: Option<CowdParent>,
    },
}

/// The parent that a child of VMware 2 or 3 records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CowdParent {
    /// Path of its file, in the syntax of the host that created the child.
    pub(super) name: String,
    /// Its [`generation`](CowdVariant::Hosted::generation) when the child was created.
    pub(super) generation: u32,
}

/// Reads the header of the COWD extent in `source`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported) or
/// [`Limit`](crate::ErrorKind::Limit), naming the field; [`Io`](crate::ErrorKind::Io).
pub(super) fn read_header(source: &dyn Source) -> Result<CowdHeader> {
    let mut raw = CowDiskHeader::new_zeroed();
    read(source, raw.as_mut_bytes(), 0, "COWD header")?;
    raw.validate().map_err(|e| e.in_structure("COWD header").at(0))
}

impl CowDiskHeader {
    fn validate(&self) -> Result<CowdHeader> {
        if self.magic != COWD_MAGIC {
            return Err(corrupt(format!("magic {:02x?}; expected \"COWD\"", self.magic)));
        }
        let version = self.version.get();
        if ![1, 3].contains(&version) {
            return Err(Error::unsupported(format!(
                "version {version}; versions 1 and 3 are supported"
            )));
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
            // Version 3 stores a file number in place of uncleanShutdown.
            unclean: !flags.contains(CowdFlags::CHECKED)
                || (version == 1 && self.unclean_shutdown.get() != 0),
            compressed: false,
        };
        if header.gd_offset < HEADER_SECTORS {
            return Err(corrupt(format!(
                "gdOffset {} is within the header of {HEADER_SECTORS} sectors",
                header.gd_offset
            )));
        }
        header.over_head = header.gd_offset + header.directory_sectors();
        let variant = match gtes {
            ESX_GTES => CowdVariant::Esx,
            _ => self.hosted(flags)?,
        };
        Ok(CowdHeader { header, variant })
    }

    fn grain(&self) -> Result<u64> {
        require_grain(self.grain_size.get().into(), MAX_GRAIN_SECTORS)
    }

    /// Determines the number of entries per grain table from the number of tables.
    fn gtes(&self, capacity: u64, grain_sectors: u64) -> Result<u32> {
        let tables = |gtes: u32| capacity.div_ceil(grain_sectors * u64::from(gtes));
        let found = u64::from(self.num_gd_entries.get());
        // If both would match, the grain size decides: only ESX uses grains of one sector.
        let candidates =
            if grain_sectors == 1 { [ESX_GTES, HOSTED_GTES] } else { [HOSTED_GTES, ESX_GTES] };
        candidates.into_iter().find(|&gtes| tables(gtes) == found).ok_or_else(|| {
            corrupt(format!(
                "numGDEntries {found}: {capacity} sectors in grains of {grain_sectors} need {} \
                 tables",
                tables(ESX_GTES)
            ))
        })
    }

    fn hosted(&self, flags: CowdFlags) -> Result<CowdVariant> {
        if flags.contains(CowdFlags::MULTI) {
            return Err(Error::unsupported("one of several files of a VMware 3 disk"));
        }
        let parent = (!flags.contains(CowdFlags::ROOT)).then(|| self.parent()).transpose()?;
        Ok(CowdVariant::Hosted { generation: self.generation.get(), parent })
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
    use super::super::sparse::{OnDamage, SparseExtent};
    use super::*;
    use crate::formats::table_cache::MemoryBudget;
    use crate::formats::vmdk::tests::esx::{Cowd, Grain, Grains, guest, put};
    use crate::model::extent::Kind;
    use crate::open::limits::Limits;
    use crate::storage::source::MemorySource;
    use crate::{ErrorKind, Result};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Two tables and a part of a third, with grains of one sector.
    const SECTORS: u32 = 2 * 4096 + 1000;

    fn grains() -> Grains {
        [0, 1, 4095, 8192, 9191]
            .map(|number| (number, Grain::Data((number % 250 + 1) as u8)))
            .into()
    }

    fn open(file: Vec<u8>) -> Result<SparseExtent> {
        let source = Arc::new(MemorySource::new(file));
        let header = read_header(&*source)?.header;
        SparseExtent::open(
            source,
            header,
            &Limits::default(),
            MemoryBudget::default(),
            OnDamage::Fail,
        )
    }

    fn variant(file: Vec<u8>) -> Result<CowdVariant> {
        read_header(&MemorySource::new(file)).map(|cowd| cowd.variant)
    }

    /// Returns the guest bytes of an extent without a parent.
    fn read_all(extent: &SparseExtent) -> Result<Vec<u8>> {
        let mut extents = Vec::new();
        extent.map(0..extent.size(), 0, 0, &mut extents)?;
        let mut disk = Vec::new();
        for mapping in extents {
            assert_eq!(mapping.guest.start, disk.len() as u64);
            disk.resize(mapping.guest.end as usize, 0);
            match mapping.kind {
                Kind::Data(at) => {
                    let buf = &mut disk[mapping.guest.start as usize..];
                    extent.source().read_exact_at(buf, at.offset).expect("in the file");
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
            let expected = guest(empty, shape.grain_sectors.into(), &grains);
            assert!(read_all(&extent).expect("maps") == expected, "{shape:?}");
            assert_eq!(extent.header().gtes, shape.gtes);
        }
    }

    #[test]
    fn hosted_headers_name_the_parent_and_esx_headers_do_not() {
        let none = Grains::new();
        assert_eq!(variant(Cowd::esx(SECTORS).build(&none)).expect("reads"), CowdVariant::Esx);
        let hosted = Cowd { generation: 9, ..Cowd::hosted(1 << 20) };
        let root = CowdVariant::Hosted { generation: 9, parent: None };
        assert_eq!(variant(hosted.build(&none)).expect("reads"), root);
        // Here both variants would have one table.
        assert_eq!(variant(Cowd::esx(100).build(&none)).expect("reads"), CowdVariant::Esx);
        let small = Cowd { sectors: 100, ..hosted.clone() };
        assert_eq!(variant(small.build(&none)).expect("reads"), root);
        let child = Cowd { flags: 0x12, parent: Some(("C:\\vm\\base.vmdk", 5)), ..hosted.clone() };
        let parent = CowdParent { name: "C:\\vm\\base.vmdk".into(), generation: 5 };
        let expected = CowdVariant::Hosted { generation: 9, parent: Some(parent) };
        assert_eq!(variant(child.build(&none)).expect("reads"), expected);
        let nameless = Cowd { parent: Some(("", 5)), ..child };
        let error = variant(nameless.build(&none)).expect_err("no name");
        assert!(error.to_string().contains("parentFileName"), "{error}");
        let one_of_several = Cowd { flags: 0x1b, ..hosted };
        let error = variant(one_of_several.build(&none)).expect_err("one of several files");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn an_extent_that_was_not_closed_is_unclean() {
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
        // In version 3 this field is a file number.
        assert!(!unclean(Cowd { unclean: 1, ..Cowd::hosted(1 << 20) }));
    }

    #[test]
    fn invalid_fields_are_errors() {
        let whole = Cowd::esx(SECTORS).build(&grains());
        for (at, value, kind, expected) in [
            (0, 0x564d_444b_u32, ErrorKind::Corrupt, "magic"),
            (4, 0, ErrorKind::Unsupported, "version 0"),
            (4, 2, ErrorKind::Unsupported, "version 2"),
            (8, 7, ErrorKind::Unsupported, "unknown flags 0x7"),
            (12, 0, ErrorKind::Corrupt, "numGDEntries 3"),
            (12, u32::MAX, ErrorKind::Corrupt, "need 1048576 tables"),
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
            let error = open(file).expect_err(expected);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(expected), "{at}: {error}");
        }
        for cut in [0, 4, 511, 2047, 2048, 2559] {
            assert!(open(whole[..cut].to_vec()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn tables_and_grains_beyond_the_end_of_the_file_are_errors() {
        let whole = Cowd::esx(SECTORS).build(&grains());
        let (directory, table) = (4 * 512, 5 * 512);
        for (at, value) in [(directory, u32::MAX), (table, u32::MAX), (table, 1 << 20)] {
            let mut file = whole.clone();
            put(&mut file, at, &value.to_le_bytes());
            let error = read_all(&open(file).expect("opens")).expect_err("beyond the end");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let cut = open(whole[..whole.len() - 1].to_vec()).expect("opens");
        assert!(read_all(&cut).expect_err("cut").to_string().contains("truncated"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reading_a_damaged_extent_never_panics(
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
