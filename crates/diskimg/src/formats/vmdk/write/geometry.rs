//! The CHS geometry in a descriptor, which the virtual machine's BIOS uses for the disk.
//!
//! SCSI disks follow VMware's rule (Broadcom KB 1026266): cylinders of 1 MiB below 1 GiB, cylinders
//! of 2 MiB below 2 GiB, otherwise 255 heads and 63 sectors per track. (QEMU writes the latter for
//! any size; a small disk that is partitioned by cylinders then does not boot in VMware.) IDE disks
//! have 16 heads and 63 sectors per track, as in QEMU. Old versions of Workstation limit the
//! number of cylinders to 16383; newer ones and ESXi do not, nor does this module.

use super::super::SECTOR;

/// Number of cylinders, heads, and sectors per track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formats::vmdk) struct DiskGeometry {
    pub(in crate::formats::vmdk) cylinders: u64,
    pub(in crate::formats::vmdk) heads: u64,
    pub(in crate::formats::vmdk) sectors: u64,
}

impl DiskGeometry {
    /// Returns the geometry of a disk of `sectors` that is attached to this adapter.
    pub(in crate::formats::vmdk) fn of(sectors: u64, adapter: &str) -> Self {
        const ONE_GIB: u64 = (1 << 30) / SECTOR;
        const TWO_GIB: u64 = 2 * ONE_GIB;
        let (heads, track) = match sectors {
            _ if adapter == "ide" => (16, 63),
            0..ONE_GIB => (64, 32),
            ONE_GIB..TWO_GIB => (128, 32),
            _ => (255, 63),
        };
        Self { cylinders: sectors / (heads * track), heads, sectors: track }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_scsi_disks_have_cylinders_of_whole_mebibytes() {
        let of = |sectors, adapter| {
            let DiskGeometry { cylinders, heads, sectors } = DiskGeometry::of(sectors, adapter);
            (cylinders, heads, sectors)
        };
        let mib = 2048;
        assert_eq!(of(5 * mib, "lsilogic"), (5, 64, 32));
        assert_eq!(of(1024 * mib - 1, "buslogic"), (1023, 64, 32));
        assert_eq!(of(1024 * mib, "buslogic"), (512, 128, 32));
        assert_eq!(of(2048 * mib - 1, "legacyESX"), (1023, 128, 32));
        assert_eq!(of(2048 * mib, "lsilogic"), (261, 255, 63));
        // As on disks created by ESXi.
        assert_eq!(of(67_108_864, "lsilogic"), (4177, 255, 63));
        assert_eq!(of(41_943_040, "ide"), (41610, 16, 63));
        assert_eq!(of(1, "ide"), (0, 16, 63));
    }
}
