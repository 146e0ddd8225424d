//! qcow2: the input is one part of an otherwise valid image.

use crate::exercise;
use crate::samples;
use diskimg::Format;
use std::sync::OnceLock;

/// Options of images of a small disk, and whether they are compressed. Clusters are as small as
/// possible.
const VARIANTS: [(&str, bool); 8] = [
    ("cluster_size=512", false),
    ("cluster_size=512,compat=0.10", false),
    ("cluster_size=512", true),
    ("cluster_size=512,compression_type=zstd", true),
    ("cluster_size=512,refcount_bits=1", false),
    ("cluster_size=512,refcount_bits=64", false),
    ("cluster_size=16k,extended_l2=on", false),
    ("cluster_size=4k", true),
];

/// Returns the images and their cluster sizes.
fn images() -> &'static [(Vec<u8>, usize)] {
    static IMAGES: OnceLock<Vec<(Vec<u8>, usize)>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let make = |(options, compress): (&str, bool)| {
            let image = samples::image(&samples::disk(24 << 10), Format::Qcow2, options, compress);
            let cluster = 1 << image[23];
            (image, cluster)
        };
        VARIANTS.map(make).to_vec()
    })
}

fn variant(first: u8) -> &'static (Vec<u8>, usize) {
    &images()[usize::from(first) % images().len()]
}

/// Input: the first cluster with header, extensions and backing file name.
pub(crate) fn header(input: &[u8]) {
    let (image, cluster) = variant(7);
    let mut bytes = image.clone();
    let len = input.len().min(*cluster);
    bytes[..*cluster].fill(0);
    bytes[..len].copy_from_slice(&input[..len]);
    exercise::image(bytes, Format::Qcow2);
}

/// Returns a header extension.
fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

pub(crate) fn header_seeds() -> Vec<Vec<u8>> {
    let plain = &variant(7).0[..112];
    let long = |number: u64| number.to_be_bytes();
    // Every type of extension, separately and together.
    let extensions = [
        extension(0xe279_2aca, b"raw"),
        extension(0x6803_f857, &[&[0, 0][..], &[b'd'; 46], &[1, 1], &[b'l'; 46]].concat()),
        extension(0x2385_2875, &[&[0, 0, 0, 1, 0, 0, 0, 0][..], &long(32), &long(0x4000)].concat()),
        extension(0x0537_be77, &[long(0x4000), long(512)].concat()),
        extension(0x4441_5441, b"data.raw"),
        extension(0x1234_5678, &[7; 20]),
    ];
    let with = |extensions: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = [plain, extensions, &[0; 8]].concat();
        change(&mut bytes);
        bytes
    };
    let mut seeds: Vec<_> = extensions.iter().map(|extension| with(extension, &|_| ())).collect();
    seeds.push(with(&extensions.concat(), &|_| ()));
    seeds.push(with(&[], &|header| {
        header[7] = 2;
        header.truncate(72);
    }));
    for (at, bit) in [(79, 1), (79, 2), (79, 4), (79, 8), (79, 16), (87, 1), (95, 1), (95, 2)] {
        seeds.push(with(&extensions.concat(), &|header| header[at] ^= bit));
    }
    seeds.push(with(&[], &|header| {
        header[8..16].copy_from_slice(&long(120));
        header[19] = 8;
        header.extend(b"base.img");
    }));
    // Encryption methods AES and LUKS.
    seeds.push(with(&[], &|header| header[35] = 1));
    seeds.push(with(&extensions[3], &|header| header[35] = 2));
    seeds.extend(images().iter().map(|(image, _)| image[..112].to_vec()));
    seeds
}

/// Input: a byte that selects the header, then everything after the first cluster: refcounts, L1
/// and L2 tables, data.
pub(crate) fn tables(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let (image, cluster) = variant(first);
    exercise::image([&image[..*cluster], rest].concat(), Format::Qcow2);
}

pub(crate) fn tables_seeds() -> Vec<Vec<u8>> {
    let seed = |(index, (image, cluster)): (usize, &(Vec<u8>, usize))| {
        [&[index as u8], &image[*cluster..]].concat()
    };
    images().iter().enumerate().map(seed).collect()
}

