//! Bootable images: booted in a virtual machine and compared byte by byte with xorriso's.

use super::machine::{Firmware, Medium, bios_image, efi_image, emulated_disk, mbr_code, start};
use diskimg::iso::boot::{Loader, Platform, SystemArea};
use diskimg::iso::write::{
    AppendedPartition, BootEntry, BootImage, Builder, CreateOptions, Emulation,
};
use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::partition::Guid;
use diskimg::storage::source::MemorySource;
use diskimg_testkit::tool::{full, run, sample, try_run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory `tree` with the boot images `boot.bin` and `efi.img`, and MBR templates next to it.
pub(super) struct TestDir {
    dir: tempfile::TempDir,
}

impl TestDir {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("boot.bin"), bios_image("from-image", "from-mbr")).unwrap();
        std::fs::write(tree.join("other"), vec![7; 100_000]).unwrap();
        std::fs::copy(efi_image(dir.path(), "from-efi"), tree.join("efi.img")).unwrap();
        std::fs::write(dir.path().join("mbr"), mbr_code()).unwrap();
        std::fs::write(dir.path().join("mbr432"), &mbr_code()[..432]).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates an image of the tree. Returns its bytes and its path.
    pub(super) fn build(&self, options: CreateOptions) -> (Vec<u8>, PathBuf) {
        let mut builder = Builder::new(options);
        builder.add_tree(b"", self.path("tree")).unwrap();
        let plan = builder.plan().unwrap();
        let mut bytes = Vec::new();
        plan.emit(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, plan.size());
        let path = self.path("ours.iso");
        std::fs::write(&path, &bytes).unwrap();
        (bytes, path)
    }

    /// Creates an image with `xorriso -as mkisofs`; `@` marks a file next to the tree.
    pub(super) fn xorriso(&self, options: &str) -> Vec<u8> {
        let path = self.path("xorriso.iso");
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let mut args: Vec<String> = ["-as", "mkisofs", "-quiet", "-R", "-o"].map(Into::into).into();
        args.push(name(&path));
        args.extend(options.split_whitespace().map(|option| match option.strip_prefix('@') {
            Some(file) => name(&self.path(file)),
            None => option.to_owned(),
        }));
        args.push(name(&self.path("tree")));
        run("xorriso", args);
        std::fs::read(path).unwrap()
    }
}

fn bios() -> BootEntry {
    let mut entry = BootEntry::new(Platform::Bios, BootImage::File("boot.bin".into()));
    (entry.load_sectors, entry.info_table) = (Some(4), true);
    entry
}

fn efi() -> BootEntry {
    BootEntry::new(Platform::Efi, BootImage::File("efi.img".into()))
}

/// Returns the options for an image like Syslinux's, with everything in the volume.
pub(super) fn isohybrid() -> CreateOptions {
    let mut options = CreateOptions::default();
    let mut efi = efi();
    efi.in_gpt = true;
    options.boot = vec![bios(), efi];
    options.hybrid.isohybrid_mbr = Some(mbr_code()[..432].to_vec());
    options
}

/// Returns the options for an image like GRUB's, with the EFI system partition after the volume.
pub(super) fn grub(dir: &TestDir) -> CreateOptions {
    let mut options = CreateOptions::default();
    let mut bios = bios();
    bios.grub2_info = true;
    let efi = BootEntry::new(Platform::Efi, BootImage::AppendedPartition(2));
    options.boot = vec![bios, efi];
    options.hybrid.grub2_mbr = Some(mbr_code());
    options.hybrid.appended = vec![AppendedPartition::new(2, 0xef, dir.path("tree/efi.img"))];
    options
}

pub(super) fn open(bytes: &[u8]) -> IsoImage {
    let source = Arc::new(MemorySource::new(bytes));
    IsoImage::open(source, &IsoOptions::default()).unwrap()
}

fn sector_of(image: &IsoImage, path: &str) -> u32 {
    let node = image.lookup(path.as_bytes()).unwrap();
    (node.extents()[0].offset.unwrap() / 2048) as u32
}

pub(super) fn assert_no_findings(bytes: &[u8]) {
    let mut found = Vec::new();
    open(bytes).verify(&mut |finding| found.push(finding)).unwrap();
    assert_eq!(found, []);
}

