//! How an ISO image starts a machine: El Torito from a disc, MBR and GPT from a disk.

/// Which firmware a boot entry is for (El Torito, 2.1; UEFI, "ISO-9660 and El Torito").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// 80x86 BIOS: 0x00.
    Bios,
    /// PowerPC: 0x01.
    PowerPc,
    /// Macintosh: 0x02.
    Mac,
    /// UEFI: 0xEF.
    Efi,
    /// Any other number.
    Other(u8),
}
