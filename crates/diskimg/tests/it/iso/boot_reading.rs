//! Reading the boot information of images created by other tools.

use super::machine::{bios_image, mbr_code};
use diskimg::Source;
use diskimg::iso::boot::{BootCatalog, Loader, Media, Platform, SystemArea};
use diskimg::iso::{FindingCode, IsoImage, IsoOptions};
use diskimg::partition::Guid;
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::Arc;

/// A directory `tree` with boot images for BIOS and UEFI and other files, and MBR templates next to
/// it.
struct Tree {
    dir: tempfile::TempDir,
}

const EFI_BYTES: usize = 1 << 20;

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("boot")).unwrap();
        std::fs::write(tree.join("boot/bios.bin"), bios_image("one", "two")).unwrap();
        std::fs::write(tree.join("boot/efi.img"), vec![1; EFI_BYTES]).unwrap();
        std::fs::write(tree.join("boot/mac.img"), vec![5; 4096]).unwrap();
        std::fs::write(tree.join("ballast"), vec![2; 3_000_001]).unwrap();
        std::fs::write(tree.join("floppy"), vec![3; 1_474_560]).unwrap();
        std::fs::write(dir.path().join("mbr"), mbr_code()).unwrap();
        std::fs::write(dir.path().join("isohdpfx"), &mbr_code()[..432]).unwrap();
        std::fs::write(dir.path().join("esp"), vec![4; EFI_BYTES]).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Creates an image with mkisofs options, in which `@` marks a file next to the tree.
    fn make(&self, program: &str, options: &str) -> String {
        let image = self.path("image.iso");
        let mut args: Vec<String> =
            if program == "xorriso" { vec!["-as".into(), "mkisofs".into()] } else { vec![] };
        args.extend(["-quiet", "-R", "-o", &image].map(str::to_owned));
        args.extend(options.split_whitespace().map(|option| match option.strip_prefix('@') {
            Some(name) => self.path(name),
            None => option.to_owned(),
        }));
        args.push(self.path("tree"));
        run(program, args);
        image
    }
}

fn open(path: impl AsRef<Path>) -> IsoImage {
    let source = Arc::new(FileSource::open(path.as_ref()).unwrap());
    IsoImage::open(source, &IsoOptions::default()).unwrap()
}

/// Returns the first sector of a file in the image.
fn sector_of(image: &IsoImage, path: &str) -> u32 {
    let node = image.lookup(path.as_bytes()).unwrap();
    (node.extents()[0].offset.unwrap() / 2048) as u32
}

/// Asserts that there are no findings about boot catalog and partitions.
fn assert_no_boot_findings(image: &IsoImage) {
    let mut found = Vec::new();
    image.verify(&mut |finding| found.push(finding)).unwrap();
    found.retain(|f| matches!(f.code, FindingCode::BootCatalog | FindingCode::Partitions));
    assert_eq!(found, []);
}

const BIOS: &str = "-b boot/bios.bin -c boot/cat -no-emul-boot -boot-load-size 4 -boot-info-table";

#[test]
fn every_entry_of_a_boot_catalog_is_read() {
    let media = Tree::new();
    for program in ["xorriso", "genisoimage"] {
        let third = match program {
            "xorriso" => "-eltorito-alt-boot -b floppy",
            _ => "-eltorito-alt-boot -b floppy -no-emul-boot",
        };
        let options = format!("{BIOS} -eltorito-alt-boot -e boot/efi.img -no-emul-boot {third}");
        let image = open(media.make(program, &options));
        let catalog = image.boot_catalog().unwrap().expect("a catalog");
        assert_eq!(catalog.oddities, []);
        assert_eq!(catalog.offset, u64::from(sector_of(&image, "boot/cat")) * 2048);
        let found: Vec<_> =
            catalog.entries.iter().map(|e| (e.platform, e.load_sectors, e.start_sector)).collect();
        let last = if program == "xorriso" { 1 } else { 2880 };
        let expected = [
            (Platform::Bios, 4, sector_of(&image, "boot/bios.bin")),
            (Platform::Efi, 2048, sector_of(&image, "boot/efi.img")),
            (Platform::Bios, last, sector_of(&image, "floppy")),
        ];
        assert_eq!(found, expected, "{program}");
        let emulated = if program == "xorriso" { Media::Floppy1440 } else { Media::NoEmulation };
        assert_eq!(catalog.entries[2].media, emulated);
        assert_no_boot_findings(&image);
        assert_eq!(image.system_area().unwrap().mbr, None);
        assert_eq!(image.info().unwrap().boot.expect("a catalog").entries, catalog.entries);
    }
}

