use super::derived::{EFI, LINUX};
use super::*;
use crate::iso::boot::SystemArea;
use crate::iso::write::AppendedPartition;
use crate::storage::source::MemorySource;

/// Returns a disk with only the encoded areas; the rest is zeros.
fn disk(layout: &HybridLayout, areas: &DiskAreas) -> Vec<u8> {
    let mut bytes = vec![0; (layout.total * SECTOR) as usize];
    bytes[..areas.system_area.len()].copy_from_slice(&areas.system_area);
    let end = bytes.len() - areas.backup.len();
    bytes[end..].copy_from_slice(&areas.backup);
    bytes
}

fn read(layout: &HybridLayout, areas: &DiskAreas) -> SystemArea {
    let area = SystemArea::read(&MemorySource::new(disk(layout, areas)), None).expect("memory");
    assert_eq!(area.oddities, []);
    area
}

fn lay_out(
    hybrid: &Hybrid,
    appended: &[u64],
    in_gpt: bool,
    end: u64,
    padding: u64,
    alignment: u64,
) -> Result<HybridLayout> {
    let images = [image(SectorRange { start: 34, sectors: 720 })];
    let images = if in_gpt { &images[..] } else { &[] };
    let trailer = Trailer { padding, anchor: false };
    HybridLayout::new(hybrid, LayoutInput { appended, images, end, trailer, alignment })
}

fn image(range: SectorRange) -> ImagePartition {
    ImagePartition { range, gpt: Some(Guid::BASIC_DATA), apm: false }
}

fn mbr(area: &SystemArea) -> Vec<(u8, bool, u8, u32, u32)> {
    let partitions = &area.mbr.as_ref().expect("an MBR").partitions;
    partitions.iter().map(|p| (p.number, p.active, p.kind, p.first_sector, p.sectors)).collect()
}

fn gpt(area: &SystemArea) -> Vec<(u32, &str, u64, u64)> {
    let gpt = area.gpt.as_ref().expect("a GPT");
    assert!(gpt.primary_valid && gpt.backup_valid);
    let partitions = gpt.partitions.iter();
    partitions.map(|p| (p.number, &*p.name, p.first_sector, p.last_sector)).collect()
}

fn isohybrid() -> Hybrid {
    Hybrid { isohybrid_mbr: Some(vec![0x90; 432]), ..Hybrid::default() }
}

fn appended(numbers: &[u32], as_gpt: bool) -> Hybrid {
    let appended = numbers.iter().map(|&n| AppendedPartition::new(n, EFI, "")).collect();
    Hybrid { appended, appended_as_gpt: as_gpt, ..Hybrid::default() }
}

#[test]
fn an_isohybrid_image_ends_at_a_whole_mebibyte() {
    for end in [100, 511, 512, 513] {
        let hybrid = isohybrid();
        let layout = lay_out(&hybrid, &[], false, end, 0, 2048).expect("valid");
        assert_eq!((layout.total, layout.volume), (end.next_multiple_of(512), layout.total));
        let areas = layout.encode(&hybrid, Some(34), &[], b"").expect("valid");
        assert_eq!(areas.system_area[432..440], [0x88, 0, 0, 0, 0, 0, 0, 0]);
        let area = read(&layout, &areas);
        assert_eq!(mbr(&area), [(1, true, 0x17, 0, layout.total as u32 * 4)]);
        assert_eq!(area.gpt, None);
    }
}

#[test]
fn efi_images_are_partitions_inside_an_isohybrid_volume() {
    let hybrid = isohybrid();
    let range = SectorRange { start: 34, sectors: 720 };
    let layout = lay_out(&hybrid, &[], true, 1000, 150, 2048).expect("valid");
    assert_eq!(layout.total, 1536);
    let areas = layout.encode(&hybrid, Some(800), &[image(range)], b"").expect("valid");
    let area = read(&layout, &areas);
    assert_eq!(mbr(&area), [(1, true, 0, 0, 6144), (2, false, EFI, 136, 2880)]);
    let expected =
        [(1, "Gap0", 64, 135), (2, "Boot1", 136, 3015), (3, "Gap1", 3016, 6144 - 36 - 1)];
    assert_eq!(gpt(&area), expected);
}

