//! Disks that programs recognize before they search a file for archives: with an MBR, or with the
//! file system FAT or ext. Each is recognized by all the fields that such a program examines, so
//! that a few bytes do not make a file a disk.

/// Returns true if `head`, the first bytes of a file, are those of such a disk.
pub(crate) fn is_plain(head: &[u8]) -> bool {
    is_partitioned(head) || is_fat(head) || is_ext(head)
}

fn has_boot_signature(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}

/// Returns true for an MBR whose partitions all have a valid flag and extent and do not overlap. A
/// protective one is followed by a GPT; with logical partitions, other sectors count as well.
fn is_partitioned(head: &[u8]) -> bool {
    const PROTECTIVE: u8 = 0xee;
    const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
    let Some(table) = head.get(446..510).filter(|_| has_boot_signature(head)) else { return false };
    let used = || table.chunks_exact(16).filter(|entry| entry[4] != 0);
    let has_gpt = head.get(512..520) == Some(b"EFI PART");
    let valid = |entry: &[u8]| {
        matches!(entry[0], 0 | 0x80)
            && !EXTENDED.contains(&entry[4])
            && (entry[4] != PROTECTIVE || has_gpt)
    };
    let extents = used().map(|entry| (u64::from(le32(entry, 8)), u64::from(le32(entry, 12))));
    let mut extents: Vec<_> = extents.collect();
    extents.sort_unstable();
    let mut free = 1;
    let in_order = extents.iter().all(|&(first, sectors)| {
        let follows = first >= free && sectors > 0;
        free = first + sectors;
        follows && free <= 1 << 32
    });
    !extents.is_empty() && used().all(valid) && in_order
}

/// Returns true for a FAT boot sector. Microsoft, FAT specification, 3.1 to 3.3.
fn is_fat(head: &[u8]) -> bool {
    let Some(sector) = head.first_chunk::<512>().filter(|_| has_boot_signature(head)) else {
        return false;
    };
    let either = |short: usize, long: usize| match le16(sector, short) {
        0 => u64::from(le32(sector, long)),
        short => short.into(),
    };
    let has_jump = matches!(sector, [0xeb, _, 0x90, ..] | [0xe9, ..]);
    let (fats, fat, sectors) = (u64::from(sector[16]), either(22, 36), either(19, 32));
    let reserved = u64::from(le16(sector, 14));
    has_jump
        && matches!(le16(sector, 11), 512 | 1024 | 2048 | 4096)
        && sector[13].is_power_of_two()
        && matches!(fats, 1 | 2)
        && sector[21] >= 0xf0
        && reserved > 0
        && fat > 0
        && reserved + fats * fat < sectors
}

/// Returns true for the superblock of ext2, ext3 and ext4, whose numbers of groups, blocks and
/// inodes must agree. Linux kernel, Documentation/filesystems/ext4, "Super Block".
fn is_ext(head: &[u8]) -> bool {
    let Some(block) = head.get(1024..2048).filter(|block| le16(block, 56) == 0xef53) else {
        return false;
    };
    let (inodes, blocks) = (u64::from(le32(block, 0)), u64::from(le32(block, 4)));
    let (first, log_size) = (u64::from(le32(block, 20)), le32(block, 24));
    let (per_group, inodes_per_group) = (u64::from(le32(block, 32)), u64::from(le32(block, 40)));
    if log_size > 6 || per_group == 0 || first != u64::from(log_size == 0) || blocks <= first {
        return false;
    }
    let has_64_bits = le32(block, 76) > 0 && le32(block, 96) & 0x80 != 0;
    let blocks = if has_64_bits { blocks | u64::from(le32(block, 336)) << 32 } else { blocks };
    let groups = (blocks - first).div_ceil(per_group);
    per_group <= 8 * (1024 << log_size)
        && inodes_per_group > 0
        && groups.checked_mul(inodes_per_group) == Some(inodes)
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]))
}
