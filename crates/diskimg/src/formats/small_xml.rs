//! Text in XML that is small if it is valid: descriptors and property lists.

use crate::error::{Error, Result};

/// Limits the attributes of a tag, and the namespaces, to `max`: the parser's time grows with the
/// square of either. The parser accepts no DTD, so that there are no entities to expand.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if the text has more.
pub(crate) fn require_bounded(text: &str, max: usize) -> Result<()> {
    // Attribute values cannot contain '<', so that no tag is split.
    let attributes = |tag: &str| tag.bytes().filter(|&byte| byte == b'=').count();
    let most = text.split('<').map(attributes).max().unwrap_or(0);
    if most > max || text.matches("xmlns").count() > max {
        let message = format!("a tag has more than {max} attributes or namespaces");
        return Err(Error::limit(message));
    }
    Ok(())
}

/// Returns the beginning of a text, for messages.
pub(crate) fn shortened(text: &str) -> String {
    /// Maximum number of characters.
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
