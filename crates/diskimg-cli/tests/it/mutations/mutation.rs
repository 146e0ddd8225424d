//! Mutations of an image, determined by its name and a number.

use super::structure::{Field, Part, Structure};
use std::fmt::Write as _;

/// A pseudorandom number generator (SplitMix64).
pub(super) struct Rng(u64);

impl Rng {
    /// Returns the generator for a mutation of an image.
    pub(super) fn new(image: &str, number: u64) -> Self {
        let name = image.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(name ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a number less than `end`, which must not be 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Strings that are inserted into text.
const STRINGS: [&str; 33] = [
    "0",
    "-1",
    "18014398509481983",
    "18446744073709551616",
    "4294967295",
    "RW",
    "NOACCESS",
    "FLAT",
    "SPARSE",
    "ZERO",
    "SESPARSE",
    "VMFSSPARSE",
    "RW 1 ZERO\n",
    "RW 9999999999 ZERO\n",
    "RW 64 FLAT \"/etc/hostname\" 0\n",
    "parentCID=00000000\n",
    "parentFileNameHint=\"image\"\n",
    "encoding=\"UTF-16\"\n",
    "image",
    "/dev/zero",
    "/proc/self/mem",
    "../../../../../../etc/hostname",
    "json:{\"driver\":\"null-co\"}",
    "nbd://localhost/x",
    "\"",
    "=",
    "\r\n",
    "\0",
    "\u{1b}[2J",
    "<!DOCTYPE a [<!ENTITY b \"&b;\">]>",
    "<Disk capacity=\"9999999999999999999\"/>",
    "&amp;",
    "\u{202e}",
];

/// An image during mutation.
struct Mutant<'a> {
    seed: &'a [u8],
    structure: &'a Structure,
    classes: &'a [&'static str],
    rng: Rng,
    image: Vec<u8>,
    /// Description of the changes made so far.
    description: String,
}

/// Mutates an image; returns it and a description of the changes.
pub(super) fn mutate(
    seed: &[u8],
    structure: &Structure,
    classes: &[&'static str],
    rng: Rng,
) -> (Vec<u8>, String) {
    let (image, description) = (seed.to_vec(), String::new());
    let mut mutant = Mutant { seed, structure, classes, rng, image, description };
    // Mostly one change, because several rarely get past the first check.
    let steps = *mutant.rng.pick(&[1, 1, 1, 1, 2, 2, 3, 5]);
    for _ in 0..steps {
        mutant.step();
    }
    if mutant.rng.below(4) != 0 {
        mutant.update_checksums();
    }
    (mutant.image, mutant.description)
}

impl Mutant<'_> {
    fn step(&mut self) {
        match self.rng.below(100) {
            0..40 => self.set_field(),
            40..50 => self.splice_field(),
            50..58 => self.flip_in_part(),
            58..62 => self.flip_anywhere(),
            62..70 => self.truncate(),
            70..75 => self.extend(),
            75..79 => self.copy_part(),
            79..83 => self.swap_parts(),
            83..85 => self.fill_part(),
            85..87 => self.repeat_entry(),
            87..89 => self.shift(),
            _ => self.insert_string(),
        }
    }

    fn describe(&mut self, change: std::fmt::Arguments<'_>) {
        let separator = if self.description.is_empty() { "" } else { "; " };
        write!(self.description, "{separator}{change}").expect("writes to a string");
    }

    /// Picks a class; all are equally likely, whatever their number of parts.
    fn class(&mut self) -> &'static str {
        self.classes[self.rng.below(self.classes.len())]
    }

    fn part_of(&mut self, class: &str) -> Part {
        let parts = &self.structure.parts;
        let of_class: Vec<_> = parts.iter().filter(|part| part.class == class).collect();
        (*self.rng.pick(&of_class)).clone()
    }

    fn any_part(&mut self) -> Part {
        let class = self.class();
        self.part_of(class)
    }

    /// Picks a part with fields, and one of its fields.
    fn field(&mut self) -> Option<(Part, Field)> {
        for _ in 0..8 {
            let part = self.any_part();
            if !part.fields.is_empty() {
                let field = *self.rng.pick(&part.fields);
                return Some((part, field));
            }
        }
        None
    }

    fn set_field(&mut self) {
        let Some((part, field)) = self.field() else { return self.flip_in_part() };
        let value = self.value(field);
        field.set(&mut self.image, value);
        let Field { name, at, .. } = field;
        self.describe(format_args!("{} at {at}: {name} = {value:#x}", part.class));
    }

