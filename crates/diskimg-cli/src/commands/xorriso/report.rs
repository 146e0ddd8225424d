//! `-report_el_torito` and `-report_system_area`.

use super::show::digits;
use super::{Loaded, quoted, quoted_path};
use crate::args::mkisofs::native::ReportForm;
use crate::failure::Failure;
use crate::output::Console;
use diskimg::iso::boot::{BootCatalog, CatalogEntry, Loader, Media, Platform, SystemArea};
use diskimg::iso::write::BootEntry;
use diskimg::iso::{Droppable, IsoInfo, RemasterOptions, SECTOR, VolumeKind};
use diskimg::partition::{Guid, Mbr};
use diskimg::printable;
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// Number of 512-byte sectors in a sector.
const DISK_SECTORS: u64 = SECTOR / 512;

/// MBR types of an EFI system partition and of the partition that protects a GPT.
const EFI: u8 = 0xef;
const PROTECTIVE: u8 = 0xee;

/// MBR type that xorriso gives by default to a partition that is everything after the MBR.
const WHOLE: u8 = 0xcd;

/// Last 512-byte sector at which a partition that contains the volume starts: after the system
/// area.
const VOLUME_STARTS: u64 = 64;

/// GPT type of HFS and HFS+, which cover a part of the volume.
const HFS: &str = "005346480000aa11aa1100306543ecac";

/// Sectors of a cylinder of 1 MiB.
const CYLINDER: u64 = (1 << 20) / SECTOR;

/// Returns the paths of files by the byte offset of their first extent.
pub(super) fn extent_paths(loaded: &Loaded) -> Result<HashMap<u64, Vec<u8>>, Failure> {
    let mut paths = HashMap::new();
    for found in loaded.image.walk() {
        let found = found?;
        if let Some(offset) = found.node.extents().first().and_then(|extent| extent.offset) {
            paths.entry(offset).or_insert(found.path);
        }
    }
    Ok(paths)
}

/// Returns the words by which xorriso describes boot records, if there are any.
pub(super) fn boot_words(loaded: &Loaded, info: &IsoInfo) -> Option<String> {
    let mut words = Vec::new();
    if info.boot.is_some() {
        words.push("El Torito".to_owned());
    }
    words.extend(system_area_words(&info.system_area, loaded.image.source().len()));
    (!words.is_empty()).then(|| words.join(" , "))
}

fn system_area_words(area: &SystemArea, bytes: u64) -> Option<String> {
    let mut words = Vec::new();
    if let Some(mbr) = &area.mbr {
        words.push("MBR");
        let isohybrid = matches!(area.loader, Some(Loader::Isohybrid { .. }));
        words.extend(isohybrid.then_some("isohybrid"));
        words.extend(protects(mbr).then_some("protective-msdos-label"));
        words.extend(matches!(area.loader, Some(Loader::Grub2 { .. })).then_some("grub2-mbr"));
        words.push(match is_aligned(area, bytes) {
            true => "cyl-align-on",
            false => "cyl-align-off",
        });
    }
    words.extend(area.gpt.is_some().then_some("GPT"));
    words.extend(area.apm.is_some().then_some("APM"));
    (!words.is_empty()).then(|| words.join(" "))
}

/// Returns true if a partition protects a GPT, or the only one everything after the MBR.
fn protects(mbr: &Mbr) -> bool {
    let is_whole = mbr.partitions.len() == 1 && mbr.partitions[0].first_sector == 1;
    is_whole || mbr.partitions.iter().any(|partition| partition.kind == PROTECTIVE)
}

fn is_aligned(area: &SystemArea, bytes: u64) -> bool {
    let whole = bytes.div_ceil(SECTOR).is_multiple_of(CYLINDER);
    matches!(area.loader, Some(Loader::Isohybrid { .. })) && whole
}

