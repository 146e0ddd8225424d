//! Sequences of operations on images of other formats than qcow2.

use super::model::{Chain, Image, SECTOR, disk, io};
use super::random::Random;
use super::verify::Verifier;
use super::{Log, Tool};
use crate::support::Lab;
use diskimg_testkit::tool::full;

/// Formats, with options of `create`.
const FORMATS: &[(&str, &str)] = &[
    ("vmdk", ""),
    ("vmdk", "-o subformat=monolithicFlat"),
    ("vmdk", "-o subformat=twoGbMaxExtentSparse"),
    ("vdi", ""),
    ("vdi", "-o static=on"),
    ("vhdx", "-o block_size=1M"),
    ("vpc", "-o force_size=on"),
    ("vpc", "-o subformat=fixed,force_size=on"),
    ("qed", ""),
    ("qed", "-o cluster_size=4k,table_size=2"),
    ("parallels", ""),
    ("parallels", "-o cluster_size=4k"),
    ("qcow", ""),
];

/// Runs a sequence. Returns the numbers of operations and of those that both tools have refused.
fn sequence(seed: u64, format: &'static str, options: &str, steps: u64) -> (u64, u64) {
    let mut random = Random::new(seed);
    let mut log = Log { seed, lines: vec![format!("# {format} {options}")] };
    let mut chain = Chain { lab: Lab::new(), images: Vec::new(), files: 0 };
    let size = random.size();
    let name = chain.new_name(format);
    chain.lab.qemu(&format!("create -q -f {format} {options} {name} {size}")).ok();
    let image = Image::new(name, format, vec![0; size as usize]);
    chain.images.push(image);
    let mut refused = 0;
    for number in 0..steps {
        let tool = random.pick(&[Tool::Diskimg, Tool::Qemu]);
        let line = step(&mut random, &mut chain, tool, &mut refused);
        log.add(format!("{number}: {line}"));
        Verifier::new(&chain.lab).all(&mut chain.images);
    }
    (steps, refused)
}

/// Performs a step, and returns what it was.
fn step(random: &mut Random, chain: &mut Chain, tool: Tool, refused: &mut u64) -> String {
    let image = &chain.images[0];
    let (name, format, size) = (image.name.clone(), image.format, image.size);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match random.below(10) {
        0..=3 => {
            let at = random.below(size);
            let largest = size / random.pick(&[1, 8, 64]);
            let len = (1 + random.below(1 + largest)).min(size - at);
            let byte = random.byte();
            let command = match random.one_in(4) {
                true => format!("write -z {at} {len}"),
                false => format!("write -P {byte} {at} {len}"),
            };
            let byte = if command.contains("-z") { 0 } else { byte };
            assert_eq!(io(&chain.lab, image, std::slice::from_ref(&command)), Some(0), "{command}");
            let bytes = chain.images[0].bytes.as_mut().expect("is known");
            bytes[at as usize..(at + len) as usize].fill(byte);
            command
        }
        4..=5 => {
            let larger = size + SECTOR * random.below(8192);
            let to =
                if random.one_in(3) { SECTOR * (1 + random.below(size / SECTOR)) } else { larger };
            let shrink = if to < size { "--shrink" } else { "" };
            let line = format!("resize -q -f {format} {shrink} {name} {to}");
            // qemu-img cannot resize the others.
            let tool = if format == "qed" { tool } else { Tool::Diskimg };
            let ran = tool.run(&chain.lab, &words(&line));
            match ran.code {
                Some(0) => chain.images[0].resize(to),
                _ => {
                    assert!(to < size && format == "qed" || format == "qcow", "{line}: {ran:?}");
                    assert_ne!(Tool::Qemu.run(&chain.copy(), &words(&line)).code, Some(0));
                    *refused += 1;
                }
            }
            format!("{tool:?} {line}")
        }
        6..=7 => {
            let len = SECTOR * (1 + random.below(size / SECTOR));
            let bytes = disk(random, len);
            let source = chain.new_name("raw");
            std::fs::write(chain.lab.path(&source), &bytes).expect("writes");
            let line = format!("convert -n -f raw -O {format} {source} {name}");
            tool.run(&chain.lab, &words(&line)).ok();
            let whole = chain.images[0].bytes.as_mut().expect("is known");
            whole[..bytes.len()].copy_from_slice(&bytes);
            format!("{tool:?} {line}")
        }
        8 => {
            let overlay = chain.new_name("qcow2");
            let line = format!("create -q -f qcow2 -F {format} -b {name} {overlay}");
            chain.lab.qemu(&line).ok();
            let top = Image::new(overlay.clone(), "qcow2", Vec::new());
            let (at, byte) = (random.below(size), random.byte());
            let len = (1 + random.below(300_000)).min(size - at);
            io(&chain.lab, &top, &[format!("write -P {byte} {at} {len}")]);
            let line = format!("commit -q -f qcow2 -d {overlay}");
            // qemu-img cannot write into backing files of some formats.
            let tool = if format == "parallels" { Tool::Diskimg } else { tool };
            tool.run(&chain.lab, &words(&line)).ok();
            let bytes = chain.images[0].bytes.as_mut().expect("is known");
            bytes[at as usize..(at + len) as usize].fill(byte);
            format!("{tool:?} commit {at} {len}")
        }
        _ => {
            let scope = random.pick(&["leaks", "all"]);
            let line = format!("check -q -f {format} -r {scope} {name}");
            let code = tool.run(&chain.lab, &words(&line)).code;
            assert!(matches!(code, Some(0 | 63)), "{line}: {code:?}");
            format!("{tool:?} {line}")
        }
    }
}

#[test]
fn both_tools_take_turns_on_images_of_every_format() {
    let (sequences, steps) = if full() { (2, 50) } else { (1, 6) };
    let (mut total, mut refused) = (0, 0);
    for (n, (format, options)) in FORMATS.iter().enumerate() {
        for number in 0..sequences {
            let (a, b) = sequence((n * 100 + number) as u64, format, options, steps);
            (total, refused) = (total + a, refused + b);
        }
    }
    println!("{total} operations, {refused} refused by both");
    assert!(total > 0);
}
