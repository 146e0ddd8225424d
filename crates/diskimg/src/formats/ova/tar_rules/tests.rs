use super::header::Header;
use super::*;
use crate::storage::source::MemorySource;

/// Returns a member whose header has `changes`.
fn member(kind: u8, content: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..6].copy_from_slice(b"member");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[148..156].copy_from_slice(b"000001\0 ");
    block[156] = kind;
    for (at, bytes) in changes {
        block[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    block.extend(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// Returns the number of problems in an archive.
fn problems(members: &[Vec<u8>]) -> usize {
    let source = MemorySource::new([&members.concat()[..], &[0; 1024]].concat());
    let mut found = Inspection::new("a.ova".into(), &source);
    apply(&source, 1 << 10, &mut found).expect("reads");
    found.findings.len()
}

#[test]
fn a_member_that_the_file_cuts_off_is_reported() {
    let whole = member(b'0', &[1; 700], &[]);
    let whole = [&whole[..], &[0; 1024]].concat();
    for (len, expected) in
        [(1211, 1), (1212, 1), (1535, 1), (1536, 0), (1537, 1), (2047, 1), (2048, 0), (2049, 0)]
    {
        let source = MemorySource::new(whole[..len].to_vec());
        let mut found = Inspection::new("a.ova".into(), &source);
        apply(&source, 1 << 10, &mut found).expect("reads");
        assert_eq!(found.findings.len(), expected, "{len} bytes");
    }
}

#[test]
fn every_number_of_a_header_is_canonical() {
    for (name, at, len) in Header::NUMBERS {
        for field in [&b"zz"[..], b"9", b"1 7", b"-1", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(problems(&[member(b'0', b"", &[(at, field)])]), 1, "{name} {field:?}");
        }
        let base_256 = [&[0x80][..], &vec![0; len - 3], &[1, 2]].concat();
        for field in [&b"0000644\0"[..], b"    644 ", b"", &base_256] {
            assert_eq!(problems(&[member(b'0', b"", &[(at, field)])]), 0, "{name} {field:?}");
        }
    }
}

#[test]
fn only_harmless_pax_attributes_are_accepted() {
    for (record, expected) in [
        ("19 mtime=1234.5678\n", 0),
        ("22 SCHILY.xattr.a=b=c\n", 0),
        ("16 comment=text\n", 0),
        ("29 SUN.holesdata= 0 512 1024\n", 1),
        ("24 SCHILY.realsize=1024\n", 1),
        ("25 GNU.volume.offset=512\n", 1),
        ("23 SCHILY.filetype=dir\n", 1),
        ("14 x.unknown=\n", 1),
        ("16 mtime=1e1000\n", 1),
    ] {
        let members = [member(b'x', record.as_bytes(), &[]), member(b'0', b"", &[])];
        assert_eq!(problems(&members), expected, "{record}");
    }
}

#[test]
fn a_size_in_pax_belongs_to_an_ordinary_file() {
    let size = || member(b'x', b"12 size=512\n", &[]);
    let content = [7; 512];
    for (kind, expected) in [(b'0', 0), (b'5', 1), (b'S', 2)] {
        let content = if kind == b'5' { &[][..] } else { &content };
        assert_eq!(problems(&[size(), member(kind, content, &[])]), expected, "{kind}");
    }
}

#[test]
fn maps_of_sparse_members_are_canonical() {
    let pair = |start: u64, len: u64| format!("{start:011o}\0{len:011o}\0").into_bytes();
    let unused = || vec![0; 24];
    for (pairs, size, real_size, expected) in [
        (vec![pair(0, 512), pair(1024, 512)], 1024, 1536, 0),
        (vec![pair(512, 512), pair(2048, 0)], 512, 2048, 0),
        (vec![pair(2048, 0)], 0, 2048, 0),
        (vec![pair(0, 512), pair(1024, 512)], 1024, 2048, 1),
        (vec![pair(0, 512), unused(), pair(1024, 512)], 1024, 1536, 1),
        (vec![unused(), pair(0, 512)], 512, 512, 1),
        (vec![pair(0, 512), pair(512, 0), pair(1024, 512)], 1024, 1536, 1),
        (vec![pair(0, 512), pair(256, 512)], 1024, 768, 1),
        (vec![pair(0, 512)], 1024, 512, 1),
        (vec![vec![b'x'; 24]], 0, 0, 1),
    ] {
        let real_size = format!("{real_size:011o}\0");
        let (map, content) = (pairs.concat(), vec![1; size]);
        let changes = [(386, &map[..]), (483, real_size.as_bytes())];
        assert_eq!(problems(&[member(b'S', &content, &changes)]), expected, "{pairs:?}");
    }
}

#[test]
fn only_sparse_members_have_a_map() {
    let map = b"00000000000\x0000000001000\0";
    for kind in [0, b'0', b'7', b'5'] {
        for (at, field) in [(386, &map[..]), (482, b"\x01"), (483, b"00000001000\0"), (369, b"1")] {
            let changes = [(257, &b"ustar  \0"[..]), (at, field)];
            assert_eq!(problems(&[member(kind, b"", &changes)]), 1, "{kind} {at}");
        }
        // Times, and the prefix of another kind of archive.
        let times = [(257, &b"ustar  \0"[..]), (357, b"14000000000\0")];
        assert_eq!(problems(&[member(kind, b"", &times)]), 0, "{kind}");
        let prefix = [b'p'; 155];
        let prefix = [(257, &b"ustar\x0000"[..]), (345, &prefix)];
        assert_eq!(problems(&[member(kind, b"", &prefix)]), 0, "{kind}");
    }
}

#[test]
fn a_file_of_the_old_type_is_a_directory_by_its_own_name() {
    let block = |name: &[u8], kind: u8, content: &[u8]| {
        let mut block = [0; 1024];
        block[..name.len()].copy_from_slice(name);
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[148..156].copy_from_slice(b"000001\0 ");
        block[156] = kind;
        block[512..512 + content.len()].copy_from_slice(content);
        block
    };
    for (kind, expected) in [(0, 1), (b'0', 0)] {
        let record = block(b"x", b'x', b"10 path=e\n");
        let archive = [&record[..], &block(b"d/", kind, b"data"), &[0; 1024]].concat();
        let source = MemorySource::new(archive);
        let mut found = Inspection::new("a.ova".into(), &source);
        apply(&source, 1 << 10, &mut found).expect("reads");
        assert_eq!(found.findings.len(), expected, "{:?}", found.findings);
    }
}

#[test]
fn names_of_headers_are_plain_whatever_their_type() {
    let extension = |name: &[u8]| member(b'x', b"14 comment=hi\n", &[(0, name)]);
    let path = |name: &[u8]| member(b'0', b"", &[(0, name)]);
    for (name, expected) in [
        (&b"./PaxHeaders/x"[..], 0),
        (b"././@LongLink", 0),
        (b"disk-\xc3\xa9", 0),
        // A frame of zstd, a header of lzma, and bytes behind the name.
        (b"\x50\x2a\x4d\x18\0\x01\0\0", 1),
        (b"\0\0\0\x01\0\xff", 1),
        (b"x\x1bmember", 1),
        (b"member\0evil", 1),
    ] {
        assert_eq!(problems(&[extension(name), member(b'0', b"", &[])]), expected, "{name:?}");
    }
    assert_eq!(problems(&[path(b"member\0evil")]), 1);
}

#[test]
fn an_extension_that_the_file_cuts_off_is_reported() {
    let mut members = [member(b'0', b"", &[]), member(b'x', b"14 comment=hi\n", &[])].concat();
    members.truncate(1024);
    let source = MemorySource::new(members);
    let mut found = Inspection::new("a.ova".into(), &source);
    apply(&source, 1 << 10, &mut found).expect("reads");
    let cut = found.findings.iter().filter(|finding| finding.message.contains("beyond the end"));
    assert_eq!(cut.count(), 1, "{:?}", found.findings);
}

#[test]
fn records_of_any_size_are_padded_with_zeros() {
    let archive = |zeros: usize, last: u8| {
        let mut bytes = member(b'0', b"", &[]);
        bytes.resize(bytes.len() + zeros, 0);
        *bytes.last_mut().expect("is not empty") |= last;
        let source = MemorySource::new(bytes);
        let mut found = Inspection::new("a.ova".into(), &source);
        apply(&source, 1 << 10, &mut found).expect("reads");
        found.findings.len()
    };
    // The records of `tar -b 4096` and `-b 20480`.
    for zeros in [2 << 20, 10 << 20] {
        assert_eq!((archive(zeros, 0), archive(zeros, 1)), (0, 1));
    }
}