/// Returns a report.
pub(super) fn boot(
    loaded: &Loaded,
    form: ReportForm,
    console: &Console,
) -> Result<String, Failure> {
    let info = loaded.image.info()?;
    match form {
        ReportForm::ElTorito => el_torito(loaded, &info),
        ReportForm::SystemArea => Ok(system_area(loaded, &info)),
        ReportForm::Commands | ReportForm::MkisofsOptions => {
            let mut recipe = Recipe {
                as_mkisofs: form == ReportForm::MkisofsOptions,
                path: quoted(&loaded.path.display().to_string()),
                text: String::new(),
                escaped: None,
            };
            recipe.describe(loaded, &info)?;
            console.warn(recipe.escaped.map(|line| {
                format!("control characters are shown escaped, unlike in the image: {line}")
            }));
            Ok(recipe.text)
        }
    }
}

/// Returns whether the boot image is an ISOLINUX that an isohybrid MBR can load.
fn is_isolinux(loaded: &Loaded, entry: &CatalogEntry) -> bool {
    let mut signature = [0; 4];
    let read = loaded.image.source().read_exact_at(&mut signature, entry.start() + 64);
    read.is_ok() && signature == [0xfb, 0xc0, 0x78, 0x70]
}

/// Returns the boot entries with their options, as far as the image can be rebuilt.
pub(super) fn entry_options(loaded: &Loaded) -> Vec<BootEntry> {
    let mut remaster = RemasterOptions::default();
    remaster.drop = Droppable::ALL.to_vec();
    let builder = loaded.image.remaster_with(&remaster);
    builder.map(|mut builder| builder.options_mut().boot.clone()).unwrap_or_default()
}

