//! Runs that are killed at random times.

use super::scenario::{Case, Scenario, State};
use super::{full, start, wait};
use std::time::{Duration, Instant};

/// Size of the disks in bytes: large enough that a run takes much longer than process startup.
const SIZE: usize = 6 << 20;

const fn case(line: &'static str, files: &'static [&'static str]) -> Case {
    Case { line, files }
}

const CASES: &[Case] = &[
    case("convert -O qcow2 SRC.raw dst", &["dst"]),
    case("convert -O qcow2 -c SRC.raw dst", &["dst"]),
    case("convert -O vmdk -o subformat=streamOptimized SRC.raw dst", &["dst"]),
    case(
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse SRC.raw dst.vmdk",
        &["dst.vmdk", "dst-s001.vmdk"],
    ),
    case("convert -O vmdk -o subformat=vmfs SRC.raw dst.vmdk", &["dst.vmdk", "dst-flat.vmdk"]),
];

#[test]
fn a_run_killed_at_a_random_time_leaves_the_old_or_the_new_output() {
    let rounds = if full() { 60 } else { 4 };
    let (mut killed, mut old, mut new, mut set_aside, mut left) = (0, 0, 0, 0, 0);
    let mut random = std::process::id() | 1;
    for (i, &case) in CASES.iter().enumerate() {
        for replaces in [true, false] {
            if !full() && replaces == (i % 3 == 2) {
                continue;
            }
            let scenario = Scenario::new(case, replaces, 2, SIZE);
            let begun = Instant::now();
            assert!(wait(start(&scenario, None), "a whole run").status.success());
            let whole = begun.elapsed();
            for _ in 0..rounds {
                scenario.reset();
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let mut child = start(&scenario, None);
                std::thread::sleep(whole.mul_f64(f64::from(random) / f64::from(u32::MAX) * 1.2));
                let _ = child.kill();
                killed += u32::from(wait(child, "a killed run").status.code().is_none());
                let state =
                    scenario.state().unwrap_or_else(|wrong| panic!("{}: {wrong}", scenario.line()));
                match state {
                    State::Old => old += 1,
                    State::New => new += 1,
                    State::SetAside => set_aside += 1,
                }
                for name in scenario.leftovers() {
                    assert!(scenario.is_documented(&name), "{}: {name}", scenario.line());
                    left += 1;
                }
                assert!(wait(start(&scenario, None), "the next run").status.success());
                assert_eq!(scenario.state(), Ok(State::New));
                let stays = scenario.leftovers();
                assert!(stays.iter().all(|n| n.ends_with(".diskimg-old")), "{stays:?}");
            }
            // Guards against a hang.
            assert!(whole < Duration::from_secs(60));
        }
    }
    println!(
        "{killed} runs killed: {old} old, {new} new, {set_aside} set aside; {left} files left"
    );
    assert!(killed > 0);
}
