//! From what a request names to what was compiled for it, in time that does not grow with the number of rules.

use std::collections::HashMap;

use super::Question;
use crate::rpc::Target;
use crate::rpc::list::Kind;

/// Methods that make up the protocol itself. An agent with a grant on a server may use them there without an
/// intent: none acts on the server's data, and a client that lacks them cannot make the calls it was granted.
/// Every other method needs an intent with a `method:` matcher.
pub const PROTOCOL_METHODS: &[(&str, &str)] = &[
    ("initialize", "opens a legacy session and agrees on a version"),
    ("server/discover", "what `initialize` became in 2026-07-28"),
    ("ping", "keeps a connection alive"),
    ("notifications/*", "progress, cancellation, readiness; the server cannot answer them"),
    ("tasks/get", "of the agent's own tasks; judged as the call that made the task"),
    ("tasks/result", "the same"),
    ("tasks/update", "the same"),
    ("tasks/cancel", "the same"),
    ("tasks/list", "its answer is filtered to the agent's own tasks"),
    ("tools/list", "its answer is filtered to what the agent may call"),
    ("prompts/list", "its answer is filtered to what the agent may use"),
    ("resources/list", "its answer is filtered to what the agent may read"),
    ("resources/templates/list", "its answer is filtered to what the agent may read"),
    ("logging/setLevel", "how much the server tells this session"),
    ("subscriptions/listen", "the event stream of 2026-07-28; list changes and updates of what was granted"),
];

/// Those that no intent closes: without them nobody can connect, or take back what was asked. The others are open until an
/// intent names them.
pub(super) const NEEDED_METHODS: &[&str] =
    &["initialize", "server/discover", "ping", "notifications/initialized", "notifications/cancelled"];

/// Those about one task, which are judged as the call that made it.
pub(super) const TASK_METHODS: &[&str] = &["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"];

/// What servers ask of their clients, over all revisions. An intent that named anything else would close nothing.
pub(super) const SERVER_REQUESTS: &[&str] = &[
    "elicitation/create",
    "ping",
    "roots/list",
    "sampling/createMessage",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
];

/// Whether `method` is one of [`PROTOCOL_METHODS`].
pub fn is_protocol_method(method: &str) -> bool {
    PROTOCOL_METHODS.iter().any(|(known, _)| match known.strip_suffix('*') {
        Some(prefix) => method.starts_with(prefix),
        None => method == *known,
    })
}

/// Whether a message with one of these methods is asked about.
pub(super) fn is_of_protocol(question: &Question<'_>) -> bool {
    question.target == Target::Method && is_protocol_method(question.method)
}

/// What a matcher of an intent names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Tool(Box<str>),
    Prompt(Box<str>),
    Resource(Pattern),
    Method(Pattern),
    ServerRequest(Pattern),
}

/// An exact text, or everything that begins with one (written with a trailing `*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => &**exact == text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Prefix(prefix), Self::Exact(text) | Self::Prefix(text)) => text.starts_with(&**prefix),
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

impl Key {
    /// The name, or what a pattern's matches begin with.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Tool(name) | Self::Prompt(name) => name,
            Self::Resource(pattern) | Self::Method(pattern) | Self::ServerRequest(pattern) => match pattern {
                Pattern::Exact(text) | Pattern::Prefix(text) => text,
            },
        }
    }

    /// Whether whatever matches `other` also matches this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resource(a), Self::Resource(b)) => {
                a.covers(b)
                    && !matches!((a, b), (Pattern::Prefix(_), Pattern::Exact(uri)) if !is_plain_uri(uri))
            }
            (Self::Method(a), Self::Method(b)) | (Self::ServerRequest(a), Self::ServerRequest(b)) => {
                a.covers(b)
            }
            _ => self == other,
        }
    }
}

/// One `T` per thing that a server offers.
#[derive(Debug)]
pub(super) struct Targets<T> {
    tools: HashMap<Box<str>, T>,
    prompts: HashMap<Box<str>, T>,
    resources: Patterns<T>,
    methods: Patterns<T>,
    server_requests: Patterns<T>,
}

