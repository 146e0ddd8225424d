//! Escaping, and the words for sizes and counts.

use serde::Serialize;
use std::borrow::Cow;

/// Escapes text for HTML, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out.into()
}

/// Returns a value as JSON that can be the content of a `script` element: no text in it ends the
/// element or begins a comment.
pub(super) fn json_in_html(value: &impl Serialize) -> String {
    // Serializing fails only for maps with other keys than text.
    let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    // These characters occur only within strings.
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// Formats a number of bytes with three significant digits, such as `1.5 GiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = 0;
    // 1023.5 would be shown as 1024.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.digits$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number} {}", UNITS[unit])
}

/// Formats a count in groups of three digits, separated by narrow no-break spaces.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Formats a share of a whole in percent. Only 0 is shown as 0 %, and only the whole as 100 %.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part == 0 {
        return "0\u{202f}%".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    match share {
        _ if part == whole => "100\u{202f}%".to_owned(),
        s if s < 0.1 => "<\u{202f}0.1\u{202f}%".to_owned(),
        s if s >= 99.5 => ">\u{202f}99\u{202f}%".to_owned(),
        s if s < 9.95 => format!("{s:.1}\u{202f}%"),
        s => format!("{s:.0}\u{202f}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_significant_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((10 << 30) + (1 << 27), "10.1 GiB"),
            (200 << 20, "200 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn counts_and_shares() {
        let counts = [0, 12, 123, 1234, 1_234_567].map(|n| count(n).replace('\u{202f}', " "));
        assert_eq!(counts, ["0", "12", "123", "1 234", "1 234 567"]);
        let shares = [(0, 9), (9, 9), (1, 1 << 40), (999, 1000), (1, 3), (1, 30)];
        let shares = shares.map(|(a, b)| percent(a, b).replace('\u{202f}', ""));
        assert_eq!(shares, ["0%", "100%", "<0.1%", ">99%", "33%", "3.3%"]);
    }

    #[test]
    fn json_cannot_end_its_element() {
        let json = json_in_html(&"</script><!-- &\u{2028}\"");
        assert!(!json.contains(['<', '>', '&']), "{json}");
        let read: String = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read, "</script><!-- &\u{2028}\"");
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(
            escape("<a href='x' b=\"y\">&"),
            "&lt;a href=&#39;x&#39; b=&quot;y&quot;&gt;&amp;"
        );
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
    }
}
