//! Damaged images: errors name the damage, redundant copies are used, and nothing panics.

use super::streams::Stream;
use super::*;

#[test]
fn errors_name_the_damage() {
    let disk = sample(4, 0);
    let whole = Stream::default().build(&disk);
    let first = 64 << 10;
    let text = 512
        + "# Disk DescriptorFile\nversion=1 \nCID=0dc3c2a9 \nparentCID=ffffffff \n".len()
        + "createType".len();
    for (at, bytes, expected) in [
        (first, &[5u8][..], "its marker says sector 5"),
        (first + 8, &[0, 0, 0, 0], "a compressed size of 0 bytes"),
        (first + 8, &[0, 0, 4, 0], "a compressed size of 262144 bytes"),
        (first + 12, &[0xff, 0xff], "damaged deflate stream"),
        (text, b"?", "line 5"),
        (12, &[1], "513 in the extent's header"),
        (20, &[0, 1], "grain size"),
        (72, &[1], ""),
    ] {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        match read(&file) {
            Ok(found) => assert!(expected.is_empty() && found == disk),
            Err(error) => assert!(format!("{error:#}").contains(expected), "{expected}: {error:#}"),
        }
    }
}

#[test]
fn damage_in_the_short_last_grain_of_a_stream_is_found() {
    let disk = [noise(1, GRAIN), noise(2, 1536)].concat();
    let file = write(&disk, "subformat=streamOptimized");
    assert!(read(&file).expect("reads") == disk);
    let grains = 128 * 512;
    let marker = |w: &[u8]| w == 128u64.to_le_bytes();
    let last = grains + file[grains..].windows(8).position(marker).expect("marker");
    let mut damaged = file.clone();
    damaged[last + 12 + 200] ^= 1;
    assert!(read(&damaged).is_err_and(|e| e.kind() == ErrorKind::Corrupt));
}

#[test]
fn a_capacity_rounded_up_to_a_grain_does_not_enlarge_the_disk() {
    let disk = sample(3, 1536);
    for options in ["", "subformat=streamOptimized"] {
        let mut file = write(&disk, options);
        let at = file.len() - 1024;
        let headers: &[usize] = if options.is_empty() { &[0] } else { &[0, at] };
        let capacity = |file: &mut [u8], sectors: u64| {
            headers.iter().for_each(|&at| put(file, at + 12, &sectors.to_le_bytes()));
        };
        capacity(&mut file, 4 * 128);
        assert!(read(&file).expect("reads") == disk, "{options}");
        assert_eq!(check(&file), [""; 0], "{options}");
        for wrong in [3 * 128 + 2, 4 * 128 + 4] {
            capacity(&mut file, wrong);
            assert!(read(&file).is_err_and(|e| e.kind() == ErrorKind::Corrupt), "{wrong}");
        }
    }
}