fn el_torito(loaded: &Loaded, info: &IsoInfo) -> Result<String, Failure> {
    let Some(catalog) = &info.boot else { return Ok(String::new()) };
    let paths = extent_paths(loaded)?;
    let options = entry_options(loaded);
    let mut text = String::new();
    let blocks = (catalog.entries.len() as u64 * 64 + 32).div_ceil(SECTOR);
    let sector = catalog.offset / SECTOR;
    let _ = writeln!(text, "El Torito catalog  : {sector}  {blocks}");
    if let Some(path) = paths.get(&catalog.offset) {
        let path = format!("/{}", String::from_utf8_lossy(path));
        let _ = writeln!(text, "El Torito cat path : {}", printable(&path));
    }
    text.push_str("El Torito images   :   N  Pltf  B   Emul  Ld_seg  Hdpt  Ldsiz         LBA\n");
    for (n, entry) in (1..).zip(&catalog.entries) {
        let platform = match entry.platform {
            Platform::Bios => "BIOS".into(),
            Platform::PowerPc => "PPC".into(),
            Platform::Mac => "Mac".into(),
            Platform::Efi => "UEFI".into(),
            other => format!("0x{:02x}", other.number()),
        };
        let bootable = if entry.bootable { 'y' } else { 'n' };
        let emulation = match entry.media {
            Media::NoEmulation => "none",
            Media::HardDisk => "hd",
            Media::Floppy1200 => "fd1.2",
            Media::Floppy1440 => "fd1.4",
            Media::Floppy2880 => "fd2.8",
            _ => "?",
        };
        let CatalogEntry { load_segment, system_type, load_sectors, start_sector, .. } = entry;
        let _ = writeln!(
            text,
            "El Torito boot img : {n:>3}  {platform:<4}  {bootable}  {emulation:>5}  \
             0x{load_segment:04x}  0x{system_type:02x}  {load_sectors:>5}  {start_sector:>10}"
        );
    }
    for (index, entry) in catalog.entries.iter().enumerate() {
        let n = index + 1;
        match paths.get(&entry.start()) {
            Some(path) => {
                let path = format!("/{}", String::from_utf8_lossy(path));
                let _ = writeln!(text, "El Torito img path : {n:>3}  {}", printable(&path));
            }
            None => {
                let blocks = u64::from(entry.load_sectors).div_ceil(DISK_SECTORS);
                let _ = writeln!(text, "El Torito img blks : {n:>3}  {blocks}");
            }
        }
        let option =
            |set: fn(&BootEntry) -> bool, word| options.get(index).is_some_and(set).then_some(word);
        let words = [
            option(|entry| entry.info_table, "boot-info-table"),
            is_isolinux(loaded, entry).then_some("isohybrid-suitable"),
            option(|entry| entry.grub2_info, "grub2-boot-info"),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        if !words.is_empty() {
            let _ = writeln!(text, "El Torito img opts : {n:>3}  {}", words.join(" "));
        }
    }
    Ok(text)
}

fn system_area(loaded: &Loaded, info: &IsoInfo) -> String {
    let area = &info.system_area;
    let mut text = String::new();
    let Some(words) = system_area_words(area, loaded.image.source().len()) else { return text };
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<19}: {}", printable(value));
    };
    line("System area summary", &words);
    line("ISO image size/512", &(info.volume_bytes / 512).to_string());
    if let Some(mbr) = &area.mbr {
        line("Partition offset", &offset(loaded, area).to_string());
        let (heads, track) = mbr.geometry();
        line("MBR heads per cyl", &heads.to_string());
        line("MBR secs per head", &track.to_string());
        line("MBR partition table", "  N Status  Type        Start       Blocks");
        for partition in &mbr.partitions {
            let status = if partition.active { 0x80 } else { 0 };
            let (n, kind) = (partition.number, partition.kind);
            let (start, len) = (partition.first_sector, partition.sectors);
            line(
                "MBR partition",
                &format!("{n:>3}   0x{status:02x}  0x{kind:02x} {start:>12} {len:>12}"),
            );
        }
    }
    if let Some(gpt) = &area.gpt {
        line("GPT", "  N  Info");
        line("GPT disk GUID", &format!("     {}", hex(gpt.disk_id)));
        for partition in &gpt.partitions {
            let n = partition.number;
            let (first, last) = (partition.first_sector, partition.last_sector);
            line("GPT partname local", &format!("{n:>3}  {}", partition.name));
            line("GPT partition GUID", &format!("{n:>3}  {}", hex(partition.id)));
            line("GPT type GUID", &format!("{n:>3}  {}", hex(partition.kind)));
            line("GPT partition flags", &format!("{n:>3}  0x{:016x}", partition.attributes));
            let len = last.saturating_add(1).saturating_sub(first);
            line("GPT start and size", &format!("{n:>3}  {first}  {len}"));
        }
    }
    if let Some(apm) = &area.apm {
        line("APM", "  N  Info");
        line("APM block size", &format!("     {}", apm.block_bytes));
        for partition in &apm.partitions {
            let n = partition.number;
            line("APM partition name", &format!("{n:>3}  {}", partition.name));
            line("APM partition type", &format!("{n:>3}  {}", partition.kind));
            let (first, len) = (partition.first_block, partition.blocks);
            line("APM start and size", &format!("{n:>3}  {first}  {len}"));
        }
    }
    text
}

fn hex(id: Guid) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the offset of the second set of volume descriptors, which belongs to a partition, in
/// sectors.
fn offset(loaded: &Loaded, area: &SystemArea) -> u64 {
    let starts = area.gpt.iter().flat_map(|gpt| &gpt.partitions).map(|p| p.first_sector);
    let mbr = area.mbr.iter().flat_map(|mbr| &mbr.partitions);
    let starts = starts.chain(mbr.map(|p| u64::from(p.first_sector)));
    let sectors = starts.filter(|start| start.is_multiple_of(DISK_SECTORS));
    let is_volume = |start: &u64| {
        let mut sector = [0; 6];
        let at = start.saturating_add(16).saturating_mul(SECTOR);
        *start > 0
            && loaded.image.source().read_exact_at(&mut sector, at).is_ok()
            && sector == *b"\x01CD001"
    };
    sectors.map(|start| start / DISK_SECTORS).find(is_volume).unwrap_or(0)
}