    /// Picks a value that is likely to be handled incorrectly.
    fn value(&mut self, field: Field) -> u64 {
        let bits = field.bits();
        let old = field.get(&self.image).unwrap_or(0);
        let max = u64::MAX >> (64 - bits);
        let len = self.image.len() as u64;
        let value = match self.rng.below(20) {
            0 => 0,
            1 => 1,
            2 => max,
            3 => max >> 1,
            4 => (max >> 1) + 1,
            5 => max.wrapping_sub(self.rng.next() % 1024),
            6 => old.wrapping_add(1),
            7 => old.wrapping_sub(1),
            8 => old.wrapping_mul(2),
            9 => old / 2,
            10 | 11 => old ^ 1 << self.rng.below(bits as usize),
            12 => 1 << self.rng.below(bits as usize),
            13 => (1u64 << self.rng.below(bits as usize)).wrapping_sub(1),
            14 => len.wrapping_add(self.rng.next() % 3).wrapping_sub(1),
            // Sector, block and cluster numbers at the end of the file and shortly beyond it.
            15 => len / self.rng.pick(&[512, 2048, 4096, 65536]) + self.rng.next() % 3,
            16 => len.next_multiple_of(*self.rng.pick(&[512, 4096, 65536])),
            17 => self.rng.next() % 300,
            18 => (self.rng.next() % (len + 1)) & !511,
            _ => self.rng.next(),
        };
        value & max
    }

    /// Sets a field to the value of another field.
    fn splice_field(&mut self) {
        let (Some((part, to)), Some((other, from))) = (self.field(), self.field()) else { return };
        let value = from.get(self.seed).unwrap_or(0) & (u64::MAX >> (64 - to.bits()));
        to.set(&mut self.image, value);
        self.describe(format_args!(
            "{} at {}: {} = {} of {} ({value:#x})",
            part.class, to.at, to.name, from.name, other.class
        ));
    }

    fn flip_in_part(&mut self) {
        let part = self.any_part();
        self.flip(part.class, part.at, part.len);
    }

    fn flip_anywhere(&mut self) {
        self.flip("file", 0, self.image.len());
    }

    fn flip(&mut self, class: &str, at: usize, len: usize) {
        if len == 0 {
            return;
        }
        for _ in 0..=self.rng.below(4) {
            let (at, bit) = (at + self.rng.below(len), self.rng.below(8));
            if let Some(byte) = self.image.get_mut(at) {
                *byte ^= 1 << bit;
                self.describe(format_args!("{class}: bit {bit} of {at} flipped"));
            }
        }
    }

    /// Truncates the image before, after or inside a part, or anywhere.
    fn truncate(&mut self) {
        let part = self.any_part();
        let len = match self.rng.below(6) {
            0 => part.at,
            1 => part.at + part.len,
            2 => part.at + self.rng.below(part.len),
            3 => part.at + 1,
            4 => (part.at + part.len).saturating_sub(1),
            _ => self.rng.below(self.image.len() + 1),
        };
        self.image.truncate(len);
        self.describe(format_args!("truncated to {len} ({})", part.class));
    }

    fn extend(&mut self) {
        let by = *self.rng.pick(&[1, 511, 512, 1024, 4096, 65536, 300_000]);
        let how = self.rng.below(4);
        let tail: Vec<u8> = match how {
            0 => vec![0; by],
            1 => vec![0xff; by],
            2 => (0..by).map(|_| self.rng.next() as u8).collect(),
            // A copy of the beginning of the image.
            _ => self.seed.iter().copied().cycle().take(by).collect(),
        };
        self.image.extend(tail);
        let how = ["zeros", "ones", "noise", "its beginning"][how];
        self.describe(format_args!("extended by {by} of {how}"));
    }

    /// Copies the original bytes of a part over another part.
    fn copy_part(&mut self) {
        let (from, to) = (self.any_part(), self.any_part());
        let whole = self.rng.below(4) == 0;
        let len = if whole { from.len } else { from.len.min(to.len) };
        for (i, &byte) in self.seed[from.at..from.at + len].iter().enumerate() {
            if let Some(place) = self.image.get_mut(to.at + i) {
                *place = byte;
            }
        }
        self.describe(format_args!("{} at {} over {} at {}", from.class, from.at, to.class, to.at));
    }

