//! ISO images as file systems: the input is one table of an otherwise valid image.

mod tree;
mod udf;

pub(crate) use udf::{udf, udf_seeds};

use crate::scatter::Scatter;
use diskimg::storage::source::{MemorySource, Source, SourceError};
use diskimg_testkit::iso::{
    self, DIRECTORY, FREE, IsoBuilder, MORE, ROOT, Record, SECTOR, susp, utf16,
};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Descriptors, path tables and directories: the root, two directories, the Joliet root.
const VOLUME: Scatter<'_> =
    Scatter { sector_bytes: SECTOR, sectors: &[16, 17, 18, 32, 64, 65, 28, 24, 25] };

/// Returns a volume with two trees and every kind of directory record.
fn with_directories() -> IsoBuilder {
    let mut builder = IsoBuilder::rock_ridge(&[
        Record::rock_dir("dir", 64, &[]),
        Record::rock_link("link", "/dir/../good.txt"),
        Record::rock("sections", 66, 2048, &[]).with_flags(MORE),
        Record::rock("sections", 67, 100, &[]),
        Record { unit_blocks: 1, gap_blocks: 1, ..Record::rock("interleaved", 66, 2048, &[]) },
        Record { attribute_blocks: 1, ..Record::file("ATTR.BIN;2", 66, 2000) },
    ]);
    builder
        .dir(64, ROOT, &[Record::rock_dir("deeper", 65, &[]), Record::rock("f", 66, 9, &[])])
        .dir(65, 64, &[Record::rock("g", 67, 0, &[])])
        .put(66, &[b'a'; 4000])
        .joliet(&[Record::file(utf16("\u{e9}t\u{e9}"), 66, 30), Record::dir(utf16("d"), 65)]);
    builder
}

/// Input: descriptors, path tables and directories.
pub(crate) fn volume(input: &[u8]) {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    let base = BASE.get_or_init(|| with_directories().finish());
    tree::exercise(Arc::new(MemorySource::new(VOLUME.put(base, input))));
}

pub(crate) fn volume_seeds() -> Vec<Vec<u8>> {
    let enhanced = |builder: &mut IsoBuilder| {
        let mut descriptor = iso::volume(2, ROOT, SECTOR as u32);
        descriptor[6] = 2;
        builder.descriptor(descriptor);
    };
    let mut all = [with_directories(), IsoBuilder::new(&[]), IsoBuilder::rock_ridge(&[])];
    enhanced(&mut all[0]);
    enhanced(&mut all[1]);
    all.iter().map(|builder| VOLUME.take(&builder.finish())).collect()
}

/// Input: directories and boot catalog of a volume that is remastered and extracted.
pub(crate) fn remaster(input: &[u8]) {
    let base = with_boot();
    tree::remaster(Arc::new(MemorySource::new(REMASTER.put(base, input))));
}

/// The directories, the boot catalog and the descriptors.
const REMASTER: Scatter<'_> =
    Scatter { sector_bytes: SECTOR, sectors: &[32, 64, 65, 28, 68, 18, 17, 16, 0] };

fn with_boot() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut builder = with_directories();
        let mut catalog = [&[1][..], &[0; 31], &[0x88, 0, 0, 0, 0, 0, 4, 0, 66]].concat();
        (catalog[30], catalog[31]) = (0x55, 0xaa);
        catalog.resize(64, 0);
        correct_catalog_checksum(&mut catalog);
        builder.descriptor(boot_record(68)).put(68, &catalog);
        builder.finish()
    })
}

pub(crate) fn remaster_seeds() -> Vec<Vec<u8>> {
    vec![REMASTER.take(with_boot()), REMASTER.take(&with_directories().finish())]
}

