//! Tests of mkisofs options and their errors.

use crate::support::{Lab, diskimg};

#[test]
fn unknown_and_missing_options_are_errors_that_name_them() {
    let lab = Lab::new();
    lab.seed();
    for (line, message) in [
        ("mkisofs -frobnicate -o out.iso user-data", "unrecognized option '-frobnicate'"),
        ("mkisofs -hfs -o out.iso user-data", "the option -hfs is not supported"),
        ("genisoimage -z -o out.iso user-data", "the option -z is not supported"),
        ("xorrisofs -o out.iso --part_like_isohybrid user-data", "not supported"),
        ("mkisofs user-data -o", "option requires an argument: -o"),
        ("mkisofs -o out.iso", "Missing pathspec"),
        ("mkisofs -o out.iso nope", "nope: "),
        ("mkisofs -o out.iso -b isolinux.bin user-data", "isolinux.bin"),
        ("mkisofs -o out.iso -V 123456789012345678901234567890123 user-data", "32"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(message), "{line}: {error}");
        assert!(!lab.path("out.iso").exists(), "{line}");
    }
}

#[test]
fn help_and_version_use_the_name_of_the_program() {
    let lab = Lab::new();
    for option in ["-help", "--help"] {
        let help = lab.run(["mkisofs", option]).ok();
        assert!(
            help.contains("Usage: diskimg mkisofs") && help.contains("-V, -volid ID"),
            "{help}"
        );
    }
    for name in ["mkisofs", "genisoimage", "xorrisofs", "xorriso", "osirrox"] {
        let link = lab.path(name);
        std::os::unix::fs::symlink(diskimg(), &link).expect("links");
        for option in ["-version", "--version"] {
            let ran = lab.command(&link).arg(option).output().expect("runs");
            let text = String::from_utf8(ran.stdout).expect("UTF-8");
            assert!(text.starts_with(&format!("{name} 2.01")), "{text}");
        }
        let ran = lab.command(&link).args(["-as", "cdrecord"]).output().expect("runs");
        let error = String::from_utf8(ran.stderr).expect("UTF-8");
        let native = ["xorriso", "osirrox"].contains(&name);
        assert_eq!(ran.status.code(), Some(if native { 5 } else { 1 }));
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
}

#[test]
fn without_rock_ridge_links_are_skipped_with_a_warning() {
    let lab = Lab::new();
    lab.file("dir/a", "a");
    std::os::unix::fs::symlink("a", lab.path("dir/link")).expect("links");
    let ran = lab.line("mkisofs -o out.iso dir");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("dir/link is skipped"), "{}", ran.err);
    assert_eq!(lab.isoinfo("out.iso", ""), ["/A.;1"]);
    lab.line("mkisofs -quiet -f -o out.iso dir").ok();
    assert_eq!(lab.isoinfo("out.iso", ""), ["/A.;1", "/LINK.;1"]);
}

#[test]
fn images_are_reproducible_and_no_time_is_after_source_date_epoch() {
    let lab = Lab::new();
    lab.config_drive();
    let build = |name: &str| {
        let ran = lab
            .command(diskimg())
            .args(["mkisofs", "-quiet", "-J", "-r", "-o", name, "drive"])
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .output()
            .expect("runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        lab.read(name)
    };
    let first = build("a.iso");
    for name in ["drive/openstack/latest/user_data", "drive/ec2/2009-04-04/meta-data.json"] {
        let text = std::fs::read(lab.path(name)).expect("reads");
        std::fs::write(lab.path(name), text).expect("changes the time");
    }
    assert!(first == build("b.iso"));
    let listed = lab.line("iso ls -lR a.iso").ok();
    assert!(listed.lines().all(|line| line.contains("2001-09-09T01:46:40Z")), "{listed}");
    let ran = lab
        .command(diskimg())
        .args(["mkisofs", "-o", "c.iso", "drive"])
        .env("SOURCE_DATE_EPOCH", "yesterday")
        .output()
        .expect("runs");
    let error = String::from_utf8(ran.stderr).expect("UTF-8");
    assert!(error.contains("SOURCE_DATE_EPOCH=yesterday"), "{error}");
}
