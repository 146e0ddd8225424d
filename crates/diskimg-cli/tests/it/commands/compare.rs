//! Compares `compare` with that of qemu-img, including exit codes.

use crate::support::{Lab, write_at};

fn images() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.raw("b.raw");
    write_at(&lab.path("b.raw"), 300_032, b"!");
    let longer = [lab.read("a.raw"), vec![b'!'; 512]].concat();
    std::fs::write(lab.path("longer.raw"), longer).unwrap();
    std::fs::write(lab.path("long.raw"), [lab.read("a.raw"), vec![0; 512]].concat()).unwrap();
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -O qcow2 -S 0 a.raw full.qcow2").ok();
    lab
}

#[test]
fn output_and_exit_codes_equal_qemu_imgs() {
    let lab = images();
    for (line, code) in [
        ("a.raw a.qcow2", 0),
        ("a.raw full.qcow2", 0),
        ("a.raw b.raw", 1),
        ("a.raw long.raw", 0),
        ("-s a.raw long.raw", 1),
        ("a.raw longer.raw", 1),
        ("longer.raw b.raw", 1),
        ("-f raw -F qcow2 a.raw a.qcow2", 0),
        ("-q a.raw b.raw", 1),
        ("-q a.raw a.qcow2", 0),
    ] {
        let line = format!("compare {line}");
        let (ours, theirs) = (lab.line(&line), lab.qemu(&line));
        assert_eq!((ours.code, &ours.out), (Some(code), &theirs.out), "{line}");
        assert_eq!((theirs.code, ours.err.as_str()), (Some(code), ""), "{line}");
    }
}

#[test]
fn an_image_that_cannot_be_opened_gives_exit_code_2() {
    let lab = images();
    for line in ["compare a.raw nope", "compare nope a.raw", "compare -f qcow2 a.raw a.raw"] {
        lab.line(line).fails(2);
        lab.qemu(line).fails(2);
    }
}

#[test]
fn progress_is_printed_before_the_result() {
    let lab = images();
    let stdout = lab.line("compare -p a.raw a.qcow2").ok();
    assert!(stdout.starts_with("    (0.00/100%)\r"), "{stdout:?}");
    assert!(stdout.ends_with("    (100.00/100%)\rImages are identical.\n\n"), "{stdout:?}");
    assert_eq!(stdout.matches("(100.00/100%)").count(), 1, "{stdout:?}");
}

#[test]
fn the_offset_of_a_difference_is_exact_to_the_byte() {
    let lab = images();
    write_at(&lab.path("b.raw"), 300_001, b"!");
    write_at(&lab.path("b.raw"), 300_032, b"y");
    let ran = lab.line("compare a.raw b.raw");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "Content mismatch at offset 300001!\n"));
}
