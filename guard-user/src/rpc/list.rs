//! Takes out of a server's list what an agent may not see, and leaves every other byte as it was.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Target, member};

/// Members of `capabilities`.
const MEMBERS_MAX: usize = 256;

/// A server's reply after [`filter`].
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered {
    /// Forward the reply as it came.
    Unchanged,
    Changed(Bytes),
}

/// The reply has a list that the guard cannot read for sure, so it cannot tell what the agent would see.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the server's reply is not one JSON object")]
    NotAnObject,
    #[error("the server's tools cannot be pinned: {0}")]
    Unpinned(std::io::Error),
    #[error("the server's list is not valid UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// A known member stands twice, an entry has no name, a list is no array, or the text is no JSON.
    #[error("the server's list cannot be read for sure: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// What one agent may see of a server's lists.
pub trait Judge {
    /// Whether a list shows it. A template is asked about as [`Target::Resource`] with its template text.
    fn shows(&self, target: Target<'_>) -> bool;

    /// Whether a list could show anything of this kind.
    fn shows_any(&self, kind: Kind) -> bool;

    /// Is told of each page of tools as the server sent it, with each entry and its name. Gives the names that nobody may
    /// see.
    fn held(&self, list: &str, tools: &[(Cow<'_, str>, &RawValue)]) -> std::io::Result<Arc<[String]>>;
}

/// By names alone.
impl<F: Fn(Target<'_>) -> bool> Judge for F {
    fn shows(&self, target: Target<'_>) -> bool {
        self(target)
    }

    fn shows_any(&self, _kind: Kind) -> bool {
        true
    }

    fn held(&self, _list: &str, _tools: &[(Cow<'_, str>, &RawValue)]) -> std::io::Result<Arc<[String]>> {
        Ok(Arc::default())
    }
}

/// The kinds of things that a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Prompt,
    Resource,
    Tool,
}

/// Cuts a server's message down to what the agent may see; one without a list is unchanged.
///
/// - Entries of `tools`, `prompts`, `resources`, `resourceTemplates` and `tasks` that `judge` does not show are dropped. Those that
///   stay keep their bytes and order, and `nextCursor` stays, so a page may become empty. Of a name that stands twice among
///   tools or prompts, both are dropped, since clients differ on which one counts.
/// - `capabilities` lose what the agent could use nothing of.
/// - `cacheScope` becomes `"private"`, since another agent's list is another one, and a `ttlMs` above `ttl_milliseconds_max`
///   becomes that.
pub fn filter(raw: &[u8], judge: &impl Judge, ttl_milliseconds_max: u64) -> Result<Filtered, ListError> {
    let text = std::str::from_utf8(raw)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(ListError::NotAnObject);
    }
    let frame: Frame<'_> = serde_json::from_str(text)?;
    let Some(result) = frame.result.map(RawValue::get).filter(|result| result.starts_with('{')) else {
        return Ok(Filtered::Unchanged);
    };
    let lists: Lists<'_> = serde_json::from_str(result)?;
    let mut edits = Vec::new();
    let shows_resource = |resource: &str| judge.shows(Target::Resource(resource));
    if let Some(list) = lists.tools {
        let tools = entries(list, "name")?;
        let held = judge.held(list.get(), &tools).map_err(ListError::Unpinned)?;
        let twice = twice(&tools);
        let held: BTreeSet<&str> = held.iter().map(String::as_str).collect();
        edits.extend(kept(list, &tools, |name| {
            judge.shows(Target::Tool(name)) && !twice.contains(name) && !held.contains(name)
        }));
    }
    if let Some(list) = lists.prompts {
        let prompts = entries(list, "name")?;
        let twice = twice(&prompts);
        edits.extend(kept(list, &prompts, |name| judge.shows(Target::Prompt(name)) && !twice.contains(name)));
    }
    if let Some(list) = lists.resources {
        edits.extend(kept(list, &entries(list, "uri")?, shows_resource));
    }
    if let Some(list) = lists.resource_templates {
        edits.extend(kept(list, &entries(list, "uriTemplate")?, shows_resource));
    }
    if let Some(list) = lists.tasks {
        let tasks = entries(list, "taskId")?;
        edits.extend(kept(list, &tasks, |id| judge.shows(Target::Task(id))));
    }
    // In a tool's own result these words mean what the tool wants.
    if lists.content.is_none()
        && let Some(capabilities) = lists.capabilities.filter(|raw| raw.get().starts_with('{'))
    {
        edits.extend(usable(capabilities, judge)?);
    }
    let is_list = lists.cache_scope.is_some()
        || [lists.tools, lists.prompts, lists.resources, lists.resource_templates]
            .iter()
            .any(Option::is_some);
    if is_list {
        edits.extend(lists.ttl_ms.and_then(|ttl| capped(ttl, ttl_milliseconds_max)));
    }
    if let Some(scope) = lists.cache_scope {
        let is_private =
            serde_json::from_str::<Cow<'_, str>>(scope.get()).is_ok_and(|scope| scope == "private");
        edits.extend((!is_private).then(|| (scope.get(), "\"private\"".to_owned())));
    }
    if edits.is_empty() {
        return Ok(Filtered::Unchanged);
    }
    Ok(Filtered::Changed(apply(text, edits).into()))
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lists<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    prompts: Option<&'a RawValue>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
    #[serde(borrow)]
    resource_templates: Option<&'a RawValue>,
    #[serde(borrow)]
    tasks: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_scope: Option<&'a RawValue>,
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl_ms: Option<&'a RawValue>,
}

/// A part of the reply's text (by address, not by content) and what comes in its place.
type Edit<'a> = (&'a str, String);

/// The entries of a list with the text by which each is known.
fn entries<'a>(
    list: &'a RawValue,
    known_by: &'static str,
) -> Result<Vec<(Cow<'a, str>, &'a RawValue)>, serde_json::Error> {
    let entries: Vec<&RawValue> = serde_json::from_str(list.get())?;
    entries.into_iter().map(|entry| Ok((member::text(entry.get(), known_by)?, entry))).collect()
}

/// The list without the entries that `keep` does not want; None if it wants them all.
fn kept<'a>(
    list: &'a RawValue,
    entries: &[(Cow<'a, str>, &'a RawValue)],
    keep: impl Fn(&str) -> bool,
) -> Option<Edit<'a>> {
    let kept: Vec<&str> =
        entries.iter().filter(|(name, _)| keep(name)).map(|(_, entry)| entry.get()).collect();
    (kept.len() < entries.len()).then(|| (list.get(), format!("[{}]", kept.join(","))))
}

