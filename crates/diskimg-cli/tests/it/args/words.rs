//! Names of formats, options and values that are usual or mistyped.

use crate::support::Lab;

#[test]
fn formats_have_other_usual_names_in_any_case() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (name, format) in
        [("QCOW2", "qcow2"), ("Vmdk", "vmdk"), ("RAW", "raw"), ("img", "raw"), ("dd", "raw")]
    {
        lab.line(&format!("convert -f IMG -O {name} a.raw out")).ok();
        let info = lab.qemu("info out").ok();
        assert!(info.contains(&format!("file format: {format}\n")), "{name}: {info}");
        lab.line(&format!("info -f {name} out")).ok();
    }
    lab.line("convert -O ovf a.raw out.ova").ok();
}

#[test]
fn formats_that_are_not_supported_are_named_and_mistyped_ones_suggested() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let all = "supported formats: qcow2, vmdk, vpc, vhdx, vdi, qed, qcow, parallels, \
               sparseimage, sparsebundle, asif, ewf, cloop, bochs, dmg, ova, iso, raw";
    for (name, message) in [
        ("wim", "the format 'wim' (a WIM image) is recognized, but not supported"),
        ("SIMG", "the format 'simg' (an Android sparse image) is recognized, but not supported"),
        ("qe", "did you mean 'qed'?"),
        ("qcow3", "Unknown driver 'qcow3' (did you mean 'qcow2'?"),
        ("vmkd", "Unknown driver 'vmkd' (did you mean 'vmdk'?"),
        ("nonsense", "Unknown driver 'nonsense' (supported formats"),
    ] {
        for line in [
            format!("convert -O {name} a.raw out"),
            format!("info -f {name} a.raw"),
            format!("create -f {name} out 1M"),
            format!("measure -O {name} --size 1M"),
        ] {
            let error = lab.line(&line).fails(1);
            assert!(error.contains(message) && error.contains(all), "{line}: {error}");
        }
    }
    let error = lab.line("convert -O streamoptimized a.raw out.vmdk").fails(1);
    assert!(error.contains("(-O vmdk -o subformat=streamOptimized)"), "{error}");
    assert!(!lab.path("out").exists() && !lab.path("out.vmdk").exists());
}

#[test]
fn an_ovf_is_not_written_as_an_archive_under_its_name() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["convert a.raw out.ovf", "convert -O ova a.raw out.OVF"] {
        assert!(lab.line(line).fails(1).contains("use a name that ends in .ova"), "{line}");
    }
    assert!(!lab.path("out.ovf").exists() && !lab.path("out.OVF").exists());
}

#[test]
fn mistyped_options_snapshots_limits_and_objects_are_suggested() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 s.qcow2 1M").ok();
    lab.qemu("snapshot -c before s.qcow2").ok();
    for (line, meant) in [
        ("convert -O qcow2 -o cluster_sise=4k s.qcow2 out", "did you mean 'cluster_size'?"),
        ("create -f vmdk -o subfromat=x out 1M", "did you mean 'subformat'?"),
        ("measure -O qcow2 -o extended_12=on s.qcow2", "did you mean 'extended_l2'?"),
        ("convert -l befor s.qcow2 out", "'before'"),
        ("info --limit snapshot=1 s.qcow2", "did you mean 'snapshots'?"),
        ("info --object secert,id=s,data=x s.qcow2", "did you mean 'secret'?"),
        ("info --object secret,id=s,dat=x s.qcow2", "did you mean 'data'?"),
        ("info --sandbx=off s.qcow2", "did you mean '--sandbox'?"),
        ("convert --reflink=nevr s.qcow2 out", "one of auto, always, never"),
        ("convert --external-files=al s.qcow2 out", "one of: none, same-dir, any"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(meant), "{line}: {error}");
        assert!(!lab.path("out").exists(), "{line}");
    }
}

#[test]
fn ambiguous_abbreviations_are_errors_that_name_the_options() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let error = lab.line("convert --source a.raw b.raw").fails(1);
    let options = "possibilities: '--source-format' '--source-cache'\nTry";
    assert!(error.starts_with("diskimg convert: option '--source' is ambiguous; "), "{error}");
    assert!(error.contains(options), "{error}");
    lab.line("convert --source-f raw --output-f qcow2 a.raw b.qcow2").ok();
    // An exact name is no abbreviation: there is --force-share, too.
    lab.line("convert --force a.raw b.qcow2").ok();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(crate::support::diskimg(), lab.path("qemu-img")).expect("links");
        let mut command = lab.command(lab.path("qemu-img"));
        command.args(["info", "--outp=json", "a.raw"]);
        assert!(command.output().expect("runs").status.success());
    }
}

#[test]
fn the_extension_of_a_format_that_is_not_written_does_not_mean_raw() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["convert a.raw b.dmg", "create b.dmg 1M"] {
        let run = lab.line(line);
        assert_eq!(run.code, Some(1), "{line}: {run:?}");
        let text = "Format driver 'dmg' does not support image creation";
        assert!(run.err.contains(text) && run.err.contains("name the format raw"), "{run:?}");
        assert!(!lab.path("b.dmg").exists());
    }
    let run = lab.line("convert a.raw b.wim");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("the format 'wim' (a WIM image) is recognized"), "{run:?}");
    lab.line("convert -O raw a.raw b.dmg").ok();
    // Most people who write it mean qcow2.
    let run = lab.line("convert a.raw b.qcow");
    assert!(run.code == Some(1) && run.err.contains("may mean QCOW version 1 or qcow2"), "{run:?}");
    lab.line("convert -O qcow a.raw b.qcow").ok();
    lab.line("convert a.raw b.qed").ok();
    lab.line("convert -O raw a.raw b.vhdx").ok();
    lab.line("convert a.raw b.img").ok();
}

#[test]
fn the_format_of_a_backing_file_may_have_any_of_its_names() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for name in ["RAW", "img"] {
        lab.line(&format!("create -f qcow2 -b a.raw -F {name} o.qcow2")).ok();
        lab.qemu("info o.qcow2").ok();
        assert!(lab.line("info o.qcow2").ok().contains("backing file format: raw"), "{name}");
    }
}