/// An appended partition: number, type for `-append_partition`, range in 512-byte sectors.
struct Appended {
    number: u32,
    kind: String,
    range: Range<u64>,
}

/// Returns the partitions that are neither the volume nor a file, and whether they are in a GPT.
fn appended(info: &IsoInfo, paths: &HashMap<u64, Vec<u8>>) -> (Vec<Appended>, bool) {
    let is_appended = |partition: &Appended| {
        let start = partition.range.start;
        !partition.range.is_empty()
            && partition.kind != HFS
            && start > VOLUME_STARTS
            && !paths.contains_key(&start.saturating_mul(512))
    };
    if let Some(gpt) = &info.system_area.gpt {
        let named = gpt.partitions.iter().filter(|partition| !partition.name.starts_with("Gap"));
        let all = named.map(|partition| Appended {
            number: partition.number,
            kind: hex(partition.kind),
            range: partition.first_sector..partition.last_sector.saturating_add(1),
        });
        return (all.filter(is_appended).collect(), true);
    }
    let all = info.system_area.mbr.iter().flat_map(|mbr| &mbr.partitions);
    let all = all.map(|partition| {
        let first = u64::from(partition.first_sector);
        Appended {
            number: partition.number.into(),
            kind: format!("0x{:02x}", partition.kind),
            range: first..first + u64::from(partition.sectors),
        }
    });
    (all.filter(is_appended).collect(), false)
}

/// Commands or options that create an image with the same boot records.
struct Recipe {
    as_mkisofs: bool,
    /// Quoted path of the image.
    path: String,
    text: String,
    /// The first line that does not say what it should, because it would have control characters.
    escaped: Option<String>,
}

impl Recipe {
    /// Adds a line: as options of mkisofs or as commands of xorriso.
    fn line(&mut self, options: &str, commands: &str) {
        let line = if self.as_mkisofs { options } else { commands };
        if !line.is_empty() {
            let shown = printable(line);
            let _ = writeln!(self.text, "{shown}");
            if shown != line {
                self.escaped.get_or_insert_with(|| shown.into_owned());
            }
        }
    }

    /// Adds the same setting in both forms.
    fn setting(&mut self, option: &str, key: &str, value: &str) {
        let space = if value.is_empty() { "" } else { " " };
        let value_or_on = if value.is_empty() { "on" } else { value };
        self.line(
            &format!("{option}{space}{value}"),
            &format!("-boot_image any {key}={value_or_on}"),
        );
    }

    /// Describes identifiers and boot records; nothing if there are no boot records.
    fn describe(&mut self, loaded: &Loaded, info: &IsoInfo) -> Result<(), Failure> {
        if info.boot.is_none() && info.system_area.mbr.is_none() {
            return Ok(());
        }
        let label = quoted(&info.label);
        self.line(&format!("-V {label}"), &format!("-volid {label}"));
        let primary = info.volumes.iter().find(|volume| volume.kind == VolumeKind::Primary);
        if let Some(time) = primary.and_then(|volume| volume.modified) {
            let date = quoted(&digits(Some(time)));
            self.line(&format!("--modification-date={date}"), &format!("-volume_date uuid {date}"));
        }
        let paths = extent_paths(loaded)?;
        let (partitions, in_gpt) = appended(info, &paths);
        self.disk(loaded, info, &partitions, in_gpt);
        let Some(catalog) = &info.boot else { return Ok(()) };
        self.catalog(loaded, info, catalog, (&paths, &partitions))
    }

