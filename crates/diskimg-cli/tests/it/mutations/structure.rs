//! Where an image's structures are, and their fields: found by reading the image as it was,
//! which is sound.

use super::{iso, ova, qcow2, udf, vmdk};

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
    /// Half of the width little-endian, then the same big-endian (ISO 9660).
    Both,
    /// Octal digits, ended by a NUL (tar).
    Octal,
}

/// A number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Offset in the file.
    pub(super) at: usize,
    /// Bytes.
    pub(super) width: usize,
    pub(super) order: Order,
}

impl Field {
    /// Bits that a value has room for.
    pub(super) fn bits(&self) -> u32 {
        match self.order {
            Order::Little | Order::Big => self.width as u32 * 8,
            Order::Both => self.width as u32 * 4,
            Order::Octal => (self.width as u32 - 1) * 3,
        }
    }

    /// What is there; `None` behind the end.
    pub(super) fn get(&self, image: &[u8]) -> Option<u64> {
        let bytes = image.get(self.at..self.at + self.width)?;
        let big = |bytes: &[u8]| bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        Some(match self.order {
            Order::Big => big(bytes),
            Order::Little => bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)),
            Order::Both => big(&bytes[self.width / 2..]),
            Order::Octal => {
                let digits = bytes.iter().filter(|byte| (b'0'..=b'7').contains(*byte));
                digits.fold(0, |n: u64, &digit| n.wrapping_shl(3) | u64::from(digit - b'0'))
            }
        })
    }

    /// Writes as much of the value as there is room for.
    pub(super) fn set(&self, image: &mut [u8], value: u64) {
        let Some(bytes) = image.get_mut(self.at..self.at + self.width) else { return };
        let width = self.width;
        match self.order {
            Order::Little => bytes.copy_from_slice(&value.to_le_bytes()[..width]),
            Order::Big => bytes.copy_from_slice(&value.to_be_bytes()[8 - width..]),
            Order::Both => {
                let (little, big) = bytes.split_at_mut(width / 2);
                little.copy_from_slice(&value.to_le_bytes()[..width / 2]);
                big.copy_from_slice(&value.to_be_bytes()[8 - width / 2..]);
            }
            Order::Octal => {
                let text = format!("{value:0>width$o}", width = width - 1);
                bytes[..width - 1].copy_from_slice(&text.as_bytes()[text.len() + 1 - width..]);
            }
        }
    }
}

/// Makes a checksum right again, over the bytes of a part.
pub(super) type Seal = fn(&mut [u8]);

/// A structure.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// What it is; one class has many parts, and is as likely to be hit as one that has few.
    pub(super) class: &'static str,
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) fields: Vec<Field>,
    /// Words make sense here.
    pub(super) text: bool,
    pub(super) seal: Option<Seal>,
}

impl Part {
    pub(super) fn new(class: &'static str, at: usize, len: usize) -> Self {
        Self { class, at, len, fields: Vec::new(), text: false, seal: None }
    }

    /// Text.
    pub(super) fn text(class: &'static str, at: usize, len: usize) -> Self {
        Self { text: true, ..Self::new(class, at, len) }
    }

    /// With fields at these places in it: name, offset, width.
    pub(super) fn with(mut self, order: Order, fields: &[(&'static str, usize, usize)]) -> Self {
        self.fields.extend(
            fields
                .iter()
                .filter(|field| field.1 + field.2 <= self.len)
                .map(|&(name, offset, width)| Field { name, at: self.at + offset, width, order }),
        );
        self
    }

    /// A table: entries of `width` bytes up to its end, from `offset` in it.
    pub(super) fn table(mut self, order: Order, offset: usize, width: usize) -> Self {
        let ends = (offset + width..=self.len).step_by(width);
        self.fields.extend(ends.map(|end| Field {
            name: "entry",
            at: self.at + end - width,
            width,
            order,
        }));
        self
    }

    pub(super) fn sealed(mut self, seal: Seal) -> Self {
        self.seal = Some(seal);
        self
    }

    /// The same at another place of the file.
    pub(super) fn moved(mut self, by: usize) -> Self {
        self.at += by;
        self.fields.iter_mut().for_each(|field| field.at += by);
        self
    }
}

/// All that is known of an image.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) parts: Vec<Part>,
    /// It holds a file system that the verbs of `iso` read.
    pub(super) has_files: bool,
}

impl Structure {
    /// Of any image, told by its first bytes.
    pub(super) fn of(image: &[u8]) -> Self {
        let at = |offset: usize, magic: &[u8]| {
            image.get(offset..).is_some_and(|rest| rest.starts_with(magic))
        };
        let mut found = Self::default();
        if at(0, b"QFI\xfb") {
            found.parts = qcow2::parts(image);
            let guest = qcow2::stored(image);
            let here = udf::parts(&guest.bytes);
            found.has_files = !here.is_empty();
            found.parts.extend(here.into_iter().filter_map(|part| guest.moved(part)));
        } else if at(0, b"PK\x03\x04") {
            found.parts = ova::zip_parts(image);
        } else if at(257, b"ustar") {
            found.parts = ova::parts(image);
        } else if at(32769, b"CD001") {
            found.parts = iso::parts(image);
            found.parts.extend(udf::parts(image));
            found.has_files = true;
        } else {
            found.parts = vmdk::parts(image);
        }
        found.parts.retain(|part| part.len > 0 && part.at + part.len <= image.len());
        if found.parts.is_empty() {
            found.parts = words(image);
        }
        found
    }

    /// The names of the classes.
    pub(super) fn classes(&self) -> Vec<&'static str> {
        let mut classes: Vec<_> = self.parts.iter().map(|part| part.class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

/// What nobody knows: sectors that hold anything, as numbers of four bytes.
fn words(image: &[u8]) -> Vec<Part> {
    sectors(image, "sector", 4)
}

/// Sectors that hold anything, as tables of numbers.
pub(super) fn sectors(image: &[u8], class: &'static str, width: usize) -> Vec<Part> {
    (0..)
        .step_by(512)
        .zip(image.chunks(512))
        .filter(|(_, sector)| sector.iter().any(|&byte| byte != 0))
        .map(|(at, sector)| Part::new(class, at, sector.len()).table(Order::Little, 0, width))
        .collect()
}

/// A number of the image as it was; 0 behind the end.
pub(super) fn number(image: &[u8], at: usize, width: usize, order: Order) -> usize {
    Field { name: "", at, width, order }.get(image).unwrap_or(0) as usize
}

#[test]
fn a_field_gives_what_was_set() {
    for (order, width, bits) in [
        (Order::Little, 8, 64),
        (Order::Big, 4, 32),
        (Order::Both, 8, 32),
        (Order::Octal, 12, 33),
        (Order::Little, 1, 8),
    ] {
        let field = Field { name: "", at: 3, width, order };
        assert_eq!(field.bits(), bits);
        for value in [0, 1, 77, u64::MAX >> (64 - bits)] {
            let mut image = vec![0xee; 20];
            field.set(&mut image, value);
            assert_eq!(field.get(&image), Some(value), "{order:?}");
            assert_eq!((image[2], image[3 + width]), (0xee, 0xee));
        }
    }
}
