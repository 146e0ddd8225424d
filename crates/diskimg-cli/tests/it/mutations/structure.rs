//! The structures of an image and their fields, found by parsing the original image, which is
//! valid.

use super::{iso, ova, qcow2, udf, vmdk};

/// The encoding of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
    /// Little-endian, then the same number big-endian, each half the width (ISO 9660).
    Both,
    /// NUL-terminated octal digits (tar).
    Octal,
}

/// A numeric field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Offset in the file.
    pub(super) at: usize,
    /// Width in bytes.
    pub(super) width: usize,
    pub(super) order: Order,
}

impl Field {
    /// Returns the number of bits of a value.
    pub(super) fn bits(&self) -> u32 {
        match self.order {
            Order::Little | Order::Big => self.width as u32 * 8,
            Order::Both => self.width as u32 * 4,
            Order::Octal => (self.width as u32 - 1) * 3,
        }
    }

    /// Returns the value, or `None` beyond the end of the image.
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

    /// Sets the value, unless the field is beyond the end of the image.
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

/// Updates the checksum in the bytes of a part.
pub(super) type UpdateChecksum = fn(&mut [u8]);

/// A structure, such as a header, a table or a record.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The kind of structure. Every class is mutated equally often, whatever its number of parts.
    pub(super) class: &'static str,
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) fields: Vec<Field>,
    /// Whether the part is text.
    pub(super) text: bool,
    pub(super) checksum: Option<UpdateChecksum>,
}

impl Part {
    pub(super) fn new(class: &'static str, at: usize, len: usize) -> Self {
        Self { class, at, len, fields: Vec::new(), text: false, checksum: None }
    }

    /// Returns a part that is text.
    pub(super) fn text(class: &'static str, at: usize, len: usize) -> Self {
        Self { text: true, ..Self::new(class, at, len) }
    }

    /// Adds fields: name, offset in the part, width.
    pub(super) fn with(mut self, order: Order, fields: &[(&'static str, usize, usize)]) -> Self {
        self.fields.extend(
            fields
                .iter()
                .filter(|field| field.1 + field.2 <= self.len)
                .map(|&(name, offset, width)| Field { name, at: self.at + offset, width, order }),
        );
        self
    }

    /// Adds entries of `width` bytes from `offset` to the end of the part.
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

    /// Sets the function that updates the checksum.
    pub(super) fn with_checksum(mut self, update: UpdateChecksum) -> Self {
        self.checksum = Some(update);
        self
    }

    /// Moves the part and its fields by a number of bytes.
    pub(super) fn moved(mut self, by: usize) -> Self {
        self.at += by;
        self.fields.iter_mut().for_each(|field| field.at += by);
        self
    }
}

/// The structures of an image.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) parts: Vec<Part>,
    /// Whether it contains a file system that the `iso` commands read.
    pub(super) has_files: bool,
}

impl Structure {
    /// Finds the structures of an image, whose format is detected by its signature.
    pub(super) fn parse(image: &[u8]) -> Self {
        let has_magic = |offset: usize, magic: &[u8]| {
            image.get(offset..).is_some_and(|rest| rest.starts_with(magic))
        };
        let mut found = Self::default();
        if has_magic(0, b"QFI\xfb") {
            found.parts = qcow2::parts(image);
            let guest = qcow2::stored(image);
            let parts = udf::parts(&guest.bytes);
            found.has_files = !parts.is_empty();
            found.parts.extend(parts.into_iter().filter_map(|part| guest.moved(part)));
        } else if has_magic(0, b"PK\x03\x04") {
            found.parts = ova::zip_parts(image);
        } else if has_magic(257, b"ustar") {
            found.parts = ova::parts(image);
        } else if has_magic(32769, b"CD001") {
            found.parts = iso::parts(image);
            found.parts.extend(udf::parts(image));
            found.has_files = true;
        } else {
            found.parts = vmdk::parts(image);
        }
        found.parts.retain(|part| part.len > 0 && part.at + part.len <= image.len());
        if found.parts.is_empty() {
            found.parts = sectors(image, "sector", 4);
        }
        found
    }

    /// Returns the sorted names of the classes.
    pub(super) fn classes(&self) -> Vec<&'static str> {
        let mut classes: Vec<_> = self.parts.iter().map(|part| part.class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

/// Returns the sectors that are not zero, as tables of numbers of `width` bytes.
pub(super) fn sectors(image: &[u8], class: &'static str, width: usize) -> Vec<Part> {
    (0..)
        .step_by(512)
        .zip(image.chunks(512))
        .filter(|(_, sector)| sector.iter().any(|&byte| byte != 0))
        .map(|(at, sector)| Part::new(class, at, sector.len()).table(Order::Little, 0, width))
        .collect()
}

/// Returns a number of the image, or 0 beyond its end.
pub(super) fn number(image: &[u8], at: usize, width: usize, order: Order) -> usize {
    Field { name: "", at, width, order }.get(image).unwrap_or(0) as usize
}

#[test]
fn a_field_returns_the_value_that_was_set() {
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
