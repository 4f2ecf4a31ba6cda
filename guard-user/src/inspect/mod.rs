//! What an answer holds that is nobody's business: addresses, numbers of cards and accounts, secrets.
//!
//! Pure: texts in, hits out. Knows nothing of rules and of who asks. The time that it takes grows with the text alone: a pass over
//! it, and a bounded look around what may be a hit. What a server has encoded (base64, an image) is not decoded, and a thing that is
//! cut into several strings is not put together.

mod find;
mod found;
mod json;
mod kind;
mod meaning;
mod meant;
#[cfg(test)]
mod naive;
mod number;
mod secret;
mod starts;
#[cfg(test)]
mod tests;

pub use found::{Found, PLACES_MAX, Place};
pub use json::{Within, look};
pub use kind::{Kind, Kinds};

/// The same of a text that is no JSON.
pub fn look_plain(text: &[u8], kinds: Kinds) -> Found {
    let (mut hits, mut found) = (found::Hits::default(), Found::default());
    find::find(text, kinds, &mut hits);
    found.take(&mut hits, (0, Within::String));
    found
}

/// The text with something else in the place of what is of these kinds: `[email]`, and of a card its last digits. JSON stays JSON, and
/// all else stays byte for byte.
pub fn mask(text: &[u8], places: &[Place], kinds: Kinds) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut done, mut keys) = (0, 0_usize);
    for place in apart(places.iter().filter(|place| kinds.has(place.kind))) {
        out.extend_from_slice(text.get(done..place.range.start).unwrap_or_default());
        let mut mask = match place.kind {
            Kind::Card => format!("****{}", String::from_utf8_lossy(&place.last)),
            kind => format!("[{}]", kind.as_str()),
        };
        match place.within {
            Within::String => {}
            // No two members may have one name.
            Within::Key => {
                keys += 1;
                mask = format!("[{} {keys}]", place.kind.as_str());
            }
            Within::Number => mask = format!("\"{mask}\""),
        }
        out.extend_from_slice(mask.as_bytes());
        done = place.range.end;
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default());
    out
}

/// Those that overlap are one: nothing of either may stay.
fn apart<'p>(places: impl Iterator<Item = &'p Place>) -> Vec<Place> {
    let mut apart: Vec<Place> = Vec::new();
    for place in places {
        match apart.last_mut().filter(|last| last.range.end > place.range.start) {
            None => apart.push(place.clone()),
            Some(last) => {
                let range = last.range.start..last.range.end.max(place.range.end);
                let first = if place.kind.rank() < last.kind.rank() { place } else { &*last };
                *last = Place { range, ..first.clone() };
            }
        }
    }
    apart
}