#[test]
fn an_image_without_a_boot_record_has_no_catalog() {
    let media = Tree::new();
    let image = open(media.make("xorriso", ""));
    assert_eq!(image.boot_catalog().unwrap(), None);
    let area = image.system_area().unwrap();
    assert!(!area.used && area.mbr.is_none() && area.gpt.is_none() && area.apm.is_none());
}

#[test]
fn isohybrid_images_of_xorriso_have_an_mbr_and_a_gpt() {
    let media = Tree::new();
    let options = format!(
        "{BIOS} -isohybrid-mbr @isohdpfx -eltorito-alt-boot -e boot/efi.img -no-emul-boot \
         -isohybrid-gpt-basdat"
    );
    let image = open(media.make("xorriso", &options));
    let area = image.system_area().unwrap();
    let start_sector = sector_of(&image, "boot/bios.bin");
    assert_eq!(area.loader, Some(Loader::Isohybrid { start_sector }));
    let efi = sector_of(&image, "boot/efi.img") * 4;
    let mbr = area.mbr.expect("an MBR");
    let found: Vec<_> =
        mbr.partitions.iter().map(|p| (p.active, p.kind, p.first_sector, p.sectors)).collect();
    let sectors = (image.info().unwrap().image_bytes / 512) as u32;
    assert_eq!(found, [(true, 0, 0, sectors), (false, 0xef, efi, 2048)]);
    let gpt = area.gpt.expect("a GPT");
    assert!(gpt.primary_valid && gpt.backup_valid);
    let found: Vec<_> =
        gpt.partitions.iter().map(|p| (&*p.name, p.kind, p.first_sector, p.last_sector)).collect();
    let last = u64::from(sectors) - 65;
    let efi = u64::from(efi);
    let expected = [
        ("ISOHybrid", Guid::BASIC_DATA, 0, last),
        ("ISOHybrid1", Guid::BASIC_DATA, efi, efi + 2047),
    ];
    assert_eq!(found, expected);
    // The first partition starts before the first usable sector and contains the second.
    let oddities: Vec<_> = area.oddities.iter().map(|oddity| &*oddity.message).collect();
    assert_eq!(oddities.len(), 2, "{oddities:?}");
    assert_eq!(oddities[1], "GPT partitions 1 and 2 overlap");
}

#[test]
fn partitions_after_the_volume_are_found_by_catalog_mbr_and_gpt() {
    let media = Tree::new();
    let options = format!(
        "{BIOS} --grub2-boot-info --grub2-mbr @mbr -append_partition 2 0xef @esp \
         -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot"
    );
    for (gpt, options) in
        [(false, options.clone()), (true, format!("{options} -appended_part_as_gpt"))]
    {
        let image = open(media.make("xorriso", &options));
        let info = image.info().unwrap();
        let catalog = info.boot.expect("a catalog");
        let esp = &catalog.entries[1];
        assert_eq!((esp.platform, esp.start()), (Platform::Efi, info.volume_bytes));
        assert!(info.volume_bytes < info.image_bytes);
        assert_eq!(esp.image_bytes(None, None), EFI_BYTES as u64);
        let area = info.system_area;
        let start_sector = sector_of(&image, "boot/bios.bin");
        assert_eq!(area.loader, Some(Loader::Grub2 { start_sector }));
        let first = u64::from(esp.start_sector) * 4;
        let mbr = area.mbr.expect("an MBR");
        assert_eq!(mbr.is_protective(), gpt);
        match area.gpt {
            Some(table) => {
                let esp = &table.partitions[1];
                assert_eq!((esp.kind, esp.first_sector), (Guid::EFI_SYSTEM, first));
                assert_eq!(esp.last_sector, first + 2047);
            }
            None => {
                let esp = mbr.partitions[1];
                assert_eq!((esp.kind, u64::from(esp.first_sector)), (0xef, first));
                assert!(!gpt);
            }
        }
        assert_no_boot_findings(&image);
    }
}

