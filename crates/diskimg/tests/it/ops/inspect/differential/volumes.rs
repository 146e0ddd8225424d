//! ISO images with several directory trees, of which one has changed records.

use super::random::Random;
use diskimg_testkit::tool::run;

/// Returns an ISO image with trees of Rock Ridge and of Joliet.
pub fn base() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(path("files/sub")).unwrap();
    for name in ["first", "second", "third", "sub/fourth", "sub/fifth"] {
        std::fs::write(path("files/") + name, name.repeat(9)).unwrap();
    }
    let (image, files) = (path("a.iso"), path("files"));
    run("xorriso", ["-as", "mkisofs", "-quiet", "-R", "-J", "-o", &image, &files]);
    let mut bytes = std::fs::read(&image).unwrap();
    // The padding at the end contains nothing.
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    bytes.truncate(end.next_multiple_of(2048));
    bytes
}

/// Returns the offsets of the records of files whose name starts like this.
fn records(image: &[u8], name: &[u8]) -> Vec<usize> {
    let found = image.windows(name.len()).enumerate().filter(|(_, found)| *found == name);
    found.map(|(at, _)| at - 33).filter(|&at| image[at + 25] == 0 && image[at] > 33).collect()
}

/// Changes the location, the length or the name of files in one of the trees, or the sectors before
/// the descriptor of Joliet.
pub fn case(random: &mut Random, base: &[u8]) -> (String, Vec<u8>) {
    let mut bytes = base.to_vec();
    let names = ["FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH"];
    let in_joliet = random.one_in(2);
    let record = |random: &mut Random, bytes: &[u8]| {
        let name = random.choose(&names);
        let joliet = name.to_lowercase().encode_utf16().flat_map(u16::to_be_bytes).collect();
        let name = if in_joliet { joliet } else { name.as_bytes().to_vec() };
        let found = records(bytes, &name);
        found.get(random.below(found.len().max(1))).copied()
    };
    for _ in 0..random.below(3) {
        let (Some(first), Some(second)) = (record(random, &bytes), record(random, &bytes)) else {
            continue;
        };
        match random.below(11) {
            0 => (2..18).for_each(|at| bytes.swap(first + at, second + at)),
            1 => (2..10).for_each(|at| bytes[first + at] = bytes[second + at]),
            2 => {
                let len = u32::from(bytes[first + 10]) + 1 + u32::from(random.one_in(2));
                bytes[first + 10..first + 14].copy_from_slice(&len.to_le_bytes());
                bytes[first + 14..first + 18].copy_from_slice(&len.to_be_bytes());
            }
            3 => {
                let at = first + 33 + random.below(bytes[first + 32].into());
                bytes[at] ^= 1 << random.below(3);
            }
            // Linux reads the first half of each number, others the second.
            4 => bytes[first + 2] ^= 1,
            // The other case, which Windows does not distinguish.
            5 => {
                let name = first + 33..first + 33 + usize::from(bytes[first + 32]);
                let letters = name.filter(|&at| bytes[at].is_ascii_alphabetic());
                letters
                    .take(1 + random.below(2))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|at| bytes[at] ^= 0x20);
            }
            // Interleaved, and on another volume.
            6 => bytes[first + 26] = 1,
            7 => bytes[first + 28..first + 32].copy_from_slice(&[2, 0, 0, 2]),
            // The name of another file, in Rock Ridge as well.
            8 => {
                let names = [first, second].map(|at| {
                    let name = &bytes[at + 33..at + 33 + usize::from(bytes[at + 32])];
                    String::from_utf8_lossy(name)
                        .replace('\0', "")
                        .split('.')
                        .next()
                        .unwrap()
                        .to_lowercase()
                });
                let end = first + usize::from(bytes[first]);
                for (from, to) in
                    [names.clone(), names.map(|name| name.to_uppercase())].map(|[a, b]| (a, b))
                {
                    let record = &mut bytes[first..end];
                    let found =
                        record.windows(from.len()).rposition(|name| name == from.as_bytes());
                    if let Some(at) = found.filter(|_| from.len() == to.len() && random.one_in(2)) {
                        record[at..at + to.len()].copy_from_slice(to.as_bytes());
                    }
                }
            }
            9 => between_descriptors(random, &mut bytes),
            _ => bytes[first + 25] ^= 1 << random.below(3),
        }
    }
    ("volume.iso".into(), bytes)
}

/// Writes another sector before the descriptor of Joliet, which is moved by one.
fn between_descriptors(random: &mut Random, image: &mut [u8]) {
    const FIRST: usize = 16 * 2048;
    let starts = [&b""[..], b"\0CD001\x01", b"\x03CD001\x01", b"\0BEA01\x01", b"text"];
    let start = random.choose(&starts);
    let end = image[FIRST..].chunks(2048).position(|sector| sector.starts_with(b"\xffCD001"));
    let joliet = image[FIRST..].chunks(2048).position(|sector| sector.starts_with(b"\x02CD001"));
    let (Some(end), Some(joliet)) = (end, joliet) else { return };
    // The sector behind the end contains nothing that is needed.
    let moved = image[FIRST + joliet * 2048..FIRST + (end + 1) * 2048].to_vec();
    image[FIRST + (joliet + 1) * 2048..][..moved.len()].copy_from_slice(&moved);
    let between = &mut image[FIRST + joliet * 2048..][..2048];
    between.fill(0);
    between[..start.len()].copy_from_slice(start);
}