    /// Swaps two parts of a class, or two fields of a part.
    fn swap_parts(&mut self) {
        let class = self.class();
        let (one, two) = (self.part_of(class), self.part_of(class));
        if one.at != two.at && self.rng.below(2) == 0 {
            for i in 0..one.len.min(two.len) {
                if one.at.max(two.at) + i < self.image.len() {
                    self.image.swap(one.at + i, two.at + i);
                }
            }
            self.describe(format_args!("{class}s at {} and {} swapped", one.at, two.at));
        } else if !one.fields.is_empty() {
            let (a, b) = (*self.rng.pick(&one.fields), *self.rng.pick(&one.fields));
            let values = (a.get(&self.image).unwrap_or(0), b.get(&self.image).unwrap_or(0));
            a.set(&mut self.image, values.1 & (u64::MAX >> (64 - a.bits())));
            b.set(&mut self.image, values.0 & (u64::MAX >> (64 - b.bits())));
            self.describe(format_args!("{class}: fields at {} and {} swapped", a.at, b.at));
        }
    }

    fn fill_part(&mut self) {
        let part = self.any_part();
        let byte = *self.rng.pick(&[0, 0, 0xff, 1, 0x80]);
        // The whole part, or its tail.
        let from = if self.rng.below(2) == 0 { 0 } else { self.rng.below(part.len) };
        let end = (part.at + part.len).min(self.image.len());
        if let Some(bytes) = self.image.get_mut(part.at + from..end) {
            bytes.fill(byte);
        }
        self.describe(format_args!(
            "{} at {}: filled with {byte:#x} from offset {from}",
            part.class, part.at
        ));
    }

    /// Sets all entries of a table to one value, so that a small table refers to much data.
    fn repeat_entry(&mut self) {
        let Some((part, field)) = self.field() else { return };
        let old = field.get(&self.image).unwrap_or(0);
        let value = if self.rng.below(2) == 0 { old } else { self.value(field) };
        let same_kind = |other: &&Field| other.width == field.width && other.name == field.name;
        for other in part.fields.iter().filter(same_kind) {
            other.set(&mut self.image, value);
        }
        self.describe(format_args!(
            "{} at {}: all {} = {value:#x}",
            part.class, part.at, field.name
        ));
    }

    /// Inserts or removes bytes before a part, which moves everything after it.
    fn shift(&mut self) {
        let part = self.any_part();
        let by = *self.rng.pick(&[1, 4, 8, 512]);
        let at = part.at.min(self.image.len());
        if self.rng.below(2) == 0 {
            self.image.splice(at..at, vec![0; by]);
            self.describe(format_args!("{by} bytes inserted at {at} ({})", part.class));
        } else {
            self.image.drain(at..(at + by).min(self.image.len()));
            self.describe(format_args!("{by} bytes removed at {at} ({})", part.class));
        }
    }

    fn insert_string(&mut self) {
        let texts: Vec<_> = self.structure.parts.iter().filter(|part| part.text).collect();
        if texts.is_empty() {
            return self.set_field();
        }
        let part = (*self.rng.pick(&texts)).clone();
        let string = *self.rng.pick(&STRINGS);
        let at = (part.at + self.rng.below(part.len)).min(self.image.len());
        let left = part.len - (at - part.at.min(at)).min(part.len);
        // Mostly overwrites; otherwise inserts, which moves everything after it.
        let end = if self.rng.below(4) == 0 { at } else { at + string.len().min(left) };
        self.image.splice(at..end.min(self.image.len()), string.bytes());
        self.describe(format_args!("{} at {at}: {string:?} over {} bytes", part.class, end - at));
    }

    /// Updates the checksums of changed parts.
    fn update_checksums(&mut self) {
        for part in &self.structure.parts {
            let bytes = self.image.get_mut(part.at..part.at + part.len);
            if let (Some(update_checksum), Some(bytes)) = (part.checksum, bytes)
                && bytes != &self.seed[part.at..part.at + part.len]
            {
                update_checksum(bytes);
            }
        }
    }
}

#[test]
fn mutations_are_deterministic_and_mostly_distinct() {
    let seed: Vec<u8> = (0..4096u32).map(|n| ((n * n) >> 3) as u8).collect();
    let structure = Structure::parse(&seed);
    let classes = structure.classes();
    let of = |number| mutate(&seed, &structure, &classes, Rng::new("a name", number));
    let mutants: Vec<_> = (0..200).map(of).collect();
    assert_eq!(mutants, (0..200).map(of).collect::<Vec<_>>());
    let mut images: Vec<_> = mutants.into_iter().map(|(image, _)| image).collect();
    images.sort_unstable();
    images.dedup();
    assert!(images.len() > 180, "{} of 200 differ", images.len());
}
