//! How an image is encrypted, and the LUKS header that it may contain.
//!
//! ```text
//!    0 ┌─────────────┬─────────┬──────────────┬──────────────┬──────────────┐
//!      │ "LUKS\xba…" │ version │ cipher (32)  │ mode (32)    │ hash (32)    │
//!  104 ├─────────────┴──┬──────┴────┬─────────┴────┬─────────┴─┬────────────┤
//!      │ payload offset │ key bytes │ digest, salt │ iterations│ UUID (40)  │
//!  208 ├────────────────┴───────────┴──────────────┴───────────┴────────────┤
//!      │ 8 key slots: state, iterations, salt, offset, stripes              │
//!  592 └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Specification: *LUKS On-Disk Format Specification* 1.2.3 (`luks_phdr`). Offsets are in sectors of
//! 512 bytes, from the start of the header.

use super::extensions::EncryptionHeader;
use super::header::text;
use crate::error::{Error, Result};
use crate::report::info::Value;
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

/// State of a key slot that contains a key.
const ACTIVE: u32 = 0x00ac_71f3;

/// Size in bytes of a sector.
const SECTOR: u64 = 512;

/// How errors call the header.
const STRUCTURE: &str = "LUKS header";

/// How the guest's bytes are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// AES-CBC with the password itself as the key.
    Aes,
    /// LUKS, whose header is in separate clusters.
    Luks,
}

impl Encryption {
    /// Returns the method with this number in the header of the image.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if it is unknown.
    pub(super) fn of(method: u32) -> Result<Option<Self>> {
        match method {
            0 => Ok(None),
            1 => Ok(Some(Self::Aes)),
            2 => Ok(Some(Self::Luks)),
            other => Err(Error::unsupported(format!("encryption method {other} is unknown"))
                .in_structure("header")
                .at(32)),
        }
    }

    /// Returns QEMU's name of the method.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }
}

/// The header as stored in the image.
#[derive(Debug, Clone, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LuksHeader {
    magic: [u8; 6],
    version: U16,
    cipher: [u8; 32],
    /// The mode and the generator of initialization vectors: `xts-plain64`, `cbc-essiv:sha256`.
    mode: [u8; 32],
    hash: [u8; 32],
    payload_offset: U32,
    key_bytes: U32,
    digest: [u8; 20],
    salt: [u8; 32],
    iterations: U32,
    uuid: [u8; 40],
    slots: [KeySlot; 8],
}

const _: () = assert!(size_of::<LuksHeader>() == 592);

/// A key slot.
#[derive(Debug, Clone, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct KeySlot {
    state: U32,
    iterations: U32,
    salt: [u8; 32],
    offset: U32,
    stripes: U32,
}

impl LuksHeader {
    /// Reads the header to which the image's header extension points.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if there is no header, and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if its version is not 1.
    pub(super) fn read(file: &dyn Source, at: Option<EncryptionHeader>) -> Result<Self> {
        let corrupt = |message: &'static str| Error::corrupt(STRUCTURE, message);
        let Some(EncryptionHeader { offset, bytes }) = at else {
            return Err(corrupt("the image does not say where it is"));
        };
        let mut raw = [0; size_of::<Self>()];
        if bytes < to_u64(raw.len()) {
            return Err(corrupt("it is too short").at(offset));
        }
        file.read_exact_at(&mut raw, offset)
            .map_err(|e| Error::io("cannot read it", e).in_structure(STRUCTURE).at(offset))?;
        let header: Self = zerocopy::transmute!(raw);
        if header.magic != MAGIC {
            return Err(corrupt("it does not start with the magic bytes of LUKS").at(offset));
        }
        match header.version.get() {
            1 => Ok(header),
            version => Err(Error::unsupported(format!("LUKS version {version} is not supported"))
                .in_structure(STRUCTURE)
                .at(offset)),
        }
    }

    /// Returns the values that `info` shows, in QEMU's order.
    pub(super) fn facts(&self) -> Vec<(&'static str, Value)> {
        let mode = text(&self.mode);
        let (mode, generator) = mode.split_once('-').unwrap_or((&mode, ""));
        let (generator, generator_hash) = generator.split_once(':').unwrap_or((generator, ""));
        let sectors = |offset: U32| Value::from(u64::from(offset.get()) * SECTOR);
        let mut facts = vec![
            ("ivgen-alg", generator.into()),
            ("detached-header", (self.payload_offset.get() == 0).into()),
            ("hash-alg", Value::Text(text(&self.hash))),
            ("cipher-alg", Value::Text(self.cipher(mode))),
            ("uuid", Value::Text(text(&self.uuid))),
        ];
        if generator == "essiv" {
            facts.push(("ivgen-hash-alg", generator_hash.into()));
        }
        facts.extend([
            ("format", "luks".into()),
            ("cipher-mode", mode.into()),
            ("slots", Value::List(self.slots.iter().map(KeySlot::to_value).collect())),
            ("payload-offset", sectors(self.payload_offset)),
            ("master-key-iters", u64::from(self.iterations.get()).into()),
        ]);
        facts
    }

    /// Returns QEMU's name of the cipher, which includes the length of its key in bits.
    fn cipher(&self, mode: &str) -> String {
        let key_bits = u64::from(self.key_bytes.get()) * 8;
        // XTS has two keys.
        let key_bits = if mode == "xts" { key_bits / 2 } else { key_bits };
        match text(&self.cipher).as_str() {
            "sm4" => "sm4".to_owned(),
            name => format!("{name}-{key_bits}"),
        }
    }
}

impl KeySlot {
    fn to_value(&self) -> Value {
        let offset = ("key-offset", Value::from(u64::from(self.offset.get()) * SECTOR));
        Value::Map(match self.state.get() {
            ACTIVE => vec![
                ("active", true.into()),
                ("iters", u64::from(self.iterations.get()).into()),
                offset,
                ("stripes", u64::from(self.stripes.get()).into()),
            ],
            _ => vec![("active", false.into()), offset],
        })
    }
}
