//! Unique identifiers for the files of one directory.

use crate::storage::number::{to_index, to_u32};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// The rules by which a tree converts names to identifiers.
pub(super) trait Naming {
    /// Appends the identifier for `name` to `out`, without a version, and with `number` if given.
    /// Returns false if the identifier differs from the name in a way that should be reported.
    fn make(&self, name: &[u8], is_dir: bool, number: Option<u32>, out: &mut Vec<u8>) -> bool;

    /// Appends the version to the identifier in `out[start..]`, if the tree has versions.
    fn finish(&self, is_dir: bool, out: &mut Vec<u8>, start: usize);

    /// Compares two identifiers without versions. Equal ones must not be in the same directory.
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering;
}

/// A child of a directory that needs an identifier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unnamed<'t> {
    pub(super) name: &'t [u8],
    pub(super) is_dir: bool,
}

/// The identifiers of a directory, in one buffer.
#[derive(Debug, Default)]
pub(super) struct Identifiers {
    bytes: Vec<u8>,
    /// Start, length, and index of the child.
    spans: Vec<(u32, u32, u32)>,
}

impl Identifiers {
    fn get(&self, at: usize) -> &[u8] {
        let (start, len, _) = self.spans[at];
        &self.bytes[to_index(start)..to_index(start + len)]
    }

    fn add(&mut self, child: usize, make: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        make(&mut self.bytes);
        let len = self.bytes.len() - start;
        self.spans.push((to_u32(start), to_u32(len), to_u32(child)));
    }

    /// Assigns unique identifiers to all children of a directory, and sorts them in the order of
    /// directory records. The first of several children with equal identifiers keeps it, the others
    /// are numbered. Calls `report` for each child whose identifier differs from its name.
    pub(super) fn assign(
        &mut self,
        naming: &dyn Naming,
        children: &[Unnamed<'_>],
        report: &mut dyn FnMut(usize, &[u8]),
    ) {
        self.bytes.clear();
        self.spans.clear();
        for (at, child) in children.iter().enumerate() {
            let mut exact = true;
            self.add(at, |out| exact = naming.make(child.name, child.is_dir, None, out));
            if !exact {
                report(at, self.get(at));
            }
        }
        self.sort(naming);
        let same = |pair: &[(u32, u32, u32)]| {
            let [a, b] = [pair[0], pair[1]]
                .map(|(start, len, _)| &self.bytes[to_index(start)..to_index(start + len)]);
            naming.compare(a, b) == Ordering::Equal
        };
        if self.spans.windows(2).any(same) {
            self.number(naming, children);
            self.sort(naming);
        }
    }

    fn sort(&mut self, naming: &dyn Naming) {
        let bytes = &self.bytes;
        let text =
            |&(start, len, _): &(u32, u32, u32)| &bytes[to_index(start)..to_index(start + len)];
        self.spans
            .sort_unstable_by(|a, b| naming.compare(text(a), text(b)).then_with(|| a.2.cmp(&b.2)));
    }

    /// Numbers the children whose identifier is equal to that of the previous one.
    fn number(&mut self, naming: &dyn Naming, children: &[Unnamed<'_>]) {
        let all = 0..self.spans.len();
        let mut taken: HashSet<Vec<u8>> = all.map(|at| self.get(at).to_vec()).collect();
        // The next number to try, by the identifier with the number 0.
        let mut next: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut kept = self.get(0).to_vec();
        for at in 1..self.spans.len() {
            if naming.compare(&kept, self.get(at)) != Ordering::Equal {
                kept = self.get(at).to_vec();
                continue;
            }
            let child = self.spans[at].2;
            let Unnamed { name, is_dir } = children[to_index(child)];
            let mut identifier = Vec::new();
            naming.make(name, is_dir, Some(0), &mut identifier);
            let count = next.entry(identifier.clone()).or_insert(0);
            loop {
                identifier.clear();
                naming.make(name, is_dir, Some(*count), &mut identifier);
                *count += 1;
                if taken.insert(identifier.clone()) {
                    break;
                }
            }
            self.spans[at] = (to_u32(self.bytes.len()), to_u32(identifier.len()), child);
            self.bytes.extend_from_slice(&identifier);
        }
    }

    /// Returns the indexes of the children in the order of their directory records, with their
    /// complete identifiers.
    pub(super) fn finished<'s>(
        &'s self,
        naming: &'s dyn Naming,
        children: &'s [Unnamed<'_>],
    ) -> impl Iterator<Item = (usize, Vec<u8>)> + 's {
        self.spans.iter().enumerate().map(move |(at, &(_, _, child))| {
            let mut identifier = self.get(at).to_vec();
            naming.finish(children[to_index(child)].is_dir, &mut identifier, 0);
            (to_index(child), identifier)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::PrimaryNames;
    use super::super::options::{CreateOptions, NameRules};
    use super::*;

    fn named(rules: NameRules, names: &[String]) -> Vec<(usize, String)> {
        let children: Vec<_> =
            names.iter().map(|n| Unnamed { name: n.as_bytes(), is_dir: false }).collect();
        let naming = PrimaryNames::new(&CreateOptions { names: rules, ..CreateOptions::default() });
        let mut identifiers = Identifiers::default();
        identifiers.assign(&naming, &children, &mut |_, _| {});
        let text =
            |(child, name): (usize, Vec<u8>)| (child, String::from_utf8(name).expect("ASCII"));
        identifiers.finished(&naming, &children).map(text).collect()
    }

    #[test]
    fn of_equal_identifiers_one_is_kept_and_the_others_are_numbered() {
        let names = ["README", "ReadMe", "readm000", "readme"].map(String::from);
        let named = named(NameRules::strict(), &names);
        let expected =
            [(2, "READM000.;1"), (1, "READM001.;1"), (3, "READM002.;1"), (0, "README.;1")];
        assert_eq!(named, expected.map(|(child, name)| (child, name.to_owned())));
    }

    #[test]
    fn thousands_of_similar_names_get_unique_sorted_identifiers() {
        let names: Vec<_> = (0..5000).map(|n| format!("a long name {n}.text")).collect();
        let named = named(NameRules::strict(), &names);
        assert!(named.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(named.iter().all(|(_, name)| name.len() == 14));
    }
}
