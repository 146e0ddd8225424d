//! The commands, and the images that they modify.

use super::Case;
use crate::support::Lab;
use std::process::Stdio;

const fn qcow2(line: &'static str) -> Case {
    Case { line, image: "top.qcow2", format: "qcow2", files: &["top.qcow2"] }
}

const fn other(line: &'static str, image: &'static str, format: &'static str) -> Case {
    // An image of one file.
    let files: &[&str] = match image.as_bytes() {
        b"map.qcow2" => &["map.qcow2"],
        b"disk.vhd" => &["disk.vhd"],
        b"disk.vhdx" => &["disk.vhdx"],
        b"disk.vdi" => &["disk.vdi"],
        b"disk.qed" => &["disk.qed"],
        b"disk.hds" => &["disk.hds"],
        _ => panic!("an image of the lab"),
    };
    Case { line, image, format, files }
}

pub(super) const CASES: &[Case] = &[
    qcow2("snapshot -c new top.qcow2"),
    qcow2("snapshot -a s1 top.qcow2"),
    qcow2("snapshot -d s1 top.qcow2"),
    qcow2("resize top.qcow2 +3M"),
    qcow2("resize --preallocation falloc top.qcow2 +64k"),
    qcow2("resize --shrink top.qcow2 300k"),
    qcow2("rebase -F qcow2 -b other.qcow2 top.qcow2"),
    qcow2("rebase -c -F qcow2 -b other.qcow2 top.qcow2"),
    qcow2("rebase -F qcow2 -b '' top.qcow2"),
    qcow2("convert -n -O qcow2 new.raw top.qcow2"),
    qcow2("amend -o refcount_bits=64 top.qcow2"),
    qcow2("amend -o lazy_refcounts=on top.qcow2"),
    other("amend -f qcow2 -o compat=0.10 map.qcow2", "map.qcow2", "qcow2"),
    other("bitmap --add --disable -g 4k map.qcow2 new", "map.qcow2", "qcow2"),
    other("bitmap --remove map.qcow2 b1", "map.qcow2", "qcow2"),
    other("bitmap --merge b0 map.qcow2 b1", "map.qcow2", "qcow2"),
    other("resize map.qcow2 2M", "map.qcow2", "qcow2"),
    other("resize --shrink map.qcow2 100k", "map.qcow2", "qcow2"),
    Case {
        line: "commit top.qcow2",
        image: "top.qcow2",
        format: "qcow2",
        files: &["top.qcow2", "base.qcow2"],
    },
    Case {
        line: "commit -d top.qcow2",
        image: "top.qcow2",
        format: "qcow2",
        files: &["top.qcow2", "base.qcow2"],
    },
    Case {
        line: "resize -f qcow2 data.qcow2 +1M",
        image: "data.qcow2",
        format: "qcow2",
        files: &["data.qcow2", "data.raw"],
    },
    Case {
        line: "convert -n -O qcow2 new.raw data.qcow2",
        image: "data.qcow2",
        format: "qcow2",
        files: &["data.qcow2", "data.raw"],
    },
    other("resize disk.vhd 3M", "disk.vhd", "vhd"),
    other("resize disk.vhdx 9M", "disk.vhdx", "vhdx"),
    other("resize disk.vdi 9M", "disk.vdi", "vdi"),
    other("resize --shrink disk.vdi 512k", "disk.vdi", "vdi"),
    other("resize disk.qed 3M", "disk.qed", "qed"),
    other("resize disk.hds 3M", "disk.hds", "parallels"),
    other("convert -n -O vdi new.raw disk.vdi", "disk.vdi", "vdi"),
    other("convert -n -O vhdx new.raw disk.vhdx", "disk.vhdx", "vhdx"),
];

/// Returns the case with this command line.
pub(super) fn case_of(line: &str) -> Case {
    *CASES.iter().find(|case| case.line == line).expect("a case")
}

/// Creates the images, with qemu-img and qemu-io.
pub(super) fn lab() -> Lab {
    let lab = Lab::new();
    let size = 1 << 20;
    std::fs::write(lab.path("base.raw"), bytes(1, size)).expect("writes");
    std::fs::write(lab.path("new.raw"), bytes(2, size)).expect("writes");
    lab.qemu("convert -O qcow2 -o cluster_size=4k base.raw base.qcow2").ok();
    lab.qemu("convert -O qcow2 new.raw other.qcow2").ok();
    // Clusters of 512 bytes, so that tables have to grow.
    lab.qemu("create -q -f qcow2 -F qcow2 -b base.qcow2 -o cluster_size=512 top.qcow2").ok();
    let io = |format: &str, commands: &[&str], name: &str| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let args = ["-f", format].into_iter().chain(commands).chain([name]);
        let status = lab.command("qemu-io").args(args).stdout(Stdio::null()).status();
        assert!(status.expect("runs").success(), "{name}");
    };
    io("qcow2", &["write -P 3 10k 70k", "write -c -P 4 300k 64k", "write -z 500k 9k"], "top.qcow2");
    lab.qemu("snapshot -c s1 top.qcow2").ok();
    std::fs::copy(lab.path("top.qcow2"), lab.path("map.qcow2")).expect("copies");
    for bitmap in ["b0", "b1"] {
        lab.qemu(&format!("bitmap --add -g 512 map.qcow2 {bitmap}")).ok();
    }
    io("qcow2", &["write -P 8 90k 200k", "write -P 9 900k 10k"], "map.qcow2");
    io("qcow2", &["write -P 5 40k 70k", "write -P 6 700k 3k", "write -P 7 1000k 1k"], "top.qcow2");
    lab.qemu("create -q -f qcow2 -o data_file=data.raw,data_file_raw=on data.qcow2 1M").ok();
    io("qcow2", &["write -P 3 10k 170k"], "data.qcow2");
    for (format, name) in [
        ("vpc", "disk.vhd"),
        ("vhdx", "disk.vhdx"),
        ("vdi", "disk.vdi"),
        ("qed", "disk.qed"),
        ("parallels", "disk.hds"),
    ] {
        lab.qemu(&format!("create -q -f {format} {name} 1M")).ok();
        io(format, &["write -P 3 10k 170k", "write -P 4 700k 20k"], name);
    }
    lab
}

/// Returns bytes of which some ranges are zero.
fn bytes(seed: u8, size: usize) -> Vec<u8> {
    let byte = |n: usize| if n / 50_000 % 3 == 1 { 0 } else { (n / 512) as u8 ^ seed };
    (0..size).map(byte).collect()
}

/// Copies the files that a case modifies from one directory to another.
pub(super) fn copy(case: &Case, from: &Lab, to: &Lab) {
    for name in case.files {
        std::fs::copy(from.path(name), to.path(name)).expect("copies");
    }
}