    /// Describes the system area and the partitions.
    fn disk(&mut self, loaded: &Loaded, info: &IsoInfo, partitions: &[Appended], in_gpt: bool) {
        let area = &info.system_area;
        let Some(mbr) = &area.mbr else { return };
        let path = self.path.clone();
        let mut zero = vec!["zero_mbrpt"];
        zero.extend(area.gpt.is_some().then_some("zero_gpt"));
        zero.extend(area.apm.is_some().then_some("zero_apm"));
        let zero = zero.join(",");
        let [local, imported] = ["local_fs", "imported_iso"]
            .map(|source| format!("--interval:{source}:0s-15s:{zero}:{path}"));
        match area.loader {
            Some(Loader::Isohybrid { .. }) => self.line(
                &format!("-isohybrid-mbr {local}"),
                &format!("-boot_image isolinux system_area={imported}"),
            ),
            Some(Loader::Grub2 { .. }) => self.line(
                &format!("--grub2-mbr {local}"),
                &format!("-boot_image grub grub2_mbr={imported}"),
            ),
            _ => {}
        }
        if protects(mbr) {
            self.setting("--protective-msdos-label", "partition_table", "");
        }
        let align = if is_aligned(area, loaded.image.source().len()) { "on" } else { "off" };
        self.setting("-partition_cyl_align", "partition_cyl_align", align);
        let offset = offset(loaded, area).to_string();
        self.setting("-partition_offset", "partition_offset", &offset);
        let (heads, track) = mbr.geometry();
        self.setting("-partition_hd_cyl", "partition_hd_cyl", &heads.to_string());
        self.setting("-partition_sec_hd", "partition_sec_hd", &track.to_string());
        if mbr.partitions.iter().any(|partition| partition.active) {
            self.setting("--mbr-force-bootable", "mbr_force_bootable", "");
        }
        if let Some(apm) = &area.apm {
            self.setting("-apm-block-size", "apm_block_size", &apm.block_bytes.to_string());
            if apm.partitions.iter().any(|partition| partition.kind == "Apple_HFS") {
                self.line("-hfsplus", "-hfsplus on");
            }
        }
        for Appended { number, kind, range } in partitions {
            let (first, last) = (range.start, range.end - 1);
            let [local, imported] = ["local_fs", "imported_iso"].map(|source| {
                format!(
                    "-append_partition {number} {kind} --interval:{source}:{first}d-{last}d::{path}"
                )
            });
            self.line(&local, &imported);
        }
        if in_gpt && !partitions.is_empty() {
            self.line("-appended_part_as_gpt", "-boot_image any appended_part_as=gpt");
        }
        if area.loader.is_none() && area.used {
            self.line(&format!("-G {local}"), &format!("-boot_image any system_area={imported}"));
        }
        self.volume_kind(area, mbr);
        // An EFI system partition inside the volume.
        let starts: Vec<_> = info.boot.iter().flat_map(|catalog| &catalog.entries).collect();
        let inside = area.gpt.iter().flat_map(|gpt| &gpt.partitions).any(|partition| {
            let start = partition.first_sector.saturating_mul(512);
            let other = partitions.iter().all(|p| p.range.start != partition.first_sector);
            let entry = starts.iter().any(|e| e.platform == Platform::Efi && e.start() == start);
            partition.kind == Guid::EFI_SYSTEM && other && entry
        });
        if inside && !matches!(area.loader, Some(Loader::Isohybrid { .. })) {
            self.line(
                "-efi-boot-part --efi-boot-image",
                "-boot_image any efi_boot_part=--efi-boot-image",
            );
        }
    }

    /// Describes the type of the partition that contains the volume.
    fn volume_kind(&mut self, area: &SystemArea, mbr: &Mbr) {
        let in_gpt = area.gpt.iter().flat_map(|gpt| &gpt.partitions);
        let in_gpt = { in_gpt }.find(|partition| partition.name == "ISO9660");
        if let Some(partition) = in_gpt {
            self.setting("-iso_mbr_part_type", "iso_mbr_part_type", &hex(partition.kind));
            return;
        }
        let volume = mbr.partitions.iter().find(|partition| {
            ![PROTECTIVE, EFI, WHOLE].contains(&partition.kind)
                && partition.first_sector < 64
                && u64::from(partition.sectors) > 1
        });
        if let Some(volume) = volume {
            let kind = format!("0x{:02x}", volume.kind);
            self.setting("-iso_mbr_part_type", "iso_mbr_part_type", &kind);
        }
    }