impl<T> Targets<T> {
    /// `T` of a key must already include what the keys that cover it say: the closest one is found, not all.
    pub(super) fn new(items: impl IntoIterator<Item = (Key, T)>) -> Self {
        let mut targets = Self {
            tools: HashMap::new(),
            prompts: HashMap::new(),
            resources: Patterns::default(),
            methods: Patterns::default(),
            server_requests: Patterns::default(),
        };
        for (key, item) in items {
            match key {
                Key::Tool(name) => drop(targets.tools.insert(name, item)),
                Key::Prompt(name) => drop(targets.prompts.insert(name, item)),
                Key::Resource(pattern) => targets.resources.insert(pattern, item),
                Key::Method(pattern) => targets.methods.insert(pattern, item),
                Key::ServerRequest(pattern) => targets.server_requests.insert(pattern, item),
            }
        }
        targets.resources.link();
        targets.methods.link();
        targets.server_requests.link();
        targets
    }

    pub(super) fn find(&self, target: Target<'_>, method: &str) -> Option<&T> {
        match target {
            Target::Tool(name) => self.tools.get(name),
            Target::Prompt(name) => self.prompts.get(name),
            Target::Resource(uri) => self.resources.find_uri(uri),
            Target::Method => self.methods.find(method),
            Target::ServerRequest(method) => self.server_requests.find(method),
            // What it means is anybody's guess, or another call's matter, so it means nothing that a rule could allow.
            Target::Task(_) | Target::Unnamed => None,
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let patterned =
            [&self.resources, &self.methods, &self.server_requests].into_iter().flat_map(Patterns::values);
        self.tools.values().chain(self.prompts.values()).chain(patterned)
    }

    /// Everything of one kind.
    pub(super) fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = &T> + '_> {
        match kind {
            Kind::Prompt => Box::new(self.prompts.values()),
            Kind::Resource => Box::new(self.resources.values()),
            Kind::Tool => Box::new(self.tools.values()),
        }
    }

    /// Every tool by name, for tables.
    pub(super) fn tools(&self) -> impl Iterator<Item = (&str, &T)> {
        self.tools.iter().map(|(name, item)| (&**name, item))
    }
}

#[derive(Debug)]
struct Patterns<T> {
    exact: HashMap<Box<str>, T>,
    /// Sorted by text.
    prefixes: Vec<Prefix<T>>,
}

#[derive(Debug)]
struct Prefix<T> {
    text: Box<str>,
    /// The longest other prefix that this one begins with.
    parent: Option<usize>,
    item: T,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefixes: Vec::new() }
    }
}

impl<T> Patterns<T> {
    fn insert(&mut self, pattern: Pattern, item: T) {
        match pattern {
            Pattern::Exact(text) => drop(self.exact.insert(text, item)),
            Pattern::Prefix(text) => self.prefixes.push(Prefix { text, parent: None, item }),
        }
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.prefixes.iter().map(|prefix| &prefix.item))
    }

    fn link(&mut self) {
        self.prefixes.sort_by(|a, b| a.text.cmp(&b.text));
        let mut open: Vec<usize> = Vec::new();
        for index in 0..self.prefixes.len() {
            while let Some(&last) = open.last()
                && !self.prefixes[index].text.starts_with(&*self.prefixes[last].text)
            {
                open.pop();
            }
            self.prefixes[index].parent = open.last().copied();
            open.push(index);
        }
    }

    /// The exact entry, else the longest prefix.
    fn find(&self, text: &str) -> Option<&T> {
        self.exact.get(text).or_else(|| self.prefix_of(text).map(|prefix| &prefix.item))
    }

    /// The same for a URI, of which only a plain spelling has prefixes. Where a server may read it as another URI that
    /// has an exact entry, that entry speaks, and not a prefix of both.
    fn find_uri(&self, uri: &str) -> Option<&T> {
        if let Some(item) = self.exact.get(uri) {
            return Some(item);
        }
        let prefix = self.prefix_of(uri).filter(|_| is_plain_uri(uri))?;
        let mut read_as = stems(uri).filter(|stem| stem.starts_with(&*prefix.text));
        Some(read_as.find_map(|stem| self.exact.get(stem)).unwrap_or(&prefix.item))
    }

    /// In text order, all prefixes of `text` stand before it, and the nearest one before it is one of them or shares
    /// its own prefixes with it.
    fn prefix_of(&self, text: &str) -> Option<&Prefix<T>> {
        let after = self.prefixes.partition_point(|prefix| &*prefix.text <= text);
        let mut at = after.checked_sub(1);
        while let Some(prefix) = at.and_then(|index| self.prefixes.get(index)) {
            if text.starts_with(&*prefix.text) {
                return Some(prefix);
            }
            at = prefix.parent;
        }
        None
    }
}