/// Input: the layout of raw sectors (one byte), the start of a second session (one byte), 304 bytes
/// around the data of each sector, then descriptors and the root directory.
pub(crate) fn disc(input: &[u8]) {
    let [layout, session, rest @ ..] = input else { return };
    let (around, rest) = rest.split_at(rest.len().min(304));
    let mut around = around.to_vec();
    around.resize(304, 0);
    let mut cooked = VOLUME.put(&with_directories().finish(), rest);
    if *session > 0 {
        // The descriptors of a second session are at its sector 16.
        let at = (75 + usize::from(*session)) * SECTOR;
        let descriptors = cooked[16 * SECTOR..34 * SECTOR].to_vec();
        cooked.resize(at + 16 * SECTOR, 0);
        cooked.extend(descriptors);
    }
    let (before, after, header) = match layout % 6 {
        0 => (16, 288, 12),
        1 => (24, 280, 12),
        2 => (16, 384, 12),
        3 => (24, 376, 12),
        4 => (8, 280, 0),
        _ => (0, 0, 0),
    };
    let mut raw = Vec::with_capacity(cooked.len() / SECTOR * (SECTOR + before + after));
    for sector in cooked.chunks(SECTOR) {
        let start = raw.len();
        raw.extend(&around[..before]);
        if header > 0 {
            raw[start..start + 12].copy_from_slice(b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0");
        }
        raw.extend(sector);
        raw.resize(start + before + SECTOR + after, around[303]);
    }
    tree::exercise(Arc::new(MemorySource::new(raw)));
}

pub(crate) fn disc_seeds() -> Vec<Vec<u8>> {
    let volume = VOLUME.take(&with_directories().finish());
    let seed = |layout: u8| {
        let mode = if matches!(layout, 1 | 3) { 2 } else { 1 };
        let mut around = vec![0; 304];
        (around[12], around[13], around[14], around[15]) = (0, 2, 0, mode);
        [&[layout, layout % 2 * 40], &around[..], &volume].concat()
    };
    (0..6).map(seed).collect()
}

/// Input: the system use fields of a file and of the root directory, each preceded by its length
/// (one byte), then a continuation area at sector 66.
pub(crate) fn rock_ridge(input: &[u8]) {
    let (file, rest) = field(input, 210);
    let (root, area) = field(rest, 150);
    let record = Record::file("FILE.TXT;1", iso::GOOD_AT, 33).with_system_use(&[file.to_vec()]);
    let dir = Record { flags: DIRECTORY, ..Record::dir("DIR", 64) };
    let moved = Record { flags: DIRECTORY, ..Record::dir("MOVED", 65) };
    let dir = dir.with_system_use(&[area[..area.len().min(100)].to_vec()]);
    let mut builder = IsoBuilder::with_root(&[root.to_vec()], &[record, dir, moved]);
    builder.dir(64, ROOT, &[Record::rock("inner", iso::GOOD_AT, 3, &[])]);
    builder.dir(65, ROOT, &[Record::rock_dir("child", 64, &[susp::re()])]);
    builder.put(66, area);
    tree::exercise(Arc::new(MemorySource::new(builder.finish())));
}

/// Splits off a field that is preceded by its length (one byte).
fn field(input: &[u8], max_len: usize) -> (&[u8], &[u8]) {
    match input.split_first() {
        Some((&len, rest)) => rest.split_at(rest.len().min(usize::from(len)).min(max_len)),
        None => (&[], &[]),
    }
}

pub(crate) fn rock_ridge_seeds() -> Vec<Vec<u8>> {
    let own = [susp::sp(0), susp::px(0o040_755), susp::er("RRIP_1991A")].concat();
    let px = || susp::px(0o100_644);
    let times = susp::entry(b"TF", &[&[0x7f], &iso::TIME.repeat(7)[..]].concat());
    let long_times =
        susp::entry(b"TF", &[&[0x8e], &b"2024022912345600\x04".repeat(3)[..]].concat());
    let seed = |file: &[Vec<u8>], own: &[u8], area: &[Vec<u8>]| {
        let file = file.concat();
        let mut input = vec![file.len() as u8];
        input.extend(file);
        input.push(own.len() as u8);
        input.extend(own);
        input.extend(area.concat());
        input
    };
    let nm = |flags, name: &str| susp::nm_flags(flags, name);
    vec![
        seed(&[px(), susp::nm("plain")], &own, &[]),
        seed(&[px(), nm(1, "goes "), nm(0, "on"), times], &own, &[susp::nm("dir")]),
        seed(&[susp::px(0o120_777), susp::nm("l"), susp::sl("/a/../b/./c")], &own, &[]),
        seed(
            &[px(), susp::ce(66, 0, 100), susp::re()],
            &own,
            &[nm(1, "far"), susp::ce(66, 40, 60)],
        ),
        seed(&[px(), susp::nm("z"), susp::zf(4, 15, 70_000)], &own, &[susp::cl(65), susp::nm("x")]),
        seed(&[susp::px(0o060_600), susp::pn(8, 1), susp::nm("sda1")], &own, &[susp::pl(65)]),
        seed(&[susp::px_serial(0o100_600, 2, 9), long_times], &own, &[susp::re()]),
        seed(&[px(), susp::entry(b"SF", &[0; 17]), susp::entry(b"ST", &[])], &own, &[]),
        seed(
            &[
                susp::entry(b"SL", &[1, 1, 3, b'a', b'b', b'c']),
                susp::entry(b"SL", &[0, 0, 1, b'd']),
            ],
            &[susp::sp(7), susp::entry(b"PD", &[0; 9]), susp::entry(b"ES", &[0])].concat(),
            &[susp::entry(b"AL", &[0, 2, 2, b'k', b'v', 0, 1, b'x'])],
        ),
    ]
}

/// In blocks of 512 bytes: the system area (MBR, GPT, Apple Partition Map), boot record, boot
/// catalog, and the backup GPT at the end.
const BOOT: Scatter<'_> = Scatter {
    sector_bytes: 512,
    sectors: &[0, 1, 2, 3, 4, 5, 6, 8, 68, 256, 257, 258, 252, 253, 254, 255, 259],
};