#[test]
fn appended_partitions_follow_the_volume_in_order() {
    let hybrid = appended(&[3, 2], false);
    let layout = lay_out(&hybrid, &[2049, 512], false, 100, 150, 2048).expect("valid");
    assert_eq!((layout.volume, layout.total), (100, 253));
    let areas = layout.encode(&hybrid, None, &[], b"").expect("valid");
    let area = read(&layout, &areas);
    let expected = [(1, false, LINUX, 0, 400), (2, false, EFI, 408, 4), (3, false, EFI, 400, 8)];
    assert_eq!(mbr(&area), expected);

    let hybrid = appended(&[1], false);
    let layout = lay_out(&hybrid, &[2048], false, 101, 0, 65536).expect("valid");
    assert_eq!(layout.appended, [SectorRange { start: 128, sectors: 1 }]);
    let areas = layout.encode(&hybrid, None, &[], b"").expect("valid");
    assert_eq!(mbr(&read(&layout, &areas)), [(1, false, EFI, 512, 4)]);
}

#[test]
fn a_gpt_of_appended_partitions_has_a_protective_mbr_and_no_overlaps() {
    let mut hybrid = appended(&[2], true);
    hybrid.grub2_mbr = Some(vec![0x90; 512]);
    hybrid.partition_offset = 16;
    let layout = lay_out(&hybrid, &[1_474_560], false, 3218, 150, 2048).expect("valid");
    assert_eq!(layout.total, 3218 + 720 + 150 + 9);
    let areas = layout.encode(&hybrid, Some(50), &[], b"").expect("valid");
    assert_eq!(areas.system_area[432..440], [0xcc, 0, 0, 0, 0, 0, 0, 0]);
    let area = read(&layout, &areas);
    assert_eq!(mbr(&area), [(1, false, 0xee, 1, layout.total as u32 * 4 - 1)]);
    assert_eq!(gpt(&area), [(1, "ISO9660", 64, 12871), (2, "Appended2", 12872, 15751)]);
    let kinds: Vec<_> = area.gpt.expect("a GPT").partitions.iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [Guid::BASIC_DATA, Guid::EFI_SYSTEM]);
}

#[test]
fn identifiers_depend_only_on_the_seed() {
    let hybrid = appended(&[2], true);
    let layout = lay_out(&hybrid, &[2048], false, 100, 0, 2048).expect("valid");
    let [a, b, c] = [b"1", b"1", b"2"].map(|seed| layout.encode(&hybrid, None, &[], seed));
    let [a, b, c] = [a, b, c].map(|areas| areas.expect("valid"));
    assert_eq!(a, b);
    assert_ne!(a.system_area[440..444], c.system_area[440..444]);
    assert_ne!(a.backup, c.backup);
}

#[test]
fn an_image_without_hybrid_options_has_an_empty_system_area() {
    let hybrid = Hybrid::default();
    let layout = lay_out(&hybrid, &[], false, 100, 7, 2048).expect("valid");
    assert_eq!((layout.volume, layout.total), (107, 107));
    let areas = layout.encode(&hybrid, Some(34), &[], b"").expect("valid");
    assert_eq!(areas, DiskAreas { system_area: vec![], backup: vec![] });
}

#[test]
fn invalid_and_contradictory_options_are_refused() {
    let both = Hybrid { grub2_mbr: Some(vec![0; 440]), ..isohybrid() };
    let short = Hybrid { isohybrid_mbr: Some(vec![0; 431]), ..Hybrid::default() };
    let cases = [both, short, appended(&[0], false), appended(&[5], false), appended(&[129], true)];
    for hybrid in cases.into_iter().chain([appended(&[2, 2], true)]) {
        let sizes = vec![512; hybrid.appended.len()];
        assert!(lay_out(&hybrid, &sizes, false, 100, 0, 2048).is_err(), "{hybrid:?}");
    }
    let hybrid = isohybrid();
    let layout = lay_out(&hybrid, &[], false, 100, 0, 2048).expect("valid");
    assert!(layout.encode(&hybrid, None, &[], b"").is_err());
    let layout = lay_out(&hybrid, &[], false, 1 << 30, 0, 2048).expect("valid");
    let error = layout.encode(&hybrid, Some(34), &[], b"").expect_err("2 TiB");
    assert_eq!(error.kind(), crate::ErrorKind::Limit);
}
