//! Rules for files that are selected by shell patterns: excluded, hidden, or with a weight.

use super::glob;
use super::tree::Hidden;

/// A shell pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    bytes: Vec<u8>,
    /// Compared with the name only, not with the path.
    only_name: bool,
}

/// The rules, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) excluded: Vec<Pattern>,
    pub(super) hidden: Vec<(Pattern, Hidden)>,
    pub(super) weights: Vec<(Pattern, i32)>,
}

impl Pattern {
    /// A pattern for names and paths.
    pub(super) fn new(pattern: &str) -> Self {
        Self { bytes: pattern.as_bytes().to_vec(), only_name: false }
    }

    /// A pattern for names.
    pub(super) fn of_name(pattern: &str) -> Self {
        Self { only_name: true, ..Self::new(pattern) }
    }

    fn matches(&self, name: &[u8], path: &[u8]) -> bool {
        glob::matches(&self.bytes, name) || self.matches_path(path)
    }

    fn matches_path(&self, path: &[u8]) -> bool {
        !self.only_name && glob::matches(&self.bytes, path)
    }
}

impl Rules {
    /// Returns whether a file is excluded. `path` is called only if there is a rule.
    pub(super) fn is_excluded(&self, name: &[u8], path: impl FnOnce() -> Vec<u8>) -> bool {
        if self.excluded.is_empty() {
            return false;
        }
        let path = path();
        self.excluded.iter().any(|pattern| pattern.matches(name, &path))
    }

    /// Returns how a file is hidden.
    pub(super) fn hidden(&self, name: &[u8], path: impl FnOnce() -> Vec<u8>) -> Hidden {
        if self.hidden.is_empty() {
            return Hidden::empty();
        }
        let path = path();
        let matching = self.hidden.iter().filter(|(pattern, _)| pattern.matches(name, &path));
        matching.fold(Hidden::empty(), |all, (_, how)| all | *how)
    }

    /// Returns the weight of a file, if a pattern matches its path.
    pub(super) fn weight(&self, path: impl FnOnce() -> Vec<u8>) -> Option<i32> {
        if self.weights.is_empty() {
            return None;
        }
        let path = path();
        let mut last_first = self.weights.iter().rev();
        last_first.find(|(pattern, _)| pattern.matches_path(&path)).map(|(_, weight)| *weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_paths() {
        let mut rules = Rules::default();
        rules.hidden.push((Pattern::new("a.txt"), Hidden::PRIMARY));
        rules.hidden.push((Pattern::new("d/*"), Hidden::JOLIET));
        rules.excluded.push(Pattern::of_name("*~*"));
        let hidden = |name: &str, path: &str| rules.hidden(name.as_bytes(), || path.into());
        assert_eq!(hidden("a.txt", "x/a.txt"), Hidden::PRIMARY);
        assert_eq!(hidden("a.txt", "d/e/a.txt"), Hidden::PRIMARY | Hidden::JOLIET);
        assert_eq!(hidden("b", "x/d/b"), Hidden::empty());
        assert!(rules.is_excluded(b"a~", || b"d/a~".to_vec()));
        assert!(!rules.is_excluded(b"a", || b"d~/a".to_vec()));
    }

    #[test]
    fn the_last_matching_weight_counts() {
        let mut rules = Rules::default();
        rules.weights.push((Pattern::new("d/z/c"), 100));
        rules.weights.push((Pattern::new("d/z/*"), 10));
        assert_eq!(rules.weight(|| b"d/z/c".to_vec()), Some(10));
        // Unlike with the other rules, a name is no path.
        rules.weights.push((Pattern::new("c"), 1));
        assert_eq!(rules.weight(|| b"d/c".to_vec()), None);
    }
}
