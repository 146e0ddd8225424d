//! Archives: tar, zip, gzip.

use super::{Make, open, require_linear_open};
use diskimg::Format;
use diskimg_testkit::growth::require_linear_time;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// Returns a tar header of a member.
fn header(name: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[100..108].copy_from_slice(b"0000644\0");
    bytes[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    bytes[156] = kind;
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut bytes);
    bytes
}

/// Writes the checksum of a header.
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Returns a tar header and the member's bytes.
fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Returns `make(n)` for as many `n` as fit in `bytes` bytes.
fn many(bytes: usize, make: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes);
    for n in 0.. {
        let next = make(n);
        if all.len() + next.len() > bytes {
            break;
        }
        all.extend(next);
    }
    all
}

/// Returns a sparse member of GNU tar's old format with `pieces` pieces of one block.
fn sparse(pieces: usize) -> Vec<u8> {
    let piece = |n: usize| format!("{:011o}\0{:011o}\0", n * 1024, 512).into_bytes();
    let mut bytes = header("sparse", b'S', pieces * 512);
    bytes[257..265].copy_from_slice(b"ustar  \0");
    let first = pieces.min(4);
    let list: Vec<u8> = (0..first).flat_map(piece).collect();
    bytes[386..386 + list.len()].copy_from_slice(&list);
    bytes[482] = u8::from(pieces > 4);
    bytes[483..495].copy_from_slice(format!("{:011o}\0", pieces * 1024).as_bytes());
    seal(&mut bytes);
    let mut next = first;
    while next < pieces {
        let end = pieces.min(next + 21);
        let mut block: Vec<u8> = (next..end).flat_map(piece).collect();
        block.resize(504, 0);
        block.push(u8::from(end < pieces));
        block.resize(512, 0);
        bytes.extend(block);
        next = end;
    }
    bytes.resize(bytes.len() + pieces * 512, 0);
    bytes
}

const MAX: usize = 8 << 20;

#[test]
fn the_time_for_a_tar_archive_is_linear() {
    let long = "d/".repeat(1000);
    let extension = |n: usize| member("x", b'x', format!("20 comment=a{n:07}\n").as_bytes());
    let long_name = |n: usize| {
        let name = member("x", b'L', format!("{long}{n}").as_bytes());
        [name, member("y", b'0', b"")].concat()
    };
    let make: [(&str, Make<'_>); 8] = [
        ("files", &|n| many(n, |n| member(&format!("f{n}"), b'0', b"x"))),
        ("links", &|n| many(n, |n| member(&format!("f{n}"), b'2', b""))),
        ("directories", &|n| many(n, |n| member(&format!("f{n}/"), b'5', b""))),
        ("extended headers", &|n| many(n, extension)),
        ("long names", &|n| many(n, long_name)),
        ("pax records", &|n| many(n, |_| member("x", b'x', &b"6 a=b\n".repeat(10_000)))),
        ("a pax record", &|n| many(n, |_| member("x", b'x', &b"1".repeat(60_000)))),
        ("pieces of a sparse file", &|n| sparse(n / 540)),
    ];
    for (what, make) in make {
        require_linear_open(what, Format::Ova, MAX, make);
    }
}

#[test]
fn the_time_for_metadata_of_an_archive_is_linear() {
    for (what, part) in
        [("a list of disks", "{\"path\":\"a.img\"},"), ("members", "{\"a\":1},"), ("nesting", "[[")]
    {
        require_linear_open(what, Format::Ova, MAX / 2, |n| {
            let text = format!("{{\"disks\":[{}", part.repeat(n / part.len()));
            member("metadata.json", b'0', text.as_bytes())
        });
    }
}

#[test]
fn the_time_for_a_manifest_is_linear() {
    const OVF: &str = "<Envelope><References><File id='f' href='a'/></References><DiskSection>\
                       <Disk diskId='d' capacity='8' fileRef='f'/></DiskSection></Envelope>";
    let digest = "0".repeat(40);
    for (what, line) in [
        ("files", format!("SHA1(f{{n}})= {digest}\n")),
        ("one file", format!("SHA1(a)= {digest}\n")),
        ("parentheses", "SHA1(((((((((((((\n".to_owned()),
        ("other lines", "x\n".to_owned()),
    ] {
        let make = |bytes: usize| {
            let lines = many(bytes, |n| line.replace("{n}", &n.to_string()).into_bytes());
            let [ovf, manifest] =
                [member("x.ovf", b'0', OVF.as_bytes()), member("x.mf", b'0', &lines)];
            [ovf, manifest, member("a", b'0', &[0; 512])].concat()
        };
        require_linear_time(what, MAX / 128, MAX / 8, make, |bytes| {
            let source =
                std::sync::Arc::new(diskimg::storage::source::MemorySource::new(bytes.clone()));
            let options = diskimg::OpenOptions::new().format(Format::Ova);
            if let Ok(image) = options.open_source(source, "input") {
                let _ = image.check(&mut |_| {});
            }
        });
    }
}

#[test]
fn the_time_for_a_zip_archive_is_linear() {
    for overlapping in [false, true] {
        require_linear_open("members of a zip archive", Format::Ova, 4 << 20, |bytes| {
            zip(bytes / 160, overlapping)
        });
    }
}

#[test]
fn members_of_a_zip_archive_that_overlap_are_an_error() {
    let error = |overlapping| {
        let source =
            std::sync::Arc::new(diskimg::storage::source::MemorySource::new(zip(3, overlapping)));
        let options = diskimg::OpenOptions::new().format(Format::Ova);
        options.open_source(source, "input").expect_err("there is no disk").to_string()
    };
    assert!(error(true).contains("two members overlap"), "{}", error(true));
    assert!(!error(false).contains("overlap"), "{}", error(false));
}

/// Returns a zip archive of stored members, all of which may be the same bytes.
fn zip(members: usize, overlapping: bool) -> Vec<u8> {
    let content = [b'x'; 32];
    let common = |name: &str| {
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        fields.extend([0; 4]);
        fields.extend((content.len() as u32).to_le_bytes().repeat(2));
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        fields
    };
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for n in 0..members {
        let (name, first) = (format!("member-{n:08}"), n == 0);
        let at = if overlapping { 0 } else { archive.len() as u32 };
        if first || !overlapping {
            archive.extend(b"PK\x03\x04");
            archive.extend(common(&name));
            archive.extend(name.as_bytes());
            archive.extend(content);
        }
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(common(&name));
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (len, at) = (directory.len() as u32, archive.len() as u32);
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((members.min(0xffff) as u16).to_le_bytes().repeat(2));
    archive.extend(len.to_le_bytes());
    archive.extend(at.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

#[test]
fn the_time_for_gzip_members_is_linear() {
    let gz = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (empty, block) = (gz(b""), gz(&[0; 512]));
    for (what, part) in [("empty", &empty), ("of a block", &block)] {
        let make =
            |bytes: usize| [gz(&member("a", b'0', b"x")), part.repeat(bytes / part.len())].concat();
        require_linear_time(what, 1 << 12, 1 << 18, make, |bytes| open(Format::Ova, bytes));
    }
}