/// Whether a URI is written so that its beginning says what it names. `file:///a/../b`, `file:///a/%2e%2e/b`,
/// `FILE:///b` and `file:////b` are other spellings of a name; a prefix never matches such a spelling, else a
/// rule on `file:///a/*` could be walked around. An exact matcher still can.
pub(super) fn is_plain_uri(uri: &str) -> bool {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let scheme_is_plain = !scheme.bytes().any(|b| b.is_ascii_uppercase());
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    // Host names have no case; other schemes use the authority as they like.
    let host_is_plain = !matches!(scheme, "http" | "https")
        || !rest.split('/').next().is_some_and(|host| host.bytes().any(|b| b.is_ascii_uppercase()));
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    // Servers that take the URI for a path do not stop at `?`, and some read `..;x` as `..`.
    let segments_are_plain =
        !rest.split(['/', '?', '#', ';']).any(|segment| segment == "." || segment == "..");
    let bytes_are_plain = uri.bytes().all(|b| b > b' ' && b != 0x7f && b != b'\\');
    scheme_is_plain
        && host_is_plain
        && segments_are_plain
        && bytes_are_plain
        && !path.contains("//")
        && escapes_are_needed(uri)
}

/// `uri` without its fragment, its query, its parameters, and each of these without a `/` at its end. For a server that
/// does not look at these, `file:///a/b#`, `file:///a/b?x` and `file:///a/b/` are `file:///a/b`: where that has an entry
/// of its own, a prefix must not speak for it.
fn stems(uri: &str) -> impl Iterator<Item = &str> {
    let cut = |mark| uri.split(mark).next().unwrap_or(uri);
    [uri, cut('#'), cut('?'), cut(';')]
        .into_iter()
        .flat_map(|stem| [stem, stem.trim_end_matches('/')])
        .filter(move |stem| stem.len() < uri.len())
}