/// Checks the boot programs of these tests with an image that xorriso created.
#[test]
fn an_image_of_xorriso_boots() {
    let dir = TestDir::new();
    dir.xorriso(
        "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table -isohybrid-mbr @mbr432 \
         -eltorito-alt-boot -e efi.img -no-emul-boot -isohybrid-gpt-basdat",
    );
    let boots = [
        (Medium::Disc, Firmware::Bios, "from-image"),
        (Medium::Disk, Firmware::Bios, "from-image"),
        (Medium::Disc, Firmware::Uefi, "from-efi"),
    ];
    for (medium, firmware, word) in sample(boots, 3) {
        assert_boots(&dir.path("xorriso.iso"), medium, firmware, word);
    }
}

/// Boots the image and asserts that it writes `word` to the serial port.
pub(super) fn assert_boots(image: &Path, medium: Medium, firmware: Firmware, word: &str) {
    let output = start(image, medium, firmware);
    assert!(output.contains(word), "{medium:?} {firmware:?}: {output:?}");
}

#[test]
fn an_isohybrid_image_boots_with_bios_and_uefi_from_disc_and_disk() {
    let dir = TestDir::new();
    let (bytes, path) = dir.build(isohybrid());
    assert_no_findings(&bytes);
    let boots = [
        (Medium::Disc, Firmware::Bios, "from-image"),
        (Medium::Disk, Firmware::Bios, "from-image"),
        (Medium::Disc, Firmware::Uefi, "from-efi"),
        (Medium::Disk, Firmware::Uefi, "from-efi"),
    ];
    for (medium, firmware, word) in sample(boots, 3) {
        assert_boots(&path, medium, firmware, word);
    }
}

#[test]
fn an_image_with_an_appended_efi_partition_boots_from_disc_and_disk() {
    let dir = TestDir::new();
    let mut options = grub(&dir);
    options.hybrid.appended_as_gpt = true;
    let (bytes, path) = dir.build(options);
    assert_no_findings(&bytes);
    let boots = [
        (Medium::Disc, Firmware::Bios, "from-image"),
        (Medium::Disc, Firmware::Uefi, "from-efi"),
        (Medium::Disk, Firmware::Uefi, "from-efi"),
        // Some BIOSes require an active partition. SeaBIOS does not.
        (Medium::Disk, Firmware::Bios, "from-mbr"),
    ];
    for (medium, firmware, word) in sample(boots, 3) {
        assert_boots(&path, medium, firmware, word);
    }
    let (bytes, path) = dir.build(grub(&dir));
    assert_no_findings(&bytes);
    if full() {
        assert_boots(&path, Medium::Disk, Firmware::Bios, "from-mbr");
    }
}

/// The image has no boot catalog: EDK II uses El Torito on disks, too, if it is present.
#[test]
fn uefi_finds_an_appended_partition_by_gpt_and_by_mbr() {
    let dir = TestDir::new();
    for as_gpt in [true, false] {
        let mut options = grub(&dir);
        options.boot.clear();
        options.hybrid.grub2_mbr = None;
        options.hybrid.appended_as_gpt = as_gpt;
        let (bytes, path) = dir.build(options);
        assert_no_findings(&bytes);
        if as_gpt || full() {
            assert_boots(&path, Medium::Disk, Firmware::Uefi, "from-efi");
        }
    }
}

#[test]
fn emulated_disks_boot() {
    let dir = TestDir::new();
    for (emulation, bytes) in [
        (Emulation::Floppy, 1_474_560),
        (Emulation::Floppy, 2_949_120),
        (Emulation::HardDisk, 1 << 20),
    ] {
        std::fs::write(dir.path("tree/disk"), emulated_disk("from-disk", bytes)).unwrap();
        let mut options = CreateOptions::default();
        let mut entry = BootEntry::new(Platform::Bios, BootImage::File("/disk".into()));
        entry.emulation = emulation;
        options.boot = vec![entry];
        let (image, path) = dir.build(options);
        if emulation == Emulation::HardDisk || full() {
            assert_boots(&path, Medium::Disc, Firmware::Bios, "from-disk");
        }
        let entry = open(&image).boot_catalog().unwrap().expect("a catalog").entries.remove(0);
        assert_eq!(entry.load_sectors, 1);
        assert_eq!(entry.system_type, if emulation == Emulation::HardDisk { 6 } else { 0 });
    }
}

