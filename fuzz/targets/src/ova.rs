//! Appliances: OVF descriptors, tar archives, compressed archives.

use crate::exercise;
use crate::samples;
use diskimg::Format;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::OnceLock;

const BLOCK: usize = 512;

/// Returns the disk of all appliances: a streamOptimized VMDK.
fn disk() -> &'static [u8] {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    DISK.get_or_init(|| {
        let options = "subformat=streamOptimized";
        samples::image(&samples::disk(64 << 10), Format::Vmdk, options, true)
    })
}

/// Returns a tar archive with these members.
///
/// # Panics
/// If a name is too long.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = || -> std::io::Result<()> {
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes)?;
        }
        Ok(())
    };
    append().unwrap_or_else(|error| panic!("cannot build the tar archive: {error}"));
    builder.into_inner().unwrap_or_else(|error| panic!("cannot build the tar archive: {error}"))
}

/// Input: the OVF descriptor of an archive that contains two disks but no manifest.
pub(crate) fn envelope(input: &[u8]) {
    let archive = tar(&[("a.ovf", input), ("disk1.vmdk", disk()), ("disk2.vmdk.gz", b"\x1f\x8b")]);
    exercise::image(archive, Format::Ova);
}

/// Returns a descriptor with these `File` and `Disk` elements.
fn descriptor(file: &str, disk: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n<References>\n{file}\n</References>\n\
         <DiskSection><Info>Disks</Info>\n{disk}\n</DiskSection>\n\
         <VirtualSystem ovf:id=\"vm\"><Info/><Name>a &amp; b</Name>\
         <OperatingSystemSection ovf:id=\"101\"><Info/></OperatingSystemSection>\
         <VirtualHardwareSection><Info/><Item>\
         <rasd:HostResource xmlns:rasd=\"r\">ovf:/disk/vmdisk1</rasd:HostResource>\
         </Item></VirtualHardwareSection></VirtualSystem>\n</Envelope>\n"
    )
}

const URI: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

fn simple() -> String {
    let disk = format!(
        "<Disk ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\" ovf:capacity=\"64\" \
         ovf:capacityAllocationUnits=\"byte * 2^10\" ovf:format=\"{URI}\" \
         ovf:populatedSize=\"65536\"/>"
    );
    descriptor("<File ovf:id=\"file1\" ovf:href=\"disk1.vmdk\" ovf:size=\"9216\"/>", &disk)
}

pub(crate) fn envelope_seeds() -> Vec<Vec<u8>> {
    let chunks = descriptor(
        "<File ovf:id=\"file1\" ovf:href=\"disk1.vmdk\" ovf:chunkSize=\"5000\" ovf:size=\"9000\"/>\
         <File ovf:id=\"file2\" ovf:href=\"disk2.vmdk.gz\" ovf:compression=\"gzip\"/>",
        "<Disk ovf:diskId=\"a\" ovf:fileRef=\"file1\" ovf:capacity=\"1\" ovf:format=\"x#sparse\"/>\
         <Disk ovf:diskId=\"b\" ovf:fileRef=\"file2\" ovf:capacity=\"${size}\" ovf:parentRef=\"a\"/>\
         <Disk ovf:diskId=\"c\" ovf:capacity=\"7\" ovf:capacityAllocationUnits=\"GigaBytes\"/>",
    );
    let old = simple().replace("xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\"", "xmlns=\"o\"");
    let names = simple().replace("disk1.vmdk", "../%2e%2e/etc/x%20y.vmdk");
    let entity =
        simple().replacen("<Envelope", "<!DOCTYPE x [<!ENTITY e \"&e;&e;\">]><Envelope", 1);
    [simple(), chunks, old, names, entity].map(String::into_bytes).to_vec()
}

/// Input: a tar archive. Header checksums are corrected, so that mutations get past them.
pub(crate) fn archive(input: &[u8]) {
    exercise::image(with_checksums(input), Format::Ova);
}

