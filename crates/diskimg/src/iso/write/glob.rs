//! Shell patterns: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a literal character (POSIX, 2.13.1).
//! Bytes are compared, and `*` also matches slashes.

/// Returns true if `pattern` matches all of `text`.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Position of the last star in the pattern, and of the end of its match in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            _ => one(&pattern[p.min(pattern.len())..], text[t]),
        };
        match (step, star) {
            (Some(used), _) => (p, t) = (p + used, t + 1),
            // Extend the match of the last star. Earlier stars need not be extended, because
            // everything up to the last one has matched.
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Returns the length of the first element of the pattern if it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match set(&pattern[1..], byte) {
            Some((true, used)) => Some(used + 1),
            Some((false, _)) => None,
            // An unterminated `[` is literal.
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        other => (other == byte).then_some(1),
    }
}

/// Returns whether `byte` is in the bracket expression, and its length up to and including the
/// closing bracket.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut found = false;
    loop {
        let &low = pattern.get(at)?;
        if low == b']' && at > start {
            return Some((found != negated, at + 1));
        }
        match pattern.get(at + 1..at + 3) {
            Some(&[b'-', high]) if high != b']' => {
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let cases = [
            ("*.o", "main.o", true),
            ("*.o", "main.oo", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbX", false),
            ("?", "", false),
            ("", "", true),
            ("*", "", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*/build/*", "/src/build/x", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_with_many_stars_is_matched_in_polynomial_time() {
        let pattern = "*a".repeat(100);
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).replace('a', "ab").as_bytes()));
    }
}
