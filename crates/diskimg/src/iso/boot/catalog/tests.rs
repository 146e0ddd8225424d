use super::*;
use crate::storage::source::MemorySource;

fn bios() -> NewEntry {
    NewEntry {
        platform: Platform::Bios,
        bootable: true,
        media: Media::NoEmulation,
        load_segment: 0,
        system_type: 0,
        load_sectors: 4,
        start_sector: 28,
        new_section: false,
        identifier: Vec::new(),
        criteria: Vec::new(),
    }
}

fn efi() -> NewEntry {
    NewEntry { platform: Platform::Efi, load_sectors: 2880, start_sector: 31, ..bios() }
}

fn read(bytes: Vec<u8>) -> Result<BootCatalog> {
    BootCatalog::read(&MemorySource::new(bytes), 0)
}

fn messages(catalog: &BootCatalog) -> Vec<&str> {
    catalog.oddities.iter().map(|oddity| &*oddity.message).collect()
}

/// The expected bytes are those that genisoimage writes for one bios() and one UEFI entry.
#[test]
fn a_catalog_of_two_platforms_is_the_same_as_that_of_genisoimage() {
    let bytes = encode_catalog(&[bios(), efi()]);
    let mut expected = vec![0; 2048];
    expected[0] = 1;
    expected[28..32].copy_from_slice(&[0xaa, 0x55, 0x55, 0xaa]);
    expected[32..44].copy_from_slice(&[0x88, 0, 0, 0, 0, 0, 4, 0, 28, 0, 0, 0]);
    expected[64..68].copy_from_slice(&[0x91, 0xef, 1, 0]);
    expected[96..108].copy_from_slice(&[0x88, 0, 0, 0, 0, 0, 0x40, 0x0b, 31, 0, 0, 0]);
    assert_eq!(bytes, expected);

    let catalog = read(bytes).expect("valid");
    assert_eq!(messages(&catalog), [""; 0]);
    assert_eq!(catalog.len, 128);
    let found: Vec<_> =
        catalog.entries.iter().map(|e| (e.platform, e.load_sectors, e.start_sector)).collect();
    assert_eq!(found, [(Platform::Bios, 4, 28), (Platform::Efi, 2880, 31)]);
    assert!(catalog.entries.iter().all(|e| e.bootable && e.in_section && e.criteria.is_none()));
}

#[test]
fn only_the_last_section_is_marked_and_a_full_sector_continues_in_the_next() {
    let many: Vec<_> = (0..90).map(|n| if n % 3 == 0 { efi() } else { bios() }).collect();
    let bytes = encode_catalog(&many);
    assert_eq!(bytes.len() % 2048, 0);
    let catalog = read(bytes).expect("valid");
    assert_eq!(messages(&catalog), [""; 0]);
    assert_eq!(catalog.entries.len(), 90);
    for (entry, new) in catalog.entries.iter().zip(&many) {
        assert_eq!(entry.platform, new.platform);
    }
}

#[test]
fn entries_without_a_section_and_wrong_counts_are_read_and_noted() {
    let mut bytes = encode_catalog(&[bios(), efi()]);
    let entry = bytes[96..128].to_vec();
    bytes[64..96].copy_from_slice(&entry);
    let bare = read(bytes.clone()).expect("readable");
    assert_eq!(bare.entries.len(), 3);
    assert!(!bare.entries[1].in_section);
    assert_eq!(messages(&bare)[0], "a section entry without a section header");

    let mut bytes = encode_catalog(&[bios(), efi()]);
    bytes[66] = 9;
    let short = read(bytes).expect("readable");
    assert_eq!(short.entries.len(), 2);
    assert_eq!(messages(&short), ["8 entries of the section are missing"]);

    let mut bytes = encode_catalog(&[bios(), efi()]);
    bytes[64] = HEADER;
    let endless = read(bytes).expect("readable");
    assert_eq!(messages(&endless), ["the last section header is not marked as the last one"]);
}

