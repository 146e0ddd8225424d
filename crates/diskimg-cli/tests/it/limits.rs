//! `--limit`: how much an image may ask for.

use crate::support::Lab;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1G").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2").ok();
    lab
}

#[test]
fn every_verb_that_reads_images_keeps_the_limits_it_is_given() {
    let lab = lab();
    // The refcount table has a cluster of 64 KiB.
    for line in [
        "info a.qcow2",
        "check a.qcow2",
        "map a.qcow2",
        "compare a.qcow2 a.qcow2",
        "measure -O raw a.qcow2",
        "convert -O raw a.qcow2 a.raw",
        "convert -O qcow2 -B a.qcow2 -F qcow2 a.qcow2 over.qcow2",
        "create -q -f qcow2 -b a.qcow2 -F qcow2 c.qcow2",
        "iso ls a.qcow2",
    ] {
        let refused = lab.line(&format!("{line} --limit table_bytes=65535")).err;
        for said in ["65536 bytes", "the limit table_bytes is 65535", "--limit table_bytes=N"] {
            assert!(refused.contains(said), "{line}: {refused}");
        }
        let raised = lab.line(&format!("{line} --limit table_bytes=1 --limit table_bytes=64k")).err;
        assert!(!raised.contains("limit"), "{line}: {raised}");
    }
    let error = lab.line("map b.qcow2 --limit chain_depth=1").fails(1);
    assert!(error.contains("the limit chain_depth is 1"), "{error}");
}

#[test]
fn a_limit_that_makes_no_sense_is_an_error_and_help_lists_them() {
    let lab = lab();
    for wrong in ["tables=1", "table_bytes", "table_bytes=", "table_bytes=much", "table_bytes=-1"] {
        let error = lab.line(&format!("info --limit {wrong} a.qcow2")).fails(1);
        assert!(error.contains(&format!("--limit {wrong}")), "{error}");
    }
    assert!(
        lab.line("info --limit tables=1 a.qcow2").fails(1).contains("chain_depth, table_bytes")
    );
    for line in ["info --limit help", "convert --limit help", "iso ls --limit help"] {
        let help = lab.line(line).ok();
        assert!(help.contains("\n  chain_depth=200 "), "{line}: {help}");
    }
}