/// Syslinux's isohybrid writes an invalid GPT and an invalid Apple Partition Map.
#[test]
fn images_of_genisoimage_and_isohybrid_have_three_tables() {
    let media = Tree::new();
    let options = format!(
        "{BIOS} -eltorito-alt-boot -e boot/efi.img -no-emul-boot \
         -eltorito-alt-boot -e boot/mac.img -no-emul-boot"
    );
    let path = media.make("genisoimage", &options);
    run("isohybrid", ["--uefi", "--mac", &path]);
    let image = open(path);
    let area = image.system_area().unwrap();
    let start_sector = sector_of(&image, "boot/bios.bin");
    assert_eq!(area.loader, Some(Loader::Isohybrid { start_sector }));
    assert_eq!(area.mbr.expect("an MBR").partitions[1].kind, 0xef);
    let efi = sector_of(&image, "boot/efi.img");
    let gpt = area.gpt.expect("a GPT");
    assert!(gpt.partitions.iter().any(|p| p.first_sector == u64::from(efi) * 4), "{gpt:?}");
    let apm = area.apm.expect("an Apple Partition Map");
    assert_eq!(apm.block_bytes, 2048);
    assert!(apm.partitions.iter().any(|p| p.first_block == efi && p.name == "EFI"), "{apm:?}");
}

/// A missing or invalid boot catalog does not affect the files.
#[test]
fn an_image_with_an_invalid_catalog_is_still_read() {
    let media = Tree::new();
    let good = std::fs::read(media.make("xorriso", BIOS)).unwrap();
    for address in [0u32, 16, 1_000_000, u32::MAX] {
        let mut bytes = good.clone();
        bytes[17 * 2048 + 71..][..4].copy_from_slice(&address.to_le_bytes());
        let image = IsoImage::open(Arc::new(MemorySource::new(bytes)), &IsoOptions::default());
        let image = image.unwrap();
        assert!(image.boot_catalog().is_err());
        assert!(image.info().unwrap().boot.is_none());
        let mut found = Vec::new();
        image.verify(&mut |finding| found.push(finding.code)).unwrap();
        assert!(found.contains(&FindingCode::BootCatalog), "{found:?}");
        assert_eq!(image.walk().filter(|entry| entry.is_ok()).count(), 7);
    }
}

/// Changes random bytes of the system area, the catalog and the last sector.
#[test]
fn damage_is_an_error_or_an_oddity() {
    let media = Tree::new();
    let options = format!(
        "{BIOS} -isohybrid-mbr @isohdpfx -append_partition 2 0xef @esp -appended_part_as_gpt"
    );
    let good = std::fs::read(media.make("xorriso", &options)).unwrap();
    let catalog = u32::from_le_bytes(good[17 * 2048 + 71..][..4].try_into().unwrap());
    let end = good.len() - 512;
    let starts = [0, 512, 1024, catalog as usize * 2048, end];
    let mut state = 1u64;
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=round % 7 {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = starts[(state % 5) as usize] + (state >> 8) as usize % 128;
            bytes[at] = [0, 1, 0x7f, 0x88, 0x90, 0xff][(state >> 20) as usize % 6];
        }
        let source: &dyn Source = &MemorySource::new(bytes);
        let catalog = BootCatalog::read(source, catalog).ok();
        SystemArea::read(source, catalog.as_ref()).expect("memory can be read");
    }
}