/// Returns the archive with correct checksums in its headers.
pub(crate) fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            correct_checksum(block);
        }
    }
    archive
}

/// Corrects the checksum: the sum of the header's bytes, with blanks in place of the checksum.
fn correct_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Returns a manifest with a line for each file. The digests are wrong.
fn manifest(algorithm: &str, digits: usize) -> String {
    let line = |name| format!("{algorithm}({name})= {}\n", "0a".repeat(digits / 2));
    line("a.ovf") + &line("disk1.vmdk")
}

pub(crate) fn archive_seeds() -> Vec<Vec<u8>> {
    let ovf = simple();
    let (sha1, sha256) = (manifest("SHA1", 40), manifest("SHA256", 64));
    let long = format!("{}/a.ovf", "long".repeat(40));
    let small = &disk()[..disk().len().min(4096)];
    let mut seeds = vec![
        tar(&[("a.ovf", ovf.as_bytes()), ("disk1.vmdk", disk())]),
        tar(&[("a.ovf", ovf.as_bytes()), ("a.mf", sha1.as_bytes()), ("disk1.vmdk", small)]),
        tar(&[("b/a.mf", sha256.as_bytes()), ("b/a.ovf", ovf.as_bytes()), ("b/a.cert", b"x")]),
        tar(&[(&long, ovf.as_bytes())]),
        tar(&[("disk1.vmdk", small)]),
    ];
    // pax records before the descriptor, and a size in base-256 encoding.
    let mut pax = tar::Header::new_ustar();
    pax.set_entry_type(tar::EntryType::XHeader);
    let records = b"19 path=c/./a2.ovf\n12 size=9000\n16 GNU.sparse=1\n";
    pax.set_size(records.len() as u64);
    pax.set_cksum();
    let mut with_pax = [&pax.as_bytes()[..], records].concat();
    with_pax.resize(with_pax.len().next_multiple_of(BLOCK), 0);
    with_pax.extend(&seeds[1]);
    with_pax[2 * BLOCK + 124..2 * BLOCK + 136].copy_from_slice(&[
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        (ovf.len() >> 8) as u8,
        ovf.len() as u8,
    ]);
    seeds.push(with_pax);
    seeds
}

/// Input: a compressed archive. If the first byte is odd, the rest is first compressed with gzip.
pub(crate) fn packed(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let bytes = if first % 2 == 0 { rest.to_vec() } else { gzip(rest) };
    exercise::image(bytes, Format::Ova);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    packed.unwrap_or_else(|error| panic!("cannot compress: {error}"))
}

pub(crate) fn packed_seeds() -> Vec<Vec<u8>> {
    let ovf = simple();
    let small = &disk()[..disk().len().min(4096)];
    let archive = tar(&[("a.ovf", ovf.as_bytes()), ("disk1.vmdk", small)]);
    let files: [(&str, &[u8]); 2] = [("a.ovf", ovf.as_bytes()), ("disk1.vmdk", small)];
    vec![
        [&[1], &archive[..]].concat(),
        [&[0], &gzip(&archive)[..]].concat(),
        [&[0], &zip(&files, false)[..]].concat(),
        [&[0], &zip(&files, true)[..]].concat(),
    ]
}

/// Returns a zip archive of stored or deflated members (APPNOTE, 4.3).
fn zip(members: &[(&str, &[u8])], deflate: bool) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let whole = gzip(bytes);
        // Between gzip's header and its CRC and length.
        let data = if deflate { &whole[10..whole.len() - 8] } else { *bytes };
        let mut common = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        common.extend(&whole[whole.len() - 8..whole.len() - 4]);
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((archive.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend_from_slice(data);
    }
    let count = (members.len() as u16).to_le_bytes();
    let at = (archive.len() as u32).to_le_bytes();
    let end = [
        b"PK\x05\x06\0\0\0\0",
        &count[..],
        &count,
        &(directory.len() as u32).to_le_bytes(),
        &at,
        &[0, 0],
    ];
    archive.extend(directory);
    archive.extend(end.concat());
    archive
}
