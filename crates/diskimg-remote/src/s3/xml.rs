//! Replies in XML.

use std::collections::HashMap;

/// Maximum number of elements, attributes and texts of a reply.
const MAX_NODES: u32 = 10_000;

/// The texts of a reply.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The name of the outermost element, without its namespace.
    pub(crate) name: String,
    /// The text of the first element of each name.
    texts: HashMap<String, String>,
}

impl Reply {
    /// Parses a reply. Entities are not expanded. Returns `None` if it is malformed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self::parse_list(text, "")?.0)
    }

    /// Parses a reply and its elements with the name `item`, as [`parse`](Self::parse).
    pub(crate) fn parse_list(text: &str, item: &str) -> Option<(Self, Vec<Self>)> {
        let options = roxmltree::ParsingOptions {
            nodes_limit: MAX_NODES,
            ..roxmltree::ParsingOptions::default()
        };
        // Amazon sends spaces while it completes an upload.
        let document = roxmltree::Document::parse_with_options(text.trim_start(), options).ok()?;
        let root = document.root_element();
        let items =
            root.descendants().filter(|node| node.is_element() && node.tag_name().name() == item);
        Some((Self::of(root), items.map(Self::of).collect()))
    }

    fn of(root: roxmltree::Node<'_, '_>) -> Self {
        let mut reply = Self { name: root.tag_name().name().to_owned(), ..Self::default() };
        for element in root.descendants().filter(|node| node.is_element()) {
            if let Some(text) = element.text() {
                let name = element.tag_name().name().to_owned();
                reply.texts.entry(name).or_insert_with(|| text.trim().to_owned());
            }
        }
        reply
    }

    /// Returns the text of the first element with a name, if it is not empty.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(|text| &**text).filter(|text| !text.is_empty())
    }
}

/// Returns text as it is written in XML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_reply_are_found() {
        let reply = Reply::parse(
            "  \n<?xml version=\"1.0\"?><R xmlns=\"urn:x\"><A><B>1 &lt; 2</B></A><B>3</B><C/></R>",
        );
        let reply = reply.expect("is XML");
        assert_eq!((&*reply.name, reply.find("B"), reply.find("C")), ("R", Some("1 < 2"), None));
        for wrong in ["", "<R>", "<!DOCTYPE R [<!ENTITY e \"x\">]><R>&e;</R>"] {
            assert_eq!(Reply::parse(wrong), None, "{wrong}");
        }
        let (_, items) =
            Reply::parse_list("<R><A><B>1</B></A><A><B>2</B></A></R>", "A").expect("is XML");
        let texts: Vec<_> = items.iter().filter_map(|item| item.find("B")).collect();
        assert_eq!(texts, ["1", "2"]);
        let many = format!("<R>{}</R>", "<a/>".repeat(MAX_NODES as usize));
        assert_eq!(Reply::parse(&many), None);
        assert_eq!(escaped("<\"a&b\">"), "&lt;\"a&amp;b\"&gt;");
    }
}
