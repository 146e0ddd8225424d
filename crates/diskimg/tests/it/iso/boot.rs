//! Images that start.

use super::machine::{Firmware, Medium, bios_image, efi_image, mbr_code, start};
use crate::tool::run;
use std::path::{Path, PathBuf};

/// What xorriso makes starts: else the programs in these tests are wrong, not our images.
#[test]
fn the_machine_starts_what_xorriso_makes() {
    let dir = tempfile::tempdir().unwrap();
    let image = xorriso_hybrid(dir.path());
    for (medium, firmware, word) in [
        (Medium::Disc, Firmware::Bios, "from-image"),
        (Medium::Disk, Firmware::Bios, "from-image"),
        (Medium::Disc, Firmware::Uefi, "from-efi"),
    ] {
        let said = start(&image, medium, firmware);
        assert!(said.contains(word), "{medium:?} {firmware:?}: {said:?}");
    }
}

fn xorriso_hybrid(dir: &Path) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("xorriso.iso"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("boot.bin"), bios_image("from-image", "from-behind")).unwrap();
    std::fs::copy(efi_image(dir, "from-efi"), tree.join("efi.img")).unwrap();
    let mbr = dir.join("mbr");
    std::fs::write(&mbr, &mbr_code()[..432]).unwrap();
    let mut args = vec!["-as", "mkisofs", "-quiet", "-o", image.to_str().unwrap(), "-R"];
    args.extend(["-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    args.extend(["-isohybrid-mbr", mbr.to_str().unwrap(), "-eltorito-alt-boot"]);
    args.extend(["-e", "efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat"]);
    args.push(tree.to_str().unwrap());
    run("xorriso", args);
    image
}
