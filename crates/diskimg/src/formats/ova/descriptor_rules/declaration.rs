//! The XML declaration: parsers that disagree about it decode the text differently.

/// Describes what is wrong with the declaration of a descriptor. A byte order mark has precedence
/// over a stated encoding for some parsers only.
pub(super) fn problem(bytes: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let text = bytes.strip_prefix(MARK).unwrap_or(bytes);
    if !text.starts_with(b"<?xml") {
        let is_late = text.trim_ascii_start().starts_with(b"<?xml");
        return is_late.then(|| "blanks before its XML declaration".to_owned());
    }
    let end = text.windows(2).position(|end| end == b"?>");
    let declaration = end.and_then(|end| std::str::from_utf8(&text[b"<?xml".len()..end]).ok());
    let fields = declaration.and_then(fields);
    let Some(fields) = fields else {
        return Some("an XML declaration that is not canonical".to_owned());
    };
    match *fields.as_slice() {
        [("version", "1.0"), ref others @ ..] => match *others {
            [] | [("standalone", _)] => None,
            [("encoding", label)] | [("encoding", label), ("standalone", _)] => {
                let differs = text.len() < bytes.len() && !label.eq_ignore_ascii_case("UTF-8");
                differs.then(|| format!("a byte order mark of UTF-8 and the encoding '{label}'"))
            }
            _ => Some("an XML declaration with other fields".to_owned()),
        },
        _ => Some("another version of XML than 1.0".to_owned()),
    }
}

/// Splits `version="1.0" encoding="UTF-8"` into names and values.
fn fields(mut text: &str) -> Option<Vec<(&str, &str)>> {
    let mut fields = Vec::new();
    loop {
        let rest = text.trim_ascii_start();
        if rest.is_empty() {
            return Some(fields);
        }
        let (name, value) = rest.split_once('=')?;
        let name = name.trim_ascii_end();
        let value = value.trim_ascii_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, after) = value[1..].split_once(quote)?;
        // A blank precedes each name.
        if rest.len() == text.len() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return None;
        }
        fields.push((name, value));
        text = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_states_one_encoding() {
        for text in [
            "<a/>",
            "<?xml version=\"1.0\"?>",
            "<?xml version='1.0' encoding='ISO-8859-1'?>",
            "<?xml  version = \"1.0\"\n encoding = 'utf-8' standalone='yes' ?><a/>",
            "\u{feff}<?xml version='1.0' encoding='utf-8'?>",
            "\u{feff}<?xml version='1.0'?>",
            "\n<a/>",
        ] {
            assert_eq!(problem(text.as_bytes()), None, "{text}");
        }
        for text in [
            "\u{feff}<?xml version='1.0' encoding='ISO-8859-1'?>",
            " <?xml version='1.0'?>",
            "<?xml version='1.1'?>",
            "<?xml encoding='UTF-8'?>",
            "<?xml version='1.0'encoding='UTF-8'?>",
            "<?xml version='1.0' encoding='UTF-8' encoding='ISO-8859-1'?>",
            "<?xml version='1.0' standalone='no' encoding='UTF-8'?>",
            "<?xml version='1.0' encoding=UTF-8?>",
            "<?xml version='1.0' é='1'?>",
            "<?xml version='1.0'",
        ] {
            assert!(problem(text.as_bytes()).is_some(), "{text}");
        }
    }
}
