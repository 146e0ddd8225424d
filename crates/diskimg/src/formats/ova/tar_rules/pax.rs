//! The records of a pax header.

use super::{Stated, Walk};
use crate::error::Result;

impl Walk<'_> {
    pub(super) fn pax(&mut self, stated: &mut Stated, size: u64, global: bool) -> Result<()> {
        let bytes = self.extension(size)?;
        if !global && std::mem::replace(&mut stated.pax, true) {
            self.problem(self.at, "several pax headers of one member");
        }
        let mut rest = &bytes[..];
        while rest.first().is_some_and(|&byte| byte != 0) {
            let Some((key, value, following)) = pax_record(rest) else {
                self.problem(self.at, "pax records that are not canonical");
                return Ok(());
            };
            rest = following;
            let matters =
                matches!(key, b"path" | b"size" | b"linkpath") || key.starts_with(b"GNU.sparse.");
            match key {
                b"hdrcharset" if value == b"ISO-IR 10646 2000 UTF-8" => {}
                b"hdrcharset" => self.problem(self.at, "pax names in another character set"),
                _ if matters && global => {
                    self.problem(self.at, "pax attributes that all following members have");
                }
                _ if matters && (value.is_empty() || value.contains(&0)) => {
                    self.problem(self.at, "an empty pax value, or one with a zero byte");
                }
                b"path" => self.state_name(stated, value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().filter(|_| is_digits(value));
                    let size = size.and_then(|size| size.parse().ok());
                    if size.is_none() || stated.size.is_some() {
                        self.problem(self.at, "several pax sizes, or one that is not a number");
                    }
                    stated.size = size;
                }
                _ if !matters && !is_harmless(key) => {
                    let key = String::from_utf8_lossy(key);
                    self.problem(self.at, format!("the pax attribute '{key}'"));
                }
                b"uid" | b"gid" | b"mtime" | b"atime" | b"ctime" if !is_decimal(value) => {
                    self.problem(self.at, "a pax value that is not a number");
                }
                _ => {}
            }
        }
        if rest.iter().any(|&byte| byte != 0) {
            self.problem(self.at, "bytes after pax records");
        }
        Ok(())
    }
}

/// Splits off the first pax record: key, value and the following records.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().position(|&byte| byte == b' ')?;
    let digits = records.get(..blank).filter(|digits| is_digits(digits) && digits[0] != b'0')?;
    let length = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Returns true for a decimal number, with a sign and a fraction or without.
fn is_decimal(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    parts.next().is_some_and(|whole| is_digits(whole) && whole.len() < 20)
        && parts.next().is_none_or(is_digits)
}

/// Returns true for the pax attributes that change neither the list of members nor their contents,
/// whatever their values. Those of other programs may: they have formats for sparse files, for
/// directories and for parts of files.
fn is_harmless(key: &[u8]) -> bool {
    let known = [
        &b"atime"[..],
        b"ctime",
        b"mtime",
        b"uid",
        b"gid",
        b"uname",
        b"gname",
        b"comment",
        b"LIBARCHIVE.creationtime",
        b"SCHILY.dev",
        b"SCHILY.ino",
        b"SCHILY.nlink",
        b"SCHILY.fflags",
    ];
    let families = [&b"LIBARCHIVE.xattr."[..], b"SCHILY.xattr.", b"SCHILY.acl.", b"RHT.security."];
    known.contains(&key) || families.iter().any(|family| key.starts_with(family))
}