/// Returns a boot record volume descriptor that points to the boot catalog.
fn boot_record(catalog: u32) -> Vec<u8> {
    let mut record = vec![0; SECTOR];
    record[1..7].copy_from_slice(b"CD001\x01");
    record[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    record[71..75].copy_from_slice(&catalog.to_le_bytes());
    record
}

fn with_catalog(catalog: &[u8]) -> IsoBuilder {
    let mut builder = IsoBuilder::new(&[]);
    builder.descriptor(boot_record(FREE)).put(FREE, catalog);
    builder
}

/// Input: partition tables and boot catalog. Their checksums are corrected if the first byte is
/// even.
pub(crate) fn boot(input: &[u8]) {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    let base = BASE.get_or_init(|| with_catalog(&[]).finish());
    let Some((&first, rest)) = input.split_first() else { return };
    let mut image = BOOT.put(base, rest);
    if first % 2 == 0 {
        for at in [512, image.len().saturating_sub(512)] {
            correct_gpt_checksums(&mut image, at);
        }
        correct_catalog_checksum(&mut image[FREE as usize * SECTOR..]);
    }
    tree::exercise(Arc::new(MemorySource::new(image)));
}

/// Corrects the checksums of a GPT header and its entries (UEFI, 5.3.2).
fn correct_gpt_checksums(image: &mut [u8], at: usize) {
    let number = |image: &[u8], at: usize| {
        image.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let sum = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    if !image.get(at..at + 512).is_some_and(|header| header.starts_with(b"EFI PART")) {
        return;
    }
    let first = number(image, at + 72).saturating_mul(512);
    let len = number(image, at + 80).saturating_mul(number(image, at + 84));
    if let Some(entries) = image.get(first..first.saturating_add(len)) {
        let entries = sum(entries);
        image[at + 88..at + 92].copy_from_slice(&entries);
    }
    let len = number(image, at + 12).min(512);
    image[at + 16..at + 20].fill(0);
    let header = sum(&image[at..at + len]);
    image[at + 16..at + 20].copy_from_slice(&header);
}

/// Corrects the checksum of a validation entry: the sum of its 16-bit words is 0 (El Torito, 2.1).
fn correct_catalog_checksum(catalog: &mut [u8]) {
    catalog[28..30].fill(0);
    let words = catalog[..32].chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    let sum = words.fold(0u16, u16::wrapping_add);
    catalog[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
}

pub(crate) fn boot_seeds() -> Vec<Vec<u8>> {
    let entry = |bytes: &[u8]| {
        let mut entry = bytes.to_vec();
        entry.resize(32, 0);
        entry
    };
    let mut validation = entry(&[1]);
    validation[30..].copy_from_slice(&[0x55, 0xAA]);
    let catalog = [
        validation,
        entry(&[0x88, 0, 0, 0, 0, 0, 4, 0, 63, 0, 0, 0]),
        entry(&[0x90, 0xEF, 2, 0, b'e', b'f', b'i']),
        entry(&[0x88, 2, 0, 0, 0xEF, 0, 1, 0, 63, 0, 0, 0, 1, 9]),
        entry(&[0x88, 0x24, 0, 0, 6, 0, 1, 0, 64, 0, 0, 0]),
        entry(&[0x44, 0x20, 1]),
        entry(&[0x44, 0, 1]),
        entry(&[0x91, 0, 1, 0]),
        entry(&[0, 4, 0, 0, 0, 0, 1, 0, 0xFF, 0xFF, 0, 0]),
    ]
    .concat();
    let mut mbr = vec![0; 512];
    mbr[432..440].copy_from_slice(&252u64.to_le_bytes());
    mbr[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0xEE, 0, 0, 0, 1, 0, 0, 0, 0xFF, 0, 0, 0]);
    mbr[462..478].copy_from_slice(&[0, 0, 2, 0, 0xEF, 0, 0, 0, 252, 0, 0, 0, 4, 0, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    let gpt = |own: u64, other: u64, entries: u64| {
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        [own, other, 6, 250].iter().for_each(|lba| header.extend(lba.to_le_bytes()));
        header.extend([7; 16]);
        header.extend(entries.to_le_bytes());
        header.extend([8, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0]);
        header
    };
    let mut entries = [0x11; 32].to_vec();
    entries.extend([252u64, 255, 1].map(u64::to_le_bytes).concat());
    entries.extend(b"g\0a\0p\0");
    let mut apm = b"PM\0\0\0\0\0\x02\0\0\0\x01\0\0\0\x3fApple".to_vec();
    apm.resize(48, 0);
    apm.extend(b"Apple_partition_map");
    let last = 259u64;
    let with = |parts: &[(usize, &[u8])]| {
        let mut builder = with_catalog(&catalog);
        parts.iter().for_each(|(at, bytes)| _ = builder.put_at(*at, bytes));
        [&[0], &BOOT.take(&builder.finish())[..]].concat()
    };
    vec![
        with(&[]),
        with(&[(0, &mbr)]),
        with(&[
            (0, &mbr),
            (512, &gpt(1, last, 2)),
            (1024, &entries),
            (252 * 512, &entries),
            (last as usize * 512, &gpt(last, 1, 252)),
        ]),
        with(&[(0, b"ER\x02\0"), (512, &apm), (1024, &apm), (2048, &apm)]),
    ]
}

/// Input: the fields of a ZF entry (header size and block size, one byte each; file size, four
/// bytes), then a zisofs file.
pub(crate) fn zisofs(input: &[u8]) {
    let [words, log2, a, b, c, d, file @ ..] = input else { return };
    let zf = susp::zf(*words, *log2, u32::from_le_bytes([*a, *b, *c, *d]));
    let record = Record::rock("packed", FREE, file.len() as u32, &[zf]);
    let image = IsoBuilder::rock_ridge(&[record]).put(FREE, file).finish();
    tree::exercise(Arc::new(MemorySource::new(image)));
}

pub(crate) fn zisofs_seeds() -> Vec<Vec<u8>> {
    let block = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
        packed.unwrap_or_else(|error| panic!("cannot compress: {error}"))
    };
    let seed = |size: u32, log2: u8, blocks: &[Vec<u8>]| {
        let mut input = vec![4, log2];
        input.extend(size.to_le_bytes());
        input.extend([0x37, 0xE4, 0x53, 0x96, 0xC9, 0xDB, 0xD6, 0x07]);
        input.extend(size.to_le_bytes());
        input.extend([4, log2, 0, 0]);
        let mut at = 16 + 4 * (blocks.len() as u32 + 1);
        input.extend(at.to_le_bytes());
        for block in blocks {
            at += block.len() as u32;
            input.extend(at.to_le_bytes());
        }
        input.extend(blocks.concat());
        input
    };
    let words = b"zisofs packs a file in blocks. ".repeat(1058);
    vec![
        seed(1 << 15, 15, &[block(&words[..1 << 15])]),
        seed(70_000, 15, &[block(&words[..1 << 15]), vec![], block(&words[..70_000 - (2 << 15)])]),
        seed(100, 16, &[block(&words[..100])]),
    ]
}

/// A source with a path.
#[derive(Debug)]
struct Named {
    bytes: MemorySource,
    name: &'static Path,
}

impl Source for Named {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.bytes.read_exact_at(buf, offset)
    }

    fn path(&self) -> Option<&Path> {
        Some(self.name)
    }
}

/// Input: a cue sheet. The file that it refers to must not be opened.
pub(crate) fn cue(input: &[u8]) {
    let bytes = MemorySource::new(input);
    tree::exercise(Arc::new(Named { bytes, name: Path::new("disc.cue") }));
}

pub(crate) fn cue_seeds() -> Vec<Vec<u8>> {
    [
        "FILE \"disc.bin\" BINARY\n  TRACK 01 MODE1/2352\n    INDEX 01 00:00:00\n",
        "REM x\r\nCATALOG 0000000000000\r\nFILE disc.bin BINARY\r\nTRACK 01 AUDIO\r\nINDEX 00 \
         00:00:00\r\nINDEX 01 00:02:00\r\nTRACK 02 MODE2/2352\r\nPREGAP 00:02:00\r\nINDEX 01 \
         10:20:74\r\n",
        "\u{feff}file \"a b.bin\" motorola\ntrack 1 cdi/2336\nflags dcp\nindex 1 0:0:0\n",
        "FILE \"../x.bin\" BINARY\nTRACK 01 MODE1/2048\nINDEX 01 99:59:74\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
