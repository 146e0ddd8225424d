//! `snapshot`, compared with that of qemu-img.

use crate::support::Lab;

/// Returns a directory with images, one of which has the snapshots 1 ("first"), 2 ("2 words"), 3
/// ("first") and 4 ("1").
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -f raw -O qcow2 a.raw none.qcow2").ok();
    lab.qemu("create -q -f qcow2 -o data_file=data b.qcow2 1M").ok();
    lab.qemu("create -q -f qcow2 c.qcow2 1M").ok();
    lab.qemu("snapshot -c s c.qcow2").ok();
    lab.qemu("bitmap --add c.qcow2 b").ok();
    for name in ["first", "2words", "first", "1"] {
        lab.qemu(&format!("snapshot -c {name} a.qcow2")).ok();
    }
    lab
}

/// Removes the times from a list.
fn without_times(list: &str) -> String {
    let of_line = |line: &str| match line.get(34..) {
        Some(rest) if rest.trim_start().starts_with("20") => {
            format!("{}{}", &line[..34], &rest[20.min(rest.len())..])
        }
        _ => line.to_owned(),
    };
    list.lines().map(of_line).collect::<Vec<_>>().join("\n")
}

#[test]
fn snapshots_output_and_exit_codes_are_those_of_qemu_img() {
    for (arguments, message) in [
        ("a.qcow2", None),
        ("-l a.qcow2", None),
        ("-q -l a.qcow2", None),
        ("-U --list a.qcow2", None),
        ("none.qcow2", None),
        ("-l -f raw a.raw", None),
        ("-l a.raw", None),
        ("-l b.qcow2", None),
        ("-f qcow2 -l a.qcow2", None),
        ("-c new a.qcow2", None),
        ("-c new -q -f qcow2 none.qcow2", None),
        ("-c first a.qcow2", None),
        ("-a first a.qcow2", None),
        ("-a 2words a.qcow2", None),
        ("-a 1 a.qcow2", None),
        ("-a 4 a.qcow2", None),
        ("-a missing a.qcow2", Some("Could not apply snapshot 'missing'")),
        ("-d first a.qcow2", None),
        ("-d 1 a.qcow2", None),
        ("-d 2words a.qcow2", None),
        ("-d 2 a.qcow2", Some("Could not delete snapshot '2': snapshot not found")),
        ("-c x -f raw a.raw", Some("Could not create snapshot 'x': ")),
        ("-a x -f raw a.raw", Some("Could not apply snapshot 'x': ")),
        ("-d x -f raw a.raw", Some("Could not delete snapshot 'x': ")),
        ("-c x b.qcow2", Some("Could not create snapshot 'x': ")),
        ("-a x b.qcow2", Some("Could not apply snapshot 'x': ")),
        ("-d x b.qcow2", Some("Could not delete snapshot 'x': snapshot not found")),
        ("-c x c.qcow2", None),
        ("-a s c.qcow2", Some("Could not apply snapshot 's': ")),
        ("-d s c.qcow2", None),
        ("-l -c x a.qcow2", Some("Cannot mix '-l', '-a', '-c', '-d'")),
        ("-c x -c y a.qcow2", Some("Cannot mix '-l', '-a', '-c', '-d'")),
        ("-a x -d y a.qcow2", Some("Cannot mix '-l', '-a', '-c', '-d'")),
        ("-c x", Some("Expecting one image file name")),
        ("a.qcow2 c.qcow2", Some("Expecting one image file name")),
        ("-U -c x a.qcow2", Some("force-share=on can only be used with read-only images")),
        ("--image-opts -f qcow2 -l a.qcow2", Some("mutually exclusive")),
        ("--image-opts -l driver=qcow2,file.filename=a.qcow2", None),
        ("missing", Some("missing")),
        ("-c x missing", Some("missing")),
    ] {
        let (ours, theirs) = (lab(), lab());
        let line = format!("snapshot {arguments}");
        let (ran, qemu) = (ours.line(&line), theirs.qemu(&line));
        assert_eq!(ran.code, qemu.code, "{line}: {}", ran.err);
        assert_eq!(without_times(&ran.out), without_times(&qemu.out), "{line}");
        assert_eq!(ran.err.is_empty(), qemu.err.is_empty(), "{line}: {}", ran.err);
        if let Some(message) = message {
            assert!(ran.err.contains(message), "{line}: {}", ran.err);
            let is_ours = message == "missing";
            assert!(is_ours || qemu.err.contains(message), "{line}: {}", qemu.err);
        }
        for name in ["a.qcow2", "b.qcow2", "c.qcow2", "none.qcow2"] {
            let list = |lab: &Lab| without_times(&lab.qemu(&format!("snapshot -l {name}")).ok());
            assert_eq!(list(&ours), list(&theirs), "{line}");
            ours.qemu(&format!("check -q {name}")).ok();
        }
    }
}