/// No percent-escape stands for a character that could stand there itself, for a separator or for a control.
fn escapes_are_needed(uri: &str) -> bool {
    uri.split('%').skip(1).all(|after| {
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        byte.is_some_and(|b| {
            !b.is_ascii_alphanumeric() && !b"-._~/\\%".contains(&b) && (b >= b' ' && b != 0x7f)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(keys: &[&str]) -> Targets<String> {
        Targets::new(keys.iter().map(|key| (Key::Resource(Pattern::parse(key)), (*key).to_owned())))
    }

    #[test]
    fn the_exact_entry_or_the_longest_prefix_is_found() {
        let targets =
            resources(&["file:///a/*", "file:///a/b/*", "file:///a/b/c", "file:///z/*", "file:///a/b/d*"]);
        let find = |uri| targets.find(Target::Resource(uri), "resources/read").map(String::as_str);
        assert_eq!(find("file:///a/b/c"), Some("file:///a/b/c"));
        assert_eq!(find("file:///a/b/e"), Some("file:///a/b/*"));
        assert_eq!(find("file:///a/b/dd"), Some("file:///a/b/d*"));
        assert_eq!(find("file:///a/x"), Some("file:///a/*"));
        assert_eq!(find("file:///a/"), Some("file:///a/*"));
        assert_eq!(find("file:///a"), None);
        assert_eq!(find("file:///b/"), None);
        assert_eq!(find("file:///zz"), None);
    }

    #[test]
    fn what_a_server_may_cut_off_does_not_hide_an_exact_entry() {
        let targets = resources(&[
            "file:///a/*",
            "file:///a/key",
            "file:///a/key?q=*",
            "db://x/*",
            "db://x/t?rows=1",
            "z://x",
        ]);
        let find = |uri| targets.find(Target::Resource(uri), "resources/read").map(String::as_str);
        for uri in ["key", "key?", "key#", "key?a=b", "key;v=1", "key/", "key//?x", "key?#;", "key/;x#y"] {
            let uri = format!("file:///a/{uri}");
            let found = targets.find(Target::Resource(&uri), "resources/read");
            assert!(found.is_none_or(|found| found == "file:///a/key"), "{uri}: {found:?}");
        }
        assert_eq!(find("file:///a/key#x"), Some("file:///a/key"));
        assert_eq!(find("db://x/t?rows=1#x"), Some("db://x/t?rows=1"));
        assert_eq!(find("db://x/t?rows=2"), Some("db://x/*"));
        assert_eq!(find("file:///a/keys#key"), Some("file:///a/*"));
        // Who wrote a prefix that goes on behind the mark meant it; and nothing is found where no prefix matches.
        assert_eq!(find("file:///a/key?q=1"), Some("file:///a/key?q=*"));
        assert_eq!(find("z://x?y"), None);
    }

    #[test]
    fn a_prefix_does_not_match_another_spelling_of_a_name() {
        for plain in [
            "file:///a/b.txt",
            "https://host/a?q=1//2",
            "file:///a/%C3%BC",
            "memo://x",
            "urn:a:b",
            "file:///a/.b",
        ] {
            assert!(is_plain_uri(plain), "{plain}");
        }
        for other in [
            "file:///a/../b",
            "file:///a/./b",
            "file:///a/..",
            "file:////b",
            "file:///a//b",
            "FILE:///a",
            "https://Host/a",
            "file:///%61",
            "file:///a%2Fb",
            "file:///a/%2e%2e/b",
            "file:///a/%2",
            "file:///a/%zz",
            "file:///a/%252e",
            "file:///a\\b",
            "file:///a b",
            "file:///a%00",
            "file:///a/x?/../../b",
            "file:///a/x#/../../b",
            "https://host/a/..;x/b",
        ] {
            assert!(!is_plain_uri(other), "{other}");
        }
        let targets = resources(&["file:///a/*", "file:///a/../b"]);
        assert!(targets.find(Target::Resource("file:///a/../c"), "resources/read").is_none());
        assert!(targets.find(Target::Resource("file:///a/../b"), "resources/read").is_some());
    }

    #[test]
    fn tools_prompts_and_methods_do_not_stand_for_each_other() {
        let targets = Targets::new([
            (Key::Tool("x".into()), "tool"),
            (Key::Prompt("x".into()), "prompt"),
            (Key::Method(Pattern::parse("skills/*")), "skills"),
        ]);
        assert_eq!(targets.find(Target::Tool("x"), "tools/call"), Some(&"tool"));
        assert_eq!(targets.find(Target::Prompt("x"), "prompts/get"), Some(&"prompt"));
        assert_eq!(targets.find(Target::Method, "skills/get"), Some(&"skills"));
        assert_eq!(targets.find(Target::Tool("skills/get"), "tools/call"), None);
        assert_eq!(targets.find(Target::Resource("x"), "resources/read"), None);
    }

    #[test]
    fn protocol_methods_do_not_act() {
        for method in ["initialize", "notifications/cancelled", "tools/list", "ping"] {
            assert!(is_protocol_method(method), "{method}");
        }
        for method in [
            "tools/call",
            "resources/read",
            "prompts/get",
            "completion/complete",
            "notifications",
            "tools/list2",
        ] {
            assert!(!is_protocol_method(method), "{method}");
        }
    }
}
