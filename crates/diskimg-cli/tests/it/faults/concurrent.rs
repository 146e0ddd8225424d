//! Runs that write the same files at the same time.

use super::{full, wait};
use crate::support::{Lab, diskimg};
use diskimg::{ExternalFiles, OpenOptions};
use std::process::{Child, Output, Stdio};

/// Number of processes that run at the same time.
const PROCESSES: usize = 8;

/// Size of the disks in bytes.
const SIZE: usize = 2 << 20;

/// Commands that write `dst.vmdk` with different further files. `N` is the number of the source.
const CONVERSIONS: [&str; 8] = [
    "convert -O vmdk -o subformat=monolithicFlat sN.raw dst.vmdk",
    "convert -O vmdk -o subformat=twoGbMaxExtentSparse sN.raw dst.vmdk",
    "convert -O qcow2 -o data_file=dst-flat.vmdk sN.raw dst.vmdk",
    "convert -O vmdk sN.raw dst.vmdk",
    "convert -O vmdk -o subformat=vmfs sN.raw dst.vmdk",
    "convert -O vmdk -o subformat=twoGbMaxExtentFlat sN.raw dst.vmdk",
    "convert -O qcow2 -c sN.raw dst.vmdk",
    "convert -O raw sN.raw dst.vmdk",
];

/// A directory with sources `s0.raw` to `s7.raw`, which cannot be compressed.
fn lab() -> Lab {
    let lab = Lab::new();
    for n in 0..PROCESSES {
        std::fs::write(lab.path(&format!("s{n}.raw")), content(n)).expect("writes");
    }
    lab
}

fn content(n: usize) -> Vec<u8> {
    let mut state = n as u64 + 1;
    let noise = std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    noise.take(SIZE).collect()
}

fn start(lab: &Lab, line: &str) -> Child {
    let mut command = lab.command(diskimg());
    command.args(line.split_whitespace());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Returns the number of the source whose content the image has, or `None` if it does not exist.
fn winner(lab: &Lab, name: &str) -> Option<usize> {
    lab.path(name).exists().then(|| {
        let options = OpenOptions::new().external_files(ExternalFiles::Any);
        let image = options.open(lab.path(name)).expect("a whole image");
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0).expect("a whole image");
        (0..PROCESSES).find(|&n| bytes == content(n)).expect("the data of a single run")
    })
}

/// Returns the names of the files that are not sources.
fn outputs(lab: &Lab) -> Vec<String> {
    let entries = std::fs::read_dir(lab.path(".")).expect("lists");
    let names = entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.filter(|name| !name.ends_with(".raw")).collect();
    names.sort();
    names
}

fn clear(lab: &Lab) {
    for name in outputs(lab) {
        std::fs::remove_file(lab.path(&name)).expect("removes");
    }
}

fn assert_lost(output: &Output, line: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}: {error}");
    assert!(
        error.contains("another process has") || error.contains("\"write\" lock"),
        "{line}: {error}"
    );
}

/// Runs all commands so slowly that they overlap, and returns which one succeeded. The others must
/// report that they lost.
fn race(lab: &Lab, lines: &[String]) -> usize {
    let children: Vec<_> = lines.iter().map(|line| start(lab, line)).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| wait(child, "a run")).collect();
    let succeeded = |n: &usize| outputs[*n].status.success();
    let winners: Vec<_> = (0..lines.len()).filter(succeeded).collect();
    for n in (0..lines.len()).filter(|n| !succeeded(n)) {
        assert_lost(&outputs[n], &lines[n]);
    }
    let [winner] = winners[..] else { panic!("{winners:?} of {lines:?} succeeded") };
    winner
}

fn lines(commands: &[&str]) -> Vec<String> {
    let numbered = (0..PROCESSES).map(|n| {
        let line = commands[n % commands.len()].replace('N', &n.to_string());
        line.replace("convert ", "convert -r 1M ")
    });
    numbered.collect()
}

#[test]
fn one_of_several_runs_that_write_the_same_files_succeeds() {
    let lab = lab();
    for round in 0..if full() { 20 } else { 2 } {
        for exists in [false, true] {
            clear(&lab);
            if exists {
                lab.line(&CONVERSIONS[round % 3].replace('N', "0")).ok();
            }
            let won = race(&lab, &lines(&CONVERSIONS));
            assert_eq!(winner(&lab, "dst.vmdk"), Some(won));
            let left = outputs(&lab);
            assert!(left.iter().all(|name| name.starts_with("dst")), "{left:?}");
            // No further files of runs that lost.
            assert!(exists || left.len() <= 2, "{left:?}");
        }
    }
}

#[test]
fn the_main_file_of_one_run_may_be_the_further_file_of_another() {
    let lab = lab();
    let commands = [
        "convert -O raw sN.raw dst-flat.vmdk",
        "convert -O vmdk -o subformat=monolithicFlat sN.raw dst.vmdk",
    ];
    for _ in 0..if full() { 10 } else { 1 } {
        clear(&lab);
        let won = race(&lab, &lines(&commands));
        assert_eq!(winner(&lab, ["dst-flat.vmdk", "dst.vmdk"][won % 2]), Some(won));
        assert_eq!(outputs(&lab).len(), 1 + won % 2);
    }
}

