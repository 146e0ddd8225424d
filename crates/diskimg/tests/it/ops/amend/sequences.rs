//! Random operations, of which some are made here and some by qemu-img, compared with a model.

use super::super::snapshots::sequences::Lab;
use super::amend;
use diskimg_testkit::tool::{cases, run, try_run};

/// Create options, the cluster size, and whether the disk may be resized. With larger clusters,
/// changing the width of refcounts takes QEMU minutes.
const IMAGES: &[(&str, u64, bool)] = &[
    ("cluster_size=16k", 16 << 10, true),
    ("cluster_size=4k,compat=0.10", 4 << 10, false),
    ("cluster_size=512,refcount_bits=64", 512, true),
    ("cluster_size=512,refcount_bits=8", 512, true),
    ("cluster_size=16k,extended_l2=on", 16 << 10, true),
    ("cluster_size=8k,refcount_bits=8", 8 << 10, true),
    ("cluster_size=4k,compression_type=zstd", 4 << 10, true),
];

/// The maximum number of snapshots with refcounts of a width, of which each cluster may have one.
fn max_snapshots(bits: u64) -> usize {
    match bits {
        1 => 0,
        2 => 2,
        _ => 6,
    }
}

/// Changes an option with one of the programs. Both must accept or refuse it. Returns true if they
/// accept it.
fn amend_by_turns(lab: &mut Lab, is_zstd: bool) -> bool {
    let ours = lab.random.below(3) > 0;
    let bits = 1 << lab.random.below(7);
    let option = match lab.random.below(6) {
        0 | 1 => "compat=0.10".to_owned(),
        2 => format!("compat=1.1,refcount_bits={bits}"),
        3 => format!("lazy_refcounts={}", if bits > 8 { "on" } else { "off" }),
        _ => format!("refcount_bits={bits}"),
    };
    lab.log.push(format!("amend {option} ours {ours}"));
    let other = lab.path.with_extension("other");
    std::fs::copy(&lab.path, &other).unwrap();
    let [ours_on, theirs_on] = match ours {
        true => [&lab.path, &other],
        false => [&other, &lab.path],
    };
    // QEMU does not look for compressed clusters of snapshots.
    let compares = !is_zstd || option != "compat=0.10";
    let (ours_on, theirs_on) = if compares { (ours_on, theirs_on) } else { (&lab.path, &other) };
    let outcome = amend(ours_on, &option);
    let args = ["amend", "-f", "qcow2", "-o", &option, theirs_on.to_str().unwrap()];
    let theirs = try_run("qemu-img", args);
    let log = || format!("{outcome:?} {theirs:?}\n{}", lab.log.join("\n"));
    assert!(!compares || outcome.is_ok() == theirs.status.success(), "{}", log());
    if let (Err(error), true) = (&outcome, compares) {
        let message = String::from_utf8_lossy(&theirs.stderr).into_owned();
        let ours = error.to_string();
        let theirs = message.lines().next().unwrap_or_default().trim_start_matches("qemu-img: ");
        assert!(ours.contains(theirs), "{ours} {theirs}");
    }
    outcome.is_ok()
}

#[test]
#[allow(clippy::print_stdout, reason = "the number of steps")]
fn disks_have_their_contents_after_random_amendments_of_both_programs() {
    let rounds = u64::from(cases(2).cases);
    let (mut amended, mut refused, mut steps) = (0, 0, 0);
    for (number, &image) in IMAGES.iter().enumerate() {
        for round in 0..rounds {
            let dir = tempfile::tempdir().unwrap();
            let seed = 0x517c_c1b7_2722_0a95 ^ (round << 8) ^ number as u64;
            let mut lab = Lab::new(dir.path(), image, seed, round % 2 == 1);
            for _ in 0..30 {
                let info = run("qemu-img", ["info", "--output=json", lab.file()]);
                let info: serde_json::Value = serde_json::from_str(&info).unwrap();
                let data = &info["format-specific"]["data"];
                lab.resizable = image.2 && (data["compat"] == "1.1" || lab.snapshots.is_empty());
                lab.max_snapshots = max_snapshots(data["refcount-bits"].as_u64().unwrap_or(16));
                match lab.random.below(3) {
                    0 if amend_by_turns(&mut lab, image.0.contains("zstd")) => amended += 1,
                    0 => refused += 1,
                    _ => lab.step(),
                }
                lab.assert_as_expected();
                steps += 1;
            }
            lab.assert_qemu_agrees();
        }
    }
    // Shown with --no-capture.
    println!("{steps} steps, {amended} amendments, {refused} of them refused");
    assert!(amended > 20 * rounds && refused > 3 * rounds, "{amended} {refused}");
}