#[test]
fn unsupported_layouts_and_contradictions_are_errors() {
    let plain = write(&sample(2, 0), "");
    let edit = |from: &str, to: &str| {
        let text = String::from_utf8(plain[512..21 * 512].to_vec()).expect("ASCII");
        let mut text = text.replace(from, to).into_bytes();
        text.resize(20 * 512, 0);
        let mut file = plain.clone();
        put(&mut file, 512, &text);
        open(&file).expect_err(to)
    };
    for (from, to, kind, expected) in [
        ("\nRW 256", "\nRW 256 FLAT \"gone\" 0\nRW 256", ErrorKind::Refused, "'gone'"),
        ("SPARSE \"disk", "VSANSPARSE \"disk", ErrorKind::Unsupported, "vSAN"),
        (
            "SPARSE \"disk",
            "SESPARSE \"disk",
            ErrorKind::Corrupt,
            "is not that of a SESPARSE extent",
        ),
        ("disk.vmdk\"", "disk.vmdk\" 1", ErrorKind::Unsupported, "at an offset"),
        ("\nRW 256", "\nRW 127", ErrorKind::Corrupt, "256 in the extent's header"),
        ("\nRW 256", "\n# 256", ErrorKind::Corrupt, "lists no extents"),
        ("\nRW 256", "\nWR 256", ErrorKind::Corrupt, "line 8"),
        ("parentCID=ffffffff", "parentCID=1", ErrorKind::Corrupt, "parentFileNameHint is missing"),
        ("version=1", "version=1\nparentFileNameHint=\"b\"", ErrorKind::Corrupt, "no parent"),
        (
            "#DDB\n",
            "ddb.uuid.parent=\"1f000000-0000-0000-0000-000000000000\"\n",
            ErrorKind::Invalid,
            "VirtualBox",
        ),
    ] {
        let error = edit(from, to);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let nothing = OpenOptions::new()
        .format(Format::Vmdk)
        .open_source(Arc::new(MemorySource::new(vec![0; 4096])), "test.vmdk")
        .expect_err("not a VMDK");
    assert!(nothing.to_string().contains("neither a sparse extent"), "{nothing}");
    for (bytes, expected) in [
        (b"COWD\x01\0\0\0".to_vec(), "COWD"),
        (vec![0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0], "seSparse"),
    ] {
        let error = open(&bytes).expect_err(expected);
        assert_ne!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_single_file_is_read_whatever_its_create_type() {
    let disk = sample(2, 0);
    let plain = write(&disk, "");
    for name in ["", "custom", "MONOLITHICSPARSE"] {
        let mut file = plain.clone();
        let old = b"\"monolithicSparse\"";
        let at = file.windows(old.len()).position(|w| w == old).expect("is present");
        let new = format!("\"{name}\"{}", " ".repeat(old.len() - 2 - name.len()));
        put(&mut file, at, new.as_bytes());
        assert!(read(&file).expect("reads") == disk, "{name}");
    }
}

#[test]
fn a_damaged_directory_is_replaced_by_the_redundant_one() {
    let disk = sample(700, 0);
    let whole = write(&disk, "");
    let gd = u64::from_le_bytes(whole[56..64].try_into().expect("8 bytes"));
    let mut entry = whole.clone();
    put(&mut entry, gd as usize * 512, &[0xff; 4]);
    let mut all = whole.clone();
    put(&mut all, 56, &[0xff, 0xff, 0xff, 0]);
    for file in [entry, all] {
        assert!(read(&file).expect("reads") == disk);
        let notes = open(&file).and_then(|i| i.info(0)).expect("reads").notes;
        assert!(notes.iter().any(|n| n.contains("redundant")), "{notes:?}");
    }
}

#[test]
fn tables_are_bounded_before_they_are_allocated() {
    let mut file = write(&sample(1, 0), "");
    // 2^50 sectors: a directory of 64 GiB.
    put(&mut file, 12, &(1u64 << 50).to_le_bytes());
    let text = String::from_utf8(file[512..21 * 512].to_vec()).expect("ASCII");
    let text = text.replace("RW 128 ", &format!("RW {} ", 1u64 << 50));
    put(&mut file, 512, &text.as_bytes()[..20 * 512]);
    assert_eq!(open(&file).expect_err("too large").kind(), ErrorKind::Limit);
}

#[test]
fn the_check_finds_damaged_tables_and_markers() {
    let disk = sample(5, 0);
    let sparse = write(&disk, "");
    let stream = write(&disk, "subformat=streamOptimized");
    let sector = |file: &[u8], at: usize| {
        u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes")) as usize * 512
    };
    // Damages both copies. The only grain table follows its directory.
    let (rgt, gt) = (sector(&sparse, 48) + 512, sector(&sparse, 56) + 512);
    let both = |entry: usize, value: u32| {
        let mut file = sparse.clone();
        put(&mut file, gt + entry * 4, &value.to_le_bytes());
        put(&mut file, rgt + entry * 4, &value.to_le_bytes());
        check(&file)
    };
    let found = |findings: Vec<String>, expected: &str| {
        assert!(findings.len() == 1 && findings[0].contains(expected), "{expected}: {findings:?}");
    };
    let first = u32::from_le_bytes(sparse[gt..gt + 4].try_into().expect("4 bytes"));
    found(both(1, first), "overlaps another");
    found(both(1, first + 1), "overlaps another");
    found(both(1, 1 << 30), "beyond the end of the file");
    found(both(1, 22), "the extent's metadata");
    let mut file = sparse.clone();
    put(&mut file, rgt, &[0; 4]);
    found(check(&file), "the redundant one");
    let mut file = sparse.clone();
    put(&mut file, gt - 512, &[0xff; 4]);
    found(check(&file), "point beyond the end of the file");

    // A grain without a table entry, and a marker with a wrong size.
    let tail = stream.len() - 1024;
    let table = sector(&stream, tail + 56) - 512 - 2048;
    let mut file = stream.clone();
    put(&mut file, table, &[0; 4]);
    found(check(&file), "no table references the grain");
    let mut file = stream.clone();
    put(&mut file, table - 512, &u32::MAX.to_le_bytes());
    assert!(check(&file)[0].contains("points beyond the end of the file"));
    let mut file = stream.clone();
    put(&mut file, 64 << 10, &[9]);
    let findings = check(&file);
    assert!(findings.iter().any(|f| f.contains("says sector 9")), "{findings:?}");
}

#[test]
fn reading_and_checking_with_a_damaged_byte_never_panic() {
    let disk = sample(5, 512);
    for file in [
        write(&disk, ""),
        write(&disk, "subformat=streamOptimized"),
        Stream { footer: false, markers: false, ..Stream::default() }.build(&disk[..4 * GRAIN]),
    ] {
        let front = 0..80;
        let tables = 21 * 512..30 * 512;
        let tail = file.len().saturating_sub(4096)..file.len();
        for at in front.chain(tables.step_by(61)).chain(tail.step_by(11)) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut file = file.clone();
                file[at] = value;
                let Ok(image) = open(&file) else { continue };
                let _ = image.check(&mut |_| ());
                let end = image.size().min(256 << 10);
                let mut disk = vec![0; end as usize];
                let _ = image.read_at(&mut disk, 0);
                let _ = image.read_at(&mut disk[..1], image.size() - 1);
            }
        }
    }
}