/// A boot info table is not written to another file with the same contents.
#[test]
fn a_boot_image_does_not_share_its_data_with_other_files() {
    let mut options = CreateOptions::default();
    let mut entry = BootEntry::new(Platform::Bios, BootImage::File("boot.bin".into()));
    entry.info_table = true;
    options.boot.push(entry);
    let mut builder = Builder::new(options);
    builder.add_bytes(b"boot.bin", vec![7; 4096]).unwrap();
    builder.add_bytes(b"same.bin", vec![7; 4096]).unwrap();
    let mut image = Vec::new();
    builder.plan().unwrap().emit(&mut image).unwrap();
    let image = IsoImage::open(Arc::new(MemorySource::new(image)), &IsoOptions::default()).unwrap();
    let first_bytes = |path: &[u8]| {
        let mut bytes = [0; 16];
        let contents = image.contents(&image.lookup(path).unwrap()).unwrap();
        contents.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(first_bytes(b"same.bin"), [7; 16]);
    assert_eq!(first_bytes(b"boot.bin")[8..12], [16, 0, 0, 0]);
}

/// Compares all structures with xorriso's, except for addresses.
#[test]
fn catalog_info_table_and_partitions_equal_those_of_xorriso() {
    let dir = TestDir::new();
    let (ours, _) = dir.build(isohybrid());
    let theirs = dir.xorriso(
        "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table -isohybrid-mbr @mbr432 \
         -eltorito-alt-boot -e efi.img -no-emul-boot -isohybrid-gpt-basdat",
    );
    assert_eq!(catalog_without_addresses(&ours), catalog_without_addresses(&theirs));
    // Returns the table without the address of the file itself, which is checked here.
    let info_table = |bytes: &[u8]| {
        let image = open(bytes);
        let sector = sector_of(&image, "boot.bin");
        let file = &bytes[sector as usize * 2048..][..5000];
        assert_eq!(file[12..16], sector.to_le_bytes());
        assert_eq!(bytes[432..440], (u64::from(sector) * 4).to_le_bytes());
        [&file[..12], &file[16..]].concat()
    };
    assert_eq!(info_table(&ours), info_table(&theirs));
    // Both images are padded to the same mebibyte, so their first partitions are equal.
    assert_eq!(ours.len().next_multiple_of(1 << 20), ours.len());
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(ours[446..462], theirs[446..462]);
    assert_eq!(ours[..432], theirs[..432]);
    let efi = |bytes: &[u8]| {
        let partition = &bytes[462..478];
        let sector = sector_of(&open(bytes), "efi.img") * 4;
        assert_eq!(partition[8..12], sector.to_le_bytes());
        [partition[4..5].to_vec(), partition[12..].to_vec()].concat()
    };
    assert_eq!(efi(&ours), efi(&theirs));
}

#[test]
fn addresses_for_grub_are_where_xorriso_writes_them() {
    let dir = TestDir::new();
    let (ours, _) = dir.build(grub(&dir));
    let theirs = dir.xorriso(
        "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \
         --grub2-mbr @mbr -append_partition 2 0xef @efi.img -eltorito-alt-boot \
         -e --interval:appended_partition_2:all:: -no-emul-boot",
    );
    assert_eq!(catalog_without_addresses(&ours), catalog_without_addresses(&theirs));
    let mut tables = Vec::new();
    for bytes in [&ours, &theirs] {
        let image = open(bytes);
        let sector = u64::from(sector_of(&image, "boot.bin"));
        tables.push((sector, bytes[sector as usize * 2048 + 16..][..48].to_vec()));
        assert_eq!(bytes[432..440], (sector * 4 + 4).to_le_bytes());
        assert_eq!(bytes[sector as usize * 2048 + 2548..][..8], (sector * 4 + 5).to_le_bytes());
        let info = image.info().unwrap();
        let loader = Loader::Grub2 { start_sector: sector as u32 };
        assert_eq!(info.system_area.loader, Some(loader));
        let esp = &info.boot.expect("a catalog").entries[1];
        assert_eq!(esp.start(), info.volume_bytes);
        let mbr = info.system_area.mbr.expect("an MBR");
        let kinds: Vec<_> = mbr.partitions.iter().map(|p| (p.number, p.active, p.kind)).collect();
        assert_eq!(kinds, [(1, true, 0x83), (2, false, 0xef)]);
        let found = &bytes[esp.start() as usize..][..1_474_560];
        assert!(
            found == std::fs::read(dir.path("efi.img")).unwrap(),
            "the partition has other contents"
        );
    }
    // The tables hold a length and a checksum. The checksum covers GRUB's address.
    let [(ours_at, mut ours), (theirs_at, theirs)] = tables.try_into().expect("two");
    let sum = u32::from_le_bytes(ours[4..8].try_into().unwrap());
    let difference = (theirs_at as u32).wrapping_sub(ours_at as u32).wrapping_mul(4);
    ours[4..8].copy_from_slice(&sum.wrapping_add(difference).to_le_bytes());
    assert_eq!(ours, theirs);
}

/// Returns the boot catalog with the addresses of boot images set to zero.
fn catalog_without_addresses(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(bytes[17 * 2048..][..39], *b"\0CD001\x01EL TORITO SPECIFICATION\0\0\0\0\0\0\0\0\0");
    let catalog = open(bytes).boot_catalog().unwrap().expect("a catalog");
    assert_eq!(catalog.oddities, []);
    let mut bytes = bytes[catalog.offset as usize..][..2048].to_vec();
    for entry in catalog.entries {
        bytes[(entry.offset - catalog.offset) as usize + 8..][..4].fill(0);
    }
    bytes
}

#[test]
fn sfdisk_verifies_the_gpt() {
    let dir = TestDir::new();
    let mut options = grub(&dir);
    options.hybrid.appended_as_gpt = true;
    options.hybrid.partition_offset = 16;
    options.padding = 150;
    let (bytes, path) = dir.build(options);
    let path = path.to_str().unwrap();
    let verified = try_run("sfdisk", ["--verify", path]);
    let output = String::from_utf8_lossy(&verified.stdout);
    assert!(output.contains("No errors detected"), "{output}");
    let json: serde_json::Value = serde_json::from_str(&run("sfdisk", ["--json", path])).unwrap();
    let area = SystemArea::read(&MemorySource::new(&*bytes), None).unwrap();
    assert_eq!(area.oddities, []);
    let gpt = area.gpt.expect("a GPT");
    let table = &json["partitiontable"];
    assert_eq!(table["id"], gpt.disk_id.to_string());
    let partitions = table["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), gpt.partitions.len());
    for (theirs, ours) in partitions.iter().zip(&gpt.partitions) {
        assert_eq!(theirs["type"], ours.kind.to_string());
        assert_eq!(theirs["uuid"], ours.id.to_string());
        assert_eq!(theirs["start"], ours.first_sector);
        assert_eq!(theirs["size"], ours.last_sector - ours.first_sector + 1);
        assert_eq!(theirs["name"], ours.name);
    }
    let first = &gpt.partitions[0];
    assert_eq!((&*first.name, first.first_sector), ("ISO9660", 64));
    assert_eq!(gpt.partitions[1].kind, Guid::EFI_SYSTEM);
}

#[test]
fn xorriso_reports_the_same_boot_information() {
    let dir = TestDir::new();
    let (bytes, path) = dir.build(isohybrid());
    let reports = ["-report_el_torito", "plain", "-report_system_area", "plain"];
    let args: Vec<_> = ["-indev", path.to_str().unwrap()].into_iter().chain(reports).collect();
    let output = run("xorriso", args);
    let lines: Vec<_> =
        output.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let image = open(&bytes);
    let [bios, efi] = ["boot.bin", "efi.img"].map(|path| sector_of(&image, path));
    for line in [
        format!("El Torito boot img : 1 BIOS y none 0x0000 0x00 4 {bios}"),
        format!("El Torito boot img : 2 UEFI y none 0x0000 0x00 2880 {efi}"),
        "El Torito img opts : 1 boot-info-table isohybrid-suitable".into(),
        "El Torito cat path : /boot.cat".into(),
        format!("MBR partition : 1 0x80 0x00 0 {}", bytes.len() / 512),
        format!("MBR partition : 2 0x00 0xef {} 2880", efi * 4),
        format!("GPT start and size : 2 {} 2880", efi * 4),
    ] {
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
}

#[test]
fn identifiers_depend_only_on_the_options() {
    let dir = TestDir::new();
    let (first, _) = dir.build(isohybrid());
    let (again, _) = dir.build(isohybrid());
    assert!(first == again);
    let mut options = isohybrid();
    options.volume_id = "OTHER".into();
    let (other, _) = dir.build(options);
    assert_ne!(first[440..444], other[440..444]);
    assert_ne!(first[512 + 56..512 + 72], other[512 + 56..512 + 72]);
}

/// GRUB reads 32 KiB at once and hangs if the disc ends within them.
#[test]
fn a_bootable_image_ends_32_kib_after_the_last_file() {
    let dir = TestDir::new();
    let mut options = CreateOptions::default();
    options.boot = vec![bios()];
    let (bytes, _) = dir.build(options);
    let image = open(&bytes);
    let extents = image.walk().flat_map(|found| found.unwrap().node.extents().to_vec());
    let end = extents.map(|extent| extent.offset.unwrap() + extent.len).max().unwrap();
    assert!(end + (32 << 10) <= bytes.len() as u64);
    assert_eq!(image.info().unwrap().volume_bytes, bytes.len() as u64);
}

#[test]
fn a_hidden_boot_catalog_has_no_name_and_works() {
    let dir = TestDir::new();
    let mut options = isohybrid();
    options.boot_catalog_visible = false;
    let (bytes, path) = dir.build(options);
    let image = open(&bytes);
    assert!(image.lookup(b"boot.cat").is_err());
    assert_eq!(image.boot_catalog().unwrap().expect("a catalog").entries.len(), 2);
    assert_boots(&path, Medium::Disc, Firmware::Bios, "from-image");

    let mut options = isohybrid();
    options.boot_catalog = "isolinux/boot.cat".into();
    let (bytes, _) = dir.build(options);
    let image = open(&bytes);
    let catalog = image.boot_catalog().unwrap().expect("a catalog");
    assert_eq!(catalog.offset, u64::from(sector_of(&image, "isolinux/boot.cat")) * 2048);
}

/// The sector count has only 16 bits. For UEFI, 0 means up to the end; for BIOS it does not.
#[test]
fn a_large_boot_image_is_possible_for_uefi_and_refused_for_bios() {
    let dir = TestDir::new();
    let large = std::fs::File::create(dir.path("tree/efi.img")).unwrap();
    large.set_len(40 << 20).unwrap();
    let (bytes, _) = dir.build(isohybrid());
    let efi = &open(&bytes).boot_catalog().unwrap().expect("a catalog").entries[1];
    assert_eq!((efi.load_sectors, efi.load_bytes()), (0, None));

    let mut options = CreateOptions::default();
    options.boot = vec![BootEntry::new(Platform::Bios, BootImage::File("efi.img".into()))];
    let error = plan_error(&dir, options);
    assert!(error.contains("32 MiB"), "{error}");
}

fn plan_error(dir: &TestDir, options: CreateOptions) -> String {
    let mut builder = Builder::new(options);
    builder.add_tree(b"", dir.path("tree")).unwrap();
    builder.plan().expect_err("the plan must fail").to_string()
}

#[test]
fn impossible_boot_options_are_errors_that_name_the_file() {
    let dir = TestDir::new();
    std::fs::write(dir.path("tree/short"), [1; 63]).unwrap();
    std::fs::write(dir.path("tree/empty"), []).unwrap();
    let entry = |path: &str, change: fn(&mut BootEntry)| {
        let mut entry = BootEntry::new(Platform::Bios, BootImage::File(path.into()));
        change(&mut entry);
        let mut options = CreateOptions::default();
        options.boot = vec![entry];
        options
    };
    let mut clash = entry("boot.bin", |_| {});
    clash.boot_catalog = "boot.bin".into();
    let mut no_partition = CreateOptions::default();
    no_partition.boot = vec![BootEntry::new(Platform::Efi, BootImage::AppendedPartition(3))];
    let mut only_mbr = CreateOptions::default();
    only_mbr.hybrid.isohybrid_mbr = Some(mbr_code());
    let mut no_file = grub(&dir);
    no_file.hybrid.appended = vec![AppendedPartition::new(2, 0xef, dir.path("nothing"))];
    for (options, what) in [
        (entry("boot/none.bin", |_| {}), "boot/none.bin: no such boot image"),
        (entry("", |_| {}), "not a regular file"),
        (entry("empty", |_| {}), "empty: the boot image is empty"),
        (entry("short", |e| e.info_table = true), "short: a boot info table requires"),
        (entry("short", |e| e.grub2_info = true), "short: the address for GRUB requires"),
        (entry("boot.bin", |e| e.emulation = Emulation::Floppy), "floppy disk must have"),
        (entry("boot.bin", |e| e.emulation = Emulation::HardDisk), "one partition"),
        (clash, "the boot catalog have the same path"),
        (no_partition, "no appended partition has the number 3"),
        (only_mbr, "requires a BIOS boot image"),
        (no_file, "nothing"),
    ] {
        let error = plan_error(&dir, options);
        assert!(error.contains(what), "{what}: {error}");
    }
}