#[test]
fn selection_criteria_continue_in_extensions() {
    let mut bytes = encode_catalog(&[bios(), efi()]);
    bytes[97] |= CONTINUES;
    bytes[108] = 1;
    bytes[109..128].fill(b'a');
    bytes[128..130].copy_from_slice(&[EXTENSION, CONTINUES]);
    bytes[130..160].fill(b'b');
    bytes[160..162].copy_from_slice(&[EXTENSION, 0]);
    bytes[162..192].fill(b'c');
    let catalog = read(bytes).expect("valid");
    assert_eq!(messages(&catalog), [""; 0]);
    let criteria = catalog.entries[1].criteria.as_ref().expect("some");
    assert_eq!(criteria.kind, 1);
    assert_eq!(criteria.bytes, [[b'a'; 19].to_vec(), vec![b'b'; 30], vec![b'c'; 30]].concat());
}

#[test]
fn a_missing_validation_entry_is_an_error_and_a_wrong_checksum_is_noted() {
    assert!(read(vec![0; 2048]).is_err());
    assert!(read(Vec::new()).is_err());
    let mut bytes = encode_catalog(&[bios()]);
    bytes[4] = 7;
    let odd = read(bytes).expect("readable");
    assert_eq!(odd.entries.len(), 1);
    assert!(messages(&odd)[0].contains("is 0x0007; expected 0"), "{:?}", odd.oddities);
}

#[test]
fn a_catalog_without_an_end_is_truncated() {
    for kind in [BOOTABLE, HEADER, LAST_HEADER, EXTENSION] {
        let mut bytes = encode_catalog(&[bios()]);
        bytes.resize(10 << 20, 0);
        bytes[64..].chunks_mut(ENTRY).for_each(|entry| entry[0] = kind);
        let catalog = read(bytes).expect("readable");
        assert!(catalog.entries.len() <= MAX_ENTRIES && catalog.len <= 65_536);
        assert!(catalog.oddities.len() <= 64 && !catalog.oddities.is_empty(), "{kind:#x}");
    }
}

/// Parsing must not panic, whatever the bytes.
#[test]
fn any_change_of_a_single_byte_and_any_truncation_is_parsed_without_panicking() {
    let good = encode_catalog(&[bios(), efi(), bios(), efi()]);
    for at in 0..288 {
        for value in [0, 1, 0x20, 0x44, 0x88, 0x90, 0x91, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let _ = read(bytes);
        }
    }
    for len in 0..300 {
        let _ = read(good[..len].to_vec());
    }
}

#[test]
fn the_length_of_a_boot_image_is_taken_from_the_best_known_source() {
    let mut catalog = read(encode_catalog(&[bios(), efi()])).expect("valid");
    let entry = &mut catalog.entries[1];
    assert_eq!(entry.image_bytes(Some(5), Some(1 << 20)), 5);
    assert_eq!(entry.image_bytes(None, Some(40 * 2048)), 9 * 2048);
    assert_eq!(entry.image_bytes(None, None), 2880 * 512);
    entry.load_sectors = 0;
    assert_eq!(entry.load_bytes(), None);
    // An offset before the boot image is not its end.
    assert_eq!(entry.image_bytes(None, Some(2048)), 0);
    entry.media = Media::Floppy1440;
    assert_eq!(entry.image_bytes(None, Some(1 << 30)), 1_474_560);
}

#[test]
fn identifiers_and_criteria_are_encoded() {
    let mut first = bios();
    first.identifier = b"first".to_vec();
    let mut second = efi();
    (second.identifier, second.bootable) = (b"second".to_vec(), false);
    second.criteria = (1..=90).collect();
    let mut third = efi();
    third.identifier = b"third".to_vec();
    let catalog = read(encode_catalog(&[first, second, third])).expect("valid");
    assert_eq!(messages(&catalog), [""; 0]);
    let found: Vec<_> =
        catalog.entries.iter().map(|entry| (&*entry.identifier, entry.bootable)).collect();
    assert_eq!(found, [("first", true), ("second", false), ("third", true)]);
    let criteria = catalog.entries[1].criteria.as_ref().expect("criteria");
    // The last extension is padded with zeros.
    let encoded: Vec<_> = criteria.encoded().collect();
    assert!(encoded.starts_with(&(1..=90).collect::<Vec<_>>()), "{encoded:?}");
    assert!(encoded[90..].iter().all(|&byte| byte == 0));
}
