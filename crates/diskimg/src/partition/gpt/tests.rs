use super::*;
use crate::storage::source::MemorySource;

fn partitions() -> Vec<GptPartition> {
    let partition = |number, kind, first_sector, last_sector, name: &str| GptPartition {
        number,
        kind,
        id: Guid::from_digest([number as u8; 16]),
        first_sector,
        last_sector,
        attributes: 1 << 60,
        name: name.into(),
    };
    vec![
        partition(1, Guid::BASIC_DATA, 64, 99, "ISO9660"),
        partition(3, Guid::EFI_SYSTEM, 100, 120, "Größe 😀"),
    ]
}

const SECTORS: u64 = 200;

pub(super) fn disk() -> Vec<u8> {
    let new = encode(Guid::from_digest([9; 16]), &partitions(), Placement::new(64), SECTORS);
    let mut disk = vec![0; (SECTORS * SECTOR) as usize];
    let mut put = |sector: u64, bytes: &[u8]| {
        disk[(sector * SECTOR) as usize..][..bytes.len()].copy_from_slice(bytes);
    };
    put(1, &new.header);
    put(2, &new.entries);
    put(Placement::new(64).usable_end(SECTORS), &new.entries);
    put(SECTORS - 1, &new.backup_header);
    disk
}

fn read_disk(disk: &[u8]) -> (Option<Gpt>, Vec<Oddity>) {
    let mut oddities = Vec::new();
    let gpt = Gpt::read(&MemorySource::new(disk), &mut oddities).expect("reads memory");
    (gpt, oddities)
}

/// Returns a disk with a modified primary header, whose CRC is updated.
pub(super) fn with_header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut disk = disk();
    let header = &mut disk[512..512 + HEADER];
    change(header);
    header[16..20].fill(0);
    let crc = crc32(header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    disk
}

#[test]
fn an_encoded_table_is_parsed_correctly() {
    let (gpt, oddities) = read_disk(&disk());
    let gpt = gpt.expect("there");
    assert_eq!(oddities, []);
    assert_eq!(gpt.partitions, partitions());
    assert_eq!((gpt.first_usable, gpt.last_usable), (64, 166));
    assert!(gpt.primary_valid && gpt.backup_valid);
}

#[test]
fn guids_are_displayed_in_uefi_notation() {
    assert_eq!(Guid::EFI_SYSTEM.to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(Guid::BASIC_DATA.to_string(), "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7");
    let text = Guid::from_digest([0xff; 16]).to_string();
    assert_eq!(text, "FFFFFFFF-FFFF-8FFF-BFFF-FFFFFFFFFFFF");
}

#[test]
fn one_valid_copy_is_enough() {
    let whole = disk();
    let mut first_lost = whole.clone();
    first_lost[512..520].fill(0);
    let mut second_lost = whole.clone();
    second_lost[199 * 512..].fill(0);
    let mut first_broken = whole.clone();
    first_broken[1024] ^= 1;
    for (disk, valid) in
        [(first_lost, [false, true]), (second_lost, [true, false]), (first_broken, [false, true])]
    {
        let (gpt, oddities) = read_disk(&disk);
        let gpt = gpt.expect("there");
        assert_eq!(gpt.partitions, partitions());
        assert_eq!([gpt.primary_valid, gpt.backup_valid], valid);
        assert!(!oddities.is_empty());
    }
}

#[test]
fn invalid_numbers_are_reported_without_large_allocations() {
    let put = |at: usize, bytes: &'static [u8]| {
        move |header: &mut [u8]| header[at..at + bytes.len()].copy_from_slice(bytes)
    };
    for (disk, what) in [
        (with_header(put(80, &[0xff; 4])), "too many"),
        (with_header(put(84, &[0; 4])), "invalid entry size of 0 bytes"),
        (with_header(put(84, &[0xff; 4])), "invalid entry size"),
        (with_header(put(84, &[127, 0, 0, 0])), "invalid entry size of 127 bytes"),
        (with_header(put(72, &[0xff; 8])), "exceed the image"),
        (with_header(put(72, &[198, 0, 0, 0, 0, 0, 0, 0])), "exceed the image"),
        (with_header(put(32, &[0xff; 8])), "no backup header where"),
        (with_header(put(32, &[198, 0, 0, 0, 0, 0, 0, 0])), "no backup header where"),
        (with_header(put(24, &[5, 0, 0, 0, 0, 0, 0, 0])), "has the LBA 5"),
        (with_header(put(12, &[0; 4])), "header size of 0 bytes"),
        (with_header(put(40, &[110])), "exceeds the usable"),
    ] {
        let (gpt, oddities) = read_disk(&disk);
        assert!(gpt.is_some());
        assert!(
            oddities.iter().any(|oddity| oddity.message.contains(what)),
            "{what}: {oddities:?}"
        );
    }
}

#[test]
fn overlapping_partitions_and_differing_copies_are_reported() {
    let mut odd = partitions();
    odd[1].first_sector = 99;
    odd[0].last_sector = 100;
    let new = encode(Guid::ZERO, &odd, Placement::new(64), SECTORS);
    let mut bytes = disk();
    bytes[512..1024].copy_from_slice(&new.header);
    bytes[1024..1024 + new.entries.len()].copy_from_slice(&new.entries);
    let (_, oddities) = read_disk(&bytes);
    assert!(oddities.iter().any(|oddity| oddity.message == "GPT partitions 1 and 3 overlap"));
    let differ = "GPT: primary and backup entries differ";
    assert!(oddities.iter().any(|oddity| oddity.message == differ));
}

#[test]
fn any_changed_byte_and_any_truncation_is_tolerated() {
    let good = disk();
    for at in (512..1024 + 512).chain(199 * 512..200 * 512) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            read_disk(&bytes);
        }
    }
    for len in (0..good.len()).step_by(251) {
        read_disk(&good[..len]);
    }
}

#[test]
fn guids_are_parsed_from_text_and_from_digits() {
    for text in [
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "28732ac11ff8d211ba4b00a0c93ec93b",
    ] {
        assert_eq!(text.parse::<Guid>().expect(text), Guid::EFI_SYSTEM);
    }
    for guid in [Guid::BASIC_DATA, Guid::APPLE_HFS] {
        assert_eq!(guid.to_string().parse::<Guid>().expect("valid"), guid);
    }
    for text in
        ["", "ef", "c12a7328f81f-11d2-ba4b-00a0c93ec93b", "+8732ac11ff8d211ba4b00a0c93ec93b"]
    {
        assert!(text.parse::<Guid>().is_err(), "{text}");
    }
}
