//! LZFSE, Apple's codec of LZ77 and finite state entropy.
//!
//! ```text
//!   bvx2 header ┊ frequencies │ literals ◄── │ matches ◄── │ bvxn … │ bvx- bytes │ bvx$
//!                               both are read from their end: L, M and D of each match
//! ```
//!
//! A stream consists of blocks: `bvx2` (or `bvx1`, whose header is not packed) with entropy coding,
//! `bvxn` with LZVN, `bvx-` with plain bytes, and `bvx$` at the end. A match may refer to the output
//! of earlier blocks. The comments of Apple's reference implementation (github.com/lzfse/lzfse) are
//! the specification.
//!
//! This is our own decoder: the only one in Rust has 439 lines with `unsafe` in code that parses
//! hostile bytes, and its output has no upper bound.

use super::lzvn;
use super::matches::{copy_match, damaged, too_short};
use std::io;
use std::ops::Range;

/// Symbols of lengths of literals, lengths of matches, and distances, and of literals.
const SYMBOLS: [usize; 4] = [20, 20, 64, 256];

/// Number of states of each.
const STATES: [usize; 4] = [64, 64, 256, 1024];

/// Additional bits of the symbols of lengths of literals.
const L_BITS: [u8; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 5, 8];

/// Additional bits of the symbols of lengths of matches.
const M_BITS: [u8; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 5, 8, 11];

/// Maximum number of matches of a block.
const MAX_MATCHES: u32 = 10_000;

/// Maximum number of literals of a block.
const MAX_LITERALS: u32 = 4 * MAX_MATCHES;

/// Length in bytes of the header of a `bvx1` block.
const V1_HEADER: usize = 772;

/// Length in bytes of the header of a `bvx2` block without frequencies.
const V2_HEADER: usize = 32;

/// The decoder's tables, for reuse.
#[derive(Default)]
pub(super) struct Decompressor {
    literals: Vec<u8>,
    tables: [Vec<Entry>; 4],
}

/// What a state decodes to.
#[derive(Clone, Copy)]
struct Entry {
    /// Number of bits to take: those of the next state, then the value's additional bits.
    bits: u8,
    /// Number of the value's additional bits.
    value_bits: u8,
    /// Value without them, or the literal.
    value: u32,
    /// Added to the bits of the next state.
    delta: i32,
}

