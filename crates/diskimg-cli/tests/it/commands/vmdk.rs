//! What the command says of a VMDK's parents, parts and damages.

use crate::support::{Lab, write_at};

#[test]
fn a_changed_parent_is_refused_until_it_is_said_to_be_right() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk a.raw base.vmdk").ok();
    lab.qemu("create -q -f vmdk -b base.vmdk -F vmdk child.vmdk").ok();
    let base = lab.read("base.vmdk");
    let cid = base.windows(5).position(|w| w == b"\nCID=").expect("a CID") + 5;
    // qemu-img leaves out leading zeros.
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
fn what_was_damaged_and_made_up_for_is_a_warning() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
    let gd = u64::from_le_bytes(lab.read("a.vmdk")[56..64].try_into().expect("8 bytes")) * 512;
    write_at(&lab.path("a.vmdk"), gd, &[0xff; 4]);
    for line in ["convert a.vmdk out.raw", "compare a.raw a.vmdk"] {
        let ran = lab.line(line);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let said = "diskimg: warning: a.vmdk: damaged entries of the grain directory: 1; \
                    the redundant copy is used instead\n";
        assert_eq!(ran.err, said);
    }
    assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
    assert!(lab.line("info a.vmdk").ok().contains("note: damaged entries"));
    assert_eq!(lab.line("check a.vmdk").code, Some(2));
}

#[test]
fn a_disk_in_several_files_is_checked_in_all_of_them() {
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
fn what_an_image_says_does_not_command_the_terminal() {
    let lab = Lab::new();
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
                createType=\"custom\"\nRW 8 FLAT \"\u{1b}[2Jgpj\u{202e}.vmdk\" 0\n";
    std::fs::write(lab.path("a.vmdk"), text).unwrap();
    for line in ["check a.vmdk", "info a.vmdk", "convert a.vmdk out.raw", "map a.vmdk"] {
        let ran = lab.line(line);
        let said = ran.out + &ran.err;
        assert!(!said.contains(['\u{1b}', '\u{202e}']), "{line}: {said:?}");
        assert!(said.contains("\\u{1b}[2Jgpj\\u{202e}.vmdk"), "{line}: {said:?}");
    }
}
