//! EWF.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::ewf::{Chunks, DESCRIPTOR, Ewf, FILE_HEADER, Program, adler32};
use std::ops::Range;

/// Maximum number of sections whose checksums are corrected.
const MAX_SECTIONS: usize = 100;

/// Input: a segment file, in which the checksums of sections, volumes and tables are corrected.
pub(crate) fn ewf(input: &[u8]) {
    let mut file = input.to_vec();
    let mut at = FILE_HEADER;
    for _ in 0..MAX_SECTIONS {
        let Some(next) = correct_section(&mut file, at) else { break };
        at = next;
    }
    exercise::image(file, Format::Ewf);
}

/// Corrects the checksums of the section at `at` and returns the offset of the next one.
fn correct_section(file: &mut [u8], at: usize) -> Option<usize> {
    correct(file, at..at.checked_add(DESCRIPTOR - 4)?)?;
    let contents = at + DESCRIPTOR;
    let number = |file: &[u8], at: usize| -> Option<usize> {
        let bytes = file.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let next = number(file, at + 16)?;
    let name: [u8; 8] = file.get(at..at + 8)?.try_into().ok()?;
    if matches!(&name, b"volume\0\0" | b"disk\0\0\0\0" | b"data\0\0\0\0") {
        let len = if next.checked_sub(contents) == Some(94) { 90 } else { 1048 };
        correct(file, contents..contents + len);
    } else if name.starts_with(b"table") {
        correct(file, contents..contents + 20);
        let entries = contents + 24;
        let end = number(file, contents)?.checked_mul(4)?.checked_add(entries)?;
        correct(file, entries..end);
    } else if name.starts_with(b"error2") {
        correct(file, contents..contents + 516);
        let entries = contents + 520;
        let end = number(file, contents)?.checked_mul(8)?.checked_add(entries)?;
        correct(file, entries..end);
    }
    (next > at).then_some(next)
}

/// Writes the checksum of `covered` after it, if the file has both.
fn correct(file: &mut [u8], covered: Range<usize>) -> Option<()> {
    let checksum = adler32(file.get(covered.clone())?).to_le_bytes();
    file.get_mut(covered.end..covered.end.checked_add(4)?)?.copy_from_slice(&checksum);
    Some(())
}

pub(crate) fn ewf_seeds() -> Vec<Vec<u8>> {
    let disk = |len: usize| (0..len).map(|at| (at / 96 * (at % 5)) as u8).collect::<Vec<_>>();
    let small = |len| Ewf { chunk_sectors: 2, table_chunks: 4, ..Ewf::new(disk(len)) };
    let text = "1\nmain\nc\tn\ta\te\tt\tm\tp\n1\t2\tdisk\tme\tnotes\t1142163845\t0\n\n".to_owned();
    let [with_text, split] = [small(5000), small(9000)];
    vec![
        small(9 * 512).build_one(),
        Ewf { program: Program::EnCase1, ..small(9 * 1024) }.build_one(),
        Ewf { program: Program::Smart, ..small(9 * 1024) }.build_one(),
        Ewf { chunks: Chunks::Stored, table2: false, sectors: Some(0), ..small(4096) }.build_one(),
        Ewf {
            header: Some(text.clone()),
            header2: Some(text),
            md5: Some([1; 16]),
            digest: Some(([2; 16], [3; 20])),
            errors: vec![(1, 2), (5, 1)],
            disk: with_text.disk[..4608].to_vec(),
            ..with_text
        }
        .build_one(),
        Ewf { segment_tables: 1, disk: split.disk[..8704].to_vec(), ..split }
            .build()
            .swap_remove(0),
    ]
}
