//! `measure` returns the sizes that `qemu-img measure` returns, and the output of `convert` fits in
//! them.

use diskimg::{Convert, Format, OpenOptions, Options, measure, measure_size};
use diskimg_testkit::disk;
use diskimg_testkit::tool::{cases, run};
use proptest::prelude::*;

fn qemu_measure(args: &[&str]) -> (u64, u64) {
    let mut all = vec!["measure", "--output=json"];
    all.extend(args);
    let json: serde_json::Value = serde_json::from_str(&run("qemu-img", all)).unwrap();
    (json["required"].as_u64().unwrap(), json["fully-allocated"].as_u64().unwrap())
}

fn options() -> impl Strategy<Value = String> {
    (prop_oneof![Just(9), Just(12), Just(16), Just(21)], 0..=6u32, any::<bool>()).prop_map(
        |(bits, order, extended)| {
            let extended = if extended && bits >= 14 { ",extended_l2=on" } else { "" };
            format!("cluster_size={},refcount_bits={}{extended}", 1u64 << bits, 1 << order)
        },
    )
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_size_is_measured_as_by_qemu_img(size in 0..(1u64 << 33), options in options()) {
        let ours = measure_size(Format::Qcow2, &Options::parse(&options).unwrap(), size).unwrap();
        let theirs = qemu_measure(&["-O", "qcow2", "-o", &options, "--size", &size.to_string()]);
        prop_assert_eq!((ours.required, ours.fully_allocated), theirs);
    }

    #[test]
    fn an_image_is_measured_as_by_qemu_img_and_its_conversion_fits(
        disk in disk::disk_of(0..=(4 << 20)),
        options in options(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
        disk.write(&raw);
        let open = || OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let parsed = Options::parse(&options).unwrap();
        let ours = measure(Format::Qcow2, &parsed, &open()).unwrap();
        let theirs =
            qemu_measure(&["-f", "raw", "-O", "qcow2", "-o", &options, raw.to_str().unwrap()]);
        prop_assert_eq!((ours.required, ours.fully_allocated), theirs);
        Convert::new(open()).format(Format::Qcow2).options(parsed).run(&out).unwrap();
        let len = std::fs::metadata(&out).unwrap().len();
        prop_assert!(len <= ours.required, "{} > {}", len, ours.required);
    }
}