impl Decompressor {
    /// Decompresses until the unit is full.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged or yields fewer bytes.
    pub(super) fn decode(&mut self, mut stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        while at < unit.len() {
            let (magic, rest) = take::<4>(stored)?;
            let used = match &magic {
                b"bvx$" => return Err(too_short("LZFSE", at, unit.len())),
                b"bvx-" => {
                    let len = le32(rest, 0)? as usize;
                    let bytes = part(rest, 4..4usize.saturating_add(len))?;
                    let fits = len.min(unit.len() - at);
                    unit[at..at + fits].copy_from_slice(&bytes[..fits]);
                    at += fits;
                    4 + len
                }
                b"bvxn" => {
                    let (len, stored) = (le32(rest, 0)? as usize, le32(rest, 4)? as usize);
                    let end = at.saturating_add(len).min(unit.len());
                    let payload = part(rest, 8..8usize.saturating_add(stored))?;
                    let written = lzvn::decode(payload, &mut unit[..end], at)?;
                    if written != end {
                        return Err(too_short("LZVN", written - at, end - at));
                    }
                    at = end;
                    8 + stored
                }
                b"bvx1" => self.block(Header::v1(stored)?, stored, unit, &mut at)? - 4,
                b"bvx2" => self.block(Header::v2(stored)?, stored, unit, &mut at)? - 4,
                _ => return Err(damaged(format!("an LZFSE block has the magic {magic:02x?}"))),
            };
            stored = rest.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Decodes a block with entropy coding. Returns its length in bytes.
    fn block(
        &mut self,
        header: Header,
        stored: &[u8],
        unit: &mut [u8],
        at: &mut usize,
    ) -> io::Result<usize> {
        header.validate()?;
        let mut frequencies = &header.frequencies[..];
        for (kind, table) in self.tables.iter_mut().enumerate() {
            let (own, rest) = frequencies.split_at(SYMBOLS[kind]);
            frequencies = rest;
            build_table(kind, own, table)?;
        }
        let literals_end = header.len.saturating_add(header.literal_bytes);
        let end = literals_end.saturating_add(header.match_bytes);
        let literals = part(stored, header.len..literals_end)?;
        self.decode_literals(&header, literals)?;
        self.decode_matches(&header, part(stored, literals_end..end)?, unit, at)?;
        Ok(end)
    }

    fn decode_literals(&mut self, header: &Header, payload: &[u8]) -> io::Result<()> {
        let table: &[Entry; 1024] = table(&self.tables[3])?;
        let mut bits = Bits::at_end(payload, header.literal_bits)?;
        let mut states = header.literal_states;
        self.literals.clear();
        self.literals.resize(header.literals.next_multiple_of(4), 0);
        for four in self.literals.chunks_exact_mut(4) {
            // At most ten bits each.
            bits.refill();
            for (literal, state) in four.iter_mut().zip(&mut states) {
                let entry = table[usize::from(*state & 1023)];
                *literal = entry.value as u8;
                *state = (entry.delta + bits.take(entry.bits) as i32) as u16;
            }
        }
        bits.finish()
    }

    fn decode_matches(
        &self,
        header: &Header,
        payload: &[u8],
        unit: &mut [u8],
        at: &mut usize,
    ) -> io::Result<()> {
        let l_table: &[Entry; 64] = table(&self.tables[0])?;
        let m_table: &[Entry; 64] = table(&self.tables[1])?;
        let d_table: &[Entry; 256] = table(&self.tables[2])?;
        let mut bits = Bits::at_end(payload, header.match_bits)?;
        let [mut l_state, mut m_state, mut d_state] = header.match_states;
        let mut literals = &self.literals[..header.literals];
        let mut distance = 0;
        for _ in 0..header.matches {
            // At most 14, 17 and 23 bits.
            bits.refill();
            let l = bits.value(&l_table[usize::from(l_state & 63)], &mut l_state);
            let m = bits.value(&m_table[usize::from(m_state & 63)], &mut m_state);
            let d = bits.value(&d_table[usize::from(d_state & 255)], &mut d_state);
            // 0 stands for the last distance.
            distance = if d == 0 { distance } else { d as usize };
            let Some((own, rest)) = literals.split_at_checked(l as usize) else {
                return Err(damaged("a match of an LZFSE block has more literals than the block"));
            };
            literals = rest;
            let fits = own.len().min(unit.len() - *at);
            unit[*at..*at + fits].copy_from_slice(&own[..fits]);
            *at += fits;
            if m > 0 && *at < unit.len() {
                copy_match(unit, at, m as usize, distance)?;
            }
            if bits.is_exhausted() {
                break;
            }
        }
        bits.finish()
    }
}

fn table<const N: usize>(entries: &[Entry]) -> io::Result<&[Entry; N]> {
    entries.try_into().map_err(|_| damaged("a table of an LZFSE block is not complete"))
}

/// Builds the table of states of a kind of symbols from their frequencies.
fn build_table(kind: usize, frequencies: &[u16], table: &mut Vec<Entry>) -> io::Result<()> {
    let states = STATES[kind];
    let sum: usize = frequencies.iter().map(|&n| usize::from(n)).sum();
    // A block without literals has no frequencies of literals.
    if sum != states && !(sum == 0 && kind == 3) {
        return Err(damaged(format!("the frequencies of an LZFSE block add up to {sum}")));
    }
    table.clear();
    let mut base = 0;
    for (symbol, &frequency) in frequencies.iter().enumerate() {
        let value_bits = match kind {
            0 => L_BITS[symbol],
            1 => M_BITS[symbol],
            2 => (symbol / 4) as u8,
            _ => 0,
        };
        let value = if kind == 3 { symbol as u32 } else { base };
        base += 1 << value_bits;
        let f = i32::from(frequency);
        if f == 0 {
            continue;
        }
        // The number of bits by which the frequency is below the number of states.
        let k = f.leading_zeros() - (states as u32).leading_zeros();
        let longer = ((2 * states as i32) >> k) - f;
        for j in 0..f {
            let (k, delta) = match j < longer {
                true => (k, ((f + j) << k) - states as i32),
                false => (k - 1, (j - longer) << (k - 1)),
            };
            table.push(Entry { bits: k as u8 + value_bits, value_bits, value, delta });
        }
    }
    // Such a table is not used, but has the length that the code expects.
    table.resize(states, Entry { bits: 0, value_bits: 0, value: 0, delta: 0 });
    Ok(())
}

/// The header of a block with entropy coding.
struct Header {
    /// Its length in bytes.
    len: usize,
    literals: usize,
    literal_bytes: usize,
    matches: u32,
    match_bytes: usize,
    /// Unused bits of the last byte, negative.
    literal_bits: i32,
    match_bits: i32,
    literal_states: [u16; 4],
    match_states: [u16; 3],
    /// Of all kinds of symbols, one after the other.
    frequencies: [u16; 360],
}

impl Header {
    fn v1(stored: &[u8]) -> io::Result<Self> {
        let header = part(stored, 0..V1_HEADER)?;
        let number = |at| le32(header, at);
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut frequencies = [0; 360];
        for (index, frequency) in frequencies.iter_mut().enumerate() {
            *frequency = half(50 + 2 * index);
        }
        Ok(Self {
            len: V1_HEADER,
            literals: number(12)? as usize,
            matches: number(16)?,
            literal_bytes: number(20)? as usize,
            match_bytes: number(24)? as usize,
            literal_bits: number(28)?.cast_signed(),
            literal_states: [half(32), half(34), half(36), half(38)],
            match_bits: number(40)?.cast_signed(),
            match_states: [half(44), half(46), half(48)],
            frequencies,
        })
    }

    fn v2(stored: &[u8]) -> io::Result<Self> {
        let fixed = part(stored, 0..V2_HEADER)?;
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(fixed[8..].as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let field = |word: usize, at: u32, bits: u32| (words[word] >> at) & ((1 << bits) - 1);
        let len = field(2, 0, 32) as usize;
        if len < V2_HEADER {
            return Err(damaged(format!("the header of an LZFSE block has {len} bytes")));
        }
        Ok(Self {
            len,
            literals: field(0, 0, 20) as usize,
            literal_bytes: field(0, 20, 20) as usize,
            matches: field(0, 40, 20) as u32,
            literal_bits: field(0, 60, 3) as i32 - 7,
            literal_states: [0, 10, 20, 30].map(|at| field(1, at, 10) as u16),
            match_bytes: field(1, 40, 20) as usize,
            match_bits: field(1, 60, 3) as i32 - 7,
            match_states: [32, 42, 52].map(|at| field(2, at, 10) as u16),
            frequencies: unpack_frequencies(part(stored, V2_HEADER..len)?)?,
        })
    }

    fn validate(&self) -> io::Result<()> {
        let states = [self.match_states[0], self.match_states[1], self.match_states[2]];
        let valid = self.literals <= MAX_LITERALS as usize
            && self.matches <= MAX_MATCHES
            && self.literal_states.iter().all(|&state| usize::from(state) < STATES[3])
            && states.iter().zip(STATES).all(|(&state, states)| usize::from(state) < states);
        if valid { Ok(()) } else { Err(damaged("the header of an LZFSE block is not valid")) }
    }
}

/// Unpacks frequencies, each of 2 to 14 bits, from the lowest bit of the first byte on.
fn unpack_frequencies(mut packed: &[u8]) -> io::Result<[u16; 360]> {
    let mut frequencies = [0; 360];
    let (mut bits, mut count) = (0_u32, 0);
    for frequency in &mut frequencies {
        while count <= 24
            && let [first, rest @ ..] = packed
        {
            bits |= u32::from(*first) << count;
            count += 8;
            packed = rest;
        }
        let (value, len) = match bits & 0x1f {
            low if low & 3 == 0 => (0, 2),
            low if low & 3 == 2 => (1, 2),
            low if low & 7 == 1 => (2, 3),
            low if low & 7 == 5 => (3, 3),
            low if low & 7 == 3 => (4 + (low >> 3), 5),
            low if low & 15 == 7 => (8 + (bits >> 4 & 0xf), 8),
            _ => (24 + (bits >> 4 & 0x3ff), 14),
        };
        if len > count {
            return Err(damaged("the frequencies of an LZFSE block are not complete"));
        }
        *frequency = value as u16;
        bits >>= len;
        count -= len;
    }
    if count >= 8 || !packed.is_empty() {
        return Err(damaged("the header of an LZFSE block is too long"));
    }
    Ok(frequencies)
}

/// Bits that are taken from the end of a byte sequence.
struct Bits<'a> {
    bytes: &'a [u8],
    /// Number of bytes that are not in `word`.
    left: usize,
    /// The next bits, the next one in the highest place.
    word: u64,
    /// Number of them.
    count: u32,
    /// More bits were taken than there are.
    exhausted: bool,
}

impl<'a> Bits<'a> {
    /// Starts before the last `-unused` bits of `bytes`, which must be zero.
    fn at_end(bytes: &'a [u8], unused: i32) -> io::Result<Self> {
        let mut bits = Self { bytes, left: bytes.len(), word: 0, count: 0, exhausted: false };
        bits.refill();
        let unused = unused.checked_neg().and_then(|unused| u8::try_from(unused).ok());
        match unused.filter(|&unused| unused < 8).map(|unused| bits.take(unused)) {
            Some(0) if !bits.exhausted => Ok(bits),
            _ => Err(damaged("the end of the codes of an LZFSE block is not valid")),
        }
    }

    /// Makes at least 56 bits available, if there are as many.
    #[inline]
    fn refill(&mut self) {
        if let Some(bytes) = self.bytes[..self.left].last_chunk::<8>() {
            let next = u64::from_le_bytes(*bytes);
            // A part of a byte that is not counted yet is added again next time: the same bits.
            self.word |= next >> self.count;
            let added = (63 - self.count) / 8;
            self.left -= added as usize;
            self.count += 8 * added;
            return;
        }
        while self.count <= 56
            && let Some(byte) = self.left.checked_sub(1).map(|last| self.bytes[last])
        {
            self.left -= 1;
            self.word |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Takes at most 32 bits.
    #[inline]
    fn take(&mut self, n: u8) -> u32 {
        let n = u32::from(n);
        if n > self.count {
            self.exhausted = true;
            return 0;
        }
        // In two steps, because n may be 0.
        let value = (self.word >> 1 >> (63 - n)) as u32;
        self.word <<= n;
        self.count -= n;
        value
    }

    /// Takes a value and the next state.
    #[inline]
    fn value(&mut self, entry: &Entry, state: &mut u16) -> u32 {
        let bits = self.take(entry.bits);
        *state = (entry.delta + (bits >> entry.value_bits) as i32) as u16;
        entry.value + (bits & ((1 << entry.value_bits) - 1))
    }

    fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    fn finish(&self) -> io::Result<()> {
        match self.exhausted {
            true => Err(damaged("the codes of an LZFSE block end early")),
            false => Ok(()),
        }
    }
}

fn take<const N: usize>(bytes: &[u8]) -> io::Result<([u8; N], &[u8])> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(truncated)?;
    Ok((*taken, rest))
}

fn part(bytes: &[u8], range: Range<usize>) -> io::Result<&[u8]> {
    bytes.get(range).ok_or_else(truncated)
}

fn le32(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(truncated)?;
    Ok(u32::from_le_bytes(*bytes))
}

fn truncated() -> io::Error {
    damaged("the LZFSE stream ends within a block")
}

#[cfg(test)]
mod tests;