/// Names that more than one entry has.
fn twice<'e>(entries: &'e [(Cow<'_, str>, &RawValue)]) -> BTreeSet<&'e str> {
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    names.iter().zip(names.iter().skip(1)).filter(|(one, next)| one == next).map(|(name, _)| *name).collect()
}

/// The capabilities without those that the agent could use nothing of.
fn usable<'a>(capabilities: &'a RawValue, judge: &impl Judge) -> Result<Option<Edit<'a>>, serde_json::Error> {
    let text = capabilities.get();
    let Members(members) = serde_json::from_str(text)?;
    let shows = |kind| judge.shows_any(kind);
    let keep = |name: &str| match name {
        "tools" => shows(Kind::Tool),
        "prompts" => shows(Kind::Prompt),
        "resources" => shows(Kind::Resource),
        "completions" => shows(Kind::Prompt) || shows(Kind::Resource),
        _ => true,
    };
    let mut kept = Vec::with_capacity(members.len());
    // A member's bytes begin after the one before it.
    let mut begin = 1;
    for (name, value) in &members {
        let end = range_in(text, value.get()).end;
        let member = text.get(begin..end).unwrap_or_default();
        if keep(name) {
            kept.push(member.trim_start_matches([' ', '\t', '\r', '\n', ',']));
        }
        begin = end;
    }
    Ok((kept.len() < members.len()).then(|| (text, format!("{{{}}}", kept.join(",")))))
}

/// The members of an object, none of which stands twice.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if members.len() >= MEMBERS_MAX || members.iter().any(|(before, _)| *before == name) {
                        return Err(serde::de::Error::custom(
                            "a capability stands twice, or there are too many",
                        ));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// What comes in the place of a time that is too long, or is none.
fn capped(ttl: &RawValue, max: u64) -> Option<Edit<'_>> {
    let is_short = match serde_json::from_str::<serde_json::Number>(ttl.get()) {
        Ok(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole <= max,
            // Only whether it is above the limit matters, and that is far from where digits are lost.
            (None, Some(part)) => serde_json::Number::from(max).as_f64().is_some_and(|max| part <= max),
            (None, None) => false,
        },
        Err(_no_number) => false,
    };
    (!is_short).then(|| (ttl.get(), max.to_string()))
}

fn apply(text: &str, edits: Vec<Edit<'_>>) -> String {
    let mut edits: Vec<(Range<usize>, String)> =
        edits.into_iter().map(|(part, new)| (range_in(text, part), new)).collect();
    edits.sort_unstable_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (range, new) in edits {
        out.push_str(text.get(done..range.start).unwrap_or_default());
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Where `part`, a borrowed piece of `text`, stands in it.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start.saturating_add(part.len())
}

#[cfg(test)]
mod tests;