    fn catalog(
        &mut self,
        loaded: &Loaded,
        info: &IsoInfo,
        catalog: &BootCatalog,
        (paths, partitions): (&HashMap<u64, Vec<u8>>, &[Appended]),
    ) -> Result<(), Failure> {
        match paths.get(&catalog.offset) {
            Some(path) => {
                let path = quoted_path(path);
                self.line(&format!("-c {path}"), &format!("-boot_image any cat_path={path}"));
            }
            None => self.line("--boot-catalog-hide", "-boot_image any cat_hidden=on"),
        }
        let options = entry_options(loaded);
        for (index, entry) in catalog.entries.iter().enumerate() {
            if index > 0 {
                self.line("-eltorito-alt-boot", "-boot_image any next");
            }
            let partition =
                partitions.iter().find(|p| p.range.start.saturating_mul(512) == entry.start());
            let image = match (paths.get(&entry.start()), partition) {
                (Some(path), _) => quoted_path(path),
                (None, Some(Appended { number, range, .. })) => {
                    let (sector, len) = (entry.start_sector, range.end - range.start);
                    quoted(&format!(
                        "--interval:appended_partition_{number}_start_{sector}s_size_{len}d:all::"
                    ))
                }
                (None, None) => {
                    let first = entry.start_sector;
                    let blocks = u64::from(entry.load_sectors).div_ceil(DISK_SECTORS).max(1);
                    let last = u64::from(first) + blocks - 1;
                    let source = if self.as_mkisofs { "local_fs" } else { "imported_iso" };
                    format!("--interval:{source}:{first}s-{last}s::{}", self.path)
                }
            };
            self.entry(info, entry, &image, options.get(index));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        info: &IsoInfo,
        entry: &CatalogEntry,
        image: &str,
        options: Option<&BootEntry>,
    ) {
        let efi = entry.platform == Platform::Efi;
        let grub = matches!(info.system_area.loader, Some(Loader::Grub2 { .. }));
        let isohybrid = matches!(info.system_area.loader, Some(Loader::Isohybrid { .. }));
        let family = match (grub, isohybrid) {
            (true, _) => "grub",
            (_, true) => "isolinux",
            _ => "any",
        };
        let (option, command) = match efi {
            true => ("-e", "any efi_path".to_owned()),
            false => ("-b", format!("{family} bin_path")),
        };
        if !efi && entry.platform != Platform::Bios {
            let number = entry.platform.number();
            self.line(&format!("-eltorito-platform 0x{number:02x}"), "");
        }
        self.line(&format!("{option} {image}"), &format!("-boot_image {command}={image}"));
        let platform = format!("-boot_image any platform_id=0x{:02x}", entry.platform.number());
        self.line("", &platform);
        match entry.media {
            Media::NoEmulation => {
                self.line("-no-emul-boot", "-boot_image any emul_type=no_emulation");
            }
            Media::HardDisk => self.line("-hard-disk-boot", "-boot_image any emul_type=hard_disk"),
            _ => self.line("", "-boot_image any emul_type=diskette"),
        }
        let (sectors, bytes) = (entry.load_sectors, u64::from(entry.load_sectors) * 512);
        self.line(
            &format!("-boot-load-size {sectors}"),
            &format!("-boot_image any load_size={bytes}"),
        );
        if options.is_some_and(|options| options.info_table) {
            self.line("-boot-info-table", "-boot_image any boot_info_table=on");
        }
        if options.is_some_and(|options| options.grub2_info) {
            self.line("--grub2-boot-info", "-boot_image grub grub2_boot_info=on");
        }
        let in_gpt = info.system_area.gpt.iter().flat_map(|gpt| &gpt.partitions);
        let start = entry.start() / 512;
        let in_gpt = { in_gpt }.any(|p| p.first_sector == start && p.kind == Guid::BASIC_DATA);
        if isohybrid && in_gpt {
            self.line("-isohybrid-gpt-basdat", "-boot_image isolinux partition_entry=gpt_basdat");
        }
    }
}
