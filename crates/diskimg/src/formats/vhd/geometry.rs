//! Cylinders, heads and sectors: *Virtual Hard Disk Image Format Specification 1.0*, "CHS
//! Calculation".

use super::SECTOR;

/// A disk's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    /// Sectors per track.
    pub(super) sectors: u8,
}

impl Geometry {
    /// The largest geometry (127 GiB), which also stands for all larger disks: the size is that in
    /// the footer.
    pub(super) const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// Returns the size in bytes.
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR
    }

    /// Returns the geometry of a disk of this number of sectors: it has as many or fewer.
    pub(super) fn of(sectors: u64) -> Self {
        let total = sectors.min(65535 * 16 * 255);
        let (track, heads, tracks) = if total >= 65535 * 16 * 63 {
            (255, 16, total / 255)
        } else {
            let tracks = total / 17;
            let heads = tracks.div_ceil(1024).max(4);
            if tracks < heads * 1024 && heads <= 16 {
                (17, heads, tracks)
            } else if total / 31 < 16 * 1024 {
                (31, 16, total / 31)
            } else {
                (63, 16, total / 63)
            }
        };
        let cylinders = u16::try_from(tracks / heads).unwrap_or(u16::MAX);
        let heads = u8::try_from(heads).unwrap_or(16);
        Self { cylinders, heads, sectors: track }
    }

    /// Returns the smallest geometry of at least this number of sectors, as QEMU's writer computes
    /// it; `None` if there is none.
    pub(super) fn covering(sectors: u64) -> Option<Self> {
        let last = Self::MAX.bytes() / SECTOR;
        // A geometry of 255 sectors per track and 16 heads is at most one cylinder short.
        let mut tried = sectors;
        while tried <= last {
            let geometry = Self::of(tried);
            let covered = geometry.bytes() / SECTOR;
            if covered >= sectors {
                return Some(geometry);
            }
            tried += 1;
        }
        None
    }

    /// Returns the geometry to record for a disk of this number of sectors. Some programs take the
    /// geometry for the size of the disk, so that it must be exact, or the largest, which stands for
    /// the size in the footer.
    pub(super) fn exact_or_max(sectors: u64) -> Self {
        let geometry = Self::of(sectors);
        if geometry.bytes() == sectors * SECTOR { geometry } else { Self::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sectors: u64) -> (u16, u8, u8) {
        let Geometry { cylinders, heads, sectors } = Geometry::of(sectors);
        (cylinders, heads, sectors)
    }

    #[test]
    fn the_geometry_follows_the_specification() {
        // 3 MiB, 64 MiB, 500 MiB, 8 GiB and 127 GiB, computed by hand by the algorithm.
        assert_eq!(of(6144), (90, 4, 17));
        assert_eq!(of(131_072), (963, 8, 17));
        assert_eq!(of(1_024_000), (1015, 16, 63));
        assert_eq!(of(16_777_216), (16644, 16, 63));
        assert_eq!(of(u64::MAX), (65535, 16, 255));
    }

    #[test]
    fn a_covering_geometry_is_what_qemu_img_writes() {
        // `qemu-img create -f vpc`: 100 MiB becomes 104,865,792 bytes, 1 MiB 1,079,296.
        let bytes = |size: u64| Geometry::covering(size / SECTOR).map(Geometry::bytes);
        assert_eq!(bytes(100 << 20), Some(104_865_792));
        assert_eq!(bytes(1 << 20), Some(1_079_296));
        assert_eq!(bytes(Geometry::MAX.bytes()), Some(Geometry::MAX.bytes()));
        assert_eq!(bytes(Geometry::MAX.bytes() + SECTOR), None);
    }

    #[test]
    fn a_recorded_geometry_is_exact_or_the_largest() {
        let exact = Geometry { cylinders: 1015, heads: 16, sectors: 63 };
        assert_eq!(Geometry::exact_or_max(exact.bytes() / SECTOR), exact);
        assert_eq!(Geometry::exact_or_max(exact.bytes() / SECTOR + 1), Geometry::MAX);
    }
}