#[cfg(unix)]
#[test]
fn a_file_has_one_winner_under_all_its_names() {
    let lab = lab();
    std::fs::create_dir(lab.path("d.raw")).expect("mkdir");
    std::os::unix::fs::symlink("d.raw", lab.path("e.raw")).expect("links");
    std::os::unix::fs::symlink("d.raw/dst", lab.path("link.raw")).expect("links");
    let commands = ["d.raw/dst", "e.raw/dst", "link.raw"];
    let commands = commands.map(|name| format!("convert -O qcow2 sN.raw {name}"));
    let won = race(&lab, &lines(&commands.each_ref().map(|line| &**line)));
    assert_eq!(winner(&lab, "d.raw/dst"), Some(won));
    // Files with several names are overwritten in place.
    std::fs::hard_link(lab.path("d.raw/dst"), lab.path("d.raw/other")).expect("links");
    let commands = ["d.raw/dst", "d.raw/other"];
    let commands = commands.map(|name| format!("convert -O qcow2 sN.raw {name}"));
    let won = race(&lab, &lines(&commands.each_ref().map(|line| &**line)));
    assert_eq!(winner(&lab, "d.raw/other"), Some(won));
}

/// The first command runs slowly, the second one ends before it.
#[test]
fn a_run_that_ends_after_another_one_fails() {
    let slow = "convert -r 1M -O qcow2 s0.raw dst";
    let slow_in_place = "convert -r 1M -n -O raw s0.raw dst";
    for (slow, fast) in [
        (slow, "create -f qcow2 dst 1M"),
        (slow, "iso create -q -o dst s1.raw"),
        (slow, "resize -f raw dst 2M"),
        (slow_in_place, "iso remaster -q in.iso -o dst"),
    ] {
        let lab = lab();
        lab.line("iso create -q -o in.iso s2.raw").ok();
        std::fs::write(lab.path("dst"), vec![0; SIZE]).expect("writes");
        let child = start(&lab, slow);
        std::thread::sleep(std::time::Duration::from_millis(400));
        let ran = lab.line(fast);
        let output = wait(child, slow);
        // A file that is written in place is locked, so that the second run fails.
        match slow == slow_in_place {
            true => {
                assert!(ran.fails(1).contains("lock"));
                assert!(output.status.success(), "{output:?}");
            }
            false => {
                assert_eq!(ran.code, Some(0), "{fast}: {}", ran.err);
                assert_lost(&output, slow);
            }
        }
        assert!(outputs(&lab).iter().all(|name| !name.starts_with('.')));
    }
}

/// A file that is moved away while it is written in place.
#[test]
fn a_file_that_is_written_in_place_must_keep_its_name() {
    let lab = lab();
    std::fs::write(lab.path("dst"), vec![0; SIZE]).expect("writes");
    let child = start(&lab, "convert -r 1M -n -O raw s0.raw dst");
    std::thread::sleep(std::time::Duration::from_millis(400));
    std::fs::rename(lab.path("dst"), lab.path("moved")).expect("renames");
    assert_lost(&wait(child, "a run"), "convert -n");
}

#[test]
fn runs_that_are_killed_leave_whole_images_to_others() {
    let lab = lab();
    let mut random = std::process::id() | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    let (mut won, mut lost, mut killed, mut missing) = (0, 0, 0, 0);
    for _ in 0..if full() { 50 } else { 4 } {
        let run = |n: usize| start(&lab, &CONVERSIONS[n].replace('N', &n.to_string()));
        let mut children: Vec<_> = (0..PROCESSES).map(run).collect();
        for child in &mut children {
            if next() % 4 == 0 {
                std::thread::sleep(std::time::Duration::from_micros(u64::from(next() % 20_000)));
                let _ = child.kill();
            }
        }
        let ended = children.into_iter().map(|child| wait(child, "a run")).enumerate();
        let possible: Vec<_> = ended
            .filter_map(|(n, output)| match output.status.code() {
                Some(0) => {
                    won += 1;
                    Some(n)
                }
                Some(_) => {
                    lost += 1;
                    assert_lost(&output, CONVERSIONS[n]);
                    None
                }
                None => {
                    killed += 1;
                    Some(n)
                }
            })
            .collect();
        match winner(&lab, "dst.vmdk") {
            Some(n) => assert!(possible.contains(&n) || won == 0, "{n} of {possible:?}"),
            None => missing += 1,
        }
        lab.line("convert -O qcow2 s0.raw dst.vmdk").ok();
        let left = outputs(&lab);
        let is_documented =
            |name: &String| name.starts_with("dst") || name.ends_with(".diskimg-old");
        assert!(left.iter().filter(|n| !n.ends_with("-tmp")).all(is_documented), "{left:?}");
        clear(&lab);
    }
    println!(
        "{won} runs won, {lost} lost, {killed} were killed; {missing} times no image was left"
    );
    assert!(won > 0 && lost + killed > 0);
}