/// Returns the first image with `table` appended. `change` gets the image and the table's offset.
fn with_table(table: &[u8], change: impl FnOnce(&mut Vec<u8>, u64)) -> Vec<u8> {
    let (image, cluster) = variant(0);
    let mut bytes = image.clone();
    bytes.resize(bytes.len().next_multiple_of(*cluster), 0);
    let at = bytes.len() as u64;
    bytes.extend_from_slice(table);
    bytes.resize(bytes.len().next_multiple_of(*cluster), 0);
    change(&mut bytes, at);
    bytes
}

/// Input: the number of snapshots (one byte), then the snapshot table.
pub(crate) fn snapshots(input: &[u8]) {
    let Some((&count, table)) = input.split_first() else { return };
    let bytes = with_table(table, |bytes, at| {
        bytes[63] = count;
        bytes[64..72].copy_from_slice(&at.to_be_bytes());
    });
    exercise::image(bytes, Format::Qcow2);
}

/// Returns an entry of the snapshot table. It uses the L1 table of the active disk.
fn snapshot(id: &str, name: &str, extra: &[u64]) -> Vec<u8> {
    let mut entry = variant(0).0[40..48].to_vec();
    entry.extend(&variant(0).0[36..40]);
    entry.extend((id.len() as u16).to_be_bytes());
    entry.extend((name.len() as u16).to_be_bytes());
    entry.extend(1_700_000_000u32.to_be_bytes());
    entry.extend(5u32.to_be_bytes());
    entry.extend(77u64.to_be_bytes());
    entry.extend(0u32.to_be_bytes());
    entry.extend((extra.len() as u32 * 8).to_be_bytes());
    extra.iter().for_each(|number| entry.extend(number.to_be_bytes()));
    entry.extend([id.as_bytes(), name.as_bytes()].concat());
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

pub(crate) fn snapshots_seeds() -> Vec<Vec<u8>> {
    let all = [
        snapshot("1", "first", &[]),
        snapshot("2", "second one", &[0, 24 << 10]),
        snapshot("3", "", &[1 << 20, 8 << 10, u64::MAX]),
        snapshot("", "without id", &[0, 1 << 40]),
    ];
    let mut seeds: Vec<_> = all.iter().map(|entry| [&[1], &entry[..]].concat()).collect();
    seeds.push([&[4], &all.concat()[..]].concat());
    seeds
}

/// Input: the number of bitmaps (one byte), the length of the directory (two bytes), then the
/// bitmap directory and the bitmap tables.
pub(crate) fn bitmaps(input: &[u8]) {
    let [count, high, low, table @ ..] = input else { return };
    let len = u64::from(u16::from_be_bytes([*high, *low]));
    let bytes = with_table(table, |bytes, at| {
        let fields =
            [&[0, 0, 0, *count, 0, 0, 0, 0][..], &len.to_be_bytes(), &at.to_be_bytes()].concat();
        let extension = extension(0x2385_2875, &fields);
        bytes[95] |= 1;
        bytes[112..112 + extension.len()].copy_from_slice(&extension);
        bytes[112 + extension.len()..][..8].fill(0);
    });
    exercise::image(bytes, Format::Qcow2);
}

/// Returns a directory entry whose bitmap table is at this cluster of the input.
fn bitmap(cluster: u64, entries: u32, flags: u32, granularity: u8, name: &str) -> Vec<u8> {
    let at = with_table(&[], |_, _| ()).len() as u64 + cluster * 512;
    let mut entry = at.to_be_bytes().to_vec();
    entry.extend(entries.to_be_bytes());
    entry.extend(flags.to_be_bytes());
    entry.extend([1, granularity]);
    entry.extend((name.len() as u16).to_be_bytes());
    entry.extend(0u32.to_be_bytes());
    entry.extend(name.as_bytes());
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

pub(crate) fn bitmaps_seeds() -> Vec<Vec<u8>> {
    let seed = |entries: &[Vec<u8>], table: &[u64]| {
        let directory = entries.concat();
        let mut input = vec![entries.len() as u8, 0, directory.len() as u8];
        input.extend(&directory);
        input.resize(3 + 512, 0);
        table.iter().for_each(|entry| input.extend(entry.to_be_bytes()));
        input
    };
    let base = with_table(&[], |_, _| ()).len() as u64;
    vec![
        seed(&[bitmap(1, 1, 2, 9, "auto")], &[1]),
        seed(&[bitmap(1, 1, 0, 16, "a"), bitmap(1, 1, 1, 10, "in use")], &[base + 1024]),
        seed(&[bitmap(0, 0, 0, 63, "")], &[]),
    ]
}
