//! Tests of VMDK parents, extents and damage.

use crate::support::{Lab, write_at};

#[test]
fn a_modified_parent_is_an_error_without_ignore_cid() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk a.raw base.vmdk").ok();
    lab.qemu("create -q -f vmdk -b base.vmdk -F vmdk child.vmdk").ok();
    let base = lab.read("base.vmdk");
    let cid = base.windows(5).position(|w| w == b"\nCID=").expect("a CID") + 5;
    // qemu-img omits leading zeros.
    let digits = base[cid..].iter().take_while(|&&b| b != b'\n').count();
    write_at(&lab.path("base.vmdk"), cid as u64, format!("{:0>digits$}", 1).as_bytes());
    for line in ["convert child.vmdk out.raw", "map child.vmdk", "compare a.raw child.vmdk"] {
        let error = lab.line(line).err;
        assert!(error.contains("00000001") && error.contains("--ignore-cid"), "{line}: {error}");
    }
    lab.line("convert --ignore-cid child.vmdk out.raw").ok();
    assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
}

#[test]
fn a_parent_without_a_name_is_an_error_without_ignore_cid() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
    let image = lab.read("a.vmdk");
    let cid = image.windows(19).position(|w| w == b"\nparentCID=ffffffff").expect("a CID");
    write_at(&lab.path("a.vmdk"), cid as u64, b"\nparentCID=abcdef01");
    for line in ["convert a.vmdk out.raw", "map a.vmdk", "compare a.raw a.vmdk"] {
        let error = lab.line(line).err;
        assert!(error.contains("abcdef01") && error.contains("--ignore-cid"), "{line}: {error}");
    }
    assert!(lab.line("info a.vmdk").ok().contains("note: parentCID is abcdef01"));
    assert_eq!(lab.line("check a.vmdk").code, Some(2));
    lab.line("check --ignore-cid a.vmdk").ok();
    lab.line("info --ignore-cid a.vmdk").ok();
    lab.line("map --ignore-cid a.vmdk").ok();
    lab.line("convert --ignore-cid a.vmdk out.raw").ok();
    assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
}

#[test]
fn an_extent_alone_is_an_error_that_names_the_descriptor() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk -o subformat=twoGbMaxExtentSparse a.raw a.vmdk").ok();
    for line in ["convert a-s001.vmdk out.raw", "info a-s001.vmdk", "check a-s001.vmdk"] {
        let error = lab.line(line).fails(1);
        assert!(error.contains("probably 'a.vmdk'"), "{line}: {error}");
    }
}

#[test]
fn a_flat_extent_alone_is_a_raw_disk_with_a_warning_unless_the_format_is_named() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk -o subformat=twoGbMaxExtentFlat a.raw a.vmdk").ok();
    let ran = lab.line("convert -O raw a-f001.vmdk out.raw");
    assert!(ran.code == Some(0) && ran.err.contains("'a.vmdk' describes all of it"), "{ran:?}");
    assert!(lab.line("info a-f001.vmdk").ok().contains("note: the name is that of an extent"));
    lab.line("convert -f raw -O raw a-f001.vmdk out.raw").ok();
}

#[test]
fn a_truncated_stream_is_salvaged() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O vmdk -o subformat=streamOptimized a.raw a.vmdk").ok();
    let mut bytes = lab.read("a.vmdk");
    bytes.truncate(bytes.len() - 600);
    std::fs::write(lab.path("a.vmdk"), bytes).expect("writes");
    let error = lab.line("convert a.vmdk out.raw").fails(1);
    assert!(error.contains("'diskimg convert --salvage' reads what is left"), "{error}");
    let salvaged = lab.line("convert --salvage a.vmdk out.raw");
    assert_eq!(salvaged.code, Some(0), "{}", salvaged.err);
    assert!(salvaged.err.contains("were found by their markers"), "{}", salvaged.err);
    assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
    assert_eq!(lab.line("check a.vmdk").code, Some(2));
}

#[test]
fn tolerated_damage_is_a_warning() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
    let gd = u64::from_le_bytes(lab.read("a.vmdk")[56..64].try_into().expect("8 bytes")) * 512;
    write_at(&lab.path("a.vmdk"), gd, &[0xff; 4]);
    for line in ["convert a.vmdk out.raw", "compare a.raw a.vmdk"] {
        let ran = lab.line(line);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let warning = "diskimg: warning: a.vmdk: damaged entries of the grain directory: 1; \
                    the redundant copy is used instead\n";
        assert_eq!(ran.err, warning);
    }
    assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
    assert!(lab.line("info a.vmdk").ok().contains("note: damaged entries"));
    assert_eq!(lab.line("check a.vmdk").code, Some(2));
}

#[test]
fn every_file_of_a_split_image_is_checked() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O vmdk -o subformat=twoGbMaxExtentSparse a.raw a.vmdk").ok();
    lab.line("check a.vmdk").ok();
    std::fs::remove_file(lab.path("a-s001.vmdk")).expect("removes");
    assert_eq!(lab.line("check a.vmdk").code, Some(1));
    let info = lab.line("info a.vmdk").ok();
    assert!(info.contains("note: extent line 'RW 2048 SPARSE \"a-s001.vmdk\"'"), "{info}");
    lab.line("convert a.vmdk out.raw").fails(1);
}

#[test]
fn control_characters_from_an_image_are_escaped() {
    let lab = Lab::new();
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
                createType=\"custom\"\nRW 8 FLAT \"\u{1b}[2Jgpj\u{202e}.vmdk\" 0\n";
    std::fs::write(lab.path("a.vmdk"), text).unwrap();
    for line in ["check a.vmdk", "info a.vmdk", "convert a.vmdk out.raw", "map a.vmdk"] {
        let ran = lab.line(line);
        let output = ran.out + &ran.err;
        assert!(!output.contains(['\u{1b}', '\u{202e}']), "{line}: {output:?}");
        assert!(output.contains("\\u{1b}[2Jgpj\\u{202e}.vmdk"), "{line}: {output:?}");
    }
}

#[test]
fn qemu_writes_to_a_new_stream_optimized_image() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let size = lab.read("a.raw").len();
    lab.qemu("convert -O vmdk a.raw base.vmdk").ok();
    for options in ["", "-o zeroed_grain=on"] {
        let stream = "create -q -f vmdk -o subformat=streamOptimized";
        lab.line(&format!("{stream} {options} a.vmdk {size}")).ok();
        lab.line("check a.vmdk").ok();
        lab.qemu("convert -n -O vmdk a.raw a.vmdk").ok();
        lab.qemu("compare a.raw a.vmdk").ok();
        lab.line("compare a.raw a.vmdk").ok();
        lab.line(&format!("{stream} {options} -b base.vmdk -F vmdk top.vmdk")).ok();
        lab.qemu("compare a.raw top.vmdk").ok();
        lab.line("compare a.raw top.vmdk").ok();
    }
    // What is converted is a stream that VMware's tools read, without a backing file.
    let line = "convert -O vmdk -o subformat=streamOptimized -B base.vmdk -F vmdk a.raw b.vmdk";
    let error = lab.line(line).fails(1);
    assert!(error.contains("can't have backing file"), "{error}");
    lab.line("convert -O vmdk -o subformat=streamOptimized a.raw b.vmdk").ok();
    assert!(lab.read("b.vmdk")[56..64] == [0xff; 8], "the directory is at the end");
}
