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
