//! YAML, as far as configuration needs it: mappings, sequences and scalars.
//!
//! An alias is the node that it names, not a copy: a file of a few lines cannot become large.

use saphyr_parser::{Event, Parser};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Maximum depth of a document.
const MAX_DEPTH: usize = 32;

/// Maximum number of nodes of a document.
const MAX_NODES: usize = 100_000;

/// A node of a document.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Node {
    Scalar(String),
    Sequence(Vec<Rc<Node>>),
    /// In the order of the document. Keys that are not scalars are left out.
    Mapping(Vec<(String, Rc<Node>)>),
}

/// A node whose end was not parsed yet.
struct Open {
    anchor: usize,
    is_mapping: bool,
    children: Vec<Rc<Node>>,
    /// The number of levels of the deepest child, aliases included.
    depth: usize,
}

impl Node {
    /// Parses the first document of a text.
    ///
    /// # Errors
    /// Returns what is wrong, and the line, but nothing of the text, which has passwords.
    pub(super) fn parse(text: &str) -> Result<Rc<Self>, String> {
        let mut open: Vec<Open> = Vec::new();
        // With their numbers of levels.
        let mut anchors: HashMap<usize, (Rc<Self>, usize)> = HashMap::new();
        let mut count = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) =
                event.map_err(|e| format!("line {} is not YAML", e.marker().line()))?;
            let at = |message: &str| format!("{message} in line {}", span.start.line());
            let (node, anchor, depth) = match event {
                Event::Scalar(value, _, anchor, _) => {
                    (Rc::new(Self::Scalar(value.into_owned())), anchor, 0)
                }
                Event::Alias(anchor) => {
                    let named = anchors.get(&anchor).cloned();
                    let (node, depth) = named.ok_or_else(|| at("an alias of what contains it"))?;
                    (node, 0, depth)
                }
                Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                    if open.len() == MAX_DEPTH {
                        return Err(at("too many levels"));
                    }
                    let is_mapping = matches!(event, Event::MappingStart(..));
                    open.push(Open { anchor, is_mapping, children: Vec::new(), depth: 0 });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(ended) = open.pop() else { continue };
                    let (anchor, depth) = (ended.anchor, ended.depth + 1);
                    (Rc::new(ended.into_node()), anchor, depth)
                }
                Event::DocumentEnd => break,
                _ => continue,
            };
            count += 1;
            if count > MAX_NODES {
                return Err(at("too many values"));
            }
            if open.len() + depth > MAX_DEPTH {
                return Err(at("too many levels"));
            }
            if anchor > 0 {
                anchors.insert(anchor, (Rc::clone(&node), depth));
            }
            match open.last_mut() {
                Some(parent) => {
                    parent.depth = parent.depth.max(depth);
                    parent.children.push(node);
                }
                None => return Ok(node),
            }
        }
        // An empty file.
        Ok(Rc::new(Self::Mapping(Vec::new())))
    }

    /// Returns the value of a key. One that is merged (`<<`) is behind the node's own.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.get_unless(key, &mut HashSet::new())
    }

    /// As [`get`](Self::get), unless the node was searched before: aliases can lead to it in very many
    /// ways.
    fn get_unless(&self, key: &str, searched: &mut HashSet<*const Self>) -> Option<&Self> {
        let Self::Mapping(pairs) = self else { return None };
        let own = pairs.iter().rfind(|(name, _)| name == key).map(|(_, value)| &**value);
        if own.is_some() || !searched.insert(self) {
            return own;
        }
        let mut merged = pairs.iter().filter(|(name, _)| name == "<<");
        merged.find_map(|(_, value)| match &**value {
            Self::Sequence(all) => all.iter().find_map(|one| one.get_unless(key, searched)),
            one => one.get_unless(key, searched),
        })
    }

    /// Returns the text of a scalar that is not empty and not null.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) if !matches!(&**text, "" | "~" | "null") => Some(text),
            _ => None,
        }
    }

    /// Returns the keys of a mapping.
    pub(super) fn keys(&self) -> Vec<&str> {
        match self {
            Self::Mapping(pairs) => pairs.iter().map(|(name, _)| &**name).collect(),
            _ => Vec::new(),
        }
    }
}

impl Open {
    fn into_node(self) -> Node {
        if !self.is_mapping {
            return Node::Sequence(self.children);
        }
        let mut children = self.children.into_iter();
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            if let Node::Scalar(key) = &*key {
                pairs.push((key.clone(), value));
            }
        }
        Node::Mapping(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Rc<Node> {
        Node::parse(text).expect("is valid")
    }

    #[test]
    fn values_are_found_by_their_keys() {
        let text = "# c\na: {b: 'x: y', c: [1, 2]}\n\"d\": |\n  two\n  lines\ne: null\n'f': 0123\n";
        let node = parsed(text);
        let a = node.get("a").expect("is there");
        assert_eq!(a.get("b").and_then(Node::text), Some("x: y"));
        assert!(matches!(a.get("c"), Some(Node::Sequence(items)) if items.len() == 2));
        assert_eq!(node.get("d").and_then(Node::text), Some("two\nlines\n"));
        assert_eq!(node.get("e").and_then(Node::text), None);
        assert_eq!(node.get("f").and_then(Node::text), Some("0123"));
        assert_eq!(node.keys(), ["a", "d", "e", "f"]);
        assert!(parsed("").keys().is_empty());
    }

    #[test]
    fn anchors_can_be_merged() {
        let node = parsed("base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  y: 3\nboth:\n  <<: [*b]\n");
        let own = node.get("own").expect("is there");
        assert_eq!(own.get("x").and_then(Node::text), Some("1"));
        assert_eq!(own.get("y").and_then(Node::text), Some("3"));
        let both = node.get("both").expect("is there");
        assert_eq!(both.get("y").and_then(Node::text), Some("2"));
    }

    #[test]
    fn what_could_become_large_does_not() {
        let doubled = |levels: usize| {
            let mut text = "a0: &a0 [x, x]\n".to_owned();
            for level in 1..levels {
                let below = level - 1;
                text += &format!("a{level}: &a{level} [*a{below}, *a{below}]\n");
            }
            text
        };
        assert_eq!(parsed(&doubled(30)).keys().len(), 30);
        // A value that is not found is searched for once in each mapping.
        let mut merged = "a0: &a0 {x: y}\n".to_owned();
        for level in 1..15 {
            let below = format!("*a{}", level - 1);
            merged +=
                &format!("a{level}: &a{level} {{'<<': [{below}, {below}, {below}, {below}]}}\n");
        }
        let merged = parsed(&merged);
        let last = merged.get("a14").expect("is there");
        assert!(last.get("missing").is_none());
        assert_eq!(last.get("x").and_then(Node::text), Some("y"));
        for (wrong, message) in [
            ("[".repeat(50), "levels"),
            (doubled(60), "levels"),
            ("a: &a [*a]".into(), "alias"),
            ("a: [secret".into(), "line"),
            ("secret: *b".into(), "line"),
        ] {
            let error = Node::parse(&wrong).err().expect("is refused");
            assert!(error.contains(message) && !error.contains("secret"), "{wrong}: {error}");
        }
    }
}
