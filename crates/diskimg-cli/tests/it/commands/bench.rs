//! `bench`, compared with qemu-img.

use crate::support::Lab;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab
}

/// Returns the output without the time.
fn without_time(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.parse::<f64>() {
        Ok(_) if word.contains('.') => "TIME",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn output_exit_codes_and_what_is_written_are_those_of_qemu_img() {
    for line in [
        "bench -c 100 a.qcow2",
        "bench -f qcow2 -c 0x10 -s 64k -d 3 -o 128k -S 1M a.qcow2",
        "bench -c 10 -t none -i threads -n -q -U a.qcow2",
        "bench -c 10 --image-opts driver=qcow2,file.filename=a.qcow2",
        "bench -f raw -w -c 10 --pattern 0x41 -o 4k a.raw",
        "bench -f raw -w -c 20 -d 2 -s 512 -S 1k --flush-interval 5 --no-drain a.raw",
        "bench -c 3 -s 1000000 -o 500000 a.raw",
        "bench -f raw -w -c 1 -s 1M -o 4k a.raw",
        "bench -c x a.raw",
        "bench -d -1 a.raw",
        "bench -s 4G a.raw",
        "bench -S 2G a.raw",
        "bench --pattern 256 -w a.raw",
        "bench --flush-interval 5 a.raw",
        "bench -w --flush-interval 5 a.raw",
        "bench -t some a.raw",
        "bench -i some a.raw",
        "bench missing.raw",
        "bench",
        "bench a.raw a.raw",
    ] {
        let (ours, theirs) = (lab(), lab());
        let (ran, qemu) = (ours.line(line), theirs.qemu(line));
        assert_eq!(ran.code, qemu.code, "{line}: {}", ran.err);
        assert_eq!(without_time(&ran.out), without_time(&qemu.out), "{line}");
        assert_eq!(
            ran.err.is_empty(),
            qemu.err.is_empty() || qemu.err.contains("WARNING"),
            "{line}"
        );
        if ran.code == Some(0) {
            assert!(ours.read("a.raw") == theirs.read("a.raw"), "{line}");
        }
        assert!(ours.read("a.raw").len() == 1 << 20, "{line}");
    }
}

#[test]
fn numbers_have_the_limits_of_qemu_img() {
    let lab = lab();
    for given in [
        "-c 0",
        "-c -1",
        "-c x",
        "-c 1k",
        "-c 2147483648",
        "-d 0",
        "-d 2147483648",
        "-d 99999999999999999999",
        "-s 0",
        "-s -1",
        "-s x",
        "-s 2G",
        "-S -1",
        "-S x",
        "-S 2G",
        "-o x",
        "-o -1",
        "-o 9223372036854775808",
        "-w --pattern 256",
        "-w --pattern -1",
        "-w --flush-interval x",
        "-w --flush-interval -1",
    ] {
        let line = format!("bench -f raw {given} a.raw");
        let theirs = lab.qemu(&line).fails(1);
        let message = theirs.trim().trim_start_matches("qemu-img: ").trim_end_matches('.');
        assert!(message.starts_with("Invalid "), "{message}");
        let ours = lab.line(&line).fails(1);
        assert!(ours.contains(message), "{line}: {ours}, instead of {theirs}");
    }
    lab.line("bench -f raw -c 1 -d 1 -s 1 -S 0 a.raw").ok();
}

#[test]
fn only_a_disk_whose_format_is_given_is_overwritten() {
    let lab = lab();
    let before = (lab.read("a.raw"), lab.read("a.qcow2"));
    for line in ["bench -w -c 1 a.raw", "bench -w -c 1 a.qcow2"] {
        let error = lab.line(line).fails(1);
        assert!(error.contains("name its format"), "{line}: {error}");
    }
    assert!((lab.read("a.raw"), lab.read("a.qcow2")) == before);
}

#[test]
fn images_of_every_format_that_can_be_modified_are_written() {
    for (format, qemu) in [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vhd", "vpc"),
        ("vhdx", "vhdx"),
        ("vdi", "vdi"),
        ("qed", "qed"),
        ("qcow", "qcow"),
        ("parallels", "parallels"),
    ] {
        let lab = Lab::new();
        lab.qemu(&format!("create -q -f {qemu} a.img 8M")).ok();
        lab.qemu("create -q -f raw a.raw 8M").ok();
        let job = "-c 25 -d 3 -s 5000 -o 1000 -S 300001 --pattern 0x41 --flush-interval 10";
        lab.line(&format!("bench -f {format} -w {job} a.img")).ok();
        lab.line(&format!("bench -f raw -w {job} a.raw")).ok();
        lab.qemu(&format!("compare -f {qemu} -F raw a.img a.raw")).ok();
        if !["vpc", "qcow"].contains(&qemu) {
            lab.qemu(&format!("check -q -f {qemu} a.img")).ok();
        }
        // A request that exceeds the disk.
        let error = lab.line(&format!("bench -f {format} -w -c 1 -s 1M -o 7900k a.img")).fails(1);
        assert!(error.contains("exceed the disk"), "{error}");
    }
    let lab = Lab::new();
    lab.qemu("create -q -f vmdk -o subformat=twoGbMaxExtentSparse a.vmdk 8M").ok();
    lab.line("bench -f vmdk -w -c 9 --pattern 7 --external-files any a.vmdk").ok();
    lab.qemu("create -q -f raw a.raw 8M").ok();
    lab.line("bench -f raw -w -c 9 --pattern 7 a.raw").ok();
    lab.qemu("compare -f vmdk -F raw a.vmdk a.raw").ok();
    lab.raw("b.raw");
    lab.qemu("convert -f raw -O vmdk -o subformat=streamOptimized b.raw b.vmdk").ok();
    let error = lab.line("bench -f vmdk -w -c 1 b.vmdk").fails(1);
    assert!(error.contains("as a whole"), "{error}");
}
